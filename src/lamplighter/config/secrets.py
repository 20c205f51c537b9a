"""Resolves a secret's reference (`env:NAME`, `file:PATH`) at the moment of use. Never logs or stores what it read."""

import os
from pathlib import Path

from lamplighter.core.errors import ConfigError


def resolve(reference: str, *, where: str = "") -> str:
    """The secret behind `reference`, stripped of surrounding white space.

    Raises ConfigError when the variable is unset, the file cannot be read, or the value is empty.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "")  # noqa: TID251 - this module is where references to the environment are resolved
        problem = f"the environment variable {name} is not set"
    else:
        try:
            value = Path(name).expanduser().read_text()
            problem = f"the file {name} is empty"
        except OSError as error:
            raise ConfigError(f"the secret's file {name} cannot be read: {error.strerror}", where=where) from error
    value = value.strip()
    if not value:
        raise ConfigError(problem, where=where, next_step="Set it, or correct the reference.")
    return value
