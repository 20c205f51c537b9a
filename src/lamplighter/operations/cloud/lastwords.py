"""What a machine wrote: from its agent while it lives and can be reached, else from the stack's bucket, where it put its last words, else AWS's console.

Not responsible for which replica a person means beyond its names: the machine's id, the provider's handle, the store's id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from lamplighter.operations.cloud.beliefs import Beliefs
from lamplighter.operations.cloud.errors import CloudError
from lamplighter.operations.cloud.stacks import Stack
from lamplighter.providers.aws import account, inventory

NAMES = ("bootstrap", "agent", "nebula", "engine")
_TIMEOUT = httpx.Timeout(8.0, connect=3.0)


@dataclass(frozen=True, slots=True)
class Log:
    """Text, and where it is from, for people."""

    text: str
    source: str


def read(stacks: Sequence[Stack], beliefs: Beliefs, wanted: str, name: str, *, limit: int) -> Log:
    """The last `limit` bytes of one log. Raises CloudError when there is none, ProviderError."""
    handle = next((one.handle for one in beliefs.replicas if one.id == wanted), None) or wanted
    known: list[str] = []
    for stack in stacks:
        manifest = account.manifest(stack.region, stack.name)
        if manifest is None:
            continue
        bucket, role = str(manifest["bucket"]), str(manifest["node_role_id"])
        instance = wanted if wanted.startswith("i-") else inventory.find_replica(stack.region, beliefs.installation or "", handle)
        kept = account.list_keys(stack.region, bucket, "nodes/")
        known += sorted({_instance(key) for key in kept if "/logs/" in key})
        if instance is None:
            continue
        folder = f"nodes/{role}:{instance}"
        found = _from_agent(stack, bucket, folder, name, limit)
        if found is None:
            key = f"{folder}/logs/{name}.log"
            body = account.read_object(stack.region, bucket, key, last=limit)
            found = Log(body.decode(errors="replace"), f"s3://{bucket}/{key}") if body is not None else None
        if found is None and (text := account.console(stack.region, instance)):
            found = Log(text[-limit:], f"the console of {instance}, as AWS kept it")
        if found is not None:
            return found
    raise CloudError(
        f"there is no log {name!r} of {wanted!r}",
        next_step=f"Logs are kept for a week; there are some of: {', '.join(dict.fromkeys(known)) or 'no machine'}.",
    )


def _from_agent(stack: Stack, bucket: str, folder: str, name: str, limit: int) -> Log | None:
    """None when the machine cannot be reached: it is gone, or this machine is not in the mesh."""
    import json

    raw = account.read_object(stack.region, bucket, f"{folder}/assignment.json")
    if raw is None:
        return None
    try:
        given = json.loads(raw)
        url = f"http://{given['overlay']}:7443/logs"
        with httpx.Client(timeout=_TIMEOUT, trust_env=False) as client:
            answer = client.get(
                url, params={"name": name, "bytes": limit}, headers={"authorization": f"Bearer {given['agent_token']}"}
            )
    except (ValueError, KeyError, TypeError, httpx.HTTPError):
        return None
    return Log(answer.text, f"its agent at {given['overlay']}") if answer.status_code == 200 else None


def _instance(key: str) -> str:
    return key.split("/")[1].rpartition(":")[2]


__all__ = ["NAMES", "Log", "read"]
