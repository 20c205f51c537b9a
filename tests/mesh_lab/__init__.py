"""A real Nebula mesh on one machine: network namespaces joined by a bridge, real nebula in each, with our files and our certificates.

Needs root, /dev/net/tun and the programs `ip` and `nebula`; `missing()` says what is not there. Nothing leaves the namespaces, and
everything ends with the lab, even when the test that made it crashes: what a dead process left is removed by the next lab.
"""

from tests.mesh_lab.certificates import Authority, OurAuthorities
from tests.mesh_lab.lab import Lab, Machine, missing
from tests.mesh_lab.traffic import Pings, listening, reached

__all__ = ["Authority", "Lab", "Machine", "OurAuthorities", "Pings", "listening", "missing", "reached"]
