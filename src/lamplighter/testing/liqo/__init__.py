"""A pretended Liqo, written from its documented behaviour (version 1.2.0): controllers that play statuses against any API server.

A stand-in, and called so: no packet passes a tunnel, certificates are signed in name only, and a pod is copied without a ShadowPod in between.
What it does show is everything that our side sees and must react to, abrupt loss included.
"""

from lamplighter.testing.liqo.definitions import definitions
from lamplighter.testing.liqo.federation import FakeLiqo
from lamplighter.testing.liqo.member import Member

__all__ = ["FakeLiqo", "Member", "definitions"]
