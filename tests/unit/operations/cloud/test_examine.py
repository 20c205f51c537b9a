"""What the doctor says of cloud pools before anything was built, and of a stack that does not fit the file any more."""

from pathlib import Path

import pytest

from lamplighter.config import Config, parse
from lamplighter.core.findings import Verdict
from lamplighter.operations.cloud import examine
from lamplighter.testing.aws import Emulator

FILE = """
models: {m: {engine: vllm, pool: spot, source: "hf:a/b"}}
pools: {spot: {kind: aws, region: eu-central-1, lease: 2m}}
mesh: {passphrase: env:MESH_PASSPHRASE, lighthouses: [{name: lh, overlay: 10.77.0.1, addresses: ["home.example.org:4242"]}]}
"""


def found(config: Config, data: Path) -> dict[str, tuple[Verdict, str]]:
    return {one.name: (one.verdict, one.message) for one in examine.examine(config, data)}


def test_nothing_is_said_where_no_pool_is_in_aws(tmp_path: Path) -> None:
    """A laptop's owner would be told to make an AWS account."""
    assert found(parse("pools: {f: {kind: fake}}"), tmp_path) == {}


def test_each_missing_part_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wake would fail at one part after the other."""
    monkeypatch.setenv("MESH_PASSPHRASE", "a passphrase of some length")
    with Emulator() as aws:
        for name, value in aws.environment().items():
            monkeypatch.setenv(name, value)
        config = parse(FILE)
        before = found(config, tmp_path)
        assert before["mesh authority"][0] is Verdict.FAIL
        assert before["AWS eu-central-1"] == (Verdict.OK, "account 123456789012, EMULATED: this is not AWS")
        assert before["stack lamplighter"] == (Verdict.FAIL, "there is none in eu-central-1")
        assert all(one.next_step for one in examine.examine(config, tmp_path) if one.verdict is not Verdict.OK)
        aws.seed_stack("lamplighter", "ins_x")
        after = found(config, tmp_path)
        assert after["stack lamplighter"][0] is Verdict.WARN
        assert "pools.spot.lease is 120 s" in after["stack lamplighter"][1]
