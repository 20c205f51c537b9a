"""The lighthouse's machine: built only with a certificate, told only by secrets, forgotten by a destroy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamplighter.cli.main import run
from lamplighter.config import Config, parse
from lamplighter.core.errors import LamplighterError
from lamplighter.operations.cloud import lighthouse
from lamplighter.operations.cloud.stacks import stacks
from lamplighter.testing.aws import Emulator
from tests.unit.operations.cloud.conftest import INSTALLATION

REGION = "eu-central-1"
YAML = """
models: {}
pools: {spot: {kind: aws, region: eu-central-1}}
mesh: {lighthouses: [{name: light, overlay: 10.77.0.1}], passphrase: "file:PASS", offline_passphrase: "cat PASS"}
cloud: {lighthouse: {name: light}}
"""
MANIFEST = {"lighthouse": {"name": "light", "address": "192.0.2.7:4242", "instance_id": "i-1"}}


@pytest.fixture
def meshed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """A data folder with both authorities; signs what is named."""
    secret = tmp_path / "secret"
    secret.write_text("a passphrase long enough")
    text = YAML.replace("PASS", str(secret))
    (tmp_path / "lamplighter.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAMPLIGHTER_DATA", str(tmp_path / "data"))
    assert run(["mesh", "init"]) == 0

    def sign(*names: str) -> Config:
        for name in names:
            assert run(["mesh", "sign", name, "--kind", "lighthouse"]) == 0
        return parse(text)

    return sign


def test_without_a_certificate_no_machine_is_made(meshed: Callable[..., Config], tmp_path: Path) -> None:
    """It would cost 8 USD a month and introduce nobody."""
    config = meshed()
    with pytest.raises(LamplighterError, match="certificate") as refused:
        lighthouse.script(config, stacks(config)[0], tmp_path / "data")
    assert "mesh sign" in refused.value.next_step


def test_it_is_told_by_secrets_and_its_user_data_holds_none(
    meshed: Callable[..., Config], aws: Emulator, built: dict[str, Any], tmp_path: Path
) -> None:
    """User data can be read by whoever may describe the machine; its key must not stand there."""
    config = meshed("light")
    (stack,) = stacks(config)
    script = lighthouse.script(config, stack, tmp_path / "data")
    assert script is not None
    assert "PRIVATE KEY" not in script
    assert "arm64" in script  # the default type is a t4g
    assert lighthouse.hand_over(config, stack, tmp_path / "data", MANIFEST, {"lamplighter:installation": INSTALLATION})
    systems = aws.client("ssm")
    found = {
        name: systems.get_parameter(Name=f"/lamplighter/lighthouse/{name}", WithDecryption=True)["Parameter"]
        for name in lighthouse.FILES
    }
    assert {one["Type"] for one in found.values()} == {"SecureString"}
    assert "PRIVATE KEY" in found["node.key"]["Value"]
    assert "am_lighthouse: true" in found["config.yml"]["Value"]
    assert lighthouse.hand_over(config, stack, tmp_path / "data", MANIFEST, {"lamplighter:installation": INSTALLATION})  # again
    lighthouse.forget(stack)
    lighthouse.forget(stack)
    left = systems.describe_parameters()["Parameters"]
    assert [one["Name"] for one in left if "lighthouse" in one["Name"]] == []
    assert json.loads(systems.get_parameter(Name="/lamplighter/manifest")["Parameter"]["Value"])["stack"] == "lamplighter"
