"""What others hold to be safe: checkov's rules over the module. Long, because the first run installs checkov (40 s, 290 MB)."""

import json
import re

import pytest

from tests.terraform.toolchain import MODULE
from tools import checkov

SKIP = re.compile(r"#checkov:skip=(CKV2?_AWS_\d+):(.*)")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_checkov_finds_nothing() -> None:
    """A hole that is known to everybody would be open in every stack."""
    try:
        done = checkov.run("--output", "json")
    except checkov.CheckovMissing as why:
        pytest.skip(str(why))
    told = json.loads(done.stdout)
    for report in told if isinstance(told, list) else [told]:
        failed = {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}
        assert failed == set()
        assert report["summary"]["passed"] > 100


def test_each_skip_has_a_reason() -> None:
    """A rule switched off without a word hides a hole from whoever reads the module later."""
    found = [match for path in MODULE.glob("*.tf") for match in SKIP.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 5
    assert [rule for rule, why in found if len(why.split()) < 5] == []
