"""Runs a command that the configuration names, with a limit. Not responsible for what it does."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from lamplighter.mesh.errors import MeshError

_TAIL = 500


def run(command: str | Sequence[str], *, what: str, limit: float) -> str:
    """Its standard output. `command`: a text for the shell, or words. `limit`: seconds. Raises MeshError when it fails or takes longer.

    The output never appears in an error: it may be a secret. What it says on standard error does.
    """
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        )  # fmt: skip
    except OSError as error:
        raise MeshError(f"{what}: {words[0]} cannot be started: {error.strerror}", code="command_failed") from error
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired as error:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise MeshError(
            f"{what}: the command took longer than {limit:.0f} seconds and was ended", code="command_failed"
        ) from error
    if process.returncode:
        said = errors.strip()[-_TAIL:]
        raise MeshError(
            f"{what}: the command ended with status {process.returncode}{f': {said}' if said else ''}", code="command_failed"
        )
    return output
