"""`lamplighter mesh`, run as a person runs it."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from lamplighter.cli.main import run
from lamplighter.mesh import keys, rotation
from lamplighter.mesh.certificates import parse
from tests.unit.mesh.authority.conftest import NebulaCert


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration as in the guide: the passphrases from a file and from a command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMPLIGHTER_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LAMPLIGHTER_CONFIG", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    path = tmp_path / "lamplighter.yaml"
    path.write_text(
        "mesh:\n"
        f"  passphrase: file:{tmp_path}/online.passphrase\n"
        "  offline_passphrase: printf 'a long passphrase\\n'\n"
        f"  publish: {tmp_path}/nebula\n"
        "  lighthouses:\n"
        "    - {name: light, overlay: 10.77.0.1, addresses: ['198.51.100.7:4242']}\n"
    )
    return path


@pytest.fixture
def mesh(settings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `lamplighter mesh ...`."""

    def call(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run(["mesh", *arguments])
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call


def test_init_makes_both_and_changes_nothing_the_second_time(mesh: Run, tmp_path: Path) -> None:
    """Run again by a script it must neither fail nor replace an authority."""
    first = mesh("init", "--json").json()["authorities"]
    assert [(one["role"], one["made"]) for one in first] == [("online", True), ("offline", True)]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    secret = tmp_path / "online.passphrase"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_text().strip()) > 30
    again = mesh("init", "--json").json()["authorities"]
    assert [(one["fingerprint"], one["made"]) for one in again] == [(one["fingerprint"], False) for one in first]


def test_init_says_when_the_keeper_could_not_open_its_authority(mesh: Run, settings: Path, tmp_path: Path) -> None:
    """Found at once, with what to write; and when the passphrase was changed afterwards, that too."""
    mesh("init")
    (tmp_path / "online.passphrase").write_text("another passphrase")
    wrong = mesh("init")
    assert wrong.code == 1
    assert "does not open" in wrong.err
    settings.write_text("mesh: {}\n")
    missing = mesh("init")
    assert missing.code == 3
    assert "mesh.passphrase" in missing.err
    assert "file:" in missing.err


def test_a_short_passphrase_is_refused(mesh: Run, settings: Path) -> None:
    """Whoever has the exported file can try a billion words."""
    settings.write_text(settings.read_text().replace("a long passphrase", "short"))
    refused = mesh("init")
    assert refused.code == 1
    assert "shorter than 12" in refused.err


def test_nobody_is_asked_when_nobody_is_there(mesh: Run, settings: Path) -> None:
    """In a script a prompt would hang for ever."""
    settings.write_text("\n".join(line for line in settings.read_text().splitlines() if "offline_passphrase" not in line))
    refused = mesh("init")
    assert refused.code == 1
    assert "nobody to ask" in refused.err
    assert "mesh.offline_passphrase" in refused.err


def test_a_person_is_asked_twice_for_a_new_passphrase(mesh: Run, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing mistake would lock the authority for ever; nothing of it is shown."""
    settings.write_text("\n".join(line for line in settings.read_text().splitlines() if "offline_passphrase" not in line))
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **how: Any) -> str:
        asked.append(how)
        return "a long passphrase"

    monkeypatch.setattr(typer, "prompt", prompt)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", lambda *_: Terminal())
    assert mesh("init").code == 0
    assert asked == [{"hide_input": True, "confirmation_prompt": True, "err": True}]
    assert mesh("sign", "home", "--kind", "home").code == 0
    assert asked[1]["confirmation_prompt"] is False


def test_a_node_from_signing_to_revocation(mesh: Run, tmp_path: Path, nebula_cert: NebulaCert) -> None:
    """The whole life of a laptop, each command twice, and the real nebula-cert in between."""
    mesh("init")
    made = mesh("sign", "anna", "--kind", "laptop", "--json").json()
    assert made["groups"] == ["laptop"]
    assert made["address"] == "10.77.0.2"
    where = Path(made["folder"])
    key = (where / "node.key").read_text()
    assert (where / "node.key").stat().st_mode & 0o777 == 0o600
    assert nebula_cert("verify", "-ca", where / "ca.crt", "-crt", where / "node.crt").returncode == 0
    again = mesh("sign", "anna", "--kind", "laptop", "--json").json()
    assert again["address"] == "10.77.0.2"
    assert (where / "node.key").read_text() == key
    assert mesh("inspect", "anna").code == 0
    assert "trusted: yes" in mesh("inspect", str(where / "node.crt")).out
    copied = (where / "node.crt").read_text()
    revoked = mesh("revoke", "anna", "--json").json()["revoked"]
    assert {one["fingerprint"] for one in revoked} == {made["fingerprint"], again["fingerprint"]}
    assert again["fingerprint"] in (tmp_path / "nebula" / "blocklist.yml").read_text()
    assert mesh("revoke", "anna").code == 0
    verdict = mesh("inspect", "-", "--json", stdin=copied)
    assert verdict.code == 1
    assert "revoked" in verdict.json()["problem"]
    assert not where.exists(), "its key is worthless, and must not be certified again"
    assert mesh("sign", "anna", "--kind", "laptop", "--json").json()["groups"] == ["laptop"]


def test_a_public_key_is_enough(mesh: Run, tmp_path: Path) -> None:
    """The private key of a node stays on the node."""
    mesh("init")
    _, public = keys.new_node_key()
    (tmp_path / "node.pub").write_text(public)
    made = mesh("sign", "light", "--kind", "lighthouse", "--public-key", "node.pub", "--days", "10", "--json").json()
    assert made["address"] == "10.77.0.1"
    assert parse(made["certificate"]).public_key == keys.parse_public(public)
    assert not (Path(made["folder"]) / "node.key").exists()
    piped = mesh("sign", "light", "--kind", "lighthouse", "--public-key", "-", "--json", stdin=public)
    assert parse(piped.json()["certificate"]).public_key == keys.parse_public(public)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sign", "x", "--kind", "server"), "no kind 'server'"),
        (("sign", "x", "--kind", "lighthouse"), "has no lighthouse 'x'"),
        (("sign", "X y", "--kind", "laptop"), "no name for a node"),
        (("sign", "x", "--kind", "laptop", "--address", "10.77.128.5"), "gives addresses to cloud nodes"),
        (("sign", "x", "--kind", "laptop", "--address", "192.168.1.1"), "not an address of the mesh"),
        (("sign", "x", "--kind", "laptop", "--address", "x"), "no IPv4 address"),
        (("sign", "x", "--kind", "laptop", "--groups", "gpu"), "is for cloud nodes"),
        (("sign", "x", "--kind", "laptop", "--groups", "a b"), "no name for a group"),
        (("sign", "x", "--kind", "laptop", "--days", "-1"), "larger than 0"),
        (("sign", "x", "--kind", "laptop", "--public-key", "nothing.pub"), "cannot be read"),
        (("sign", "x", "--kind", "laptop", "--public-key", "lamplighter.yaml"), "no PEM block"),
        (("sign", "x", "--kind", "gpu", "--groups", "home"), "certifies the group gpu only"),
        (("sign", "x", "--kind", "gpu", "--address", "10.77.0.9"), "certifies cloud nodes in"),
        (("revoke", "nobody"), "no certificate 'nobody'"),
        (("renew", "nobody"), "no certificate of 'nobody'"),
        (("inspect", "nobody"), "no file and no node 'nobody'"),
        (("rotate", "finish"), "no rotation is under way"),
        (("rotate", "start", "both"), "no authority 'both'"),
        (("rotate", "delivered"), "name the nodes"),
        (("export", "offline", "--remove"), "--out"),
        (("export", "online", "--out", "x.pem", "--remove"), "keeper needs"),
        (("import", "lamplighter.yaml"), "no PEM block"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_a_way_out(mesh: Run, arguments: tuple[str, ...], says: str) -> None:
    """Each mistake gets its sentence, on standard error, for a program too."""
    mesh("init")
    refused = mesh(*arguments)
    assert refused.code == 1
    assert says in refused.err
    assert "next:" in refused.err or "next_step" in refused.err
    for_program = json.loads(mesh(*arguments, "--json").err.strip().splitlines()[-1])
    assert says in for_program["error"]["message"] + for_program["error"]["next_step"]


def test_every_command_before_init_points_to_it(mesh: Run) -> None:
    """The first thing that people do is to skip the first step."""
    for arguments in (("sign", "home", "--kind", "home"), ("publish",), ("rotate", "start", "offline"), ("export", "offline")):
        refused = mesh(*arguments)
        assert refused.code == 1
        assert "lamplighter mesh init" in refused.err
    assert "lamplighter mesh init" in mesh("list").err
    assert mesh("list", "--json").json() == {"authorities": [], "certificates": [], "warnings": []}


def test_the_offline_key_leaves_and_returns(mesh: Run, tmp_path: Path) -> None:
    """It is gone only after the copy was proven to open; with the copy everything goes on."""
    mesh("init")
    mesh("sign", "home", "--kind", "home")
    assert mesh("export", "offline", "--out", "ca.pem").code == 0
    (tmp_path / "other.pem").write_text("something else")
    assert mesh("export", "offline", "--out", "other.pem").code == 1
    assert mesh("export", "offline", "--out", "ca.pem", "--remove").code == 0
    assert (tmp_path / "ca.pem").stat().st_mode & 0o777 == 0o600
    refused = mesh("sign", "anna", "--kind", "laptop")
    assert refused.code == 1
    assert "mesh import" in refused.err
    assert mesh("sign", "anna", "--kind", "laptop", "--ca-key", "ca.pem").code == 0
    assert mesh("renew", "--all", "--ca-key", "-", stdin=(tmp_path / "ca.pem").read_text()).code == 0
    assert [one["key_here"] for one in mesh("list", "--json").json()["authorities"]] == [False, True]
    assert mesh("import", "ca.pem").code == 0
    assert mesh("import", "ca.pem").code == 0
    assert mesh("renew", "home").code == 0


def test_the_export_restores_an_installation(mesh: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk died: with both exports and the passphrases the mesh goes on under the same authorities."""
    mesh("init")
    before = {one["fingerprint"] for one in mesh("list", "--json").json()["authorities"]}
    for role in ("offline", "online"):
        mesh("export", role, "--out", f"{role}.pem")
    monkeypatch.setenv("LAMPLIGHTER_DATA", str(tmp_path / "fresh"))
    assert mesh("import", "offline.pem").code == 0
    assert mesh("import", "online.pem").code == 0
    listed = mesh("list", "--json").json()["authorities"]
    assert {one["fingerprint"] for one in listed} == before
    assert {one["role"]: one["groups"] for one in listed} == {"offline": [], "online": ["gpu"]}
    assert mesh("sign", "home", "--kind", "home").code == 0


def test_a_mesh_of_nebula_cert_is_taken_over(mesh: Run, tmp_path: Path, nebula_cert: NebulaCert) -> None:
    """Whoever has a mesh keeps its authority; the plain key is kept encrypted."""
    nebula_cert("ca", "-name", "mine", "-out-crt", tmp_path / "my.crt", "-out-key", tmp_path / "my.key")
    (tmp_path / "both.pem").write_text((tmp_path / "my.key").read_text() + (tmp_path / "my.crt").read_text())
    assert mesh("import", str(tmp_path / "my.key")).code == 1
    assert mesh("import", "both.pem").code == 0
    stored = next((tmp_path / "data" / "mesh" / "keys").iterdir())
    assert "ENCRYPTED" in stored.read_text()
    assert mesh("init").code == 0
    assert {one["name"] for one in mesh("list", "--json").json()["authorities"]} == {"mine", "lamplighter-online"}
    where = Path(mesh("sign", "home", "--kind", "home", "--json").json()["folder"])
    assert nebula_cert("verify", "-ca", tmp_path / "my.crt", "-crt", where / "node.crt").returncode == 0


def test_a_rotation_from_the_command_line(mesh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step says what comes next, and can be asked for again."""
    mesh("init")
    mesh("sign", "home", "--kind", "home")
    started = mesh("rotate", "start", "offline")
    assert "waiting  home" in started.out
    assert mesh("rotate", "start", "offline").code == 0
    assert mesh("rotate", "sign").code == 1
    assert mesh("rotate", "status", "--json").json()["rotation"]["waiting"] == ["home"]
    assert "rotate sign" in mesh("rotate", "delivered", "--all").out
    assert mesh("rotate", "sign").code == 0
    assert mesh("rotate", "finish").code == 1
    assert "rotate finish" in mesh("rotate", "delivered", "home").out
    monkeypatch.setattr(rotation, "SETTLE", 0.1)
    finished = mesh("rotate", "finish")
    assert finished.code == 0, finished.err
    assert mesh("rotate", "status", "--json").json() == {"rotation": None}
    assert mesh("inspect", "home").code == 0


def test_a_published_change_that_nebula_did_not_read_is_an_error(mesh: Run, settings: Path) -> None:
    """The revocation is kept and shown, and the exit status says that it is not in force yet."""
    mesh("init")
    mesh("sign", "anna", "--kind", "laptop")
    settings.write_text(settings.read_text() + "  reload: 'echo no such unit >&2; false'\n")
    failed = mesh("revoke", "anna", "--json")
    assert failed.code == 1
    assert len(failed.json()["revoked"]) == 1
    assert "'anna' is revoked, but" in failed.err
    assert "no such unit" in failed.err
    settings.write_text(settings.read_text().replace("; false", ""))
    assert mesh("publish").code == 0


def test_what_expires_soon_is_said(mesh: Run) -> None:
    """A certificate that ends unnoticed cuts a machine off."""
    mesh("init", "--online-days", "20", "--offline-days", "900")
    mesh("sign", "home", "--kind", "home", "--days", "400")
    listed = mesh("list", "--json").json()
    assert listed["warnings"] == []
    assert mesh("renew").err.startswith("Nothing expires soon")
