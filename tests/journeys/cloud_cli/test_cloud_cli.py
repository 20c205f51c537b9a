"""One person, one file, one emulated account: plan, apply, look, bake, destroy, as they would type it, with the real Terraform.

Emulated: AWS. Real: the program, Terraform and its AWS provider, the module, every file in between.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lamplighter.testing.aws import Emulator
from tests.journeys.harness import PROGRAM
from tests.terraform.toolchain import missing, write_config

LIMIT = 200.0
CONFIG = """
models:
  llama: {engine: vllm, pool: spot, source: hf:meta-llama/Llama-3.2-3B-Instruct}
pools:
  spot: {kind: aws, region: eu-central-1, image: baked}
cloud: {alerts: [a@example.com], dead_man_every: 30m}
"""

pytestmark = [pytest.mark.skipif(missing() is not None, reason=missing() or ""), pytest.mark.timeout(600)]


class Person:
    """Somebody at a terminal. `typed` runs one command to its end; `begun` begins one."""

    def __init__(self, folder: Path, aws: Emulator) -> None:
        (folder / "lamplighter.yaml").write_text(CONFIG)
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_", "LAMPLIGHTER_"))}
        self.environment = {
            **kept, **aws.environment(), "TF_CLI_CONFIG_FILE": str(write_config(folder)), "LAMPLIGHTER_DATA": str(folder / "data"),
            "NO_COLOR": "1",
        }  # fmt: skip

    def begun(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [PROGRAM, "cloud", *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def typed(self, *words: str, status: int = 0) -> tuple[str, str]:
        process = self.begun(*words)
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # Terraform must not outlive the test
            out, err = process.communicate(timeout=60)
            raise AssertionError(f"cloud {' '.join(words)} took more than {LIMIT:g} s:\n{err[-3000:]}") from None
        assert process.returncode == status, (
            f"cloud {' '.join(words)} ended with {process.returncode}:\n{out[-2000:]}\n{err[-4000:]}"
        )
        return out, err

    def json(self, *words: str) -> Any:
        return json.loads(self.typed(*words, "--json")[0])


@contextmanager
def baker(aws: Emulator, manifest: dict[str, Any]) -> Iterator[None]:
    """What the machine does while an image is baked: it brings the image, says how long that took, and stops."""
    over = threading.Event()
    ec2, storage = aws.client("ec2"), aws.client("s3")

    def work() -> None:
        while not over.wait(0.2):
            for reservation in ec2.describe_instances(
                Filters=[
                    {"Name": "tag:lamplighter:purpose", "Values": ["bake"]},
                    {"Name": "instance-state-name", "Values": ["running"]},
                ]
            )["Reservations"]:
                machine = reservation["Instances"][0]["InstanceId"]
                key = f"nodes/{manifest['node_role_id']}:{machine}/logs/baked.json"
                storage.put_object(Bucket=manifest["bucket"], Key=key, Body=json.dumps({"steps": {"images": 280.4}}))
                ec2.stop_instances(InstanceIds=[machine])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_from_nothing_to_nothing(tmp_path: Path) -> None:
    """If this fails, somebody is left with a half-built account, or with one that bills after they took it down."""
    with Emulator() as aws:
        person = Person(tmp_path, aws)
        began = time.monotonic()

        planned = person.json("plan")["stacks"][0]
        assert planned["emulated"]
        assert {change["verb"] for change in planned["changes"]} == {"make"}
        assert float(planned["standing"]["monthly"]) > 9
        assert any("nothing was baked yet" in note for note in planned["notes"])

        _, said = person.typed("apply", "--yes")
        assert "its manifest can be read" in said
        assert person.json("plan")["stacks"][0]["changes"] == []

        manifest = json.loads(aws.client("ssm").get_parameter(Name="/lamplighter/manifest")["Parameter"]["Value"])
        status = person.json("status")
        assert status["ok"]
        assert {group["desired"] for group in status["groups"]} == {0}
        assert {"volume", "bucket", "secret"} <= {item["kind"] for item in status["items"]}

        with baker(aws, manifest):
            baked = person.json("bake", "--yes")
        assert baked["steps"]["on it: images"] == 280.4
        assert list(aws.instances(live=True)) == []
        changes = person.json("apply", "--yes")["stacks"][0]["changes"]
        assert {(change["verb"], change["type"]) for change in changes} >= {("change", "aws_launch_template")}
        templates = aws.client("ec2").describe_launch_template_versions(
            LaunchTemplateName="lamplighter-spot-spot", Versions=["$Latest"]
        )
        assert templates["LaunchTemplateVersions"][0]["LaunchTemplateData"]["ImageId"] == baked["image"]

        aws.client("autoscaling").set_desired_capacity(AutoScalingGroupName="lamplighter-spot-spot", DesiredCapacity=1)
        while not aws.instances(live=True):
            time.sleep(0.1)
        assert "NOBODY'S" in person.typed("status", status=1)[1]

        _, said = person.typed("destroy", "--yes")
        assert "No machine of this stack runs" in said
        assert "Nothing in eu-central-1 carries the tags of this stack any more" in said
        tagged = aws.client("resourcegroupstaggingapi").get_resources(
            TagFilters=[{"Key": "lamplighter:installation", "Values": [manifest["installation"]]}]
        )["ResourceTagMappingList"]
        assert aws.instances(live=True) == []
        # AWS goes on naming ended machines for an hour; nothing else may be left.
        assert [one["ResourceARN"] for one in tagged if ":instance/" not in one["ResourceARN"]] == []
        assert aws.client("ec2").describe_images(Owners=["self"])["Images"] == []
        print(f"from nothing to nothing: {time.monotonic() - began:.0f} s")
