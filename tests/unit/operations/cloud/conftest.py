"""A configuration, a pretended AWS whose time stands still, and a pretended Terraform that only remembers how it was driven."""

import json
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import Config, parse
from lamplighter.operations.cloud.build import Site
from lamplighter.providers.aws import asking
from lamplighter.testing.aws import Emulator, PoolSeed

INSTALLATION = "ins_of_the_test"
YAML = """
models:
  llama: {engine: vllm, pool: spot, source: hf:meta-llama/Llama-3.2-3B-Instruct}
pools:
  spot: {kind: aws, region: eu-central-1, boot_deadline: 10m, max_replicas: 1}
cloud: {alerts: [a@example.com]}
"""

_TERRAFORM = """#!/usr/bin/env python3
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
asked = sys.argv[1:]
with (here / "asked").open("a") as file:
    keep = ("TF_WORKSPACE", "TF_DATA_DIR", "CHECKPOINT_DISABLE", "TF_IN_AUTOMATION", "TF_PLUGIN_CACHE_DIR", "AWS_PROFILE")
    file.write(json.dumps([asked, {name: os.environ.get(name) for name in keep}]) + "\\n")
script = json.loads((here / "script.json").read_text())
if asked[0] == "version":
    print(json.dumps({"terraform_version": script.get("version", "1.11.4")}))
    sys.exit(0)
if asked[0] == "show":
    print(json.dumps(script.get("plan", {})))
    sys.exit(0)
if asked[0] == "plan":
    pathlib.Path("plan.tfplan").write_text("secret")
    sys.exit(script.get("plan_exit", 2))
if asked[0] == "apply" and script.get("hang"):
    interrupts = []
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(time.monotonic()))
    print("applying", flush=True)
    while not interrupts:
        time.sleep(0.01)
    print("Interrupt received.", flush=True)
    time.sleep(0.3)
    (here / "interrupts").write_text(str(len(interrupts)))
    pathlib.Path("terraform.tfstate").write_text('{"resources": [{}]}')
    sys.exit(1)
said = script.get("fail", {}).get(asked[0])
if said:
    print(said)
    sys.exit(1)
if asked[0] == "apply":
    pathlib.Path("terraform.tfstate").write_text('{"resources": [{}]}')
"""


class FakeTerraform:
    """A program `terraform` on the PATH. `script`: what it does; `asked`: how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "terraform"
        self.path.write_text(_TERRAFORM)
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)
        self.script()

    def script(self, **script: Any) -> None:
        """`version`, `plan` (what show tells), `plan_exit`, `fail` (command -> output), `hang`."""
        (self.folder / "script.json").write_text(json.dumps(script))

    @property
    def asked(self) -> list[list[str]]:
        return [call[0] for call in self._calls() if call[0][0] != "version"]

    @property
    def environment(self) -> dict[str, Any]:
        return dict(self._calls()[-1][1])

    def _calls(self) -> list[Any]:
        file = self.folder / "asked"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def terraform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTerraform:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return FakeTerraform(folder)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A small module with a link in it, as the checkout has one."""
    folder = tmp_path / "shipped"
    (folder / "files").mkdir(parents=True)
    (folder / "main.tf").write_text("")
    (tmp_path / "agent.py").write_text("# the agent")
    (folder / "files" / "agent.py").symlink_to(tmp_path / "agent.py")
    (folder / "files" / "bootstrap.sh").write_text("#!/bin/bash\ncat <<'E'\n@NODE_JSON@\nE\ncat <<'E'\n@AGENT@\nE\n")
    return folder


@pytest.fixture
def config() -> Config:
    return parse(YAML)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(threaded=False) as aws:
        yield aws


@pytest.fixture
def aws(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The pretended AWS, empty, and where our own calls go."""
    emulator.reset()
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    asking.forget_sessions()
    yield emulator
    asking.forget_sessions()


@pytest.fixture
def built(aws: Emulator) -> dict[str, Any]:
    """The manifest of a stack as `cloud apply` makes it, with its dead-man just pushed forward as a keeper does."""
    manifest = aws.seed_stack(installation=INSTALLATION, pools={"spot": PoolSeed(instance_types=("g4dn.xlarge", "g5.xlarge"))})
    for market in ("spot", "on-demand"):
        aws.client("autoscaling").put_scheduled_update_group_action(
            AutoScalingGroupName=f"lamplighter-spot-{market}", ScheduledActionName="dead-man", Recurrence="*/5 * * * *",
            StartTime=datetime.fromtimestamp(aws.now() + 900, UTC), MinSize=0, DesiredCapacity=0,
        )  # fmt: skip
    return manifest


@pytest.fixture
def site(config: Config, tmp_path: Path, module: Path) -> Callable[..., Site]:
    """A site whose lines go into a list, and whose time passes when it waits."""

    def make(told: list[str], aws: Emulator | None = None) -> Site:
        passed = [0.0]

        def pause(seconds: float) -> None:
            passed[0] += seconds
            if aws is not None:
                aws.advance(seconds)

        return Site(config, tmp_path / "data", INSTALLATION, told.append, module, pause, lambda: passed[0])

    return make
