"""Two real Nebulas on loopback, with certificates of both authorities: who may shake hands. Needs neither root nor a network device."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import administration, keys, rotation
from lamplighter.mesh.administration import SignRequest, make_authority
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.storage import MeshFolder
from tests.unit.mesh.authority.conftest import PASSPHRASE


class Nebula:
    """One process with its own folder; `wait` looks at what it says after the last `mark`."""

    def __init__(self, folder: Path, *, port: int, lighthouse: int | None) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._seen = 0
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)
        self.log.touch()
        hosts: dict[str, object] = {"am_lighthouse": True} if lighthouse is None else {"hosts": ["10.77.0.1"], "interval": 1}
        (folder / "config.yml").write_text(
            yaml.safe_dump(
                {
                    "pki": {
                        "ca": f"{folder}/ca.crt",
                        "cert": f"{folder}/node.crt",
                        "key": f"{folder}/node.key",
                        "disconnect_invalid": True,
                    },
                    "lighthouse": hosts,
                    "static_host_map": {} if lighthouse is None else {"10.77.0.1": [f"127.0.0.1:{lighthouse}"]},
                    "listen": {"host": "127.0.0.1", "port": port},
                    "tun": {"disabled": True},
                    "logging": {"level": "info", "format": "json"},
                    "firewall": {"outbound": [{"port": "any", "proto": "any", "host": "any"}]},
                }
            )
        )

    def start(self) -> None:
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(["nebula", "-config", str(self.folder)], stdout=out, stderr=subprocess.STDOUT)

    def reload(self) -> None:
        assert self._process is not None
        self.mark()
        self._process.send_signal(signal.SIGHUP)
        self.wait("Client cert")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def mark(self) -> None:
        self._seen = self.log.stat().st_size

    def wait(self, text: str) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if text in self.log.read_text()[self._seen :]:
                return
            time.sleep(0.02)
        pytest.fail(f"{self.folder.name} did not say {text!r}: {self.log.read_text()[self._seen :]}")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(*nebulas: Nebula) -> Iterator[None]:
    try:
        for one in nebulas:
            one.start()
            one.wait("interface is active")
        yield
    finally:
        for one in nebulas:
            one.stop()


def test_nodes_of_both_authorities_shake_hands_until_one_is_revoked(tmp_path: Path) -> None:
    """The lighthouse (offline authority) lets the cloud node (online authority) in, keeps it through a rotation, and refuses it once revoked."""
    if shutil.which("nebula") is None:
        pytest.skip("nebula is not installed: Debian has it in the package nebula")
    now, port = time.time(), _free_port()
    light, gpu = Nebula(tmp_path / "light", port=port, lighthouse=None), Nebula(tmp_path / "gpu", port=0, lighthouse=port)
    config = MeshConfig.model_validate({"publish": str(light.folder)})
    folder = MeshFolder(tmp_path / "mesh")
    make_authority(folder, config, "online", PASSPHRASE, now)
    made, _ = make_authority(folder, config, "offline", PASSPHRASE, now)
    key = keys.decrypt(folder.key_file("offline", made.fingerprint).read_text(), PASSPHRASE)
    administration.sign(folder, config, SignRequest("light", "lighthouse", address=IPv4Address("10.77.0.1")), key, now)
    shutil.copy(folder.node("light") / "node.key", light.folder / "node.key")
    online = OnlineAuthority.open(folder.root, config, PASSPHRASE)
    private, public = keys.new_node_key()
    (gpu.folder / "node.key").write_text(private)

    def give() -> str:
        """What the keeper brings to the node: bundle and a fresh certificate, whose fingerprint this is."""
        issued = online.issue("gpu-1", public, IPv4Address("10.77.128.1"), now=time.time())
        (gpu.folder / "ca.crt").write_text(online.bundle())
        (gpu.folder / "node.crt").write_text(issued.certificate_pem)
        return issued.fingerprint

    fingerprint = give()
    online.publish()
    with _running(light, gpu):
        gpu.wait("Handshake message received")
        # A rotation of the authority that signs cloud nodes, with both Nebulas running.
        administration.start_rotation(folder, config, "online", PASSPHRASE, time.time())
        online.publish()
        light.reload()
        (gpu.folder / "ca.crt").write_text(online.bundle())
        gpu.reload()
        online.confirm("gpu-1", bundle=online.bundle(), fingerprint=fingerprint)
        administration.delivered(folder, ["light"], time.time())
        administration.sign_rotation(folder, config, None, time.time())
        assert online.due(fingerprint, now=time.time())
        fingerprint = give()
        gpu.reload()
        online.confirm("gpu-1", bundle=online.bundle(), fingerprint=fingerprint)
        administration.finish_rotation(folder, time.time() + rotation.SETTLE)
        online.publish()
        light.reload()
        assert rotation.progress(folder.read(), time.time()) is None
        # With the new certificate it comes in again from nothing.
        gpu.stop()
        gpu.mark()
        gpu.start()
        gpu.wait("Handshake message received")
        # Revoked, it does not.
        online.revoke(fingerprint, time.time() + 60)
        online.publish()
        light.reload()
        gpu.stop()
        light.mark()
        gpu.start()
        light.wait("Invalid certificate from host")
    refused = [line for line in light.log.read_text().splitlines() if "Invalid certificate from host" in line]
    assert "blocked" in refused[-1] or "blocklist" in refused[-1]
