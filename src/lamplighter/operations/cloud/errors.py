"""What can go wrong between a person and the account, beside what AWS itself refuses (`ProviderError`)."""

from lamplighter.core.errors import LamplighterError


class CloudError(LamplighterError):
    """A cloud command cannot do what was asked."""

    code = "cloud"


class NoEngine(CloudError):
    """Neither Terraform nor OpenTofu is here, or it is too old."""

    code = "no_terraform"
    exit_code = 3


class EngineFailed(CloudError):
    """Terraform ended with an error. `status`: its exit status; `log`: where all that it said is kept."""

    code = "terraform_failed"

    def __init__(self, message: str, *, status: int, log: str, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.status = status
        self.log = log


class StackBusy(CloudError):
    """Another command works on the same stack."""

    code = "stack_busy"
    exit_code = 4


class StillRunning(CloudError):
    """It could not be proven that nothing runs any more."""

    code = "still_running"


class Refused(CloudError):
    """The command does not do that without being told more."""

    code = "not_confirmed"
    exit_code = 2


__all__ = ["CloudError", "EngineFailed", "NoEngine", "Refused", "StackBusy", "StillRunning"]
