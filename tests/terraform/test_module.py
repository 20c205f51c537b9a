"""The module by Terraform's own means: its format, its types, and its mocked tests."""

from pathlib import Path

import pytest

from tests.terraform import toolchain
from tests.terraform.toolchain import MODULE, Terraform, copy_module


@pytest.mark.usefixtures("terraform_there")
def test_it_is_formatted(tmp_path: Path) -> None:
    """Two people's editors would otherwise argue over spaces in every change."""
    config = toolchain.write_config(tmp_path)
    terraform = Terraform(MODULE, toolchain.environment({}, config))
    assert terraform.run("fmt", "-check", "-recursive", "-no-color").split() == []


@pytest.mark.usefixtures("terraform_there")
@pytest.mark.parametrize("folder", [".", "examples/minimal", "examples/complete"])
def test_it_is_valid(tmp_path: Path, folder: str) -> None:
    """What a person copies from the examples would end with an error before anything is made."""
    copy_module(tmp_path / "module")
    assert "Success" in Terraform.at(tmp_path / "module" / folder).run("validate", "-no-color")


@pytest.mark.usefixtures("terraform_there")
@pytest.mark.timeout(600)
def test_its_own_tests_pass(tmp_path: Path) -> None:
    """A pool would get the wrong groups, zones, prices or permissions, or nonsense would be taken for a setting."""
    copy_module(tmp_path / "module")
    said = Terraform.at(tmp_path / "module").run("test", "-no-color")
    assert "0 failed" in said


def test_the_script_has_one_place_for_each_of_its_parts() -> None:
    """A node would boot without its agent or without its settings: Terraform replaces the marks, and says nothing when there is none."""
    script = (MODULE / "files" / "bootstrap.sh").read_text(encoding="utf-8")
    agent = (MODULE / "files" / "agent.py").read_text(encoding="utf-8")
    assert [script.count(mark) for mark in ("@NODE_JSON@", "@AGENT@")] == [1, 1]
    assert "@NODE_JSON@" not in agent
    assert "@AGENT@" not in agent


def test_no_lock_file_is_shipped() -> None:
    """A lock file made from one platform's mirror refuses the provider on every other platform."""
    assert list(MODULE.rglob(".terraform.lock.hcl")) == []


def test_no_provider_inside_of_the_module() -> None:
    """A module with its own provider could not be removed, nor used twice in two regions."""
    for path in MODULE.glob("*.tf"):
        assert "\nprovider " not in path.read_text(encoding="utf-8"), path.name
