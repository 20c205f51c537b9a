"""A lighthouse on a small EC2 machine: its user data, and the files that it reads from the Parameter Store.

The machine's key pair is made at home and lies in a SecureString that its role alone may read: it is the one node of ours in the cloud that
outlives a day, and user data would show a key to whoever may describe the instance. Not responsible for AWS: `lamplighter cloud` starts the
machine and writes the parameters.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.errors import LamplighterError
from lamplighter.mesh.nodes import FOLDER, Node, render
from lamplighter.mesh.publishing import blocklist_file
from lamplighter.mesh.releases import DOWNLOAD, SHA256, VERSION
from lamplighter.mesh.units import SERVICE, USER, units

MOST_USER_DATA = 16_384
BLOCKLIST = "blocklist.yml"
MOST_PARAMETER = 4_096
"""Bytes of one parameter of the standard tier, which costs nothing."""
PROGRAMS = "/usr/local/bin"


def prefix(stack: str) -> str:
    """Where the Parameter Store keeps the lighthouse's files; each is `<prefix>/<file name>`."""
    return f"/{stack}/lighthouse"


def user_data(*, stack: str, region: str, machine: str = "arm64") -> str:
    """The script that EC2 runs at the first boot. The same for every lighthouse of a stack, and without a secret.

    `machine`: `arm64` (t4g) or `amd64`. Raises LamplighterError for another one.
    """
    if machine not in SHA256:
        raise LamplighterError(f"no Nebula is pinned for {machine}", next_step=f"Take an instance type of {' or '.join(SHA256)}.")
    settings = {
        "region": region,
        "prefix": prefix(stack),
        "folder": FOLDER,
        "programs": PROGRAMS,
        "archive": DOWNLOAD.format(version=VERSION, machine=machine),
        "sha256": SHA256[machine],
        "owner": USER,
        "reload": ["systemctl", "reload-or-restart", SERVICE],
        "endpoint": f"https://ssm.{region}.amazonaws.com/",
        "metadata": "http://169.254.169.254",
    }
    texts = {
        "@SETTINGS@": json.dumps(settings, indent=1),
        "@PROGRAM@": _file("lighthouse.py").rstrip(),
        "@SERVICE@": units(program=f"{PROGRAMS}/nebula")[SERVICE].rstrip(),
    }
    script = _file("lighthouse.sh")
    for mark, text in texts.items():
        script = script.replace(mark, text)
    if len(script.encode()) > MOST_USER_DATA:
        raise LamplighterError(f"the lighthouse's user data has {len(script.encode())} bytes, and EC2 takes {MOST_USER_DATA}")
    return script


def parameters(
    config: MeshConfig,
    *,
    stack: str,
    bundle: str,
    certificate: str,
    key: str,
    blocklist: Sequence[str] = (),
    lighthouse_addresses: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """The SecureStrings of the lighthouse, by their whole names. Raises LamplighterError where one does not fit.

    A blocklist that does not fit keeps the last of `blocklist` (give the oldest first): a lighthouse only introduces, and every node refuses
    what is revoked by itself.
    """
    found = {
        "config.yml": render(Node("lighthouse"), config, lighthouse_addresses=lighthouse_addresses or {}),
        "ca.crt": bundle,
        "node.crt": certificate,
        "node.key": key,
        BLOCKLIST: _fitting(blocklist),
    }
    for name, text in found.items():
        if len(text.encode()) > MOST_PARAMETER:
            raise LamplighterError(
                f"{name} of the lighthouse has {len(text.encode())} bytes, and a parameter takes {MOST_PARAMETER}",
                next_step="Retire authorities that nothing uses any more: `lamplighter mesh list`.",
            )
    return {f"{prefix(stack)}/{name}": text for name, text in found.items()}


def blocklist_parameter(stack: str, blocklist: Sequence[str]) -> tuple[str, str]:
    """Name and text of the one SecureString that changes by itself: what was revoked. Cut to fit, as in `parameters`."""
    return f"{prefix(stack)}/{BLOCKLIST}", _fitting(blocklist)


def _fitting(blocklist: Sequence[str]) -> str:
    kept = list(blocklist)
    while len(blocklist_file(kept).encode()) > MOST_PARAMETER:
        kept.pop(0)
    return blocklist_file(kept)


def _file(name: str) -> str:
    return files("lamplighter.mesh").joinpath("files", name).read_text(encoding="utf-8")


__all__ = ["MOST_PARAMETER", "MOST_USER_DATA", "blocklist_parameter", "parameters", "prefix", "user_data"]
