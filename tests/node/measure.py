"""What the node's own programs cost, measured on this machine: `sudo .venv/bin/python -m tests.node.measure`. Heavy steps are stand-ins."""

import functools
import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.node.cloud import Cloud, assignment
from tests.node.parts import next_host
from tests.node.sandbox import Sandbox, render


def _serves(machine: Sandbox) -> bool:
    return "the engine serves" in machine.run("cat", "/standins/containers/log").stdout


def main() -> None:
    """Five nodes, one after the other."""
    hello, ready, whole, memory = (list[float]() for _ in range(4))
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder, Cloud() as cloud, Sandbox(Path(folder) / "m") as machine:
            data = render(cloud.node_json(testing={"shutdown": ["shutdown"]}))
            cloud.assign(assignment(next_host()))
            began = time.monotonic()
            booting = threading.Thread(target=machine.boot, args=(data,))
            booting.start()
            machine.wait(functools.partial(cloud.kinds, "hello"))
            hello.append(time.monotonic() - began)
            machine.wait(machine.path("/run/lamplighter/runtime.ready").exists)
            ready.append(time.monotonic() - began)
            machine.wait(functools.partial(_serves, machine))
            whole.append(time.monotonic() - began)
            (pid, *_) = machine.processes("^python3 /opt/lamplighter/agent.py run")
            status = machine.path(f"/proc/{pid}/status").read_text()
            memory.append(int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024)
            booting.join()
    for name, values in (
        ("first hello, s", hello),
        ("script done, s", ready),
        ("engine started, s", whole),
        ("agent, MiB", memory),
    ):
        print(f"{name:20} median {statistics.median(values):6.2f}   worst {max(values):6.2f}")


if __name__ == "__main__":
    main()
