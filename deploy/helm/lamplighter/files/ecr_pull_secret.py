"""Writes a pull secret for Amazon ECR, whose tokens live for twelve hours. Run by the chart's CronJob, in Lamplighter's own image.

Reads REGISTRY and PULL_SECRET_NAME from the environment, credentials as boto3 finds them, and the pod's own token for the API server. One patch by
server-side apply makes or changes the Secret; nothing is read. Fails loudly: the Job is tried again.
"""

import base64
import json
import os
import ssl
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = 20


def docker_config(registry: str) -> str:
    """What a kubelet needs to pull from `registry`, as the JSON of a `kubernetes.io/dockerconfigjson` Secret."""
    import boto3

    account, _, _, region, *_ = registry.split(".")
    answer = boto3.client("ecr", region_name=region).get_authorization_token(registryIds=[account])
    token = answer["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    return json.dumps({"auths": {registry: {"username": user, "password": password, "auth": token}}})


def apply(server: str, namespace: str, name: str, config: str, token: str, context: ssl.SSLContext | None) -> None:
    """Make or change the Secret. Raises urllib.error.HTTPError when the API server refuses."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "lamplighter"}},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(config.encode()).decode()},
    }
    request = urllib.request.Request(  # noqa: S310 - the address is the API server's, https
        f"{server}/api/v1/namespaces/{namespace}/secrets/{name}?fieldManager=lamplighter-ecr&force=true",
        method="PATCH",
        data=json.dumps(manifest).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as answer:  # noqa: S310 - as above
        answer.read()


def main() -> None:
    """Fetch a token and write it down."""
    given = os.environ  # noqa: TID251 - not part of the program: the chart's CronJob says everything by the environment
    registry, name = given["REGISTRY"], given["PULL_SECRET_NAME"]
    host, port = given["KUBERNETES_SERVICE_HOST"], given["KUBERNETES_SERVICE_PORT"]
    apply(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        (ACCOUNT / "namespace").read_text(encoding="utf-8").strip(),
        name,
        docker_config(registry),
        (ACCOUNT / "token").read_text(encoding="utf-8").strip(),
        ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")),
    )
    print(f"The pull secret {name} for {registry} is fresh.")  # noqa: T201 - the Job's log


if __name__ == "__main__":
    main()
