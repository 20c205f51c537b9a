"""What this machine's Nebula gets, and that the real program takes it."""

import json
import shutil
import signal
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import administration, keys, publishing, rotation
from lamplighter.mesh.administration import SignRequest, make_authority
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.certificates import parse, parse_bundle
from lamplighter.mesh.commands import run
from lamplighter.mesh.errors import MeshError
from lamplighter.mesh.issuing import active
from lamplighter.mesh.storage import MeshFolder
from lamplighter.testing.clock import VirtualClock
from tests.unit.mesh.authority.conftest import NOW, PASSPHRASE


def _config(where: Path, reload: object = None) -> MeshConfig:
    return MeshConfig.model_validate({"publish": str(where), "reload": reload})


def _sign_home(folder: MeshFolder, config: MeshConfig, now: float = NOW) -> None:
    authority = active(folder.read(), "offline")
    key = keys.decrypt(folder.key_file("offline", authority.fingerprint).read_text(), PASSPHRASE)
    administration.sign(folder, config, SignRequest("home", "home"), key, now)


def test_bundle_and_blocklist_are_written_and_read_again(folder: MeshFolder, tmp_path: Path) -> None:
    """Nebula is told when something changed, and not otherwise: the keeper publishes often."""
    where, told = tmp_path / "nebula", tmp_path / "told"
    config = _config(where, f"echo x >> {told}")
    online = OnlineAuthority.open(folder.root, config, PASSPHRASE, clock=VirtualClock(NOW))
    online.publish()
    online.publish()
    assert told.read_text() == "x\n"
    assert set(parse_bundle((where / "ca.crt").read_text())) == set(folder.read().authorities)
    assert yaml.safe_load((where / "blocklist.yml").read_text()) == {"pki": {"blocklist": []}}
    issued = online.issue("gpu-1", keys.new_node_key()[1], IPv4Address("10.77.128.1"), now=NOW)
    online.publish()
    assert told.read_text() == "x\n", "a new certificate is nobody else's business"
    online.revoke(issued.fingerprint, issued.not_after)
    online.publish()
    assert told.read_text() == "x\nx\n"
    assert yaml.safe_load((where / "blocklist.yml").read_text()) == {"pki": {"blocklist": [issued.fingerprint]}}
    assert sorted(path.name for path in where.iterdir()) == ["blocklist.yml", "ca.crt"]


def test_a_failed_reload_is_tried_again(folder: MeshFolder, tmp_path: Path) -> None:
    """Else a revocation is on disk and Nebula does not know, for ever: no file differs the next time."""
    flag = tmp_path / "works"
    config = _config(tmp_path / "nebula", f"test -e {flag} || {{ echo no nebula here >&2; exit 3; }}")
    with pytest.raises(MeshError, match=r"status 3: no nebula here"):
        publishing.publish(folder, config, now=NOW)
    with pytest.raises(MeshError):
        publishing.publish(folder, config, now=NOW)
    flag.touch()
    assert publishing.publish(folder, config, now=NOW)
    assert not publishing.publish(folder, config, now=NOW)


def test_this_machines_certificate_follows_and_counts(folder: MeshFolder, tmp_path: Path) -> None:
    """A renewed or re-signed certificate of home is put in place, and a rotation does not wait for a person to say so."""
    where = tmp_path / "nebula"
    config = _config(where, "true")
    _sign_home(folder, config)
    publishing.publish(folder, config, now=NOW)
    assert not (where / "node.crt").exists(), "no key there: the certificate is somebody else's business"
    shutil.copy(folder.node("home") / "node.key", where / "node.key")
    publishing.publish(folder, config, now=NOW)
    assert (where / "node.crt").read_text() == (folder.node("home") / "node.crt").read_text()
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    waiting = rotation.progress(folder.read(), NOW)
    assert waiting is not None
    assert waiting.waiting == ("home",)
    publishing.publish(folder, _config(where), now=NOW)
    assert rotation.progress(folder.read(), NOW) == waiting, "without mesh.reload nobody knows whether Nebula has read it"
    publishing.publish(folder, config, now=NOW)
    ready = rotation.progress(folder.read(), NOW)
    assert ready is not None
    assert ready.waiting == ()
    key = keys.decrypt(folder.key_file("offline", ready.new.fingerprint).read_text(), PASSPHRASE)
    administration.sign_rotation(folder, config, key, NOW)
    publishing.publish(folder, config, now=NOW)
    assert parse((where / "node.crt").read_text()).issuer == ready.new.fingerprint
    administration.finish_rotation(folder, NOW + rotation.SETTLE)


def test_there_must_be_something_to_publish(tmp_path: Path) -> None:
    """An empty bundle would end the mesh on this machine."""
    (tmp_path / "nebula").mkdir()
    with pytest.raises(MeshError, match="no authority"):
        publishing.publish(MeshFolder(tmp_path / "mesh"), _config(tmp_path / "nebula"), now=NOW)
    assert list((tmp_path / "nebula").iterdir()) == []


def test_commands_have_a_limit_and_say_what_went_wrong(tmp_path: Path) -> None:
    """A password manager that hangs, or is not there; what a command prints never gets into an error: it may be the passphrase."""
    assert run(["printf", "a b"], what="x", limit=5) == "a b"
    assert run("printf '%s' \"$((1+1))\"", what="x", limit=5) == "2"
    begun = time.monotonic()
    with pytest.raises(MeshError, match=r"what: the command took longer"):
        run("sleep 60 & sleep 60", what="what", limit=0.1)
    assert time.monotonic() - begun < 10
    with pytest.raises(MeshError, match="cannot be started"):
        run([str(tmp_path / "nothing")], what="x", limit=5)
    with pytest.raises(MeshError) as caught:
        run("echo secret; echo locked >&2; exit 1", what="x", limit=5)
    assert "locked" in caught.value.message
    assert "secret" not in caught.value.message


def test_real_nebula_merges_the_blocklist_and_reads_it_again(tmp_path: Path, config: MeshConfig) -> None:
    """Nebula takes the blocklist from its own file beside the configuration, and a new one on SIGHUP, without a restart."""
    program = shutil.which("nebula")
    if program is None:
        pytest.skip("nebula is not installed: Debian has it in the package nebula")
    now = time.time()
    folder, where = MeshFolder(tmp_path / "mesh"), tmp_path / "nebula"
    for role in ("online", "offline"):
        make_authority(folder, config, role, PASSPHRASE, now)
    _sign_home(folder, config, now)
    where.mkdir()
    shutil.copy(folder.node("home") / "node.key", where / "node.key")
    (where / "config.yml").write_text(
        yaml.safe_dump(
            {
                "pki": {name: str(where / file) for name, file in (("ca", "ca.crt"), ("cert", "node.crt"), ("key", "node.key"))},
                "listen": {"host": "127.0.0.1", "port": 0},
                "tun": {"disabled": True},
                "logging": {"level": "info", "format": "json"},
                "firewall": {"outbound": [{"port": "any", "proto": "any", "host": "any"}]},
            }
        )
    )
    log = tmp_path / "nebula.log"
    live = _config(where)
    online = OnlineAuthority.open(folder.root, live, PASSPHRASE)
    first = online.issue("gpu-1", keys.new_node_key()[1], IPv4Address("10.77.128.1"), now=now)
    second = online.issue("gpu-2", keys.new_node_key()[1], IPv4Address("10.77.128.2"), now=now)
    online.revoke(first.fingerprint, first.not_after)
    online.publish()
    with log.open("w") as out:
        process = subprocess.Popen([program, "-config", str(where)], stdout=out, stderr=subprocess.STDOUT)
        try:
            _until(log, {first.fingerprint, '"fingerprintCount":1'}, {"interface is active"})
            online.revoke(second.fingerprint, second.not_after)
            online.publish()
            process.send_signal(signal.SIGHUP)
            _until(log, {second.fingerprint, '"fingerprintCount":2'}, {"Client cert"})
        finally:
            process.terminate()
            process.wait(10)
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert not [line for line in said if line["level"] in {"error", "fatal"}], said


def _until(log: Path, *wanted: set[str]) -> None:
    """Wait until Nebula has said one text of each set: newer versions count the blocked certificates instead of naming them."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        said = log.read_text()
        if all(any(text in said for text in texts) for texts in wanted):
            return
        time.sleep(0.02)
    pytest.fail(f"nebula did not say {wanted}: {log.read_text()}")
