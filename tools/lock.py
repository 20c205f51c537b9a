"""Writes requirements.lock: one resolution of every group, for Python 3.11 and later on Linux and macOS, with hashes.

Not responsible for installing it (tools/bootstrap.py). The resolver is itself pinned by the lock (group `lock`).
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"


def command(*, upgrade: bool) -> list[str]:
    """Return the resolver's command line. Nothing in its output names an index: each machine uses its own."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    quiet = ["--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "make lock"]
    wanted = [word for group in groups for word in ("--group", group)]
    return [
        *uv,
        *quiet,
        *(["--upgrade"] if upgrade else []),
        "--generate-hashes",
        *wanted,
        "pyproject.toml",
        "--output-file",
        LOCK.name,
    ]


def main() -> int:
    """Resolve anew, keeping the present pins where they still fit unless `--upgrade` is given."""
    return subprocess.run(command(upgrade="--upgrade" in sys.argv[1:]), cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
