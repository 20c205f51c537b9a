"""`lamplighter mesh render`, `talos` and `check` as a person types them."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from lamplighter.cli.main import run
from lamplighter.config import defaults
from lamplighter.mesh import keys, talos
from tests.unit.mesh.network.files import CONFIG


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with both authorities and two certified nodes; a configuration that names it."""
    monkeypatch.setattr(keys, "DEFAULT_COST", keys.Argon2(memory=32, iterations=1, lanes=1))
    tree = defaults().model_dump(mode="json", exclude_none=True)
    tree["mesh"] = CONFIG.model_dump(mode="json", exclude_none=True) | {
        "passphrase": f"file:{tmp_path}/passphrase",
        "offline_passphrase": ["echo", "correct horse battery staple"],
    }
    (tmp_path / "lamplighter.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.setenv("LAMPLIGHTER_CONFIG", str(tmp_path / "lamplighter.yaml"))
    monkeypatch.setenv("LAMPLIGHTER_DATA", str(tmp_path / "data"))
    assert run(["mesh", "init"]) == 0
    assert run(["mesh", "sign", "home", "--kind", "home"]) == 0
    return tmp_path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_home_gets_everything_that_its_nebula_needs(desk: Path) -> None:
    """From certificates to a running mesh in one command and one copy; the key readable for nobody else."""
    out = desk / "out"
    words = ["mesh", "render", "home", "--name", "home", "--systemd", "--snat", "--ssh", "--out", str(out)]
    assert run(words) == 0
    assert {path.name for path in out.iterdir()} >= {
        "config.yml", "blocklist.yml", "ca.crt", "node.crt", "node.key", "nebula.service", "nebula-published.path", "mesh-snat.nft",
    }  # fmt: skip
    assert _mode(out / "node.key") == 0o600
    settings = yaml.safe_load((out / "config.yml").read_text())
    assert {rule["port"] for rule in settings["firewall"]["inbound"] if rule["proto"] == "tcp"} == {22, 8080}
    assert str(desk / "data" / "mesh" / "published") in (out / "nebula-published.path").read_text()
    assert run(words) == 0  # again


def test_another_folder_is_written_into_configuration_and_unit(desk: Path) -> None:
    """A laptop's Nebula looks where its system puts such files; a path that is not there is a Nebula that does not start."""
    words = ["mesh", "render", "laptop", "--name", "l", "--systemd", "--folder", "/opt/mesh", "--out", str(desk / "l")]
    assert run(words) == 0
    assert yaml.safe_load((desk / "l" / "config.yml").read_text())["pki"]["key"] == "/opt/mesh/node.key"
    assert "-config /opt/mesh\n" in (desk / "l" / "nebula.service").read_text()


def test_a_container_and_a_daemon_set_get_paths_of_their_own(desk: Path) -> None:
    """Files for /etc/nebula in a container that has /config would never be found; compose.yaml beside them would be read as Nebula's."""
    assert run(["mesh", "render", "home", "--name", "home", "--container", "--out", str(desk / "c")]) == 0
    assert yaml.safe_load((desk / "c" / "nebula" / "config.yml").read_text())["pki"]["ca"] == "/config/ca.crt"
    assert (desk / "c" / "compose.yaml").exists()
    assert run(["mesh", "render", "home", "--name", "home", "--daemonset", "n1", "--snat", "--out", str(desk / "k")]) == 0
    assert {path.name for path in (desk / "k").iterdir()} == {"nebula.yaml", "mesh-snat.yaml"}
    assert _mode(desk / "k" / "nebula.yaml") == 0o600


@pytest.mark.parametrize(
    "words",
    [
        ["mesh", "render", "toaster", "--name", "home", "--out", "x"],
        ["mesh", "render", "home", "--name", "home", "--systemd", "--container", "--out", "x"],
        ["mesh", "render", "home", "--name", "nobody", "--daemonset", "n1", "--out", "x"],
        ["mesh", "render", "home", "--name", "home", "--snat", "--pods", "banana", "--out", "x"],
        ["mesh", "render", "lighthouse", "--name", "one", "--user-data", "stack", "--out", "x"],
        ["mesh", "render", "home", "--name", "home", "--lighthouse", "two", "--out", "x"],
        ["mesh", "render", "home", "--name", "home", "--container", "--folder", "/x", "--out", "x"],
        ["mesh", "talos", "--name", "home"],
        ["mesh", "check", "--peer", "home"],
    ],
)
def test_a_wrong_word_is_answered_with_what_would_be_right(
    desk: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """A traceback, or a half-written folder, is no answer."""
    capsys.readouterr()
    assert run(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "unexpected" not in said
    assert len(said.splitlines()) == 2
    assert not Path("x").exists()


def test_talos_is_rendered_and_checked(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check is what a person runs before a machine without a console reboots."""
    out = desk / "talos"
    assert run(["mesh", "talos", "--name", "home", "--lan", "192.168.1.0/24", "--out", str(out)]) == 0
    assert _mode(out / talos.CONFIGURATION) == 0o600
    capsys.readouterr()
    assert run(["mesh", "talos", "--check", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    (out / talos.ADDRESSES).unlink()
    assert run(["mesh", "talos", "--check", str(out)]) == 1
    assert "FAIL" in capsys.readouterr().out
