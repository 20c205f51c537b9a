"""Runs one fuzz target with atheris (coverage-guided), from the command line: `python -m tests.fuzz.drive sse --seconds 60 [--keep FOLDER]`.

What it finds is written to the folder as `crash-...`; `--again FILE` runs the target with that input alone. Not responsible for the short run in
`make test`, which needs no atheris.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

TARGETS = ("request", "sse", "http")


def main() -> None:
    """Fuzz until the time is over (status 0) or something is found (another status)."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.drive", description="Fuzz one of the readers.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("--runs", type=int, help="so many inputs, the same ones in every run, instead of an amount of time")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that reached something new, and for what was found")
    parser.add_argument("--again", type=Path, help="run this input alone")
    options = parser.parse_args()
    name = f"tests.fuzz.fuzz_{options.target}"
    if options.again is not None:
        importlib.import_module(name).check(options.again.read_bytes())
        return
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore] # it is not there for every Python

    with atheris.instrument_imports(include=["lamplighter.gateway"]):  # the rest is not what is tested, and takes minutes
        target = importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="lamplighter-fuzz-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.SEEDS):
            (folder / f"seed-{number}").write_bytes(seed)
        arguments = [sys.argv[0], str(folder), "-max_len=4096", "-timeout=20"]
        arguments += [f"-runs={options.runs}", "-seed=1"] if options.runs else [f"-max_total_time={options.seconds}"]
        atheris.Setup([*arguments, f"-artifact_prefix={folder}/"], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
