"""Checks what no linter does: file sizes, names of registry hosts, paths of one machine, dead links, and a complete npm lock.

Not responsible for style or types (ruff, mypy, biome). Standard library only.
"""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.complete_npm_lock import complete

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES = 800
LARGEST_BYTES = 1_000_000
# Written in pieces, so that this file does not hold what it looks for.
_HOSTS = ("pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "deb.debian" + ".org")
_MACHINE = ("/wo" + "rk/", "/ro" + "ot/", "/home/" + "runner")
_FORBIDDEN = re.compile("|".join(re.escape(word) for word in (*_HOSTS, *_MACHINE)))
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_CODE = frozenset({".py", ".ts", ".tsx", ".css", ".mjs", ".js", ".c", ".sh"})


def problems(root: Path, names: list[str]) -> Iterator[str]:
    """Yield one sentence for each thing wrong in the files `names` under `root`."""
    for name in names:
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        content = path.read_bytes()
        if len(content) > LARGEST_BYTES:
            yield f"{name}: {len(content):,} bytes; the repository holds no big files"
        if b"\0" in content[:8192]:
            continue
        lines = content.decode("utf-8", errors="replace").splitlines()
        if path.suffix in _CODE and len(lines) > MOST_LINES:
            yield f"{name}: {len(lines)} lines; split it, {MOST_LINES} is the most"
        for number, line in enumerate(lines, start=1):
            found = _FORBIDDEN.search(line)
            if found:
                yield f"{name}:{number}: names {found[0]!r}, which is one machine's or one registry's own"


def link_problems(root: Path, names: list[str]) -> Iterator[str]:
    """Yield a sentence for each relative link in a Markdown file that leads nowhere."""
    for name in names:
        if not name.endswith(".md"):
            continue
        path = root / name
        for target in _LINK.findall(path.read_text(encoding="utf-8")):
            if ":" not in target and not (path.parent / target).exists():
                yield f"{name}: links to {target}, which does not exist"


def npm_lock_problems(path: Path) -> Iterator[str]:
    """Yield a sentence when `npm ci` would refuse the lock on some platform."""
    if not path.is_file():
        yield f"{path.name} is missing; `npm ci` needs it"
        return
    missing = complete(copy.deepcopy(json.loads(path.read_text(encoding="utf-8"))))
    if missing:
        yield f"web/{path.name} lacks {len(missing)} platform packages, such as {missing[0]}; run `make lock`"


def main() -> int:
    """Print every problem in what git tracks; exit 1 if there is any."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    found = [*problems(ROOT, names), *link_problems(ROOT, names), *npm_lock_problems(ROOT / "web" / "package-lock.json")]
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
