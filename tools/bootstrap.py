"""Makes `.venv` from requirements.lock on a machine that has only Python: no pip, no venv module, perhaps no certificates.

pip does the downloading, so its own configuration (PIP_INDEX_URL, PIP_CERT, pip.conf, proxies) is honoured. Only the
packages of the wanted groups are fetched, each checked against the lock's sha256. A second run does nothing.

Not responsible for the page (tools/build_page.py) or for what tests need of the system (tools/system_packages.py).
Standard library only.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools import lockfile, pip_wheel, system_packages

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)
GROUPS = {
    "run": (lockfile.RUNTIME, "build", "page"),
    "dev": (lockfile.RUNTIME, "build", "page", "dev"),
    "lock": ("lock",),
}
"""What each level of setup installs; `dev` covers `run`."""


class SetupError(Exception):
    """Setup cannot go on; the text says why and what to do next."""


def main() -> int:
    """Bring `.venv` to the wanted level. Exit 1 with the reason and the next step when that is impossible."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("level", choices=tuple(GROUPS))
    parser.add_argument("--no-system-packages", action="store_true", help="never call apt; say what is missing instead")
    arguments = parser.parse_args()
    try:
        set_up(arguments.level, system=not arguments.no_system_packages)
    except (SetupError, lockfile.LockError, pip_wheel.PipUnavailable) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


def set_up(level: str, *, system: bool) -> None:
    """Install the groups of `level`, unless the stamp says that exactly this is installed already."""
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Python 3.11 or newer is needed and this is {version}; try `make setup PYTHON=python3.12`")
    wanted = fingerprint(level)
    if _installed(level, wanted):
        return
    if level != "lock":
        system_packages.ensure(system_packages.RUN, allowed=system)
    pip = ensure_environment(system=system)
    pins = lockfile.select(lockfile.read(LOCK), GROUPS[level])
    install(pip, pins)
    if level != "lock":
        _install_ourselves(pip)
    _stamp(level).write_text(wanted, encoding="utf-8")


def fingerprint(level: str) -> str:
    """Return what an installation of `level` depends on, as one digest: the interpreter, the lock, our own metadata."""
    digest = hashlib.sha256(f"{sys.version}\0{GROUPS[level]}".encode())
    for path in (LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def ensure_environment(*, system: bool) -> list[str]:
    """Make `.venv` if it is absent or of another Python; return the command that runs a pip acting on it.

    Raises SetupError when no pip can be had by any of the ways there are.
    """
    if importlib.util.find_spec("ssl") is None:
        raise SetupError("this Python was built without ssl, so nothing can be fetched; use another: make setup PYTHON=...")
    if not _usable():
        shutil.rmtree(VENV, ignore_errors=True)
    if not _has_pip():
        if not _has_ensurepip() and system:
            system_packages.apt_install([f"python{sys.version_info.major}.{sys.version_info.minor}-venv", "ca-certificates"])
        bare = [] if _has_ensurepip() else ["--without-pip"]
        print(f"Making {VENV.name} with Python {sys.version.split()[0]}", flush=True)
        made = _run([sys.executable, "-m", "venv", *bare, str(VENV)])
        if made.returncode != 0:
            shutil.rmtree(VENV, ignore_errors=True)
            raise SetupError(f"`{sys.executable} -m venv` failed:\n{made.stdout}{made.stderr}")
    if _has_pip():
        return [str(PYTHON), "-m", "pip"]
    if importlib.util.find_spec("pip") is not None:  # a pip outside can act on the new environment
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    wheel = pip_wheel.fetch(VENV)
    _pip([str(PYTHON), f"{wheel}/pip"], ["--no-index", str(wheel)])  # a wheel is a zip that Python runs as it lies
    return [str(PYTHON), "-m", "pip"]


def install(pip: Sequence[str], pins: Sequence[lockfile.Pin]) -> None:
    """Install exactly `pins`, by hash. Raises SetupError with pip's own words when it fails."""
    print(f"Installing {len(pins)} locked packages", flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.write("\n".join(pin.text for pin in pins) + "\n")
        requirements.flush()
        # The closure is complete, so pip has nothing to resolve.
        _pip(pip, ["--require-hashes", "--no-deps", "--prefer-binary", "-r", requirements.name])


def _install_ourselves(pip: Sequence[str]) -> None:
    """Make `lamplighter` importable and its command runnable from this checkout, with the locked build backend."""
    _pip(pip, ["--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT)])


def _pip(pip: Sequence[str], arguments: Sequence[str]) -> None:
    quiet = [] if sys.stdout.isatty() else ["--quiet"]  # a person sees the bars, a log stays short
    command = [*pip, "install", "--no-input", "--disable-pip-version-check", "--no-warn-script-location", *quiet, *arguments]
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False)
    if done.returncode != 0:
        raise SetupError(
            "pip could not install what the lock asks for (its words are above). "
            "Without a network connection, or behind a proxy, set PIP_INDEX_URL, PIP_CERT or HTTPS_PROXY, then run make again"
        )


def _installed(level: str, wanted: str) -> bool:
    covering = [level] if level != "run" else ["run", "dev"]
    current = {_stamp(name): wanted if name == level else fingerprint(name) for name in covering}
    return _usable() and any(path.is_file() and path.read_text(encoding="utf-8") == text for path, text in current.items())


def _stamp(level: str) -> Path:
    return VENV / f".installed-{level}"


def _usable() -> bool:
    """Whether `.venv` is of this very Python (a new minor version leaves the old environment's packages unreachable)."""
    library = VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    return PYTHON.exists() and library.is_dir()


def _has_pip() -> bool:
    return PYTHON.exists() and _run([str(PYTHON), "-m", "pip", "--version"]).returncode == 0


def _has_ensurepip() -> bool:
    importlib.invalidate_caches()
    return importlib.util.find_spec("ensurepip") is not None and importlib.util.find_spec("venv") is not None


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
