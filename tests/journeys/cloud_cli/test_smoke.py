"""`lamplighter cloud smoke` as a person types it, with the real program around it: it starts a Lamplighter, wakes a node, and leaves nothing.

Emulated: AWS, and the node's machine. Real: Lamplighter, its keeper and gateway, the provider, the online authority.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from lamplighter.config import MeshConfig, parse
from lamplighter.mesh.administration import make_authority
from lamplighter.mesh.storage import MeshFolder
from lamplighter.operations.cloud import beliefs
from lamplighter.operations.datafolder import DataFolder
from lamplighter.testing.aws import Emulator, NodeFactory, PoolSeed
from tests.journeys.harness import PROGRAM

CONFIG = """
models:
  llama: {{engine: vllm, pool: spot, source: hf:some/model}}
pools:
  spot: {{kind: aws, region: eu-central-1, boot_deadline: 5m, instance_types: [g4dn.xlarge]}}
mesh: {{network: 127.77.0.0/16, nodes: 127.77.128.0/17, home: 127.77.0.10, passphrase: "file:{passphrase}",
  lighthouses: [{{name: light, overlay: 127.77.0.1, addresses: ["127.0.0.1:4242"]}}]}}
"""


@pytest.mark.timeout(180)
def test_a_smoke_run_by_hand(tmp_path: Path) -> None:
    """It is the one command with which anybody can prove the product on their own account; it must work at the first try."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase of the test")
    config = tmp_path / "lamplighter.yaml"
    config.write_text(CONFIG.format(passphrase=passphrase))
    mesh = MeshConfig.model_validate({"network": "127.77.0.0/16", "nodes": "127.77.128.0/17", "home": "127.77.0.10"})
    make_authority(MeshFolder(tmp_path / "data" / "mesh"), mesh, "online", passphrase.read_text(), time.time())
    with Emulator() as aws:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LAMPLIGHTER_"))}
        environment = {**kept, **aws.environment(), "LAMPLIGHTER_DATA": str(tmp_path / "data"), "NO_COLOR": "1"}

        def typed(*words: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [PROGRAM, "cloud", *words], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=150, check=False,
            )  # fmt: skip

        assert "is not built" in typed("bake", "--yes").stderr  # and the data folder has an installation now

        known = beliefs.read(parse(config.read_text()).store, DataFolder(tmp_path / "data"))
        assert known.installation is not None
        manifest = aws.seed_stack(installation=known.installation, pools={"spot": PoolSeed(boot_deadline=300)})
        with NodeFactory(aws, manifest) as nodes:
            done = typed("smoke", "--yes", "--at-most", "1 USD", "--json")
            assert done.returncode == 0, done.stderr + (tmp_path / "data" / "run" / "smoke.log").read_text()[-3000:]
            assert not nodes.errors
        answer = json.loads(done.stdout)
        assert (answer["ok"], answer["gone"], answer["emulated"]) == (True, True, True)
        assert aws.instances(live=True) == []
        text = Path(tmp_path / answer["transcript"]).read_text()
        assert "EMULATED" in text
        assert "AWS shows no machine of the pool any more." in text
        print(text)
