"""Model servers as workloads of a Kubernetes cluster. `client` speaks to an API server, `provider` is the contract, `workload` the manifests."""
