"""Fetches one file over HTTP into a part file that survives a kill and resumes, and says in one sentence why it could not.

Not responsible for where the URL comes from or what the bytes mean; the checksum is the caller's, given as an argument.
"""

import errno
import hashlib
import re
import shutil
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import certifi
import httpx

from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure

Progress = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all when known). May raise to give the download up; the part file stays."""

_RESERVE = 100 * 2**20
"""Bytes that must stay free on the disk beside the model: the store and the logs live there too."""
_ATTEMPTS = 5
_TIMEOUT = httpx.Timeout(30, connect=15)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the bytes are right now (a hub signs addresses that expire). `headers` are sent there and not to a place it redirects to."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class _ServerSaid(Exception):
    def __init__(self, status: int, retry_after: float = 0.0) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status
        self.retry_after = retry_after


def client(certificate: str | None = None) -> httpx.Client:
    """A client that trusts what the system and certifi trust, and the person's own `certificate` file; proxies as the environment says.

    Raises SourceError when that file cannot be used.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if certificate:
        try:
            context.load_verify_locations(certificate)
        except OSError as error:
            raise SourceError(
                f"The certificate file {certificate} cannot be used: {error.strerror or error}.",
                reason=WakeFailure.DOWNLOAD_FAILED,
                next_step="Correct pip's setting `cert`.",
            ) from error
    return httpx.Client(verify=context, timeout=_TIMEOUT, follow_redirects=True, headers={"accept-encoding": "identity"})


def room_for(folder: Path, wanted: int, what: str) -> None:
    """Raises SourceError DISK_FULL when `folder` has no room for `wanted` bytes more."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < wanted + _RESERVE:
        raise SourceError(
            f"{what} needs {(wanted + _RESERVE) / 1e6:.0f} MB on the disk of {folder}; {free / 1e6:.0f} MB are free.",
            reason=WakeFailure.DISK_FULL,
            next_step="Free some space, or point --data at a larger disk.",
        )


def download(
    http: httpx.Client,
    target: Callable[[], Target],
    part: Path,
    *,
    what: str,
    progress: Progress,
    size: int | None = None,
    sha256: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Complete `part`, beginning where it ends. Afterwards it has `size` bytes and the digest `sha256`, where those were given.

    `what` names it in errors. Tries again while bytes come, and up to five times in a row while none do. Raises SourceError.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    failures, resumed = 0, part.exists()
    while True:
        before = _length(part)
        if size is not None and before > size:  # of another version
            part.unlink()
            before = 0
        if size is None or before < size:
            if size is not None:
                room_for(part.parent, size - before, what)
            try:
                _continue(http, target(), part, before, size, progress)
            except (httpx.TransportError, _ServerSaid) as error:
                problem = _judge(error, what)
                failures = 1 if _length(part) > before else failures + 1
                if problem.reason is not WakeFailure.DOWNLOAD_FAILED or failures >= _ATTEMPTS:
                    raise problem from error
                sleep(max(min(8.0, 0.5 * 2**failures), getattr(error, "retry_after", 0.0)))
                continue
            except OSError as error:
                raise disk_problem(error, part, what) from error
            if size is not None and _length(part) != size:
                continue_reason = f"{what} came with {_length(part)} bytes instead of {size}."
                failures += 1
                if failures >= _ATTEMPTS:
                    raise SourceError(continue_reason, reason=WakeFailure.DOWNLOAD_FAILED, next_step="Try again later.")
                sleep(0.5 * 2**failures)
                continue
        if sha256 is None or digest(part) == sha256:
            return
        part.unlink()
        if not resumed:
            raise SourceError(
                f"{what} was downloaded whole, but its checksum is wrong: it was changed on the way or at its source.",
                reason=WakeFailure.DOWNLOAD_FAILED,
                next_step="Check which package index or mirror is configured, and try again.",
            )
        resumed = False  # the first part may have been of another file: once more from the start


def digest(path: Path) -> str:
    """The file's SHA-256 in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _continue(http: httpx.Client, target: Target, part: Path, have: int, size: int | None, progress: Progress) -> None:
    headers = dict(target.headers)
    if have:
        headers["range"] = f"bytes={have}-"
    with http.stream("GET", target.url, headers=headers) as response:
        if response.status_code == 416:
            total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("content-range", ""))
            if total and int(total[1]) == have:
                return  # it was complete already
            part.unlink(missing_ok=True)
            raise _ServerSaid(416)
        if response.status_code not in (200, 206):
            raise _ServerSaid(response.status_code, _retry_after(response))
        start = 0
        if response.status_code == 206:
            told = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
            start = int(told[1]) if told else have
        if start not in (0, have):
            part.unlink(missing_ok=True)
            raise _ServerSaid(response.status_code)
        length = response.headers.get("content-length", "")
        total_bytes = size if size is not None else start + int(length) if length.isdigit() else None
        done = start
        progress(done, total_bytes)
        with part.open("ab" if start else "wb") as file:
            for chunk in response.iter_raw():  # as it arrives: what sits in a buffer is lost when the connection breaks
                file.write(chunk)
                done += len(chunk)
                progress(done, total_bytes)


def _length(part: Path) -> int:
    try:
        return part.stat().st_size
    except OSError:
        return 0


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(30.0, float(text)) if text.isdigit() else 0.0


def _judge(error: httpx.TransportError | _ServerSaid, what: str) -> SourceError:
    status = getattr(error, "status", None)
    if status in (401, 403):
        return SourceError(
            f"{what} may not be downloaded: the server answered {status}.",
            reason=WakeFailure.GATED_MODEL,
            next_step="Accept the model's licence on the hub and set HF_TOKEN, or check the index's credentials.",
        )
    if status in (404, 410):
        return SourceError(
            f"{what} does not exist at its source (the server answered {status}).", reason=WakeFailure.MODEL_NOT_FOUND
        )
    return SourceError(
        f"{what} could not be downloaded: {error_sentence(error)}.",
        reason=WakeFailure.DOWNLOAD_FAILED,
        next_step="Check the network and proxy settings; the download resumes where it stopped.",
    )


def error_sentence(error: Exception) -> str:
    """What went wrong on the network, in a person's words."""
    text = str(error)
    if isinstance(error, httpx.TimeoutException):
        return "the server did not answer in time"
    if isinstance(error, httpx.ConnectError):
        if "CERTIFICATE" in text:
            return "the server's certificate is not trusted"
        if "Name or service" in text or "nodename" in text or "resolution" in text:
            return "its server's name cannot be found (is there a network?)"
        return "its server cannot be reached (is there a network?)"
    if isinstance(error, httpx.ProxyError):
        return "the proxy refused"
    if isinstance(error, httpx.TransportError):
        return "the connection broke"
    return text or type(error).__name__


def disk_problem(error: OSError, part: Path, what: str) -> SourceError:
    """What a full or unwritable disk is called."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SourceError(
            f"The disk became full while {what} was downloaded to {part.parent}.",
            reason=WakeFailure.DISK_FULL,
            next_step="Free some space; the download resumes where it stopped.",
        )
    return SourceError(f"{part} cannot be written: {error.strerror or error}.", reason=WakeFailure.DISK_FULL)
