"""The same installation as the journeys of several gateways."""

from tests.journeys.many_gateways.conftest import cluster

__all__ = ["cluster"]
