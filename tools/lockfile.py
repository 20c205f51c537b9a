"""Reads requirements.lock: which pinned packages belong to the runtime and to each dependency group.

One lock holds everything, so that versions cannot differ between what ships and what is tested. pip can install a
hashed lock only whole, so this picks the closure of the wanted roots by following the `# via` notes that the resolver
writes under each pin.

Not responsible for resolving (`make lock`) or for installing (tools/bootstrap.py). Standard library only: it runs
before anything is installed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^ ;\\]+)")
_ROOT = re.compile(r"^lamplighter \((?:.*/)?pyproject\.toml(?::(?P<group>[a-z-]+))?\)$")

RUNTIME = "runtime"
"""The name of the root that stands for `[project] dependencies`."""


class LockError(Exception):
    """The lock cannot be read, or holds nothing for a wanted group."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of the lock, with the text that pip must see and who asked for it."""

    name: str
    version: str
    text: str
    groups: frozenset[str]
    """The roots that name it directly: `runtime`, or a dependency group."""
    parents: frozenset[str]
    """The packages that need it."""


def parse(text: str) -> Mapping[str, Pin]:
    """Return the pins by name. Raises LockError for a pin without hashes or without a `# via` note."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if _PIN.match(line):
            blocks.append([line])
        elif blocks and line.startswith(" "):
            blocks[-1].append(line)
        elif line.strip() and not line.startswith("#"):
            raise LockError(f"requirements.lock has a line that is no pin: {line!r}; run `make lock`")
    pins = [_pin(block) for block in blocks]
    return {pin.name: pin for pin in pins}


def select(pins: Mapping[str, Pin], roots: Iterable[str]) -> list[Pin]:
    """Return, sorted by name, every pin that the `roots` reach. Raises LockError for a root that names no pin."""
    wanted: set[str] = set()
    for root in roots:
        named = {pin.name for pin in pins.values() if root in pin.groups}
        if not named:
            raise LockError(f"requirements.lock holds nothing for {root!r}; run `make lock`")
        wanted |= named
    grown = True
    while grown:
        more = {pin.name for pin in pins.values() if pin.name not in wanted and pin.parents & wanted}
        wanted |= more
        grown = bool(more)
    return [pins[name] for name in sorted(wanted)]


def read(path: Path) -> Mapping[str, Pin]:
    """Parse the lock at `path`. Raises LockError when it is absent or malformed."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LockError(f"{path} is missing: it is part of the repository; restore it with git") from None


def _pin(block: list[str]) -> Pin:
    match = _PIN.match(block[0])
    if match is None:
        raise LockError(f"not a pin: {block[0]!r}")
    name = match["name"]
    if not any("--hash=sha256:" in line for line in block):
        raise LockError(f"requirements.lock pins {name} without a hash; run `make lock`")
    groups: set[str] = set()
    parents: set[str] = set()
    for line in block:
        note = line.strip()
        if not note.startswith("#"):
            continue
        source = note.removeprefix("#").strip().removeprefix("via").strip()
        root = _ROOT.match(source)
        if root:
            groups.add(root["group"] or RUNTIME)
        elif source:
            parents.add(source)
    if not groups and not parents:
        raise LockError(f"requirements.lock does not say what needs {name}; run `make lock`")
    text = "\n".join(line for line in block if not line.strip().startswith("#")).removesuffix(" \\")
    return Pin(name, match["version"], text, frozenset(groups), frozenset(parents))
