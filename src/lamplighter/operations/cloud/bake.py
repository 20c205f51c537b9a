"""Bakes a pool's image: starts a machine that brings runtime, engine and (if wished) weights, makes an image of its disk, ends the machine.

The machine is ended in every case, also on Ctrl-C. Should this process be killed, the machine shuts itself down at its limit and its tag
says until when it was wanted. Not responsible for what happens on the machine (bootstrap.sh and the agent), nor for who is asked.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamplighter.core.errors import LamplighterError, ProviderError
from lamplighter.core.ids import new_id
from lamplighter.operations.cloud.errors import CloudError, StillRunning
from lamplighter.operations.cloud.stacks import Stack
from lamplighter.operations.cloud.workspace import module_folder
from lamplighter.providers.aws import account, baking, inventory

KEEP = 2
"""Images of a pool that are kept: the newest, and the one before it in case the newest does not start."""
_SETTLE = 5.0
_GONE_LIMIT = 300.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into the image. `images`: of containers. `weights`: commands that download them, each `(image, program, *arguments)`."""

    images: tuple[str, ...]
    weights: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Baked:
    """What came of it. `steps`: seconds of each, in order; those on the machine begin with `on it: `."""

    image: str
    steps: Mapping[str, float]
    pruned: tuple[str, ...]
    builder: str
    kind: str


@dataclass
class Oven:
    """One bake. `told` takes a sentence for a person. `pause` and `now` are time, `wall` Unix time."""

    stack: Stack
    pool: str
    installation: str
    told: Callable[[str], None]
    pause: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    module: Path | None = None
    _steps: dict[str, float] = field(default_factory=dict)

    def bake(self, recipe: Recipe, *, types: Sequence[str], limit: float) -> Baked:
        """`limit`: seconds for the machine's own work; the image comes on top. Raises CloudError, ProviderError, KeyboardInterrupt."""
        region, began = self.stack.region, self.now()
        manifest = account.manifest(region, self.stack.name)
        if manifest is None or self.pool not in manifest.get("pools", {}):
            raise CloudError(f"the stack {self.stack.title} is not built", next_step="Run `lamplighter cloud apply` first.")
        if manifest["installation"] != self.installation:
            raise CloudError(f"the stack {self.stack.title} belongs to another installation ({manifest['installation']})")
        where = baking.place(region, self.stack.group(self.pool, "on-demand"))
        data = self._user_data(manifest, recipe, limit)
        base = baking.stock_image(region)
        tags = baking.builder_tags(self.installation, self.stack.name, self.pool, until=self.wall() + limit + 1800)
        try:
            instance, kind = baking.launch(region, where, types, base, data, tags=tags, token=new_id("bake"))
        except KeyboardInterrupt:  # AWS may have started it and we never heard its name
            self._sweep(tags[inventory.UNTIL])
            raise
        self.told(f"Started {instance} ({kind}, on demand) from {base}; it is ended in every case.")
        try:
            self._follow(manifest, instance, limit, began)
            image = self._image(instance)
        finally:
            self._end(instance)
        account.store_parameter(region, f"/{self.stack.name}/ami/{self.pool}", image, tags=self._ours())
        self.told(f"{image} is the newest image of pool {self.pool} (parameter /{self.stack.name}/ami/{self.pool}).")
        return Baked(image, dict(self._steps), self._prune(image), instance, kind)

    def _ours(self) -> dict[str, str]:
        tags = baking.image_tags(self.installation, self.stack.name, self.pool, at=self.wall())
        return {key: value for key, value in tags.items() if key != "Name"}

    def _user_data(self, manifest: Mapping[str, Any], recipe: Recipe, limit: float) -> bytes:
        files = (self.module or module_folder()) / "files"
        try:
            script, agent = ((files / name).read_text(encoding="utf-8") for name in ("bootstrap.sh", "agent.py"))
        except OSError as error:
            raise CloudError(f"this installation lacks {error.filename}", next_step="Install Lamplighter again.") from error
        node = {
            "version": 1, "stack": self.stack.name, "installation": self.installation, "pool": self.pool, "region": self.stack.region,
            "account": manifest["account"], "nodes_queue_url": manifest["nodes_queue_url"], "bucket": manifest["bucket"],
            "node_role_id": manifest["node_role_id"], "boot_deadline": int(limit), "lease": 300, "drain": 0, "agent_port": 7443,
            "mesh_interface": "nebula1", "baked": False, "mode": "bake",
            "bake": {"images": list(recipe.images), "weights": [list(one) for one in recipe.weights]},
            "model_storage": {"kind": "none", "volume_id": None, "snapshot_id": None, "bucket_prefix": None},
        }  # fmt: skip
        return baking.user_data(script, agent, json.dumps(node), hours=(limit + 300) / 3600)

    def _follow(self, manifest: Mapping[str, Any], instance: str, limit: float, began: float) -> None:
        """Wait until the machine has done its work and stopped itself. Raises CloudError with its last words."""
        region, deadline, said = self.stack.region, self.now() + limit + 300, ""
        while (state := baking.state(region, instance)) != "stopped":
            if state in ("terminated", "shutting-down"):
                raise self._failed(manifest, instance, f"the machine {instance} was ended by AWS or a person")
            if state == "running" and said != state:
                self._steps["start of the machine"] = self.now() - began
            if state != said:
                self.told(f"{instance} is {state}.")
                said = state
            if self.now() >= deadline:
                raise self._failed(manifest, instance, f"{instance} was not ready after {limit:.0f} s")
            self.pause(_SETTLE)
        self._steps["work on the machine, to its stop"] = self.now() - began - self._steps.get("start of the machine", 0.0)
        key = f"nodes/{manifest['node_role_id']}:{instance}/logs/baked.json"
        raw = account.read_object(region, str(manifest["bucket"]), key)
        if raw is None:
            raise self._failed(manifest, instance, f"{instance} stopped before it was done")
        try:
            for name, seconds in json.loads(raw)["steps"].items():
                self._steps[f"on it: {name}"] = float(seconds)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.told("The machine's own times cannot be read.")

    def _failed(self, manifest: Mapping[str, Any], instance: str, what: str) -> CloudError:
        text = ""
        try:
            for name in ("bootstrap", "agent"):
                key = f"nodes/{manifest['node_role_id']}:{instance}/logs/{name}.log"
                raw = account.read_object(self.stack.region, str(manifest["bucket"]), key, last=2000)
                text += raw.decode(errors="replace") if raw else ""
            text = text or account.console(self.stack.region, instance) or ""
        except ProviderError as error:  # the reason for the bake's end matters more
            text = error.message
        lines = [line.strip() for line in text.splitlines() if line.strip()][-3:]
        return CloudError(
            f"the bake failed: {what}{': ' if lines else ''}{' | '.join(lines)[-600:]}",
            next_step=f"`lamplighter cloud logs {instance} --name bootstrap` shows all; it is ended, and nothing was changed.",
        )

    def _image(self, instance: str) -> str:
        began, region = self.now(), self.stack.region
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.wall()))
        tags = baking.image_tags(self.installation, self.stack.name, self.pool, at=self.wall())
        image = baking.make_image(region, instance, f"{self.stack.name}-{self.pool}-{stamp}", tags)
        self.told(f"Making {image} of its disk; that takes minutes.")
        while (found := baking.image_state(region, image))[0] != "available":
            if found[0] == "failed" or self.now() - began > 3600:
                account.deregister(region, image)
                raise CloudError(f"AWS could not make the image: {found[1] or found[0]}", next_step="Try again.")
            self.pause(_SETTLE)
        self._steps["image"] = self.now() - began
        return image

    def _end(self, instance: str) -> None:
        """Told at once, and seen to be gone: whoever interrupts must not leave it behind."""
        began = self.now()
        account.terminate(self.stack.region, [instance])
        while (state := baking.state(self.stack.region, instance)) != "terminated":
            if self.now() - began > _GONE_LIMIT:
                raise StillRunning(
                    f"{instance} is {state} after {_GONE_LIMIT:.0f} s", next_step="`lamplighter cloud status` watches it."
                )
            self.pause(_SETTLE)
        self._steps["end of the machine"] = self.now() - began
        self.told(f"{instance} is gone (AWS says so).")

    def _sweep(self, until: str) -> None:
        for item in inventory.running(self.stack.region, self.installation):
            if inventory.is_builder(item) and item.pool == self.pool and item.tags.get(inventory.UNTIL) == until:
                self._end(item.id)

    def _prune(self, newest: str) -> tuple[str, ...]:
        """Delete older images and their snapshots; failing here fails nothing."""
        region, gone = self.stack.region, []
        try:
            found = baking.images(region, self.installation, self.stack.name, self.pool)
            for one in found:
                if one.id == newest and not one.encrypted:
                    self.told(f"CAREFUL: AWS does not call the disk of {newest} encrypted.")
            for one in found[KEEP:]:
                account.deregister(region, one.id)
                for snapshot in one.snapshots:
                    account.delete_snapshot(region, snapshot)
                gone.append(one.id)
        except LamplighterError as error:
            self.told(f"Old images could not be deleted: {error.message}")
        return tuple(gone)


__all__ = ["KEEP", "Baked", "Oven", "Recipe"]
