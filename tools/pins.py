"""Prints the pins of some groups of requirements.lock, as pip wants them: `python -m tools.pins runtime build page`.

For those who install without tools/bootstrap.py: the images, and whoever packages Lamplighter. Standard library only.
"""

import argparse
import sys
from pathlib import Path

from tools import lockfile

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


def main() -> int:
    """Print one pin after the other, with its hashes. Exit 1 with the reason when a group is not in the lock."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="+", metavar="GROUP", help=f"{lockfile.RUNTIME}, or a dependency group of pyproject.toml")
    arguments = parser.parse_args()
    try:
        pins = lockfile.select(lockfile.read(LOCK), arguments.groups)
    except lockfile.LockError as error:
        print(f"pins: {error}", file=sys.stderr)
        return 1
    print("\n".join(pin.text for pin in pins))
    return 0


if __name__ == "__main__":
    sys.exit(main())
