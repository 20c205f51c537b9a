"""Runs checkov over the Terraform module, from an environment of its own under `.cache/`: its pinned dependencies are not ours.

Every finding that stays is skipped beside the resource, with its reason (`#checkov:skip=ID:reason`). Standard library only.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "3.3.30"
ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "deploy" / "terraform" / "aws"
_INSTALL_S = 600
_RUN_S = 240


class CheckovMissing(Exception):
    """It could not be installed; the text says why."""


def install(cache: Path = ROOT / ".cache") -> Path:
    """The program, installed if it is not there yet. Raises CheckovMissing."""
    folder = cache / f"checkov-{VERSION}"
    found = folder / "bin" / "checkov"
    if (folder / "complete").exists():
        return found
    venv.EnvBuilder(with_pip=True, clear=True).create(folder)
    done = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"checkov=={VERSION}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL_S,
        check=False,
    )
    if done.returncode != 0:
        raise CheckovMissing(f"checkov {VERSION} cannot be installed here: {done.stderr.strip()[-500:]}")
    (folder / "complete").touch()
    return found


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """checkov over the module, without looking anything up in the network. Raises CheckovMissing."""
    program = install()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BC_", "CKV_", "PRISMA_"))}
    return subprocess.run(
        [
            program, "--directory", MODULE, "--framework", "terraform", "--quiet", "--compact", "--skip-download",
            "--download-external-modules", "false", *words,
        ],
        cwd=MODULE,
        env=kept | {"PATH": f"{program.parent}{os.pathsep}{kept.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )  # fmt: skip


def main() -> int:
    """Print what checkov finds; exit 1 when that is anything, and 0 with a word when it cannot be had."""
    try:
        done = run(*sys.argv[1:])
    except CheckovMissing as why:
        print(why, file=sys.stderr)
        return 0
    print(done.stdout, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
