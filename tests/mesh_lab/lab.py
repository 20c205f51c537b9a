"""The namespaces, the wires between them, and the Nebula in each."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Self

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import certificates, keys
from lamplighter.mesh.nodes import Node, render
from lamplighter.mesh.publishing import blocklist_file
from tests.mesh_lab.certificates import Authority, Signer

PREFIX = "lp"
PATIENCE = 30.0
"""Seconds to wait for what should be there within a second or two; far above it, so that a busy machine fails nothing."""
UNDERLAY = "10.99.0"
_count = itertools.count()
# The least that Nebula needs, as in the units that we render: no root, one capability. It ends with the test that started it.
_LEAST = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--pdeathsig=KILL",
    "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin",
)  # fmt: skip


def missing() -> str | None:
    """What a lab lacks on this machine, as a sentence; None when it can be made."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    lacking = [program for program in ("ip", "nebula", "setpriv", "ping", "nft") if shutil.which(program) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    made = subprocess.run(
        ["ip", "netns", "add", name := f"{PREFIX}{os.getpid()}-try"], check=False, capture_output=True, text=True
    )
    # To enter one is more than to make it: it remounts `/`, which a chroot has not mounted.
    entered = subprocess.run(["ip", "netns", "exec", name, "true"], check=False, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    if made.returncode:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    return f"network namespaces cannot be entered: {entered.stderr.strip()}" if entered.returncode else None


@dataclass
class Machine:
    """One machine: a namespace, its address outside and inside, its Nebula. Made by `Lab.add`."""

    lab: "Lab"
    name: str
    node: Node
    overlay: str
    underlay: str
    wire: str
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    blocked: tuple[str, ...] = ()

    @property
    def namespace(self) -> str:
        return self.lab.namespace(self.name)

    def command(self, *words: object) -> list[str]:
        """The words of a command that runs in this machine's network."""
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def run(self, *words: object, check: bool = True, timeout: float = PATIENCE, input: str | None = None) -> str:
        """Run a command to its end in this machine's network; its standard output."""
        done = subprocess.run(self.command(*words), check=False, capture_output=True, text=True, timeout=timeout, input=input)
        assert not check or done.returncode == 0, f"{self.name}: {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def succeeds(self, *words: object, timeout: float = PATIENCE) -> bool:
        """Whether a command ends well in this machine's network."""
        return subprocess.run(self.command(*words), check=False, capture_output=True, timeout=timeout).returncode == 0

    def spawn(self, *words: object) -> subprocess.Popen[str]:
        """Start a command in this machine's network; it ends with the lab."""
        process = subprocess.Popen(
            self.command("setpriv", "--pdeathsig=KILL", *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lab.processes.append(process)
        return process

    def pings(self, other: "Machine | str", *, wait: float = 1.0, size: int | None = None) -> bool:
        """Whether one ping is answered within `wait` seconds; `size` is the whole IP packet, which may not be fragmented."""
        address = other if isinstance(other, str) else other.overlay
        whole = [] if size is None else ["-M", "do", "-s", size - 28]
        return self.succeeds("ping", "-n", "-c1", "-W", wait, *whole, address)

    def reaches(self, other: "Machine", *, within: float = PATIENCE) -> float:
        """Wait until a ping is answered; the seconds that it took."""
        begin = time.monotonic()
        while not self.pings(other):
            assert time.monotonic() - begin < within, f"{self.name} did not reach {other.name} within {within:g} s"
        return time.monotonic() - begin

    def write(self) -> None:
        """Write Nebula's file anew, from the configuration of the lab."""
        _replace(
            self.folder / "config.yml",
            render(self.node, self.lab.config, lighthouse_addresses=self.lab.lighthouse_addresses(), folder=str(self.folder)),
        )
        _replace(self.folder / "blocklist.yml", blocklist_file(self.blocked))

    def trust(self, bundle: str) -> None:
        """Replace the bundle of authorities; `reload` makes it hold."""
        _replace(self.folder / "ca.crt", bundle)

    def certify(self, signer: Signer) -> None:
        """Let `signer` sign this machine's public key; `reload` makes it hold."""
        length = self.lab.config.network.prefixlen
        certificate = signer.sign(self.name, f"{self.overlay}/{length}", self.node.kind, (self.folder / "node.pub").read_text())
        _replace(self.folder / "node.crt", certificate)

    def fingerprint(self) -> str:
        """What a blocklist names."""
        return certificates.parse((self.folder / "node.crt").read_text()).fingerprint

    def block(self, *fingerprints: str) -> None:
        """Refuse certificates from now on, as revocation does."""
        self.blocked = (*self.blocked, *fingerprints)
        _replace(self.folder / "blocklist.yml", blocklist_file(self.blocked))
        self.reload()

    def start(self) -> Self:
        """Start Nebula and wait for its interface."""
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"
        with (self.folder / "nebula.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(*_LEAST, self.lab.nebula, "-config", self.folder), stdout=log, stderr=subprocess.STDOUT
            )
        wait(self._up, f"{self.name} has no interface:\n{self.log()[-2000:]}")
        return self

    def stop(self, *, kill: bool = False) -> None:
        """End Nebula: as the system does, or as a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self.process.wait(PATIENCE)
            self.process = None

    def reload(self) -> None:
        """Make Nebula read its files again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def cut(self) -> None:
        """Pull the cable."""
        self.lab.wan("ip", "link", "set", self.wire, "down")

    def restore(self) -> None:
        """Put the cable back."""
        self.lab.wan("ip", "link", "set", self.wire, "up")

    def move(self, underlay: str) -> None:
        """Another address outside, as a new machine or a new lease of the provider has."""
        self.run("ip", "address", "flush", "dev", "eth0")
        self.run("ip", "address", "add", f"{underlay}/24", "dev", "eth0")
        self.underlay = underlay

    def log(self) -> str:
        """What its Nebula wrote so far."""
        path = self.folder / "nebula.log"
        return path.read_text() if path.exists() else ""

    def _up(self) -> bool:
        shown = self.run("ip", "-j", "address", "show", "dev", self.lab.config.interface, check=False)
        return any(
            address.get("local") == self.overlay for link in json.loads(shown or "[]") for address in link.get("addr_info", ())
        )


class Lab:
    """A context manager: namespaces while it lasts, nothing after it.

    `config` names the lighthouses; their addresses outside are those of the machines with the same names. Several labs may live at once.
    """

    def __init__(self, config: MeshConfig, *, nebula: str = "nebula", signer: Signer | None = None) -> None:
        self.config = config
        self.nebula = shutil.which(nebula) or nebula
        self.machines: dict[str, Machine] = {}
        self.processes: list[subprocess.Popen[str]] = []
        # Not below pytest's own folder, which is closed to the user who runs Nebula.
        self.folder = Path(tempfile.mkdtemp(prefix="lamplighter-mesh-"))
        self.folder.chmod(0o755)
        self._number = next(_count)
        self._stack = contextlib.ExitStack()
        self._given = signer
        self._signer: Signer | None = None

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            self._signer = self._given or Authority("lab")
            ip("netns", "add", self.namespace("wan"))
            self.wan("ip", "link", "set", "lo", "up")
            self.wan("ip", "link", "add", "br0", "type", "bridge")
            self.wan("ip", "link", "set", "br0", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def signer(self) -> Signer:
        assert self._signer is not None, "use it as a context manager"
        return self._signer

    def trusts(self, signer: Signer) -> None:
        """From now on this one signs, as after a rotation."""
        self._signer = signer

    def namespace(self, name: str) -> str:
        return f"{PREFIX}{os.getpid()}-{self._number}-{name}"

    def wan(self, *words: object) -> str:
        """Run a command in the network between the machines."""
        return ip("netns", "exec", self.namespace("wan"), *words)

    def lighthouse_addresses(self) -> dict[str, list[str]]:
        """Of the machines that are lighthouses, by name."""
        return {one.name: [f"{one.underlay}:{self.config.port}"] for one in self.machines.values() if one.node.finds}

    def add(self, name: str, node: Node, overlay: str, *, bundle: str | None = None, signer: Signer | None = None) -> Machine:
        """A machine with a wire, a key, a certificate and its files; `start` starts its Nebula. Add lighthouses first."""
        number = len(self.machines) + 1
        folder = self.folder / name
        folder.mkdir()
        machine = Machine(self, name, node, overlay, f"{UNDERLAY}.{number}", f"v{number}", folder)
        self.attach(name, machine.wire, f"{machine.underlay}/24")
        self.machines[name] = machine
        private, public = keys.new_node_key()
        (folder / "node.pub").write_text(public)
        (folder / "node.key").touch(0o600)
        (folder / "node.key").write_text(private)
        shutil.chown(folder / "node.key", 65534, 65534)
        machine.certify(signer or self.signer)
        machine.trust(self.signer.certificate() if bundle is None else bundle)
        machine.write()
        return machine

    def attach(self, name: str, wire: str, address: str) -> None:
        """A namespace with `eth0` on the bridge: a machine without Nebula."""
        space = self.namespace(name)
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        self.wan("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", space)
        self.wan("ip", "link", "set", wire, "master", "br0", "up")
        ip("-n", space, "address", "add", str(IPv4Interface(address)), "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")

    def start(self, *machines: Machine) -> None:
        """Start the Nebula of these, or of all."""
        for machine in machines or self.machines.values():
            machine.start()

    def reload(self, machines: Iterable[Machine] | None = None) -> None:
        """Make every Nebula read its files again."""
        for machine in self.machines.values() if machines is None else machines:
            machine.reload()

    def close(self) -> None:
        """End what was started and remove what was made. May be called again."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self.processes:
            process.wait(PATIENCE)
            if process.stdout is not None:
                process.stdout.close()
        self.processes.clear()
        for machine in self.machines.values():
            machine.stop(kill=True)
        start = f"{PREFIX}{os.getpid()}-{self._number}-"
        for name in _namespaces():
            if name.startswith(start):
                ip("netns", "del", name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove the namespaces of labs whose process is gone; what still runs in them was the lab's own."""
    for name in _namespaces():
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if not name.startswith(PREFIX) or not owner.isdigit() or Path(f"/proc/{owner}").exists():
            continue
        for pid in ip("netns", "pids", name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        ip("netns", "del", name, check=False)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in ip("netns", "list").splitlines() if line]


def ip(*words: object, check: bool = True) -> str:
    """Run iproute2's `ip`; its standard output."""
    done = subprocess.run(["ip", *map(str, words)], check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert not check or done.returncode == 0, f"ip {words}: {done.stderr}"
    return done.stdout


def wait(look: Callable[[], bool], what: str, *, within: float = PATIENCE) -> float:
    """Wait until `look` is true; the seconds that it took."""
    begin = time.monotonic()
    while not look():
        assert time.monotonic() - begin < within, f"waited {within:g} s in vain: {what}"
        time.sleep(0.05)
    return time.monotonic() - begin


def _replace(path: Path, text: str) -> None:
    """Atomically, under a name that Nebula does not read; open to the user who runs Nebula."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)
