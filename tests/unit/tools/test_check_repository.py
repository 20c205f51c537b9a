"""What `make check` finds that no linter looks for."""

import json
from pathlib import Path

from tools.check_repository import link_problems, npm_lock_problems, problems


def test_long_files_are_found(tmp_path: Path) -> None:
    """If this failed, files would grow until nobody can review them."""
    (tmp_path / "a.py").write_text("x = 1\n" * 801, encoding="utf-8")
    (tmp_path / "b.py").write_text("x = 1\n" * 800, encoding="utf-8")
    assert [line.split(":")[0] for line in problems(tmp_path, ["a.py", "b.py"])] == ["a.py"]


def test_registry_hosts_and_machine_paths_are_found_with_their_line(tmp_path: Path) -> None:
    """If this failed, a lock file or a guide would tie everybody to one machine's mirror."""
    (tmp_path / "x.md").write_text("fine\nfrom https://pypi" + ".org/simple\n", encoding="utf-8")
    (tmp_path / "y.md").write_text("see /ro" + "ot/notes\n", encoding="utf-8")
    assert [line.split(":")[:2] for line in problems(tmp_path, ["x.md", "y.md"])] == [["x.md", "2"], ["y.md", "1"]]


def test_big_files_are_found_and_binaries_are_not_read_as_text(tmp_path: Path) -> None:
    """If this failed, a model or a video could slip into the history, where it stays for ever."""
    (tmp_path / "big.bin").write_bytes(b"\0" * 1_000_001)
    (tmp_path / "icon.png").write_bytes(b"\0/ro" + b"ot/")
    assert list(problems(tmp_path, ["big.bin", "icon.png", "absent.py"])) == [
        "big.bin: 1,000,001 bytes; the repository holds no big files"
    ]


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    """A reader at 3 a.m. would follow a link into nothing."""
    (tmp_path / "there.md").write_text("")
    (tmp_path / "a.md").write_text("[x](there.md#part) [y](gone.md) [z](https://elsewhere.example/gone.md) [w](#here)")
    assert list(link_problems(tmp_path, ["a.md"])) == ["a.md: links to gone.md, which does not exist"]


def test_an_incomplete_npm_lock_is_found(tmp_path: Path) -> None:
    """If this failed, `make setup` would break on every machine after the next change of the page's packages."""
    lock = tmp_path / "package-lock.json"
    packages = {"": {}, "node_modules/t": {"version": "1.0.0", "optionalDependencies": {"t-darwin-x64": "1.0.0"}}}
    lock.write_text(json.dumps({"packages": packages}), encoding="utf-8")
    assert [problem for problem in npm_lock_problems(lock) if "make lock" in problem]
    assert list(npm_lock_problems(tmp_path / "absent.json")) == ["absent.json is missing; `npm ci` needs it"]
