"""Setting up twice must cost nothing, and a change must be noticed; the package must never ship without its page."""

import sys
from pathlib import Path

import pytest
from hatchling.builders.config import BuilderConfig
from hatchling.builders.wheel import WheelBuilder

from tools import bootstrap, build_page, system_packages
from tools.require_page import RequirePage


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like an installed checkout; nothing in it can be run."""
    library = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (tmp_path / ".venv" / library).mkdir(parents=True)
    (tmp_path / ".venv" / "bin").mkdir()
    (tmp_path / ".venv" / "bin" / "python").touch()
    (tmp_path / "requirements.lock").write_text("", encoding="utf-8")
    for name, path in {
        "ROOT": tmp_path,
        "VENV": tmp_path / ".venv",
        "PYTHON": tmp_path / ".venv" / "bin" / "python",
        "LOCK": tmp_path / "requirements.lock",
    }.items():
        monkeypatch.setattr(bootstrap, name, path)
    return tmp_path


def test_a_second_setup_installs_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, every `make up` would start with half a minute of pip."""
    (checkout / ".venv" / ".installed-dev").write_text(bootstrap.fingerprint("dev"), encoding="utf-8")
    monkeypatch.setattr(bootstrap, "ensure_environment", lambda **_: pytest.fail("it set up again"))
    bootstrap.set_up("dev", system=False)
    bootstrap.set_up("run", system=False)  # dev covers run


def test_a_changed_lock_installs_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a person who pulls a new version would run it with old libraries."""
    (checkout / ".venv" / ".installed-run").write_text(bootstrap.fingerprint("run"), encoding="utf-8")
    hash_ = "    --hash=sha256:" + "0" * 64
    groups = ("", ":build", ":page")
    pins = [f"p{n}==1 \\\n{hash_}\n    # via lamplighter (pyproject.toml{group})\n" for n, group in enumerate(groups)]
    (checkout / "requirements.lock").write_text("".join(pins), encoding="utf-8")
    installed: list[str] = []
    monkeypatch.setattr(system_packages, "RUN", ())
    monkeypatch.setattr(bootstrap, "ensure_environment", lambda **_: ["pip"])
    monkeypatch.setattr(bootstrap, "install", lambda pip, pins: installed.extend(pin.name for pin in pins))
    monkeypatch.setattr(bootstrap, "_pip", lambda pip, arguments: installed.append(arguments[-2]))
    bootstrap.set_up("run", system=False)
    assert installed == ["p0", "p1", "p2", "--editable"]
    assert (checkout / ".venv" / ".installed-run").read_text(encoding="utf-8") == bootstrap.fingerprint("run")


def test_an_old_python_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, a person with Python 3.10 would meet a syntax error deep in a library."""
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    with pytest.raises(bootstrap.SetupError, match="PYTHON="):
        bootstrap.set_up("run", system=False)


def test_what_is_missing_is_said_with_its_consequence(capsys: pytest.CaptureFixture[str]) -> None:
    """If this failed, a skipped browser test or a dead engine would have no explanation."""
    absent = system_packages.SystemPackage("nosuch", lambda: False, "the lamp stays dark")
    present = system_packages.SystemPackage("there", lambda: True, "never said")
    assert system_packages.ensure([absent, present], allowed=False) == [absent]
    said = capsys.readouterr().err
    assert "nosuch: the lamp stays dark" in said
    assert "sudo apt-get install nosuch" in said
    assert "never said" not in said


def test_a_page_is_built_again_only_when_its_sources_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this failed, people would look at an old page after a pull, or wait for a build at each start."""
    web, page = tmp_path / "web", tmp_path / "page"
    (web / "src").mkdir(parents=True)
    (web / "node_modules").mkdir()
    (web / "tests").mkdir()
    source = web / "src" / "main.tsx"
    source.write_text("one", encoding="utf-8")
    builds: list[str] = []

    class Done:
        returncode = 0

    def npm(*words: str) -> Done:
        builds.append(words[1])
        page.mkdir(exist_ok=True)
        (page / "index.html").touch()
        return Done()

    for name, value in {"WEB": web, "PAGE": page, "BUILT": web / "node_modules" / ".built", "npm": npm}.items():
        monkeypatch.setattr(build_page, name, value)
    build_page.ensure_page()
    (web / "tests" / "main.test.tsx").write_text("not a source", encoding="utf-8")
    build_page.ensure_page()
    assert builds == ["build"]
    source.write_text("two", encoding="utf-8")
    build_page.ensure_page()
    assert builds == ["build", "build"]
    (page / "index.html").unlink()
    build_page.ensure_page()
    assert len(builds) == 3


@pytest.mark.parametrize("version", ["standard", "editable"])
def test_a_package_without_its_page_is_refused(tmp_path: Path, version: str) -> None:
    """If this failed, a release could show an empty page to everybody who installs it."""
    config = BuilderConfig(WheelBuilder(str(tmp_path)), str(tmp_path), "wheel", {}, {})
    hook = RequirePage(str(tmp_path), {}, config, None, str(tmp_path), "wheel")  # type: ignore[arg-type]  # it reads no metadata
    if version == "editable":
        hook.initialize(version, {})
        return
    with pytest.raises(RuntimeError, match="make setup"):
        hook.initialize(version, {})
    (tmp_path / "src" / "lamplighter" / "page").mkdir(parents=True)
    (tmp_path / "src" / "lamplighter" / "page" / "index.html").touch()
    hook.initialize(version, {})
