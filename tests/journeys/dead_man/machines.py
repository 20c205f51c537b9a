"""Machines of the emulated AWS on which the real agent runs: its process, its metadata, its container (a stand-in) on a loopback address of the mesh."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamplighter.testing.aws import Emulator
from lamplighter.testing.aws.metadata import MetadataServer
from lamplighter.testing.aws.stack import node_settings
from tests.journeys.cloud import standins

AGENT = Path(__file__).parents[3] / "deploy/terraform/aws/files/agent.py"
CONFIG = "/etc/lamplighter/node.json"
_SHUT_DOWN = "import urllib.request as u; u.urlopen(u.Request('{url}/_emulator/shut-down', b'{{\"instance\": \"{id}\"}}', method='POST'), timeout=5)"


@dataclass
class AgentMachine:
    """One machine and its agent."""

    id: str
    root: Path
    metadata: MetadataServer
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def state(self) -> Path:
        return self.root / "standins"

    def engines(self) -> list[int]:
        return standins.engines(self.state)

    def log(self) -> str:
        path = self.root / "var/log/lamplighter/agent.log"
        return path.read_text() if path.exists() else ""

    def counts(self) -> bool:
        """Whether its agent counts its deadlines."""
        return (self.root / "var/lib/lamplighter/deadman.json").exists()

    def stages(self) -> str:
        """Its agent's stages, as JSON."""
        path = self.root / "run/lamplighter/stages.json"
        return path.read_text() if path.exists() else ""

    def assignment(self) -> dict[str, Any] | None:
        path = self.root / "run/lamplighter/assignment.json"
        return json.loads(path.read_text()) if path.exists() else None

    def kill_agent(self) -> None:
        """`kill -9`, and nothing starts it again."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def destroy(self) -> None:
        """The machine is gone: every process on it."""
        self.kill_agent()
        for pid in [*self.engines(), *_pid(self.root / "run/lamplighter/nebula.pid")]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self.metadata.close()


class AgentMachines:
    """`with AgentMachines(aws, manifest, folder)`: each instance gets its agent as it begins to run, and loses everything as it ends.

    `agent`: False never starts one, as when the image is broken. `flags`: further flags of the pretended vLLM. `fail`: what its pull says.
    """

    def __init__(self, aws: Emulator, manifest: Mapping[str, Any], folder: Path) -> None:
        self.aws = aws
        self.manifest = manifest
        self.folder = folder
        self.agent = True
        self.flags = ""
        self.fail = ""
        self.machines: dict[str, AgentMachine] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "AgentMachines":
        self.aws.on_instance(self._appeared)
        self.aws.on_end(self._gone)
        return self

    def __exit__(self, *_: object) -> None:
        self.aws.forget(self._appeared, self._gone)
        for machine in self.machines.values():
            machine.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _appeared(self, instance: str) -> None:
        root = self.folder / instance
        root.mkdir(parents=True)
        machine = AgentMachine(instance, root, self.aws.metadata(instance))
        with self._lock:
            self.machines[instance] = machine
        if self.agent:
            self._boot(machine)

    def _boot(self, machine: AgentMachine) -> None:
        shut_down = [sys.executable, "-I", "-c", _SHUT_DOWN.format(url=self.aws.url, id=machine.id)]
        standins.install(machine.root / "bin", machine.state, shut_down="exit 0", mesh=False)
        (machine.state / "flags").write_text(self.flags)
        (machine.state / "fail").write_text(self.fail)
        services = {f"{name}_url": self.aws.url for name in ("sqs", "s3", "autoscaling", "secretsmanager", "ec2", "ecr")}
        settings = node_settings(self.manifest, str(self.aws.instance(machine.id).pool)) | {
            "testing": {**services, "metadata_url": machine.metadata.url, "root": str(machine.root), "shutdown": shut_down}
        }
        (machine.root / "node.json").write_text(json.dumps(settings))
        # The agent as it is in the user data, but for the one path of this machine's own.
        text = AGENT.read_text()
        assert text.count(CONFIG) == 1
        (machine.root / "agent.py").write_text(text.replace(CONFIG, str(machine.root / "node.json")))
        ready = machine.root / "run/lamplighter/runtime.ready"
        ready.parent.mkdir(parents=True)
        ready.touch()
        self.start_agent(machine)

    def start_agent(self, machine: AgentMachine) -> None:
        """As bootstrap.sh and systemd do, also after a crash."""
        path = f"{machine.root / 'bin'}:{os.environ['PATH']}"
        with (machine.root / "agent.out").open("ab") as out:
            machine.process = subprocess.Popen(
                ["python3", "-I", machine.root / "agent.py", "run"], env={"PATH": path, "HOME": str(machine.root)},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def _gone(self, instance: str) -> None:
        # Not in the emulator's own thread: it waits for us, and so would the agent's last request.
        if machine := self.machines.get(instance):
            threading.Thread(target=machine.destroy, daemon=True).start()


def _pid(path: Path) -> list[int]:
    return [int(path.read_text())] if path.exists() else []
