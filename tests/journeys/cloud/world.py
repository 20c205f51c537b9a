"""All of it on one machine: home, a lighthouse and the cloud in networks of their own, real Nebula between them, Terraform's stack in the emulated AWS.

`Show` is made once for all journeys here: applying the stack takes a minute and a half. What a journey does, it does inside of home's network.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.clock import SystemClock
from lamplighter.mesh.nodes import Node
from lamplighter.store.store import Store
from lamplighter.testing.aws import Emulator, Pace, allow, check
from tests.journeys.cloud.actor import BRIDGE, CloudMachines
from tests.journeys.cloud.namespaces import dwelling, listening
from tests.journeys.harness import Server, eventually
from tests.mesh_lab import Lab, Machine
from tests.mesh_lab import missing as no_lab
from tests.mesh_lab.certificates import PASSPHRASE, OurAuthorities
from tests.terraform.applied import applied_stack
from tests.terraform.toolchain import missing as no_terraform

T = TypeVar("T")
MODEL, POOL, STACK = "llama", "spot", "lamplighter"
LEASE, DRAIN, BOOT_DEADLINE, SLEEP_AFTER = 25.0, 3.0, 45.0, 6.0
"""Seconds. Real ones are minutes; Terraform takes no lease below one, so the stack's manifest is changed after it was applied."""
LIGHTHOUSE, HOME = "10.77.0.1", "10.77.0.10"
_PORT = 8080


def missing() -> str | None:
    """What this machine lacks for these journeys; None when it can."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    return no_lab() or no_terraform()


@dataclass
class Show:
    """The whole installation. `url`: the emulated AWS as home reaches it."""

    aws: Emulator
    lab: Lab
    cloud: CloudMachines
    server: Server
    manifest: dict[str, Any]
    url: str
    home: Machine
    lighthouse: Machine

    threads: ThreadPoolExecutor
    overheads: list[float] = field(default_factory=list)
    """Of each wake that was measured: seconds in none of its stages."""

    def at_home(self, call: Callable[[], T]) -> T:
        """Do something inside of home's network, always in the same thread: what a thread starts may end with it."""
        return self.threads.submit(call).result()

    def groups(self) -> dict[str, int]:
        """Desired capacity by group."""
        from moto.autoscaling.models import autoscaling_backends

        backend = autoscaling_backends["123456789012"][self.aws.region]
        return {group.name: int(group.desired_capacity or 0) for group in backend.autoscaling_groups.values()}

    def asleep(self, timeout: float = 60) -> None:
        """Wait until nothing runs and nothing bills."""
        eventually(lambda: not self.aws.instances(live=True), what=f"nothing runs; {self.story()}", timeout=timeout)
        eventually(lambda: not any(self.groups().values()), what=f"nothing is wanted: {self.groups()}", timeout=timeout)
        eventually(self._at_rest, what=f"it is asleep: {self.server.model(MODEL)}", timeout=timeout)

    def _at_rest(self) -> bool:
        """Asleep, also after a wake that failed."""
        return self.server.model(MODEL)["state"] in ("asleep", "failed")

    def revoked(self) -> list[str]:
        """Fingerprints on home's blocklist."""
        path = self.home.folder / "blocklist.yml"
        return (
            [line.strip(' -"') for line in path.read_text().splitlines() if line.strip().startswith("- ")]
            if path.exists()
            else []
        )

    def wakes(self) -> list[dict[str, Any]]:
        """The wakes of the store, newest last."""
        with contextlib.closing(sqlite3.connect(f"file:{self.server.data / 'lamplighter.db'}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM wakes ORDER BY id")]

    def log_of(self, instance: str, name: str) -> str:
        """What a node saved of its logs in S3 before it ended; "" when nothing."""
        from moto.s3.models import s3_backends

        key = f"nodes/{self.aws.instance(instance).sender}/logs/{name}.log"
        found = s3_backends["123456789012"]["aws"].get_object(self.manifest["bucket"], key)
        return "" if found is None else str(found.value.decode())

    def story(self) -> str:
        """What happened, for a test that failed."""
        machines = "\n".join(machine.logs() for machine in self.cloud.machines.values() if not machine.gone)
        text = self.server.text()[-5000:]
        return f"{self.cloud.problems}\ndenied: {self.aws.denied[-5:]}\n{machines}\n--- lamplighter\n{text}"


def _config(lab_home: Path, passphrase: Path, pid: Path) -> str:
    return json.dumps(
        {
            # A machine whose network is gone does not end a connection: silence does, after two minutes unless told otherwise.
            "gateway": {"idle_stream_timeout": "10s"},
            "models": {MODEL: {"engine": "vllm", "pool": POOL, "source": "hf:owner/llama"}},
            "pools": {
                POOL: {
                    "kind": "aws", "region": "eu-central-1", "stack": STACK, "instance_types": ["g4dn.xlarge"], "sleep_after": f"{SLEEP_AFTER:g}s",
                    "on_no_capacity": "on-demand", "spot_patience": "5s", "lease": "60s", "boot_deadline": f"{BOOT_DEADLINE:g}s", "at_exit": "end",
                }
            },
            "mesh": {
                "lighthouses": [{"name": "lighthouse", "overlay": LIGHTHOUSE, "addresses": ["10.99.0.1:4242"]}],
                "home": HOME, "passphrase": f"file:{passphrase}", "publish": str(lab_home),
                "reload": f"kill -HUP $(cat {pid})",
            },
        },
        indent=1,
    )  # fmt: skip


async def _installation(data: Path) -> str:
    """The installation's id, which `lamplighter cloud apply` hands to Terraform."""
    store = await Store.open(data / "lamplighter.db", SystemClock())
    try:
        return store.installation
    finally:
        await store.close()


@contextlib.contextmanager
def show(folder: Path) -> Iterator[Show]:
    """Everything, running; nothing of it afterwards."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    passphrase = folder / "passphrase"
    passphrase.write_text(PASSPHRASE)
    mesh = MeshConfig.model_validate({"lighthouses": [{"name": "lighthouse", "overlay": LIGHTHOUSE}]})
    with contextlib.ExitStack() as stack:
        authorities = OurAuthorities(data / "mesh", mesh)
        aws = stack.enter_context(Emulator(pace=Pace(launch=0.4, pending=0.4, shutdown=0.3)))
        lab = stack.enter_context(Lab(mesh, signer=authorities))
        lighthouse = lab.add("lighthouse", Node("lighthouse"), LIGHTHOUSE)
        lighthouse.write()  # now it knows its own address
        home = lab.add("home", Node("home"), HOME)
        lab.start()
        lab.wan("ip", "address", "add", f"{BRIDGE}/24", "dev", "br0")
        allow(BRIDGE)
        check({**os.environ, **aws.environment(f"http://{BRIDGE}:{_PORT}")})
        url = aws.listen(listening(lab.namespace("wan"), BRIDGE, _PORT))
        variables = {
            "stack": STACK, "installation": asyncio.run(_installation(data)), "monthly_budgets": [50],
            "pools": {POOL: {"instance_types": ["g4dn.xlarge"], "max": 2, "model_storage": {"kind": "none"}}},
        }  # fmt: skip
        began = time.monotonic()
        applied = stack.enter_context(applied_stack(aws, variables, folder / "terraform"))
        took = time.monotonic() - began
        manifest = _shorten(aws, applied.manifest)
        # From here on Lamplighter may do no more than the policy that the module makes for it.
        document = next(one for one in applied.resources() if one["address"].endswith("aws_iam_policy.keeper"))["values"][
            "policy"
        ]
        aws.hold_to(json.loads(document))
        pid = folder / "home.pid"
        assert home.process is not None
        pid.write_text(str(home.process.pid))
        server = Server(data, _config(home.folder, passphrase, pid), environment=aws.environment(url))
        cloud = stack.enter_context(CloudMachines(aws, lab, folder / "cloud", manifest["bucket"]))
        threads = stack.enter_context(dwelling(home.namespace))
        made = Show(aws, lab, cloud, server, manifest, url, home, lighthouse, threads)
        print(f"\nTerraform's stack: applied in {took:.0f} s")
        made.at_home(server.start)
        try:
            yield made
        finally:
            made.at_home(server.stop) if server.process is not None and server.process.poll() is None else None


def _shorten(aws: Emulator, manifest: dict[str, Any]) -> dict[str, Any]:
    """Deadlines of seconds in the stack's manifest."""
    pool = manifest["pools"][POOL]
    pool |= {"lease": LEASE, "drain": DRAIN, "boot_deadline": BOOT_DEADLINE}
    aws.client("ssm").put_parameter(Name=f"/{STACK}/manifest", Type="String", Value=json.dumps(manifest), Overwrite=True)
    return manifest
