"""npm refuses a lock that lacks another platform's optional package; these check how such a lock is completed."""

from typing import Any

import pytest

from tools.complete_npm_lock import UnknownPlatform, complete, platform


def _lock(optional: dict[str, str], **present: dict[str, Any]) -> dict[str, Any]:
    return {
        "packages": {
            "": {"name": "page"},
            "node_modules/zeta": {"version": "1.0.0"},
            "node_modules/tool": {"version": "2.6.8", "dev": True, "optionalDependencies": optional},
            **{f"node_modules/{name}": entry for name, entry in present.items()},
        }
    }


def test_a_missing_platform_is_added_in_order() -> None:
    """If this failed, `npm ci` would refuse the lock on every machine, or every `npm install` would reorder it."""
    lock = _lock({"tool-darwin-arm64": "2.6.8"})
    assert complete(lock) == ["node_modules/tool-darwin-arm64"]
    assert list(lock["packages"]) == ["", "node_modules/tool", "node_modules/tool-darwin-arm64", "node_modules/zeta"]
    assert lock["packages"]["node_modules/tool-darwin-arm64"] == {
        "version": "2.6.8",
        "cpu": ["arm64"],
        "os": ["darwin"],
        "dev": True,
        "optional": True,
    }


def test_a_complete_lock_is_left_alone() -> None:
    """If this failed, `make check` would never pass."""
    lock = _lock({"present": "1.0.0"}, present={"version": "1.0.0", "integrity": "sha512-x"})
    assert complete(lock) == []
    assert lock["packages"]["node_modules/present"]["integrity"] == "sha512-x"


def test_a_nested_copy_counts_as_present() -> None:
    """If this failed, a package that npm placed under its parent would be added a second time."""
    lock = _lock({"inner": "1.0.0"})
    lock["packages"]["node_modules/tool/node_modules/inner"] = {"version": "1.0.0"}
    assert complete(lock) == []


def test_the_c_library_is_told_apart() -> None:
    """If this failed, Alpine's binary would be installed on Debian, and the build would not start."""
    assert platform("@s/tool-linux-x64-musl", "1.2.3") == {"cpu": ["x64"], "libc": ["musl"], "os": ["linux"]}
    assert platform("@s/tool-linux-x64-gnu", "1.2.3")["libc"] == ["glibc"]
    assert platform("@s/tool-wasm32-wasi", "1.2.3") == {"cpu": ["wasm32"]}


@pytest.mark.parametrize(("name", "version"), [("left-pad", "1.0.0"), ("tool-linux-x64", "^1.0.0")])
def test_a_guess_is_refused(name: str, version: str) -> None:
    """If this failed, a package of unknown platform or version would be invented and installed everywhere."""
    with pytest.raises(UnknownPlatform, match=name):
        complete(_lock({name: version}))
