"""The chart's own pod, run by podman: `podman kube play` of what Helm renders, and a chat. Long: it builds the images first."""

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.chart.rendering import of, one, render
from tests.images import podman
from tests.images.podman import IMAGES
from tests.images.test_built import GATEWAY, KEY, TRIAL, chat, ready
from tests.journeys.harness import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
VALUES = {
    "mode": "single",
    "image": {"repository": TRIAL.partition(":")[0], "tag": "test", "pullPolicy": "Never"},
    "keys": {"adminKey": KEY},
}


def playable(documents: list[Any]) -> list[Any]:
    """What podman 4.3 can play of them. It knows no StatefulSet, no emptyDir, no subPath of a ConfigMap, and leaves probes to systemd.

    So the StatefulSet's pod is played, volumes take the place of empty folders, and the configuration's folder that of its one file. Image,
    arguments, environment, users, capabilities, the read-only root and the limits are the chart's.
    """
    spec = copy.deepcopy(one(documents, "StatefulSet", "lamplighter-single")["spec"]["template"]["spec"])
    claims = of(documents, "PersistentVolumeClaim")
    for volume in spec["volumes"]:
        if volume.pop("emptyDir", None) is not None:
            name = f"lamplighter-{volume['name']}"
            claims.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {}})
            volume["persistentVolumeClaim"] = {"claimName": name}
    for container in spec["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            del container[probe]
        for mount in container["volumeMounts"]:
            if file := mount.pop("subPath", None):
                mount["mountPath"] = mount["mountPath"].removesuffix(f"/{file}")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lamplighter"}, "spec": spec}
    return [*of(documents, "ConfigMap", "lamplighter-config"), *claims, pod]


@pytest.fixture
def played() -> Iterator[str]:
    if why := podman.missing():
        pytest.skip(why)
    if not podman.podman("images", "--quiet", GATEWAY).strip():
        podman.build(IMAGES / "gateway" / "Dockerfile", GATEWAY)
    if not podman.podman("images", "--quiet", TRIAL).strip():
        podman.build(IMAGES / "trial" / "Dockerfile", TRIAL, IMAGES, LAMPLIGHTER_IMAGE=GATEWAY)
    rendered = render(VALUES)
    documents = playable(rendered)
    text = yaml.safe_dump_all(documents)
    # podman 4.3 cannot read the Secret that it plays itself.
    secret = one(rendered, "Secret", "lamplighter-keys")
    content = secret.get("data") or {
        name: base64.b64encode(value.encode()).decode() for name, value in secret["stringData"].items()
    }
    try:
        podman.podman("secret", "create", "lamplighter-keys", "-", into=json.dumps(content))
        podman.podman("kube", "play", "-", into=text)
        yield "lamplighter-lamplighter"
    finally:
        podman.podman("kube", "down", "-", into=text, check=False)
        for name in [document["metadata"]["name"] for document in documents if document["kind"] != "Pod"]:
            podman.podman("volume", "rm", "--force", name, check=False)
        podman.podman("secret", "rm", "lamplighter-keys", check=False)


def test_the_rendered_pod_answers_a_chat(played: str) -> None:
    """Whoever installs the chart would have a pod that starts and cannot work: a path that is not writable, an argument that is wrong."""
    infra = podman.podman("pod", "inspect", "--format", "{{.InfraContainerID}}", "lamplighter").strip()
    base = f"http://{podman.address(infra)}:8080"
    eventually(ready(base, played), what="the pod is ready")
    assert "Paris" in chat(base)
    assert '<div id="root">' in httpx.get(base).text
    told = podman.podman(
        "container", "inspect", "--format", "{{.HostConfig.ReadonlyRootfs}} {{.Config.User}} {{.HostConfig.CapDrop}}", played
    )
    assert told.split()[:2] == ["true", "10001:10001"]
    assert "CAP_CHOWN" in told
    assert "CAP_SETUID" in told
