"""What others hold to be safe: checkov's rules over renders of the chart. Long, because the first run installs checkov (40 s, 290 MB)."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.matrix import EXAMPLES, FACTORS, combined
from tests.chart.rendering import render
from tools import checkov

RUN_S = 300
OURS = r".*\.lamplighter-"
ACCEPTED: dict[str, tuple[str, str]] = {
    "CKV_K8S_11": (
        OURS,
        "No CPU limits: a throttled gateway stutters in every stream; requests keep the shares fair, memory is limited",
    ),
    "CKV_K8S_15": (OURS, "IfNotPresent with a fixed tag or digest: a registry that is away must not keep a pod from starting"),
    "CKV_K8S_43": (
        OURS,
        "Digests are the person's to set (image.digest): a chart in a repository cannot know those of images built from it",
    ),
    "CKV_K8S_35": (
        OURS + "(gateway|single|test)$",
        "The program takes its first admin key, and a client its key, by the environment only",
    ),
    "CKV_K8S_40": (OURS + "(postgresql|redis)$", "999 is the user of these official images, and owns their files"),
    "CKV_K8S_8": (OURS + "test$", "It asks once and ends; there is nothing to restart"),
    "CKV_K8S_9": (OURS + "test$", "Nobody sends it any requests: it is a client itself"),
}
"""Findings that stay: where, and why."""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_checkov_finds_nothing_that_is_not_accepted(tmp_path: Path) -> None:
    """A hole that is known to everybody would be open in every cluster."""
    try:
        program = checkov.install()
    except checkov.CheckovMissing as why:
        pytest.skip(str(why))
    full = combined(
        EXAMPLES["production"],
        EXAMPLES["gpu-vllm"],
        FACTORS["cluster"]["full"],
        {
            "page": {"mode": "nginx"},
            "redis": {"mode": "embedded"},
            "postgresql": {"mode": "embedded"},
            "federation": {"enabled": False},
        },
    )
    for name, values in {"default": {}, "full": full, "production": EXAMPLES["production"]}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all([dict(one) for one in render(values)]), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BC_", "CKV_", "PRISMA_"))}
    done = subprocess.run(
        [
            program,
            "--directory",
            tmp_path,
            "--framework",
            "kubernetes",
            "--quiet",
            "--compact",
            "--skip-download",
            "--output",
            "json",
        ],
        cwd=tmp_path,
        env=kept | {"PATH": f"{program.parent}{os.pathsep}{kept.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    report = json.loads(done.stdout)
    failed = {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}
    assert report["summary"]["passed"] > 1000
    assert {(rule, where) for rule, where in failed if rule not in ACCEPTED or not re.match(ACCEPTED[rule][0], where)} == set()
    assert set(ACCEPTED) == {rule for rule, _ in failed}, "accepted, and found no more"


def test_each_acceptance_has_a_reason() -> None:
    """A rule switched off without a word hides a hole from whoever reads the chart later."""
    assert [rule for rule, (_, why) in ACCEPTED.items() if len(why.split()) < 5] == []
