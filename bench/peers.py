"""`python -m bench.peers`: other gateways measured by the same method, beside the prototype and this one.

Each is installed from the Python index into an environment of its own under `bench/build/peers`, at the version named here, and started as
its documentation says for one core: no logs beyond errors, no features that need other services.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import gateway, rig, suite

_START_SECONDS = 120
_ENVIRONMENTS = Path(__file__).parent / "build" / "peers"
_KEY = "sk-bench"


@dataclass(frozen=True)
class Peer:
    """One other gateway: what to install, and its program with arguments, made from (port, engines' URLs, a folder for its files)."""

    name: str
    requirement: str
    arguments: Callable[[int, Sequence[str], Path], list[str]]

    @property
    def folder(self) -> Path:
        return _ENVIRONMENTS / self.name

    def install(self) -> None:
        """Make its environment, unless it is there at this version."""
        done = self.folder / ".installed"
        if done.exists() and done.read_text() == self.requirement:
            return
        print(f"installing {self.requirement}", flush=True)
        venv.create(self.folder, with_pip=True, clear=True)
        pip = [str(self.folder / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, self.requirement], check=True)
        done.write_text(self.requirement)


def _router(port: int, urls: Sequence[str], metrics: int) -> list[str]:
    common = ["--host", "127.0.0.1", "--port", str(port), "--policy", "power_of_two", "--log-level", "error"]
    return [*common, "--prometheus-port", str(metrics), "--worker-urls", *urls]


def _vllm_router(port: int, urls: Sequence[str], _folder: Path) -> list[str]:
    return ["vllm-router", *_router(port, urls, _free_port())]


def _smg(port: int, urls: Sequence[str], _folder: Path) -> list[str]:
    return ["smg", "launch", *_router(port, urls, _free_port())]


def _litellm(port: int, urls: Sequence[str], folder: Path) -> list[str]:
    models = [
        {
            "model_name": gateway.MODEL,
            "litellm_params": {"model": f"openai/{gateway.MODEL}", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in urls
    ]
    folder.mkdir(exist_ok=True)
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": _KEY}}))  # JSON is YAML
    return [
        "litellm",
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
        "--telemetry",
        "False",
    ]


PEERS = (
    Peer("vllm-router", "vllm-router==0.1.17", _vllm_router),
    Peer("smg", "smg==1.13.0", _smg),
    Peer("litellm", "litellm[proxy]==1.106.2", _litellm),
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_serving(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a chat completion succeeds: some accept connections long before they can answer."""
    body = json.dumps({"model": gateway.MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
    headers = {"authorization": f"Bearer {_KEY}", "content-type": "application/json"}
    asking = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        try:
            with urllib.request.urlopen(asking, timeout=5) as answer:  # noqa: S310 - our own URL
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    sys.exit(f"it does not answer:\n{log.read_text(errors='replace')[-3000:]}")


def _start(stack: ExitStack, peer: Peer, pace: str, urls: Sequence[str], folder: Path, on: Sequence[int]) -> tuple[int, int]:
    port = _free_port()
    program, *arguments = peer.arguments(port, urls, folder / f"{peer.name}-{pace}")
    log = folder / f"{peer.name}-{pace}.log"
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    running = subprocess.Popen(
        [str(peer.folder / "bin" / program), *arguments], stdout=stack.enter_context(log.open("wb")), stderr=subprocess.STDOUT,
        env=environment, preexec_fn=rig.pinned(on),  # noqa: PLW1509 - only sets the affinity
    )  # fmt: skip
    stack.callback(rig.end, running)
    _until_serving(port, running, log)
    return running.pid, port


def main() -> int:
    """Returns the exit status: 1 when any request failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run that shows that everything works")
    parser.add_argument("--rounds", type=int, help="how often everything is measured; the table shows medians")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS], help="just these")
    arguments = parser.parse_args()
    size = suite.QUICK if arguments.quick else suite.Size()
    if arguments.rounds:
        size = suite.Size(**{**vars(size), "rounds": arguments.rounds})
    chosen = [peer for peer in PEERS if not arguments.only or peer.name in arguments.only]
    for peer in chosen:
        peer.install()
    mine, others = rig.cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplighter-peers-")))
        urls = {pace: rig.engines(stack, folder, pace, others) for pace in suite.PACES}
        ours = rig.own(stack, folder, "lamplighter", urls, mine)
        at_once, paced_engine = (int(urls[pace][0].rsplit(":", 1)[1]) for pace in suite.PACES)
        direct = rig.Subject("engine", at_once, paced_engine)
        subjects = [direct, rig.own(stack, folder, "prototype", urls, mine), ours]
        for peer in chosen:
            (pid, port), (paced_pid, paced) = (_start(stack, peer, pace, urls[pace], folder, mine) for pace in suite.PACES)
            subjects.append(rig.Subject(peer.name, port, paced, _KEY, gateway.MODEL, pid, paced_pid))
        suite.measure(subjects, size, on=others, progress=sys.stdout.isatty())
        print(f"{suite.machine(size.rounds)}; {', '.join(peer.requirement for peer in chosen)}\n")
        print(suite.table(subjects))
        print("\n" + suite.verdicts(subjects, ours))
        print(f"\nPaced: {size.paced_parallel} parallel, 64 events each, 20 ms apart.")
        return 1 if any(subject.errors for subject in subjects) else 0


if __name__ == "__main__":
    sys.exit(main())
