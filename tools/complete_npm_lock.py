"""Completes web/package-lock.json with the native packages of platforms that the registry at hand does not offer.

npm leaves an optional package out of the lock when its registry answers 404, and then `npm ci` refuses that very lock
everywhere. A mirror that holds only some platforms makes this common. The versions are pinned by the package that asks
for them, so the entries can be written without the registry; one added here has no integrity, which npm then takes
from the registry that does offer it.

Not responsible for resolving anything else: run it after `npm install`. Standard library only.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "web" / "package-lock.json"
_EXACT = re.compile(r"^\d+\.\d+\.\d+(?:-[\w.]+)?$")
_OS = frozenset({"aix", "android", "darwin", "freebsd", "linux", "netbsd", "openbsd", "openharmony", "sunos", "win32"})
_CPU = frozenset({"arm", "arm64", "ia32", "loong64", "mips64el", "ppc64", "riscv64", "s390x", "universal", "wasm32", "x64"})
_LIBC = {"musl": "musl", "gnu": "glibc"}


class UnknownPlatform(Exception):
    """A missing optional package whose name does not tell its platform: a person must decide."""


def complete(lock: dict[str, Any]) -> list[str]:
    """Add the missing entries to `lock` in place, sorted as npm sorts; return their names.

    Raises UnknownPlatform for one that cannot be described from its name and version alone.
    """
    packages: dict[str, Any] = lock["packages"]
    added = {}
    for path, entry in packages.items():
        for name, version in entry.get("optionalDependencies", {}).items():
            if not any(candidate in packages for candidate in _places(path, name)):
                dev = {"dev": True} if entry.get("dev") else {}
                added[f"node_modules/{name}"] = {"version": version, **platform(name, version), **dev, "optional": True}
    root = packages.pop("")
    packages.update(added)
    lock["packages"] = {"": root, **{path: packages[path] for path in sorted(packages)}}
    return sorted(added)


def platform(name: str, version: str) -> dict[str, list[str]]:
    """Return npm's `os`, `cpu` and `libc` lists for a native package such as `@scope/tool-linux-x64-musl`."""
    words = re.split(r"[-/]", name)
    found = {
        "cpu": [word for word in words if word in _CPU and word != "universal"],
        "libc": [_LIBC[word] for word in words if word in _LIBC],
        "os": [word for word in words if word in _OS],
    }
    if not _EXACT.match(version) or not (found["os"] or found["cpu"]):
        raise UnknownPlatform(f"{name}@{version} is missing from the lock and its name does not say for which platform it is")
    return {key: value for key, value in found.items() if value}


def _places(path: str, name: str) -> Iterator[str]:
    """Yield where Node would look for `name` from the package at `path`, nearest first."""
    folder = path
    while True:
        yield f"{folder}/node_modules/{name}" if folder else f"node_modules/{name}"
        if not folder:
            return
        folder = folder.rpartition("/node_modules/")[0] if "/node_modules/" in folder else ""


def main() -> int:
    """Rewrite the lock if anything is missing. Exit 1 when a person must decide."""
    lock = json.loads(LOCK.read_text(encoding="utf-8"))
    try:
        added = complete(lock)
    except UnknownPlatform as error:
        print(f"lock: {error}", file=sys.stderr)
        return 1
    if added:
        LOCK.write_text(json.dumps(lock, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"Added to {LOCK.name}: {', '.join(added)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
