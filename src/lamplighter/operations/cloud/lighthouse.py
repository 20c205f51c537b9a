"""The lighthouse's machine in AWS: its script before it is built, its certificate and settings (SecureStrings of its own) afterwards.

What the files hold is the mesh's business (`mesh.lighthouse`); whether a machine is built is Terraform's.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamplighter.config import Config
from lamplighter.operations.cloud.errors import CloudError
from lamplighter.operations.cloud.stacks import Stack, wants_lighthouse
from lamplighter.providers.aws import account

FILES = ("config.yml", "ca.crt", "node.crt", "node.key", "blocklist.yml")


def script(config: Config, stack: Stack, data: Path) -> str | None:
    """The machine's user data; None when it belongs to no or another stack. Raises CloudError while the lighthouse has no certificate of ours."""
    from lamplighter.mesh.lighthouse import user_data

    light = config.cloud.lighthouse
    if light is None or not wants_lighthouse(config, stack):
        return None
    _files(config, data)
    family = light.instance_type.partition(".")[0]
    return user_data(stack=stack.name, region=stack.region, machine="arm64" if "g" in family[1:] else "amd64")


def hand_over(config: Config, stack: Stack, data: Path, manifest: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
    """Write what the machine reads, as it is now; whether there is such a machine. Raises CloudError, ProviderError."""
    from lamplighter.mesh.authority import read_blocklist, read_bundle
    from lamplighter.mesh.lighthouse import parameters

    if not wants_lighthouse(config, stack):
        return False
    node = _files(config, data)
    address = (manifest.get("lighthouse") or {}).get("address")
    known = {one.name: one.addresses for one in config.mesh.lighthouses if one.addresses}
    texts = parameters(
        config.mesh,
        stack=stack.name,
        bundle=read_bundle(data / "mesh"),
        certificate=node.certificate_pem,
        key=node.key_pem,
        blocklist=read_blocklist(data / "mesh"),
        lighthouse_addresses={**known, **({node.name: (address,)} if address else {})},
    )
    for name, text in texts.items():
        account.store_parameter(stack.region, name, text, tags=tags, secret=True)
    return True


def forget(stack: Stack) -> None:
    """Delete what was written for it. Raises ProviderError."""
    from lamplighter.mesh.lighthouse import prefix

    for name in FILES:
        account.delete_parameter(stack.region, f"{prefix(stack.name)}/{name}")


def _files(config: Config, data: Path) -> Any:
    from lamplighter.mesh.authority import read_node

    light = config.cloud.lighthouse
    assert light is not None  # noqa: S101 - the callers asked
    found = read_node(data / "mesh", light.name, now=time.time())
    if found.key_pem is None:
        raise CloudError(
            f"the key of the lighthouse {light.name} does not lie here, and its machine in AWS makes none",
            next_step=f"Let the authority make the pair: `lamplighter mesh sign {light.name} --kind lighthouse`.",
        )
    return found


__all__ = ["forget", "hand_over", "script"]
