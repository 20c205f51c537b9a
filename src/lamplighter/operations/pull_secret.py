"""Makes a pull secret for Amazon ECR, whose tokens live for twelve hours: `python -m lamplighter.operations.pull_secret`, run by a CronJob.

For clusters whose nodes have no ECR credential provider. One server-side apply makes or changes the Secret; nothing is read. Not responsible for
when it runs (`providers.kubernetes.cronjobs.ecr_refresh`).
"""

import argparse
import asyncio
import base64
import json
import re
import sys
from collections.abc import Sequence

from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import ConfigError, LamplighterError, ProviderError
from lamplighter.providers.aws.client import Aws
from lamplighter.providers.kubernetes.client import Access, Cluster

MANAGER = "lamplighter-ecr"
_REGISTRY = re.compile(r"(?P<account>\d{12})\.dkr\.ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?")


async def docker_config(registry: str) -> str:
    """What a kubelet needs to pull from `registry`, as the JSON of such a Secret. Raises ConfigError, ProviderError."""
    found = _REGISTRY.fullmatch(registry)
    if found is None:
        raise ConfigError(f"{registry!r} is no registry of Amazon ECR.", next_step="Write ACCOUNT.dkr.ecr.REGION.amazonaws.com.")
    answer = await Aws(found["region"], SystemClock()).call("ecr", "get_authorization_token", registryIds=[found["account"]])
    try:
        token = str(answer["authorizationData"][0]["authorizationToken"])
        user, _, password = base64.b64decode(token).decode().partition(":")
    except (KeyError, IndexError, ValueError) as error:
        raise ProviderError("ECR's answer has no token.", next_step="Try again.") from error
    return json.dumps({"auths": {registry: {"username": user, "password": password, "auth": token}}})


async def refresh(cluster: Cluster, registry: str, secret: str) -> None:
    """Make or change the Secret in the cluster's namespace. Raises ConfigError, ProviderError."""
    config = await docker_config(registry)
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret,
            "namespace": cluster.namespace,
            "labels": {"app.kubernetes.io/managed-by": "lamplighter"},
        },
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(config.encode()).decode()},
    }
    await cluster.apply(manifest, force=True, manager=MANAGER)


async def _run(registry: str, secret: str, namespace: str | None) -> None:
    cluster = Cluster.connect(Access(namespace=namespace))
    try:
        await refresh(cluster, registry, secret)
    finally:
        await cluster.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="lamplighter-pull-secret", description="Make a pull secret for Amazon ECR.")
    parser.add_argument("--registry", required=True, help="such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com")
    parser.add_argument("--secret", required=True, help="name of the Secret")
    parser.add_argument("--namespace", help="default: this pod's own, or the context's")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(_run(given.registry, given.secret, given.namespace))
    except LamplighterError as error:
        print(error.advice, file=sys.stderr)  # noqa: T201 - a program's own output
        return error.exit_code
    print(f"The pull secret {given.secret} for {given.registry} is fresh.")  # noqa: T201 - a program's own output
    return 0


if __name__ == "__main__":
    sys.exit(main())
