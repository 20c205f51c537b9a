"""What the tests of the module share. Each thing is made once in a run, also where several workers run tests: the first makes it, the others read it."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamplighter.testing.aws import Emulator
from tests.terraform import toolchain
from tests.terraform.applied import prepared

EVERYTHING: dict[str, Any] = {
    "stack": "lamp",
    "installation": "inst-1",
    "alerts": ["operator@example.org"],
    "private_subnet": True,
    "vpc_endpoints": True,
    "registry": True,
    "session_manager": True,
    "lighthouse": {"name": "light", "user_data": "#!/bin/sh\necho lighthouse\n"},
    "tags": {"owner": "home"},
    "pools": {
        "spot": {"instance_types": ["g4dn.xlarge", "g5.xlarge"], "max_price": "0.50"},
        "wide": {
            "instance_types": ["g5.xlarge", "g6.xlarge"],
            "max": 4,
            "model_storage": {"kind": "snapshot"},
            "allocation": "lowest-price",
        },
        "shared": {"instance_types": ["g5.xlarge"], "model_storage": {"kind": "s3"}},
    },
}
"""Variables with which the module makes all that it can."""

LEAST: dict[str, Any] = {"installation": "inst-1", "pools": {"spot": {"instance_types": ["g5.xlarge"]}}}
"""Variables with which it makes the least."""


@pytest.fixture(scope="session")
def terraform_there() -> None:
    """Skips where Terraform or its provider is missing, and says so."""
    why = toolchain.missing()
    if why is not None:
        pytest.skip(why)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str, Callable[[Path], Any]], Any]:
    """`once(name, make)`: what `make(folder)` returned the first time in this run, in whichever worker; it must be JSON."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if hasattr(request.config, "workerinput") else base) / "terraform"
    shared.mkdir(exist_ok=True)

    def run(name: str, make: Callable[[Path], Any]) -> Any:
        done = shared / f"{name}.json"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder = shared / name
                folder.mkdir(exist_ok=True)
                made = json.dumps(make(folder))
                done.write_text(made, encoding="utf-8")
        return json.loads(done.read_text(encoding="utf-8"))

    return run


@pytest.fixture(scope="session")
def plans(terraform_there: None, once: Callable[[str, Callable[[Path], Any]], Any]) -> dict[str, dict[str, Any]]:
    """The plans of everything and of the least, from an empty account."""

    def make(folder: Path) -> dict[str, Any]:
        with Emulator() as aws:
            return {
                name: prepared(aws, variables, folder / name).plan()
                for name, variables in (("everything", EVERYTHING), ("least", LEAST))
            }

    found: dict[str, dict[str, Any]] = once("plans", make)
    return found
