"""What can go wrong between a person and their cluster, beside what its API itself refuses (`ProviderError`)."""

from lamplighter.core.errors import LamplighterError


class ClusterError(LamplighterError):
    """A cluster command cannot do what was asked."""

    code = "cluster"


class NoHelm(ClusterError):
    """The extra that brings Helm is not installed."""

    code = "no_helm"
    exit_code = 3


class PartFailed(ClusterError):
    """Helm could not bring one part to where it should be. `part`: its name."""

    code = "part_failed"

    def __init__(self, part: str, message: str, *, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.part = part


class Refused(ClusterError):
    """The command does not do that without being told more."""

    code = "not_confirmed"
    exit_code = 2


__all__ = ["ClusterError", "NoHelm", "PartFailed", "Refused"]
