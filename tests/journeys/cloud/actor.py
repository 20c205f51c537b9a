"""Plays EC2: for each instance that the emulated AWS runs, a machine with its own network, files and processes that boots by its user data.

The user data is what the launch template holds, to the byte: base64, gzip, executed as cloud-init would. AWS's own names lead to the emulator
by TLS, metadata is at 169.254.169.254. What the machine does not really do is in `standins`, nothing else is pretended.
"""

import contextlib
import gzip
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from lamplighter.testing.aws import Emulator
from tests.journeys.cloud import standins
from tests.journeys.cloud.namespaces import listening
from tests.mesh_lab import Lab
from tests.mesh_lab.lab import ip

BRIDGE = "10.99.0.250"
"""Where the emulated AWS is, on the bridge between all machines."""
METADATA = "169.254.169.254"
_PATIENCE = 20.0
# An overlay over this machine's files, in memory, gone with the machine; a /dev, /run and /tmp of its own.
_INIT = r"""
set -e
at=$1
mount -t tmpfs -o size=512m,mode=755 tmpfs "$at"
mkdir "$at"/up "$at"/work "$at"/whole
mount -t overlay overlay -o "lowerdir=/,upperdir=$at/up,workdir=$at/work" "$at/whole"
mount -t proc proc "$at/whole/proc"
mount -t tmpfs tmpfs "$at/whole/run"
mount -t tmpfs -o mode=1777 tmpfs "$at/whole/tmp"
mount -t tmpfs -o mode=755 tmpfs "$at/whole/dev"
for name in null zero full random urandom; do cp -a /dev/$name "$at/whole/dev/"; done
mkdir -p "$at/whole/dev/net" "$at/whole/dev/shm" "$at/whole/dev/disk/by-id" "$at/whole/standins"
cp -a /dev/net/tun "$at/whole/dev/net/tun"
ln -s /proc/self/fd "$at/whole/dev/fd"
cp -a "$2"/. "$at/whole/standins/"
cat "$2"/hosts >> "$at/whole/etc/hosts"
exec chroot "$at/whole" /usr/bin/env -i PATH=/standins/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  SSL_CERT_FILE=/standins/ca.pem bash -c 'bash /standins/user-data; while :; do sleep 1; done'
"""


@dataclass
class CloudMachine:
    """One machine. Seconds since its instance ran: `booted_at`."""

    id: str
    namespace: str
    wire: str
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    gone: bool = False

    def path(self, absolute: str) -> Path:
        """A file of the machine, as this process reaches it; only while it lives."""
        pids = [int(line) for line in ip("netns", "pids", self.namespace, check=False).split()]
        for pid in pids:
            root = Path(f"/proc/{pid}/root")
            if (root / "standins/user-data").exists():
                return root / absolute.lstrip("/")
        return Path("/nonexistent")

    def log(self, name: str) -> str:
        """One of its logs."""
        with contextlib.suppress(OSError):
            return self.path(f"/var/log/lamplighter/{name}.log").read_text(errors="replace")
        return ""

    def leased(self) -> bool:
        """Whether its agent was given a lease."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self.path("/var/lib/lamplighter/deadman.json").read_text())["until"] is not None
        return False

    def logs(self) -> str:
        """All of them, shortened, for a test that failed."""
        return "\n".join(f"--- {self.id} {name}\n{self.log(name)[-2500:]}" for name in ("bootstrap", "agent", "nebula"))


class CloudMachines:
    """`with CloudMachines(aws, lab, folder)`. `flags`: further flags of the pretended vLLM; `fail`: what pulling the image says as it fails."""

    def __init__(self, aws: Emulator, lab: Lab, folder: Path, bucket: str) -> None:
        self.aws = aws
        self.bucket = bucket
        self.lab = lab
        self.folder = folder
        self.flags = ""
        self.fail = ""
        self.machines: dict[str, CloudMachine] = {}
        self.problems: list[str] = []
        self._authority = trustme.CA()
        self._count = 0
        self._lock = threading.Lock()
        self._port = 0

    def __enter__(self) -> "CloudMachines":
        region = self.aws.region
        names = [f"*.{region}.amazonaws.com", f"*.s3.{region}.amazonaws.com", f"api.ecr.{region}.amazonaws.com"]
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        self.aws.listen(listening(self.lab.namespace("wan"), BRIDGE, 443), tls=context)
        self.aws.on_instance(lambda instance: self._beside(self._boot, instance))
        self.aws.on_end(lambda instance: self._beside(self._end, instance))
        return self

    def __exit__(self, *_: object) -> None:
        for machine in list(self.machines.values()):
            self._destroy(machine)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def living(self) -> list[CloudMachine]:
        """Those whose instance was not ended."""
        return [machine for machine in self.machines.values() if not machine.gone]

    def _beside(self, work: object, instance: str) -> None:
        """Not in the emulator's own thread: it would wait for us."""

        def run() -> None:
            try:
                work(instance)  # type: ignore[operator]
            except (OSError, AssertionError, subprocess.SubprocessError) as error:
                self.problems.append(f"{instance}: {error}")

        threading.Thread(target=run, daemon=True).start()

    def _boot(self, instance: str) -> None:
        with self._lock:
            self._count += 1
            number = self._count
        name = f"c{number}"
        folder = self.folder / instance
        machine = CloudMachine(instance, self.lab.namespace(name), f"w{number}", folder)
        self.machines[instance] = machine
        self.lab.attach(name, machine.wire, f"10.99.0.{100 + number}/24")
        ip("-n", machine.namespace, "address", "add", f"{METADATA}/32", "dev", "lo")
        self.aws.metadata(instance, listening=listening(machine.namespace, METADATA, 80))
        self._write(machine)
        at = folder / "at"
        at.mkdir()
        space = ("ip", "netns", "exec", machine.namespace, "unshare", "--mount", "--pid", "--fork", "--kill-child")
        with (folder / "console").open("ab") as console:
            machine.process = subprocess.Popen(
                [*space, "bash", "-c", _INIT, "init", at, folder / "given"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip

    def _write(self, machine: CloudMachine) -> None:
        """What the machine finds in /standins."""
        given = machine.folder / "given"
        given.mkdir(parents=True)
        text = gzip.decompress(self.aws.instance(machine.id).user_data)
        (given / "user-data").write_bytes(text)
        self._authority.cert_pem.write_to_path(str(given / "ca.pem"))
        region = self.aws.region
        services = ("sqs", "autoscaling", "ec2", "secretsmanager", "api.ecr", "monitoring", "logs")
        names = [f"{service}.{region}.amazonaws.com" for service in services]
        names.append(f"{self.bucket}.s3.{region}.amazonaws.com")
        (given / "hosts").write_text("".join(f"{BRIDGE} {name}\n" for name in names))
        body = f'{{\\"instance\\": \\"{machine.id}\\"}}'
        shut_down = (
            f"exec /usr/bin/env python3 -I -c \"import ssl, urllib.request as u; u.urlopen(u.Request('https://ec2.{region}.amazonaws.com/_emulator/shut-down', "
            f"b'{body}', method='POST'), timeout=5)\""
        )
        standins.install(given / "bin", given / "state", seen="/standins/state", shut_down=shut_down, mesh=True)
        (given / "state/flags").write_text(self.flags)
        (given / "state/fail").write_text(self.fail)

    def _end(self, instance: str) -> None:
        if machine := self.machines.get(instance):
            self._destroy(machine)

    def _destroy(self, machine: CloudMachine) -> None:
        machine.gone = True
        if machine.process is not None and machine.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(machine.process.pid, signal.SIGKILL)
            machine.process.wait(_PATIENCE)
        end = time.monotonic() + _PATIENCE
        while (pids := ip("netns", "pids", machine.namespace, check=False).split()) and time.monotonic() < end:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.02)
        ip("netns", "del", machine.namespace, check=False)
