"""Installs the few Debian packages that the index cannot bring, where that needs no password; else says what is missing.

Not responsible for Python packages or Node: those come pinned through tools/bootstrap.py. Standard library only.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

APT_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class SystemPackage:
    """A Debian package, how to see that its content is there (from whatever source), and what fails without it."""

    name: str
    present: Callable[[], bool]
    without: str


def _libgomp() -> bool:
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return False
    return True


def _chromium() -> bool:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    mac = Path("/Applications/Google Chrome.app")
    return any(shutil.which(name) for name in names) or mac.exists()


def _fonts() -> bool:
    roots = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path("/System/Library/Fonts"))
    return any(next(root.rglob("*.tt[fc]"), None) is not None for root in roots if root.is_dir())


def _compiler() -> bool:
    return shutil.which("cc") is not None and (sys.platform != "linux" or Path("/usr/include/stdio.h").exists())


def _postgres() -> bool:
    return shutil.which("postgres") is not None or next(Path("/usr/lib/postgresql").glob("*/bin/postgres"), None) is not None


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") is not None


RUN = (SystemPackage("libgomp1", _libgomp, "the embedded engine (llama.cpp) cannot start"),)
TEST = (
    *RUN,
    SystemPackage("chromium", _chromium, "the tests that drive the page in a browser are skipped"),
    SystemPackage("fonts-dejavu-core", _fonts, "the page's screenshots show boxes instead of letters"),
    SystemPackage("gcc", _compiler, "the benchmark's mock engine cannot be built, and its test is skipped"),
    SystemPackage("libc6-dev", _compiler, "the benchmark's mock engine cannot be built, and its test is skipped"),
    SystemPackage("postgresql", _postgres, "the tests with several gateways on PostgreSQL are skipped"),
    SystemPackage("redis-server", _program("redis-server"), "the tests with limits shared through Redis are skipped"),
    SystemPackage("nginx", _program("nginx"), "the tests behind a real reverse proxy are skipped"),
    SystemPackage("nebula", _program("nebula"), "the tests of the mesh, and its journeys, are skipped"),
    SystemPackage("iproute2", _program("ip"), "the journeys in network namespaces are skipped"),
    SystemPackage("iputils-ping", _program("ping"), "the journeys in network namespaces are skipped"),
    SystemPackage("nftables", _program("nft"), "the rules for pods behind the mesh are not checked"),
    SystemPackage("e2fsprogs", _program("mkfs.ext4"), "the cloud node's first script cannot be run, and its tests fail"),
    SystemPackage("procps", _program("pgrep"), "the cloud node's first script cannot be run, and its tests fail"),
    SystemPackage("curl", _program("curl"), "the cloud node's first script cannot be run, and its tests fail"),
    SystemPackage("shellcheck", _program("shellcheck"), "the cloud node's first script is not checked"),
    SystemPackage("caddy", _program("caddy"), "the test of the recipe with automatic certificates is skipped"),
    SystemPackage("prometheus", _program("promtool"), "the alert rules are not tested"),
)
LONG = (
    *TEST,
    SystemPackage("podman", _program("podman"), "the images are not built and run"),
    SystemPackage("buildah", _program("buildah"), "the images are not built and run"),
    SystemPackage("runc", _program("runc"), "the images are not run"),
    SystemPackage("netavark", lambda: Path("/usr/lib/podman/netavark").exists(), "the images have no network of their own"),
    SystemPackage("catatonit", _program("catatonit"), "the images' pods are not run"),
    SystemPackage("iptables", _program("iptables"), "the images have no network of their own"),
    SystemPackage("mmdebstrap", _program("mmdebstrap"), "the images have no base where no registry can be reached"),
    SystemPackage("etcd-server", _program("etcd"), "the tests on a real Kubernetes API server are skipped"),
)


def missing(packages: Sequence[SystemPackage]) -> list[SystemPackage]:
    """Return those of `packages` whose content this machine lacks."""
    return [package for package in packages if not package.present()]


def elevation() -> list[str] | None:
    """Return the words to put before apt-get, or None where installing would need a password or there is no apt."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        return None
    asked = subprocess.run([sudo, "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return [sudo, "-n"] if asked.returncode == 0 else None


def apt_install(names: Sequence[str]) -> bool:
    """Install Debian packages by name without asking anything; False where that is not allowed or fails."""
    before = elevation()
    if before is None:
        return False
    print(f"Installing with apt: {' '.join(names)}", flush=True)
    apt = [*before, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    for step in (["update"], ["install", "-y", "--no-install-recommends", *names]):
        done = subprocess.run(
            [*apt, *step],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            print(f"apt-get {step[0]} failed:\n{done.stdout}{done.stderr}", file=sys.stderr)
            return False
    return True


def ensure(packages: Sequence[SystemPackage], *, allowed: bool) -> list[SystemPackage]:
    """Install what is missing when `allowed`; return what is still missing, after saying what follows from it."""
    absent = missing(packages)
    if absent and allowed:
        apt_install([package.name for package in absent])
        absent = missing(packages)
    for package in absent:
        print(f"Missing: {package.name}: {package.without}", file=sys.stderr)
    if absent:
        names = " ".join(package.name for package in absent)
        print(f"  Next step on Debian or Ubuntu: sudo apt-get install {names}", file=sys.stderr)
    return absent


def main() -> int:
    """Ensure the packages of one purpose. Exits 0 even when some are missing: each one's users say so themselves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("purpose", choices=("run", "test", "long"))
    parser.add_argument("--no-install", action="store_true", help="only say what is missing")
    arguments = parser.parse_args()
    ensure({"run": RUN, "test": TEST, "long": LONG}[arguments.purpose], allowed=not arguments.no_install)
    return 0


if __name__ == "__main__":
    sys.exit(main())
