"""The working folder of one stack: `<data>/cloud/<stack>/<region>`, private to its owner, with the module, its variables and Terraform's state.

    main.tf.json, terraform.tfvars.json   written anew by every command
    module/                               a copy of the module that this version of Lamplighter ships
    terraform.tfstate, backups/           what exists in the account, and dated copies of it from before each change
    logs/                                 all that Terraform said
    *_override.tf                         yours: such as an S3 backend; never touched

Not responsible for running anything (`engine`).
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from lamplighter.operations.cloud.errors import CloudError, StackBusy

_KEEP = 10
"""Logs and copies of the state that are kept."""
_SKIP = shutil.ignore_patterns(".terraform*", "examples", "tests", "*.tfstate*", "*.md", "*.tftest.hcl", "__pycache__")


@dataclass(frozen=True, slots=True)
class Workspace:
    """One stack's folder. `root` need not exist before `prepare`."""

    root: Path

    @classmethod
    def of(cls, data: Path, stack: str, region: str) -> "Workspace":
        """The one of a stack under the data folder `data`."""
        return cls(data / "cloud" / stack / region)

    @property
    def state(self) -> Path:
        """Terraform's state, unless an override file names another backend."""
        return self.root / "terraform.tfstate"

    @property
    def built(self) -> bool:
        """Whether something was ever applied from here: a state that names resources, or an override that keeps it elsewhere."""
        if any(self.root.glob("*override.tf*")):
            return (self.root / ".terraform").is_dir()
        try:
            return bool(json.loads(self.state.read_text(encoding="utf-8")).get("resources"))
        except (OSError, ValueError):
            return False

    @property
    def plan(self) -> Path:
        """The saved plan; it may hold secrets, so it is deleted after use."""
        return self.root / "plan.tfplan"

    def last_variables(self) -> dict[str, Any]:
        """What the module was last told; empty when nothing was ever written."""
        try:
            found = json.loads((self.root / "terraform.tfvars.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else works on this stack meanwhile. Raises StackBusy, CloudError."""
        try:
            _private(self.root)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CloudError(
                f"{self.root} cannot be used: {error.strerror}", next_step="Choose another folder with --data."
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                raise StackBusy(
                    f"another `lamplighter cloud` command works on this stack{f' (process {owner})' if owner else ''}",
                    next_step="Wait for it to end.",
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def prepare(self, variables: Mapping[str, Any], *, module: Path | None = None) -> None:
        """Write everything that Terraform reads. Call it with the lock held. Raises CloudError."""
        source = module or module_folder()
        target = self.root / "module"
        try:
            fresh = self.root / f".module.{os.getpid()}"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(source, fresh, symlinks=False, ignore=_SKIP)  # `agent.py` is a link in the checkout
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)
            self._write("main.tf.json", root_module(variables))
            self._write("terraform.tfvars.json", dict(variables))
        except OSError as error:
            raise CloudError(
                f"{self.root} cannot be written: {error.strerror}", next_step="`lamplighter doctor` looks at the disk."
            ) from error

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        path = self.root / name
        descriptor = os.open(path.with_name(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, sort_keys=True)
            file.write("\n")
        path.with_name(f".{name}").replace(path)

    def log(self, what: str) -> Path:
        """A new log file for one run of Terraform; the oldest ones go."""
        return self._dated("logs", f"{what}.log")

    def back_up(self) -> Path | None:
        """A dated copy of the state, before it changes; None while there is none. Raises CloudError."""
        if not self.state.exists():
            return None
        path = self._dated("backups", "terraform.tfstate")
        try:
            shutil.copyfile(self.state, path)
            path.chmod(0o600)
        except OSError as error:
            raise CloudError(
                f"the state cannot be copied to {path}: {error.strerror}", next_step="Free some space first."
            ) from error
        return path

    def _dated(self, folder: str, name: str) -> Path:
        place = self.root / folder
        _private(place)
        old = sorted(place.iterdir())
        for path in old[: max(0, len(old) - _KEEP + 1)]:
            path.unlink(missing_ok=True)
        made = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        return place / f"{made}.{name}"


def root_module(variables: Mapping[str, Any]) -> dict[str, Any]:
    """`main.tf.json`: the provider, and the module with every variable handed through.

    Values stand in the variables' file alone: in a `.tf.json` each text would be a template, and user data is full of `${`.
    """
    return {
        "terraform": {"required_version": ">= 1.6.0", "required_providers": {"aws": {"source": "hashicorp/aws"}}},
        "provider": {"aws": {"region": "${var.region}"}},  # the module tags everything itself
        "variable": {name: {"type": "any"} for name in variables},
        "module": {"stack": {"source": "./module", **{name: f"${{var.{name}}}" for name in variables}}},
        "output": {
            "manifest": {"value": "${module.stack.manifest}", "sensitive": True},
            "keeper_policy_json": {"value": "${module.stack.keeper_policy_json}", "sensitive": True},  # only long
        },
    }


def module_folder() -> Path:
    """The module as it was installed, or the checkout's. Raises CloudError when neither is there."""
    shipped = Path(str(resources.files("lamplighter"))) / "deploy" / "terraform" / "aws"
    checkout = Path(__file__).resolve().parents[4] / "deploy" / "terraform" / "aws"
    for folder in (shipped, checkout):
        if (folder / "main.tf").is_file():
            return folder
    raise CloudError(
        "this installation lacks the Terraform module", next_step="Install Lamplighter again; the module is part of it."
    )


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
