#!/usr/bin/env python3
"""Every program that bootstrap.sh and the agent start and that a test machine does not have, in one place: it acts by the name it is called by.

Declared stand-ins: docker, nvidia-smi, nvidia-ctk, nebula, nebula-cert, iptables, curl, apt-get, aws, systemctl, shutdown, cloud-init. All else on
the test machine is real: bash, python3, mount, mkfs, tar, sha256sum, setsid. Standard library only: it runs where nothing is installed.

Beside it: `calls` (one JSON array a line: name and arguments) and `behaviour.json`, in which a test says {"NAME": {"exit": 1, "says": "..."}}, and
for docker {"engine": [command], "missing": [images]}: the command is started for the container, `{host}` and `{port}` filled in.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(os.environ.get("STANDINS", "/standins"))
NAME, ARGS = Path(sys.argv[0]).name, sys.argv[1:]


def behaviour() -> dict[str, Any]:
    """What the test wants of this program."""
    try:
        found: dict[str, Any] = json.loads((HERE / "behaviour.json").read_text()).get(NAME, {})
    except OSError:
        return {}
    return found


def option(name: str) -> str:
    """The value after an option."""
    return ARGS[ARGS.index(name) + 1]


def alive(pid: int) -> bool:
    """Whether the process runs (one that has ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def docker() -> int:
    """As much of it as the node uses."""
    folder = HERE / "containers"
    folder.mkdir(exist_ok=True)
    images, container = folder / "images", folder / "container.json"
    known = images.read_text().split() if images.exists() else []
    verb = ARGS[0]
    if verb == "info":
        print('{"nvidia":{},"runc":{}}')
    elif verb == "image":
        return 0 if ARGS[2] in known else 1
    elif verb == "login":
        (folder / "password").write_text(sys.stdin.read())
    elif verb == "pull":
        if ARGS[1] in behaviour().get("missing", []):
            print("Error response from daemon: manifest unknown")
            return 1
        for state in ("Pulling fs layer", "Download complete", "Pull complete"):
            print(f"0123456789ab: {state}", flush=True)
        images.write_text("\n".join([*known, ARGS[1]]))
    elif verb == "run" and "--detach" in ARGS:
        host, port, _ = option("--publish").rsplit(":", 2)
        command = [
            part.format(host=host, port=port) for part in behaviour().get("engine", [sys.argv[0], "serve", "{host}", "{port}"])
        ]
        lines = Path(option("--env-file")).read_text().splitlines()
        given = {name: value for name, _, value in (line.partition("=") for line in lines)}
        with (folder / "log").open("wb") as output:
            started = subprocess.Popen(
                ["bash", "-c", '"$@"; echo $? >"$0"', str(folder / "code"), *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env={**os.environ, **given},
            )  # fmt: skip
        container.write_text(json.dumps({"pid": started.pid, "arguments": ARGS, "environment": given}))
        print("0" * 64)
    elif verb == "inspect":
        if not container.exists():
            print("Error: No such object: lamplighter-engine")
            return 1
        if alive(json.loads(container.read_text())["pid"]):
            print("running 0 false")
        else:
            print(f"exited {(folder / 'code').read_text().strip()} false")
    elif verb == "logs":
        print((folder / "log").read_text() if (folder / "log").exists() else "", end="")
    elif verb == "serve":
        engine(ARGS[1], int(ARGS[2]))
    return 0


def engine(host: str, port: int) -> None:
    """Health, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

    print("the engine serves", flush=True)
    http.server.ThreadingHTTPServer((host, port), Handler).serve_forever()


def nebula() -> int:
    """Runs until it is ended; the loopback network is its mesh."""
    signal.signal(signal.SIGHUP, lambda *_: print("reloaded", flush=True))
    print("nebula is up", flush=True)
    while True:
        time.sleep(1)


def systemctl() -> int:
    """Starts the one unit of ours, again and again as its `Restart=always` says."""
    if ARGS[0] == "start" and ARGS[1] == "lamplighter-agent":
        unit = Path("/etc/systemd/system/lamplighter-agent.service").read_text()
        command = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).removeprefix("ExecStart=")
        forever, nothing = ["setsid", "bash", "-c", f"while :; do {command}; sleep 1; done"], subprocess.DEVNULL
        subprocess.Popen(forever, stdin=nothing, stdout=nothing, stderr=nothing)
    return 0


def curl() -> int:
    """The archive that lies beside, whatever is asked for."""
    Path(option("-o")).write_bytes((HERE / "download").read_bytes())
    return 0


def shutdown() -> int:
    """The machine would be gone now."""
    (HERE / "down").write_text(" ".join(ARGS))
    return 0


def main() -> int:
    """The call is noted, then what the test wants of it, then what the program does."""
    with (HERE / "calls").open("a") as calls:
        calls.write(json.dumps([NAME, *ARGS]) + "\n")
    wanted = behaviour()
    if "says" in wanted:
        print(wanted["says"])
    if "exit" in wanted:
        return int(wanted["exit"])
    if NAME == "nvidia-smi":
        print("GPU 0: Tesla T4 (UUID: GPU-0)")
    if NAME == "nebula-cert":
        print(json.dumps({"fingerprint": "ab" * 32}))
    known: dict[str, Callable[[], int]] = {
        "docker": docker,
        "nebula": nebula,
        "systemctl": systemctl,
        "curl": curl,
        "shutdown": shutdown,
    }
    return known[NAME]() if NAME in known else 0


if __name__ == "__main__":
    sys.exit(main())
