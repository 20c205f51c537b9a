"""The stand-in for `docker`: what the agent and bootstrap.sh ask of it, and nothing else. Standard library only: it is started very often.

A container is the pretended vLLM as a process, in a session of its own, on the address that was to be published. Its state is in files.
"""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

STATE, PYTHON = Path(os.environ["STANDIN_STATE"]), os.environ["STANDIN_PYTHON"]
LAYERS = ("Pulling fs layer", "Download complete", "Pull complete")
TAKES_VALUE = {
    "--name",
    "--gpus",
    "--shm-size",
    "--restart",
    "--pull",
    "--security-opt",
    "--env-file",
    "--log-driver",
    "--log-opt",
    "--publish",
    "--volume",
}
PASSED = {"--served-model-name", "--max-model-len"}
"""What the pretended vLLM knows of the real one's flags."""


def out(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def text(name: str) -> str:
    path = STATE / name
    return path.read_text().strip() if path.exists() else ""


def pull(image: str) -> int:
    for layer in ("0123456789ab", "ba9876543210"):
        for word in LAYERS:
            out(f"{layer}: {word}")
            time.sleep(0.02)
    if failure := text("fail"):
        out(failure)
        return 1
    with (STATE / "images").open("a") as images:
        images.write(f"{image}\n")
    return 0


def run(arguments: list[str]) -> int:
    options: dict[str, list[str]] = {}
    while arguments and arguments[0].startswith("--"):
        name = arguments.pop(0)
        options.setdefault(name, []).append(arguments.pop(0) if name in TAKES_VALUE else "")
    _image, model, *given = arguments
    host, port, _inner = options["--publish"][0].split(":")
    environment = dict(line.split("=", 1) for line in Path(options["--env-file"][0]).read_text().splitlines())
    command = [PYTHON, "-P", "-m", "lamplighter.testing.vllm", "serve", model, "--host", host, "--port", port]
    for name, value in itertools.pairwise(given):
        command += [name, value] if name in PASSED else []
    name = options["--name"][0]
    with (STATE / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *text("flags").split()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **environment, "PYTHONWARNINGS": "ignore"}, start_new_session=True,
        )  # fmt: skip
    (STATE / f"{name}.pid").write_text(str(process.pid))
    out("0" * 64)
    return 0


def inspect(name: str) -> int:
    if not text(f"{name}.pid"):
        out(f"Error: No such object: {name}")
        return 1
    try:
        status = Path(f"/proc/{text(f'{name}.pid')}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        status = "Z"
    out("exited 1 false" if status == "Z" else "running 0 false")
    return 0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["info", *_]:
            out('{"nvidia":{"path":"nvidia-container-runtime"},"runc":{}}')
        case ["image", "inspect", image]:
            return 0 if image in text("images").splitlines() else 1
        case ["pull", image]:
            return pull(image)
        case ["run", *rest]:
            return run(rest)
        case ["inspect", "--format", _, name]:
            return inspect(name)
        case ["logs", "--tail", _, name]:
            out(text(f"{name}.log"))
        case ["rm", "--force", _] | ["login", *_] | ["exec", *_]:
            pass
        case _:
            sys.stderr.write(f"the stand-in for docker does not know: {arguments}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
