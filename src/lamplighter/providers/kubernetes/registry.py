"""Whether an image may be pulled: its manifest is asked for at its registry, with the credentials of a pull secret, and nothing is downloaded.

The OCI distribution API and Docker's token flow, as far as a look at one manifest needs them. Not responsible for what nodes themselves may do: those
can have credentials of their own, and another way to the registry.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

TIMEOUT = 8.0
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_HUB = "registry-1.docker.io"
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Image:
    """A name as Kubernetes writes it, taken apart. `reference`: a tag or a digest."""

    registry: str
    repository: str
    reference: str


@dataclass(frozen=True, slots=True)
class Login:
    """For one registry."""

    registry: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry says of an image. `status`: 0 when it cannot be reached from here."""

    status: int
    said: str = ""


def parse(name: str) -> Image:
    """As container runtimes read it: without a registry it is Docker Hub's, without a tag `latest`."""
    rest, at, digest = name.partition("@")
    first, slash, other = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, other
    else:
        registry, path = "docker.io", rest if slash else f"library/{rest}"
    head, colon, tag = path.rpartition(":")
    repository, tag = (head, tag) if colon else (path, "latest")
    return Image(registry, repository, digest if at else tag)


def logins(secret: Mapping[str, Any]) -> Sequence[Login]:
    """Those in a pull secret of either type; none where it cannot be read."""
    data = secret.get("data") or {}
    try:
        if ".dockerconfigjson" in data:
            auths = json.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths") or {}
        else:
            auths = json.loads(base64.b64decode(data.get(".dockercfg", "e30=")))
        return [_login(server, dict(one)) for server, one in auths.items()]
    except (ValueError, TypeError, AttributeError):
        return []


def login_for(image: Image, known: Sequence[Login]) -> Login | None:
    """The one that a kubelet would use."""
    return next(
        (
            one
            for one in known
            if one.registry == image.registry or (image.registry == "docker.io" and "docker.io" in one.registry)
        ),
        None,
    )


async def ask(image: Image, login: Login | None, *, scheme: str = "https") -> Answer:
    """Ask the registry for the manifest."""
    host = _HUB if image.registry == "docker.io" else image.registry
    url = f"{scheme}://{host}/v2/{image.repository}/manifests/{image.reference}"
    headers = {"Accept": _ACCEPT}
    try:
        async with httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=True) as client:
            answer = await client.head(url, headers={**headers, **_basic(login)})
            if answer.status_code == httpx2.codes.UNAUTHORIZED and (token := await _token(client, answer, login)):
                answer = await client.head(url, headers={**headers, "Authorization": f"Bearer {token}"})
    except (httpx2.HTTPError, OSError, ValueError) as error:
        return Answer(0, str(error).strip() or type(error).__name__)
    return Answer(answer.status_code)


async def _token(client: httpx2.AsyncClient, answer: httpx2.Response, login: Login | None) -> str | None:
    kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
    fields = dict(_CHALLENGE.findall(rest))
    if kind.lower() != "bearer" or "realm" not in fields:
        return None
    asked = {key: fields[key] for key in ("service", "scope") if key in fields}
    given = await client.get(fields["realm"], params=asked, headers=_basic(login))
    if given.status_code != httpx2.codes.OK:
        return None
    body = given.json()
    return str(body.get("token") or body.get("access_token") or "") or None


def _basic(login: Login | None) -> dict[str, str]:
    if login is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()}


def _login(server: str, one: Mapping[str, Any]) -> Login:
    user, password = str(one.get("username") or ""), str(one.get("password") or "")
    if one.get("auth"):
        user, _, password = base64.b64decode(one["auth"]).decode().partition(":")
    registry = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return Login(registry, user, password)
