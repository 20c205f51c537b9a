"""The control API as our own programs call it: finds the server of a data folder, carries its key, turns every failure into one sentence.

Not responsible for showing anything, nor for `/v1`: answers stream through `open_stream`, and what they mean is the caller's business.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from lamplighter.core.errors import LamplighterError
from lamplighter.operations.datafolder import DataFolder


class NotRunning(LamplighterError):
    """Nothing answers where the server should be."""

    code = "not_running"
    exit_code = 6


class Refused(LamplighterError):
    """The server answered with an error. `status`: HTTP status; `retry_after`: seconds, when it said so."""

    code = "refused"
    exit_code = 7

    def __init__(self, message: str, *, status: int, code: str = "", next_step: str = "", retry_after: int | None = None) -> None:
        super().__init__(message, next_step=next_step, code=code or self.code)
        self.status = status
        self.retry_after = retry_after


_PEM_END = "-----END CERTIFICATE-----"
_START = "Start it with `lamplighter up`."


class Client:
    """One server, one key. Use as a context manager."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
        certificate: str | None = None,
    ) -> None:
        """`certificate`: PEM file; the server must show the first certificate in it, whatever name that is for."""
        self.url = url.rstrip("/").removesuffix("/v1")
        # A local server is never behind the proxy that the environment may name for everything else.
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise _no_url(self.url) from error
        if address.scheme not in ("http", "https") or not address.host:
            raise _no_url(self.url)
        local = address.host in {"127.0.0.1", "localhost", "::1"}
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}", "user-agent": "lamplighter-cli"},
            timeout=httpx.Timeout(timeout, connect=5.0),
            trust_env=not local,
            transport=transport,
            verify=_pinned(certificate) if certificate is not None else True,
        )

    @classmethod
    def of_folder(cls, folder: DataFolder) -> Self:
        """The client of the server that serves `folder`. Raises NotRunning when none does."""
        info, key = folder.read_server(), folder.read_cli_key()
        if info is None:
            raise NotRunning(f"Lamplighter is not running (nothing serves the data folder {folder.root})", next_step=_START)
        if key is None:
            raise NotRunning(
                f"the command line has no key for {info.url}: {folder.cli_key} is missing or cannot be read",
                next_step="Restart `lamplighter up`, which writes it, or give --key.",
            )
        return cls(info.admin_url or info.url, key, certificate=info.certificate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer to a GET. Raises NotRunning, Refused."""
        return self.request("GET", path, params=query or None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer to a POST. Raises NotRunning, Refused."""
        return self.request("POST", path, json=body or {})

    def delete(self, path: str) -> None:
        """A DELETE. Raises NotRunning, Refused."""
        self.request("DELETE", path)

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON answer, None when it is empty. Raises NotRunning, Refused."""
        with self._translated():
            answer = self._http.request(method, path, **options)
        if answer.is_error:
            raise refusal(answer)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError:
            raise self._stranger() from None

    @contextmanager
    def open_stream(self, path: str, body: dict[str, Any], *, silence: float | None = None) -> Iterator[httpx.Response]:
        """The response to a POST whose body is read as it comes. Leaving the context closes the connection.

        `silence`: seconds without a byte after which it counts as dead; None: silence is no error. Raises NotRunning, Refused.
        """
        timeout = httpx.Timeout(silence, connect=5.0)
        with self._translated(), self._http.stream("POST", path, json=body, timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
                raise refusal(answer)
            yield answer

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if "CERTIFICATE" in str(error):
                raise NotRunning(
                    f"what answers at {self.url} shows a certificate that is not trusted: {error}",
                    next_step="If the certificate was just changed, wait ten seconds; else something else may listen there.",
                ) from error
            raise NotRunning(f"nothing answers at {self.url}", next_step=_START) from error
        except httpx.TimeoutException as error:
            raise NotRunning(f"{self.url} did not answer in time", next_step="Run `lamplighter doctor`.") from error
        except httpx.TransportError as error:
            raise NotRunning(f"the connection to {self.url} broke: {error}", next_step="Run `lamplighter doctor`.") from error

    def _stranger(self) -> Refused:
        return Refused(f"what answers at {self.url} is not Lamplighter", status=0, next_step="Check --url.")


def _pinned(certificate: str) -> ssl.SSLContext:
    """Trusts exactly the server's own certificate: it is for a public name, and we ask at a local address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the authority that signed it need not be known
    try:
        first, end, _ = Path(certificate).read_text(encoding="ascii").partition(_PEM_END)
        # Not the rest of the chain: whoever has a certificate of the same authority would pass too.
        context.load_verify_locations(cadata=first + end)
    except (OSError, ValueError) as error:
        raise NotRunning(
            f"the certificate of the server, {certificate}, cannot be read: {error}", next_step="Check server.tls.certificate."
        ) from error
    return context


def _no_url(text: str) -> LamplighterError:
    return LamplighterError(f"{text!r} is not the URL of a server", next_step="Write http://HOST:PORT or https://HOST.")


def refusal(answer: httpx.Response) -> Refused:
    """The error behind a response with a status of 400 or above, in the server's own words where it has any."""
    try:
        error = answer.json()["error"]
        message, code, next_step = str(error["message"]), str(error.get("code") or ""), str(error.get("next_step") or "")
    except (ValueError, KeyError, TypeError):
        message, code, next_step = f"the server answered with HTTP status {answer.status_code}", "", ""
    if answer.status_code == 401 and not next_step:
        next_step = "Check the key; `lamplighter keys create NAME` makes a new one."
    retry = answer.headers.get("retry-after", "")
    return Refused(
        message,
        status=answer.status_code,
        code=code,
        next_step=next_step,
        retry_after=int(retry) if retry.isdigit() else None,
    )
