"""The agent's command line: `run` is the agent itself, the others are what bootstrap.sh asks of it."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lamplighter.node.agent import Agent
from lamplighter.node.aws import METADATA, Aws, Metadata
from lamplighter.node.basics import Broken, Settings, judge, last_lines, run, write
from lamplighter.node.docker import Docker

CONFIG = Path("/etc/lamplighter/node.json")


def main(argv: Sequence[str] | None = None) -> int:
    """`run | step NAME begin|end|fail [DETAIL [REASON]] | get NAME | attach VOLUME | bake`."""
    given = list(sys.argv[1:] if argv is None else argv)
    raw = json.loads(CONFIG.read_text())
    settings = Settings.parse(raw)
    metadata = Metadata(settings.url("metadata", METADATA))
    aws = Aws(settings, metadata)
    try:
        match given:
            case ["run"]:
                return _agent(settings)
            case ["step", name, "begin" | "end" | "fail" as state, *rest] if len(rest) <= 2:
                report(settings, name, state, *rest)
            case ["get", name]:
                for part in name.split("."):
                    raw = raw.get(part) if isinstance(raw, dict) else None
                sys.stdout.write(f"{'' if raw is None else raw}\n")
            case ["attach", volume]:
                aws.attach(volume, metadata.get("instance-id") or "")
            case ["bake"]:
                bake(settings, Docker(settings, aws))
            case _:
                sys.stderr.write(
                    "usage: agent.py run, step NAME begin/end/fail [DETAIL [REASON]], get NAME, attach VOLUME, or bake\n"
                )
                return 2
    except (OSError, Broken) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _agent(settings: Settings) -> int:
    file = settings.path("/var/log/lamplighter/agent.log")
    file.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", filename=file)
    return Agent(settings).run()


def report(settings: Settings, name: str, state: str, detail: str = "", reason: str = "") -> None:
    """Tell the running agent of a step; it is read as soon as there is one."""
    step = {"name": name, "state": state, "at": time.time(), "detail": detail[-600:], "reason": reason}
    write(settings.path(f"/run/lamplighter/steps/{time.time_ns():020}.json"), json.dumps(step))


def _silent(_share: float | None, _detail: str) -> None:
    """An image's progress is of no interest while an AMI is made."""


def bake(settings: Settings, docker: Docker) -> None:
    """Bring the images and weights that `node.json` names; each is a step. Raises Broken."""
    for image in settings.bake.get("images", ()):
        report(settings, f"image {image}", "begin")
        docker.pull(image, _silent)
        report(settings, f"image {image}", "end")
    for image, program, *arguments in settings.bake.get("weights", ()):
        name = f"weights {' '.join(arguments)}"
        report(settings, name, "begin")
        folder = settings.path("/var/lib/lamplighter/models")
        done = run(("docker", "run", "--rm", "--volume", f"{folder}:/models", "--entrypoint", program, image, *arguments), 7200)
        if done.returncode != 0:
            raise Broken(judge(done.stdout, "download_failed"), last_lines(done.stdout))
        report(settings, name, "end")


if __name__ == "__main__":
    sys.exit(main())
