"""What starts Nebula: units, container, DaemonSets, masquerading. Held against systemd's, nftables' own judgement where these are installed."""

import os
import shlex
import shutil
import subprocess
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from lamplighter.core.errors import LamplighterError
from lamplighter.mesh import container, kubernetes, snat, units
from lamplighter.mesh.releases import nebula_of_talos
from tests.unit.mesh.network.files import CONFIG


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """systemd ignores a misspelt directive with a line in the journal: the hardening would not be there, and nobody would know."""
    program = tmp_path / "nebula"  # it looks whether the program is there
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    made = units.units(published="/var/lib/lamplighter/mesh/published", program=str(program)) | {snat.UNIT: snat.unit()}
    names = [name for name in made if not name.endswith(".conf")]
    for name in names:
        (tmp_path / name).write_text(made[name])
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    ours = [line for line in (said.stdout + said.stderr).splitlines() if any(name in line for name in names)]
    # A tool that a bare machine lacks is no fault of the unit.
    assert [line for line in ours if "is not executable" not in line] == []


def test_the_unit_runs_unprivileged_with_one_capability() -> None:
    """A hole in Nebula must not be a hole in the machine."""
    service = units.units()[units.SERVICE]
    for line in (
        "User=nebula",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "AmbientCapabilities=CAP_NET_ADMIN",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
    ):
        assert line in service.splitlines()
    assert "-config /etc/nebula\n" in service  # the folder: else the blocklist beside it would never be read


def test_publishing_is_watched_and_copied_in_one_step() -> None:
    """A revocation that stays in Lamplighter's own folder cuts nobody off."""
    made = units.units(published="/data/mesh/published")
    for name in ("ca.crt", "blocklist.yml", "node.crt"):
        assert f"PathChanged=/data/mesh/published/{name}" in made["nebula-published.path"]
        assert f"mv -f /etc/nebula/.{name}.new /etc/nebula/{name}" in made["nebula-published.service"]
    alone = units.units()
    assert "PathChanged=/etc/nebula/ca.crt" in alone["nebula-published.path"]
    assert "install" not in alone["nebula-published.service"]
    assert "reload" in alone["nebula-published.service"]


def test_what_was_published_is_copied_whole(tmp_path: Path) -> None:
    """The unit's own lines, executed: Nebula must see the old bundle or the new one, and nothing that looks like a third file of its own."""
    source, target = tmp_path / "published", tmp_path / "etc"
    source.mkdir()
    target.mkdir()
    (source / "ca.crt").write_text("new")
    (source / "blocklist.yml").write_text("pki: {}")
    (target / "ca.crt").write_text("old")
    lines = units.units(folder=str(target), published=str(source))["nebula-published.service"].splitlines()
    copies = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=/bin/sh")]
    for line in copies:
        subprocess.run(shlex.split(line), check=True, timeout=20)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"ca.crt": "new", "blocklist.yml": "pki: {}"}
    assert len(copies) == 3


@pytest.mark.skipif(shutil.which("nft") is None or os.geteuid() != 0, reason="nft is not installed, or not root")
def test_nftables_takes_the_rules(tmp_path: Path) -> None:
    """A rule file with a mistake loads nothing, and pods silently stay outside."""
    file = tmp_path / snat.RULES
    file.write_text(snat.rules(CONFIG, [IPv4Network("10.42.0.0/16"), IPv4Network("10.244.0.0/16")]))
    said = subprocess.run(
        ["unshare", "--net", "nft", "-c", "-f", str(file)], check=False, capture_output=True, text=True, timeout=20
    )
    assert said.returncode == 0, said.stderr


def test_pods_that_overlap_the_mesh_are_refused() -> None:
    """Masquerading what is the mesh itself would make every node look like home."""
    with pytest.raises(LamplighterError):
        snat.rules(CONFIG, [IPv4Network("10.77.64.0/18")])


def test_the_container_may_change_the_network_and_nothing_else() -> None:
    """`privileged: true` would make a container that anybody's packets reach as good as root on the machine."""
    service = yaml.safe_load(container.compose())["services"]["nebula"]
    assert service["network_mode"] == "host"
    assert (service["cap_drop"], service["cap_add"], service["read_only"]) == (["ALL"], ["NET_ADMIN"], True)
    assert service["volumes"] == ["./nebula:/config:ro"]
    assert "privileged" not in service
    assert ":" in service["image"]
    assert not service["image"].endswith(":latest")
    assert "--cap-add NET_ADMIN" in container.command("/etc/nebula")


def _pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in documents if one["kind"] == "DaemonSet"]


_FILES = dict.fromkeys(kubernetes.FILES, "text\n")


@pytest.mark.parametrize(
    "documents", [kubernetes.daemon_set("home", "n1", _FILES), kubernetes.snat_daemon_set(CONFIG)], ids=["nebula", "snat"]
)
def test_daemon_sets_have_the_least_that_works(documents: list[dict[str, Any]]) -> None:
    """The one exception to PodSecurity in the cluster must stay as small as it can be."""
    namespace = documents[0]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    for document in documents[1:]:
        assert document["metadata"]["namespace"] == namespace["metadata"]["name"]
    (pod,) = _pods(documents)
    assert pod["hostNetwork"] is True
    assert pod["automountServiceAccountToken"] is False
    for one in [*pod.get("initContainers", ()), *pod["containers"]]:
        rights = one["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights.get("privileged", False) is False
        assert rights["capabilities"]["drop"] == ["ALL"]
        assert set(rights["capabilities"].get("add", ())) <= {"NET_ADMIN"}
        assert one["resources"]["limits"]["memory"]
        assert not one["image"].endswith(":latest")
        mounted = {mount["name"] for mount in one.get("volumeMounts", ())}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}
    (daemon,) = (one for one in documents if one["kind"] == "DaemonSet")
    labels = daemon["spec"]["template"]["metadata"]["labels"]
    assert daemon["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert list(yaml.safe_load_all(kubernetes.to_yaml(documents))) == documents


def test_the_key_is_in_a_secret_and_a_changed_file_restarts_nebula() -> None:
    """A key in a ConfigMap is everybody's; a renewed certificate that nobody reads expires."""
    documents = kubernetes.daemon_set("home", "n1", _FILES)
    (secret,) = (one for one in documents if one["kind"] == "Secret")
    assert set(secret["stringData"]) == {"config.yml", "ca.crt", "node.crt", "node.key"}
    (pod,) = _pods(documents)
    (tun,) = (volume for volume in pod["volumes"] if volume["name"] == "tun")
    assert tun["hostPath"] == {"path": "/dev/net/tun", "type": "CharDevice"}
    assert pod["nodeSelector"]["kubernetes.io/hostname"] == "n1"  # one certificate, one node
    again = kubernetes.daemon_set("home", "n1", _FILES | {"node.crt": "renewed\n"})
    before, after = (one[2]["spec"]["template"]["metadata"]["annotations"] for one in (documents, again))
    assert before != after


@pytest.mark.parametrize(
    ("talos", "nebula"),
    [("v1.10.4", None), ("1.11.6", "1.9.6"), ("1.12.3", "1.10.0"), ("v1.13.9", "1.11.0"), ("1.14.0-alpha.1", "1.11.0")],
)
def test_the_nebula_of_a_talos_is_known(talos: str, nebula: str | None) -> None:
    """Certificates of version 2 on a Talos whose Nebula is older keep the whole house out."""
    assert nebula_of_talos(talos) == nebula
