"""Applies the module to an emulated AWS, and takes it away again: for tests of the module and for journeys that want a stack as Terraform makes it.

    with Emulator() as aws, applied_stack(aws, {"stack": "lamp", "installation": "i", "pools": {...}}, folder) as stack:
        stack.manifest["pools"]["spot"]["groups"]["spot"]

An apply takes about a minute and a half on two cores: most of it the provider waiting until AWS says the same thing several times in a row.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamplighter.testing.aws import Emulator
from tests.terraform.toolchain import Terraform, copy_module


@dataclass(frozen=True, slots=True)
class Applied:
    """A stack that exists in the emulator."""

    terraform: Terraform
    manifest: dict[str, Any]

    def resources(self) -> list[dict[str, Any]]:
        """Every resource in the state, with all that is known of it."""
        return resources_of(self.terraform.state()["values"]["root_module"])


def resources_of(module: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The managed resources of a module and of those inside of it."""
    own = [{"values": {}, **one} for one in module.get("resources", []) if one["mode"] == "managed"]
    return own + [one for child in module.get("child_modules", []) for one in resources_of(child)]


def root_module(variables: Mapping[str, Any], source: str = "./module") -> dict[str, Any]:
    """A root that calls the module with `variables` and hands on its manifest."""
    return {
        "terraform": {"required_providers": {"aws": {"source": "hashicorp/aws"}}},
        "provider": {"aws": {"region": variables["region"]}},
        "module": {"lamplighter": {"source": source, **variables}},
        "output": {"manifest": {"value": "${module.lamplighter.manifest}"}},
    }


def prepared(emulator: Emulator, variables: Mapping[str, Any], folder: Path) -> Terraform:
    """Terraform in `folder`, initialised on the module with `variables`; nothing is made yet.

    `region` and `force_destroy` are filled in. A `$${` in a text is Terraform's way to write `${`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_module(folder / "module")
    filled = {"region": emulator.region, "force_destroy": True, **variables}
    (folder / "main.tf.json").write_text(json.dumps(root_module(filled), indent=2), encoding="utf-8")
    return Terraform.at(folder, emulator.environment())


@contextlib.contextmanager
def applied_stack(emulator: Emulator, variables: Mapping[str, Any], folder: Path, *, destroy: bool = False) -> Iterator[Applied]:
    """The module applied to `emulator`. `destroy`: also take it away at the end; else it goes with the emulator."""
    terraform = prepared(emulator, variables, folder)
    terraform.run("apply", "-auto-approve", "-no-color", "-parallelism=30")
    manifest = json.loads(terraform.run("output", "-json", "manifest"))
    yield Applied(terraform, manifest)
    if destroy:
        terraform.run("destroy", "-auto-approve", "-no-color", "-parallelism=30")
