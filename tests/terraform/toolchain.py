"""Runs Terraform in a folder of its own, offline: the provider comes from a mirror on this machine, never from the network.

TF_PLUGIN_MIRROR names the folder that holds `registry.terraform.io`; without it the usual places are looked at. Where there is no Terraform, or no
provider, `missing()` says what is missing and the tests skip with that.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "deploy" / "terraform" / "aws"
_LEFT_OUT = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfplan")
_HOST = "registry.terraform.io"
LIMIT_S = 420


class TerraformFailed(Exception):
    """Terraform ended with an error; its whole output is the text."""


def mirror() -> Path | None:
    """The folder with the mirrored provider, or None."""
    named = os.environ.get("TF_PLUGIN_MIRROR")
    if named:
        return Path(named) if (Path(named) / _HOST).is_dir() else None
    home = Path.home()
    places = [
        home / ".terraform.d" / "plugins",
        home / ".local/share/terraform/plugins",
        Path("/usr/local/share/terraform/plugins"),
        Path("/usr/share/terraform/plugins"),
        *(sorted(Path("/opt").iterdir()) if Path("/opt").is_dir() else []),
    ]
    return next((place for place in places if (place / _HOST / "hashicorp" / "aws").is_dir()), None)


def program() -> str | None:
    """Terraform, else OpenTofu, else None."""
    return shutil.which("terraform") or shutil.which("tofu")


def missing() -> str | None:
    """Why nothing can be run here; None when it can."""
    if program() is None:
        return "neither terraform nor tofu is installed"
    configured = os.environ.get("TF_CLI_CONFIG_FILE")
    if mirror() is None and not (configured and Path(configured).is_file()):
        return "no mirror of the AWS provider on this machine; name one in TF_PLUGIN_MIRROR"
    return None


def environment(extra: Mapping[str, str], config: Path) -> dict[str, str]:
    """What Terraform is started with: nothing of this machine's own AWS settings, and where to find the provider."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
    return kept | {
        "TF_CLI_CONFIG_FILE": os.fspath(config),
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
        "CHECKPOINT_DISABLE": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **extra,
    }


def write_config(folder: Path) -> Path:
    """Terraform's own settings: the mirror where there is one, else what TF_CLI_CONFIG_FILE names."""
    found = mirror()
    if found is None:
        return Path(os.environ["TF_CLI_CONFIG_FILE"])
    config = folder / "terraform.rc"
    config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{found}"\n  }}\n}}\n', encoding="utf-8")
    return config


def copy_module(target: Path) -> Path:
    """The module with its examples and tests at `target`: what Terraform writes beside them must not land in the checkout."""
    shutil.copytree(MODULE, target, symlinks=False, ignore=_LEFT_OUT, dirs_exist_ok=True)
    return target


@dataclass(frozen=True, slots=True)
class Terraform:
    """Terraform in one folder."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def at(cls, folder: Path, extra: Mapping[str, str] | None = None) -> "Terraform":
        """In `folder`, with the variables `extra` (an emulator's, or none); initialised."""
        config = write_config(folder)
        made = cls(folder, environment(extra or {}, config))
        made.run("init", "-no-color")
        return made

    def run(self, *words: str, accepted: Sequence[int] = (0,)) -> str:
        """Its standard output. Raises TerraformFailed on another exit code than `accepted`."""
        return self.ended(*words, accepted=accepted).stdout

    def ended(self, *words: str, accepted: Sequence[int] = (0,)) -> "subprocess.CompletedProcess[str]":
        """The ended process. Raises TerraformFailed on another exit code than `accepted`."""
        name = program()
        assert name is not None, "skip on missing() first"
        done = subprocess.run(
            [name, *words],
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode not in accepted:
            raise TerraformFailed(f"terraform {' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def plan(self, *words: str) -> dict[str, Any]:
        """What it would do, as `terraform show -json` tells it."""
        self.run("plan", "-no-color", "-out=shown.tfplan", *words)
        shown: dict[str, Any] = json.loads(self.run("show", "-json", "shown.tfplan"))
        return shown

    def state(self) -> dict[str, Any]:
        """What exists, as `terraform show -json` tells it."""
        shown: dict[str, Any] = json.loads(self.run("show", "-json"))
        return shown
