"""The base of every part of the configuration. Of its own, so that the parts can live in files that `model` imports."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every part: frozen, unknown settings refused."""

    # Strict: `port: true` is a mistake and no 1, `port: "80"` a text and no number.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=True)
