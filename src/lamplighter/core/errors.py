"""The tree of our errors. Each carries a code, a sentence for a person, and a next step.

LamplighterError
├── ConfigError                 the file, a setting, a secret's reference
├── StoreError                  StoreUnavailable, StoreBusy, StoreFull, StoreTooNew, IllegalTransition, StaleTerm
├── AlreadyRunning              another process owns the data folder or the port
├── SourceError                 a model's file: carries a WakeFailure
├── ProviderError               capacity
└── RequestError                something a client did, or must be told: HTTP status and OpenAI's shape
"""

from typing import Any

from lamplighter.core.reasons import WakeFailure


class LamplighterError(Exception):
    """Base of all our errors."""

    code = "internal_error"
    exit_code = 1
    """Exit status of the CLI when this error ends a command; see `docs/reference/cli.md`."""

    def __init__(self, message: str, *, next_step: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message

    @property
    def advice(self) -> str:
        """The sentence and the next step in one text: for where there is room for only one."""
        return f"{self.message} {self.next_step}".strip()


class ConfigError(LamplighterError):
    """A setting is wrong. `where` is the dotted path of the setting, `line` its line in the file (1-based)."""

    code = "config_error"
    exit_code = 3

    def __init__(self, message: str, *, where: str = "", line: int | None = None, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.where = where
        self.line = line


class StoreError(LamplighterError):
    """The store refused or failed."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """It cannot be opened, read or written."""

    code = "store_unavailable"


class StoreBusy(StoreError):
    """Others were writing the same, or it took too long; nothing was changed, and trying again makes sense."""

    code = "store_busy"


class StoreFull(StoreError):
    """No room on its disk."""

    code = "disk_full"


class StoreTooNew(StoreError):
    """It was written by a newer version of Lamplighter."""

    code = "store_too_new"


class IllegalTransition(StoreError):
    """A state change that the table does not allow: a defect of ours, never written."""

    code = "illegal_transition"


class StaleTerm(StoreError):
    """The writer is no longer the leading keeper: its result is discarded."""

    code = "stale_term"


class AlreadyRunning(LamplighterError):
    """Another process owns the data folder, or the port is taken."""

    code = "already_running"
    exit_code = 4


class SourceError(LamplighterError):
    """A model's file cannot be had; `reason` says why in the keeper's words."""

    code = "source_error"
    exit_code = 5

    def __init__(self, message: str, *, reason: WakeFailure, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step, code=reason.value)
        self.reason = reason


class ProviderError(LamplighterError):
    """Capacity could not be changed or observed; temporary unless its reason says otherwise."""

    code = "provider_error"

    def __init__(self, message: str, *, reason: WakeFailure = WakeFailure.PROVIDER_ERROR, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step, code=reason.value)
        self.reason = reason


class RequestError(LamplighterError):
    """Answered to a client in OpenAI's error shape.

    `status`: HTTP status. `type`: OpenAI's error type. `param`: the offending field. `retry_after`: whole seconds, sent as a header.
    `headers`: further response headers (lower-case names).
    """

    code = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        next_step: str = "",
        retry_after: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, next_step=next_step, code=code)
        self.status = status
        self.type = type
        self.param = param
        self.retry_after = retry_after
        self.headers = headers

    def body(self) -> dict[str, Any]:
        """The `{"error": {...}}` object that goes over the wire."""
        error: dict[str, Any] = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if self.next_step:
            error["next_step"] = self.next_step
        return {"error": error}
