"""`python -m bench`: the gateway with everything on, beside a proxy that does nothing and the mock engine itself, in one table.

The gateway runs on one core, engine and load on the others. Ratios hold from machine to machine, absolute figures do not; on a machine that
does other work look at CPU time.
"""

import argparse
import json
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import gateway, rig, suite


def main() -> int:
    """Returns the exit status: 1 when any request failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a short run that shows that everything works; its figures mean little"
    )
    parser.add_argument("--rounds", type=int, help="how often everything is measured; the table shows medians")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    size = suite.QUICK if arguments.quick else suite.Size()
    if arguments.rounds:
        size = suite.Size(**{**vars(size), "rounds": arguments.rounds})
    mine, others = rig.cores()
    tool = str(rig.tool())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplighter-bench-")))

        def start(name: str, command: list[str], on: list[int]) -> tuple[int, int]:
            running, port = stack.enter_context(rig.process(command, on=on, log=folder / f"{name}.log"))
            return running.pid, port

        engines = {
            pace: [start(f"engine-{pace}-{i}", [tool, "serve", "64", pace], others)[1] for i in range(2)]
            for pace in ("0", "20000")
        }
        direct = suite.Subject("engine", engines["0"][0], engines["20000"][0])
        subjects = [direct]
        for name in ("prototype", "lamplighter"):
            started = []
            for pace, ports in engines.items():
                if name == "prototype":
                    command = [sys.executable, "-m", "bench.prototype", str(ports[0])]
                else:
                    data = folder / f"data-{pace}"
                    data.mkdir()
                    urls = [f"http://127.0.0.1:{port}" for port in ports]
                    command = [sys.executable, "-m", "bench.gateway", "--data", str(data), *urls]
                started.append(start(f"{name}-{pace}", command, mine))
            (pid_at_once, at_once), (pid_paced, paced) = started
            subjects.append(suite.Subject(name, at_once, paced, gateway.KEY, gateway.MODEL, pid_at_once, pid_paced))
        suite.measure(subjects, size, on=others, progress=sys.stdout.isatty())
        prototype, ours = subjects[1], subjects[2]
        print(
            f"Python {platform.python_version()}, {platform.machine()}, {len(set(mine + others)) or '?'} cores, {size.rounds} rounds (medians)"
        )
        print(suite.table(subjects, base=prototype, ours=ours))
        added = (ours.middle("single", "whole_p50") or 0.0) - (direct.middle("single", "whole_p50") or 0.0)
        print(f"\np50 added at 1 parallel: {added:.3f} ms. Paced: {size.paced_parallel} parallel, 64 events each, 20 ms apart.")
        if arguments.json:
            figures = {
                subject.name: {f"{kind}.{value}": subject.middle(kind, value) for _, kind, value, _, _ in suite.ROWS}
                for subject in subjects
            }
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
        return 1 if any(subject.errors for subject in subjects) else 0


if __name__ == "__main__":
    sys.exit(main())
