"""A pretended Kubernetes: an API server (`FakeCluster`), and what works on one as its clients: `Controllers` and `Kubelet`.

For tests and demonstrations on one machine. Not proof of anything about a real cluster: what the API does is asked of a real API server too
(tests/contract/test_kubernetes_api.py), everything else here is made up.
"""

from lamplighter.testing.kubernetes.cluster import FakeCluster
from lamplighter.testing.kubernetes.controllers import Controllers
from lamplighter.testing.kubernetes.errors import ApiRefusal
from lamplighter.testing.kubernetes.kubelet import Kubelet
from lamplighter.testing.kubernetes.outcomes import Fault, Outcome

__all__ = ["ApiRefusal", "Controllers", "FakeCluster", "Fault", "Kubelet", "Outcome"]
