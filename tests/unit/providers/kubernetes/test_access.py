"""Which cluster is meant: kubeconfigs as kubectl reads them, and what is said when there is none to use."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from lamplighter.core.errors import ProviderError
from lamplighter.providers.kubernetes import access
from lamplighter.providers.kubernetes.access import Access, load
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.testing.kubernetes.cluster import FakeCluster


def kubeconfig(name: str = "a", **user: Any) -> dict[str, Any]:
    """One context named `name`."""
    return {
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"http://{name}.example:1", "proxy-url": "http://proxy:8", "tls-server-name": "x"}}],
        "users": [{"name": name, "user": user or {"token": "t"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"of-{name}"}}],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a kubeconfig, and no pod."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(access, "IN_CLUSTER", tmp_path / "no-account")
    return tmp_path


def test_content_wins_and_names_its_namespace() -> None:
    """A federated cluster's kubeconfig comes over the mesh, not from a file."""
    found = load(Access(content=kubeconfig()))
    assert (found.config.cluster.server, found.namespace) == ("http://a.example:1", "of-a")
    assert (found.proxy, found.tls_name) == ("http://proxy:8", "x")
    assert load(Access(content=kubeconfig(), namespace="mine")).namespace == "mine"


def test_files_are_joined_as_kubectl_joins_them(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People with several clusters list several files: the second one's contexts would be unknown."""
    for name in ("a", "b"):
        (nowhere / name).write_text(yaml.safe_dump(kubeconfig(name)))
    monkeypatch.setenv("KUBECONFIG", f"{nowhere / 'a'}{os.pathsep}{nowhere / 'missing'}{os.pathsep}{nowhere / 'b'}")
    assert load(Access()).config.cluster.server == "http://a.example:1"
    assert load(Access(context="b")).config.cluster.server == "http://b.example:1"


def test_the_file_at_home_comes_before_the_pods_account(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with kubectl; and in a pod without a file the account is used."""
    account = nowhere / "account"
    account.mkdir()
    for name, text in (("token", "t"), ("namespace", "ns\n"), ("ca.crt", "")):
        (account / name).write_text(text)
    monkeypatch.setattr(access, "IN_CLUSTER", account)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = load(Access())
    assert (found.config.cluster.server, found.namespace) == ("https://[fd00::1]:443", "ns")
    (nowhere / ".kube").mkdir()
    (nowhere / ".kube" / "config").write_text(yaml.safe_dump(kubeconfig()))
    assert load(Access()).config.cluster.server == "http://a.example:1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"current-context": None}, "no current context"),
        ({"current-context": "zzz"}, "no context 'zzz'"),
        ({"clusters": []}, "which is not there"),
        ({"users": [{"name": "a", "user": {"auth-provider": {"name": "gcp"}}}]}, "auth-provider"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_what_is_wrong(change: dict[str, Any], words: str) -> None:
    """`KeyError: 'a'` helps nobody."""
    with pytest.raises(ProviderError, match=words) as raised:
        load(Access(content={**kubeconfig(), **change}))
    assert raised.value.next_step


def test_nothing_at_all(nowhere: Path) -> None:
    """The first minute of a newcomer."""
    with pytest.raises(ProviderError, match="no kubeconfig here") as raised:
        load(Access())
    assert "kubeconfig" in raised.value.next_step
    (nowhere / "empty").write_text("")
    with pytest.raises(ProviderError, match="is empty"):
        load(Access(kubeconfig=nowhere / "empty"))
    (nowhere / "torn").write_text("{")
    with pytest.raises(ProviderError, match="not YAML"):
        load(Access(kubeconfig=nowhere / "torn"))


async def test_a_program_that_signs_in_is_run_from_beside_the_file(nowhere: Path) -> None:
    """EKS, GKE and every company's single sign-on work so; newer programs want to be told which version to speak."""
    with FakeCluster() as cluster:
        program = nowhere / "sign-in"
        answer = json.dumps({"kind": "ExecCredential", "status": {"token": cluster.gate.admin_token}})
        program.write_text(f"#!/bin/sh\necho \"$KUBERNETES_EXEC_INFO\" > {nowhere}/told\necho '{answer}'\n")
        program.chmod(stat.S_IRWXU)
        content = cluster.kubeconfig()
        content["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./sign-in"}}
        (nowhere / "config").write_text(yaml.safe_dump(content))
        connected = Cluster.connect(Access(kubeconfig=nowhere / "config"))
        assert await connected.version()
        assert json.loads((nowhere / "told").read_text())["apiVersion"] == "client.authentication.k8s.io/v1"
        await connected.close()
        program.write_text("#!/bin/sh\necho 'run sso login' >&2\nexit 1\n")
        refused = Cluster.connect(Access(kubeconfig=nowhere / "config"))
        with pytest.raises(ProviderError, match="run sso login"):
            await refused.version()
        await refused.close()
