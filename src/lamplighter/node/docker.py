"""The container in which the engine runs, by Docker's command line."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lamplighter.node.assignment import Assignment
from lamplighter.node.aws import Aws
from lamplighter.node.basics import Broken, Settings, judge, last_lines, log, run, write


class Docker:
    """The one container of the engine, by the command line of Docker."""

    name = "lamplighter-engine"

    def __init__(self, settings: Settings, aws: Aws, pause: float = 3.0) -> None:
        self._settings, self._aws, self._pause = settings, aws, pause

    def ready(self) -> bool:
        """Whether bootstrap.sh is through with model storage and the container runtime."""
        return self._settings.path("/run/lamplighter/runtime.ready").exists()

    def pull(self, image: str, tell: Callable[[float | None, str], None]) -> None:
        """Bring the image, unless it is here. Raises Broken."""
        if run(("docker", "image", "inspect", image), 30).returncode == 0:
            return
        own = re.match(r"(\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?)/", image)
        text = ""
        for attempt in range(3):
            time.sleep(attempt * self._pause)
            if own:
                try:
                    login = f"docker login --username AWS --password-stdin {own[1]}"
                    run(login.split(), 30, self._aws.registry_password())
                except OSError as error:
                    log.warning("no password for the registry: %s", error)
            done, text = self._pull(image, tell)
            if done:
                return
            if re.search(r"manifest unknown|not found|denied|unauthorized|invalid reference", text):
                raise Broken("bad_image", last_lines(text, 1))
        raise Broken(judge(text, "download_failed"), last_lines(text, 1))

    def _pull(self, image: str, tell: Callable[[float | None, str], None]) -> tuple[bool, str]:
        shares = {"Download complete": 0.5, "Extracting": 0.6, "Pull complete": 1.0, "Already exists": 1.0}
        layers: dict[str, float] = {}
        text = ""
        try:
            process = subprocess.Popen(("docker", "pull", image), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            raise Broken("engine_missing", f"docker: {error.strerror}") from error
        with process:
            for line in process.stdout or ():
                text = (text + line)[-4000:]
                if found := re.match(r"([0-9a-f]{12}): (\w+(?: \w+)*)", line):
                    layers[found[1]] = max(layers.get(found[1], 0.0), shares.get(found[2], 0.0))
                    done = sum(share == 1 for share in layers.values())
                    tell(sum(layers.values()) / len(layers), f"image: {done} of {len(layers)} layers")
        return process.returncode == 0, text

    def start(self, assignment: Assignment, host: str, environment: Mapping[str, str], weights: Path) -> None:
        """Run it, its port on the mesh's address alone. Secrets go by a file that is gone afterwards. Raises Broken."""
        engine = assignment.engine
        assert engine is not None  # noqa: S101 - a node without one launches none
        run(("docker", "rm", "--force", self.name), 30)
        file = self._settings.path("/run/lamplighter/engine.env")
        write(file, "".join(f"{name}={value}\n" for name, value in environment.items()))
        options = (
            f"--detach --name {self.name} --gpus all --shm-size 8g --restart no --pull never --security-opt no-new-privileges "
            f"--log-driver local --log-opt max-size=20m --log-opt max-file=2 --publish {host}:{engine.port}:{engine.port} --env-file {file}"
        )
        volume = ("--volume", f"{weights}:{engine.weights}")
        command = ("docker", "run", *options.split(), *volume, engine.image, *engine.arguments)
        done = run(command, 120)
        file.unlink(missing_ok=True)
        if done.returncode != 0:
            raise Broken(judge(done.stdout, "engine_missing"), last_lines(done.stdout, 1))

    def state(self) -> tuple[str, int | None]:
        """`running`, `exited` with its status, or `absent`; `unknown` when Docker does not answer."""
        done = run(("docker", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", self.name), 20)
        words = done.stdout.split()
        if done.returncode != 0 or len(words) != 3:
            return ("absent" if "o such" in done.stdout else "unknown"), None
        if words[0] in ("exited", "dead"):
            return "exited", 137 if words[2] == "true" else int(words[1])
        return "running", None

    def execute(self, command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """A command inside of it."""
        return run(("docker", "exec", self.name, *command), timeout)

    def logs(self) -> str:
        """The end of its log."""
        return run(("docker", "logs", "--tail", "2000", self.name), 5).stdout
