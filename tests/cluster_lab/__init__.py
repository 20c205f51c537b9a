"""A real Kubernetes control plane on loopback, for tests that must not trust a pretended one."""
