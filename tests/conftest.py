"""What every test may ask for: real PostgreSQL and Redis servers and a real Kubernetes control plane, started only when a test does."""

pytest_plugins = ["tests.services", "tests.cluster_lab.fixtures", "tests.contract.kubernetes_bench"]
