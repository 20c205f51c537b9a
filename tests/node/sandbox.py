"""A machine of its own inside this one, for executing the real user data as root: its own files, processes, /dev and /run.

Files are an overlay over this machine's, kept in memory and gone with it; processes end with it. The network is this machine's, of which only
loopback is used. What the test machine lacks is on the PATH first: see standins/standin.py.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.node.parts import until

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deploy/terraform/aws/files"
STANDINS = (
    "docker", "nvidia-smi", "nvidia-ctk", "nebula", "nebula-cert", "iptables", "curl", "apt-get", "aws", "systemctl", "shutdown", "cloud-init",
)  # fmt: skip
PATH = "/standins:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INIT = r"""
set -e
mount -t tmpfs -o size=1g tmpfs "$1"
mkdir "$1"/up "$1"/work "$1"/whole
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/whole"
mount -t proc proc "$1/whole/proc"
mount -t tmpfs tmpfs "$1/whole/run"
mount -t tmpfs tmpfs "$1/whole/tmp"
mount -t tmpfs -o mode=755 tmpfs "$1/whole/dev"
for name in null zero full random urandom; do cp -a /dev/$name "$1/whole/dev/"; done
mkdir -p "$1/whole/dev/shm" "$1/whole/dev/disk/by-id"
ln -s /proc/self/fd "$1/whole/dev/fd"
exec chroot "$1/whole" /bin/bash -c 'touch /run/up; while :; do sleep 0.1; done'
"""


def possible() -> str | None:
    """Why there can be no such machine here; None when there can."""
    if os.geteuid() != 0:
        return "executing user data needs root"
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "unshare and nsenter are not installed"
    command = ("unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no namespaces here: {done.stderr.strip()}"


def render(node_json: Mapping[str, Any]) -> str:
    """The user data, filled as Terraform fills it."""
    script = (FILES / "bootstrap.sh").read_text()
    return script.replace("@NODE_JSON@", json.dumps(node_json)).replace("@AGENT@", (FILES / "agent.py").read_text())


class Sandbox:
    """The machine. `without`: programs of this machine that it does not have. `systemd`: whether it says that systemd runs there."""

    def __init__(self, folder: Path, *, without: Iterable[str] = (), systemd: bool = False) -> None:
        self._folder, self._without, self._systemd = folder, tuple(without), systemd
        self._pid = 0

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        command = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", _INIT, "init", str(self._folder))
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        until(self._found)
        until(self.path("/run/up").exists)
        place = self.path("/standins")
        place.mkdir()
        for name in STANDINS:
            if name not in self._without:
                shutil.copy2(Path(__file__).parent / "standins/standin.py", place / name)
                (place / name).chmod(0o755)
        for name in self._without:
            for folder in PATH.split(":")[1:]:
                self.path(f"{folder}/{name}").unlink(missing_ok=True)
        if self._systemd:
            self.path("/run/systemd/system").mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    def _found(self) -> bool:
        assert self._process.poll() is None, "the machine did not start"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._pid = int(children[0]) if children else 0
        return self._pid != 0 and self.path("/run/up").exists()

    def path(self, absolute: str) -> Path:
        """A file of the machine, as this process reaches it."""
        return Path(f"/proc/{self._pid}/root{absolute}")

    def run(self, *command: str, stdin: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command inside of it, with the machine's own environment."""
        inside = (
            "nsenter",
            "--target",
            str(self._pid),
            "--mount",
            "--pid",
            "--root",
            "--",
            "env",
            "-i",
            "-C",
            "/",
            f"PATH={PATH}",
        )
        return subprocess.run(
            (*inside, *command),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def boot(self, user_data: str) -> subprocess.CompletedProcess[str]:
        """What cloud-init does with user data."""
        self.path("/user-data").write_text(user_data)
        return self.run("bash", "/user-data")

    def behave(self, **programs: Mapping[str, Any]) -> None:
        """How the stand-ins behave from now on; an underscore in a name stands for a hyphen."""
        wanted = {name.replace("_", "-"): given for name, given in programs.items()}
        self.path("/standins/behaviour.json").write_text(json.dumps(wanted))

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call of a stand-in."""
        try:
            lines = self.path("/standins/calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]

    def log(self, name: str) -> str:
        """One of the node's logs."""
        try:
            return self.path(f"/var/log/lamplighter/{name}.log").read_text()
        except FileNotFoundError:
            return ""

    def processes(self, part: str) -> list[int]:
        """Ids, inside of it, of processes with `part` in their command line."""
        return [int(line) for line in self.run("pgrep", "-f", "--", part).stdout.split()]

    def wait(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Until it holds; what the machine's logs say when it does not."""
        try:
            until(condition, seconds)
        except AssertionError as error:
            time.sleep(0.2)
            text = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in ("bootstrap", "agent", "nebula"))
            raise AssertionError(f"{error}\n{text}") from None
