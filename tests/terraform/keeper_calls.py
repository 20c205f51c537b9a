"""Which calls of AWS the keeper makes, read from its source, as IAM names them. What a person's `lamplighter cloud` calls besides is left out."""

import ast
from pathlib import Path

from botocore import xform_name
from botocore.session import get_session

from tests.terraform.toolchain import ROOT

PROVIDER = ROOT / "src" / "lamplighter" / "providers" / "aws"
A_PERSONS = frozenset({"account.py", "baking.py", "inventory.py", "client.py"})
"""Modules of `lamplighter cloud`, which runs with a person's own rights; and the client, which calls what it is told."""
_PREFIX = {"service-quotas": "servicequotas"}


def keeper_calls(folder: Path = PROVIDER) -> set[str]:
    """Actions such as `sqs:ReceiveMessage`."""
    found = {"sqs:ReceiveMessage"}  # the client's own long poll
    for path in sorted(folder.glob("*.py")):
        if path.name in A_PERSONS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("call", "pages"):
                words = [one.value for one in node.args[:2] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                if len(words) == 2:
                    found.add(_action(*words))
    return found


def _action(service: str, operation: str) -> str:
    names = get_session().get_service_model(service).operation_names
    return f"{_PREFIX.get(service, service)}:{next(name for name in names if xform_name(name) == operation)}"
