"""A node that becomes a cluster: the real user data, the real agent and the real script on a machine of its own; k3s itself is a stand-in."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lamplighter.federation.node_cluster import K3S_SHA256, K3S_VERSION, NodeCluster, render
from tests.node.cloud import Cloud, assignment
from tests.node.parts import TOKEN, next_host
from tests.node.sandbox import Sandbox, possible
from tests.node.sandbox import render as user_data

pytestmark = pytest.mark.skipif(possible() is not None, reason=str(possible()))
REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
K3S = f"""#!/bin/bash
# In k3s's place: it has its version, and a cluster that says what `/standins/cluster` says.
echo "$*" >>/standins/k3s.calls
case "$*" in
--version) echo "k3s version {K3S_VERSION} (0123abcd)" ;;
*allocatable*) cat /standins/gpus ;;
*rollout*) exit "$(cat /standins/liqo)" ;;
*logs*) echo 'Error: INSTALLATION FAILED: failed to download "liqo" at version "v1.2.0"' ;;
*) exit 0 ;;
esac
"""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """AWS on loopback."""
    with Cloud() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Sandbox]:
    """A fresh one, with a k3s to be downloaded, a GPU and a Liqo that comes."""
    with Sandbox(tmp_path / "machine") as one:
        one.path("/standins/download").write_text(K3S)
        one.path("/standins/gpus").write_text("1")
        one.path("/standins/liqo").write_text("0")
        yield one


def given(host: str, **changes: Any) -> dict[str, Any]:
    """The assignment of a cluster, with the checksum of our k3s."""
    made = render(NodeCluster("gpu-i-1", host, {"tag": "v1.2.0"}, "v1.2.0", registry=REGISTRY, **changes))
    ours = hashlib.sha256(K3S.encode()).hexdigest()
    for _, digest in K3S_SHA256.values():
        made["script"] = made["script"].replace(digest, ours)
    whole = assignment(host)
    del whole["engine"]
    return whole | {"cluster": made}


def booted(cloud: Cloud, machine: Sandbox, host: str, whole: dict[str, Any]) -> None:
    cloud.assign(whole)
    done = machine.boot(
        user_data(cloud.node_json(testing=cloud.node_json()["testing"] | {"shutdown": ["shutdown", "-h", "now"]}))
    )
    assert done.returncode == 0, done.stdout
    with_k3s = machine.path("/etc/rancher/k3s")
    with_k3s.mkdir(parents=True, exist_ok=True)
    (with_k3s / "k3s.yaml").write_text("server: https://127.0.0.1:6443\n")


def ask(host: str, path: str) -> httpx.Response:
    return httpx.get(f"http://{host}:7443{path}", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=10)


def answers(host: str) -> bool:
    try:
        return bool(ask(host, "/status").json()["engine"]["state"] == "ready")
    except httpx.HTTPError:
        return False


def test_from_user_data_to_a_cluster_and_again(cloud: Cloud, machine: Sandbox) -> None:
    """The whole node; and the same script once more changes nothing and downloads nothing."""
    host = next_host()
    booted(cloud, machine, host, given(host))
    machine.wait(lambda: answers(host))
    assert ask(host, "/kubeconfig").text == f"server: https://{host}:6443\n"
    data = machine.path("/var/lib/rancher/k3s")
    assert sorted(one.name for one in (data / "server/manifests").iterdir()) == [
        "lamplighter-device-plugin.yaml",
        "lamplighter-liqo.yaml",
    ]
    assert ["start", "k3s"] in machine.calls("systemctl")
    assert any("raw" in call and "169.254.169.254" in call for call in machine.calls("iptables")), (
        "pods cannot have the node's role"
    )
    assert set(ask(host, "/status").json()["steps"]) >= {"files", "download", "k3s", "gpu", "liqo"}
    assert len([call for call in machine.calls("curl") if any("k3s" in word for word in call)]) == 1
    done = machine.run("bash", "/run/lamplighter/cluster.sh")
    assert done.returncode == 0, machine.log("cluster")
    assert len([call for call in machine.calls("curl") if any("k3s" in word for word in call)]) == 1
    plugin = machine.path("/var/lib/rancher/credentialprovider/bin/lamplighter-ecr")
    assert plugin.stat().st_mode & 0o777 == 0o755
    request = {
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "kind": "CredentialProviderRequest",
        "image": f"{REGISTRY}/model:1",
    }
    done = machine.run("/var/lib/rancher/credentialprovider/bin/lamplighter-ecr", stdin=json.dumps(request))
    answer = json.loads(done.stdout)
    assert answer["kind"] == "CredentialProviderResponse"
    assert answer["auth"][REGISTRY]["username"] == "AWS"
    assert answer["auth"][REGISTRY]["password"]


def test_a_download_that_was_tampered_with_is_not_run(cloud: Cloud, machine: Sandbox) -> None:
    """Whoever sits between the machine and the release would own it."""
    machine.path("/standins/download").write_text(K3S + "# and something else\n")
    host = next_host()
    booted(cloud, machine, host, given(host))
    machine.wait(lambda: cloud.kinds("end"))
    failure = cloud.kinds("end")[-1]["failure"]
    assert failure["stage"] == "cluster"
    assert "download failed" in failure["detail"]
    assert not machine.path("/usr/local/bin/k3s").exists()


def test_liqo_that_does_not_come_is_told_in_helms_own_words(cloud: Cloud, machine: Sandbox) -> None:
    """The person at the chat would read of a timeout, and somebody would have to find the machine's log to learn of what."""
    machine.path("/standins/liqo").write_text("1")
    host = next_host()
    whole = given(host)
    whole["cluster"]["script"] = whole["cluster"]["script"].replace("within 600", "within 1")
    booted(cloud, machine, host, whole)
    machine.wait(lambda: cloud.kinds("end"))
    failure = cloud.kinds("end")[-1]["failure"]
    assert "INSTALLATION FAILED" in failure["detail"], failure
    machine.wait(cloud.terminated)


def test_the_script_has_no_fault_that_shellcheck_knows(tmp_path: Path) -> None:
    """A missing quote is found by nobody else before a machine is paid for."""
    script = tmp_path / "cluster.sh"
    script.write_text(given("10.77.128.7")["cluster"]["script"])
    done = subprocess.run(("shellcheck", "--severity", "style", str(script)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
