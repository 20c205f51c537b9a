"""`python -m bench`: the gateway with everything on, beside a proxy that does nothing and the mock engine itself, in one table.

The gateway runs on one core, engine and load on the others. Ratios hold from machine to machine, absolute figures do not; on a machine that
does other work look at CPU time.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import rig, suite


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
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lamplighter-bench-")))
        urls = {pace: rig.engines(stack, folder, pace, others) for pace in suite.PACES}
        at_once, paced = (int(urls[pace][0].rsplit(":", 1)[1]) for pace in suite.PACES)
        direct = rig.Subject("engine", at_once, paced)
        prototype = rig.own(stack, folder, "prototype", urls, mine)
        ours = rig.own(stack, folder, "lamplighter", urls, mine)
        subjects = [direct, prototype, ours]
        suite.measure(subjects, size, on=others, progress=sys.stdout.isatty())
        print(suite.machine(size.rounds) + "\n")
        print(suite.table(subjects, base=prototype, ours=ours))
        print("\n" + suite.verdicts(subjects, ours))
        print(f"\nPaced: {size.paced_parallel} parallel, 64 events each, 20 ms apart.")
        if arguments.json:
            figures = {
                subject.name: {f"{kind}.{value}": subject.middle(kind, value) for _, kind, value, _, _ in suite.ROWS}
                for subject in subjects
            }
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
        return 1 if any(subject.errors for subject in subjects) else 0


if __name__ == "__main__":
    sys.exit(main())
