"""The OpenAPI document against a running `lamplighter up`: what fits the document, and much that does not, is answered as it says."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from lamplighter.gateway.openapi import openapi_document
from tests.journeys.harness import ADMIN_KEY, PATIENCE, Server, running

EXAMPLES = 5
"""Requests for each route, once of those that fit its description and once of those that do not."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
TAGS = ("OpenAI", "Anthropic", "Ollama", "Other", "Operations", "Control")
KEYLESS = {("get", "/health"), ("get", "/ready"), ("get", "/metrics"), ("post", "/api/session"), ("delete", "/api/session")}
"""Open to all; `/metrics` on the machine itself."""
CONFIG = """
models:
  fake: {{engine: openai, pool: there}}
  small: {{engine: llamacpp, pool: here, source: bundled}}
pools:
  here: {{kind: process}}
  there: {{kind: static, url: "{url}"}}
"""


@pytest.fixture(scope="module")
def lamplighter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a pretended engine that has every route, beside a model that stays asleep."""
    engine = subprocess.Popen(
        [sys.executable, "-m", "lamplighter.testing.engine", "--tokens-per-second", "0", "--tokens", "3"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert engine.stdout is not None
        data = tmp_path_factory.mktemp("openapi") / "data"
        data.mkdir(mode=0o700)
        with running(Server(data, CONFIG.format(url=engine.stdout.readline().strip()))) as server:
            server.until("awake", "fake")
            yield server
    finally:
        engine.kill()
        engine.wait(10)


@pytest.fixture(scope="module")
def served(lamplighter: Server) -> dict[str, Any]:
    """The document as the server gives it."""
    with lamplighter.http() as client:
        return dict(client.get("/openapi.json").raise_for_status().json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


@pytest.mark.parametrize("tag", TAGS)
def test_answers_are_as_described(lamplighter: Server, served: dict[str, Any], tag: str) -> None:
    """A program made from the document would break on an answer that is not in it; a defect would show as a 500."""
    document = copy.deepcopy(served)
    # Nearly every invented name is no model's: ask the one that answers.
    document["components"]["schemas"]["ModelName"] = {"type": "string", "enum": ["fake"]}
    document["paths"] = {
        path: chosen
        for path, methods in document["paths"].items()
        if (chosen := {method: operation for method, operation in methods.items() if tag in operation["tags"]})
    }
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    schema = schemathesis.openapi.from_dict(document)
    asked = 0
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr] # Err.ok() raises: a document that cannot be read
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            described = document["paths"][operation.path][operation.method]
            if mode is GenerationMode.NEGATIVE and not {"parameters", "requestBody"} & described.keys():
                continue  # nothing in it could be wrong

            @settings(
                max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                nonlocal asked
                asked += 1
                case.call_and_validate(base_url=lamplighter.url, headers=headers, checks=CHECKS, timeout=PATIENCE)

            ask()
    assert asked


def test_what_is_served_is_what_is_documented(served: dict[str, Any]) -> None:
    """The reference in the docs is made from the code and would describe another server."""
    assert served == openapi_document()
    names = [operation["operationId"] for _, _, operation in operations(served)]
    assert len(names) == len(set(names))
    for _, path, operation in operations(served):
        assert any(status < "400" for status in operation["responses"]) or operation["summary"] == "Refused", path
        assert "401" in operation["responses"] or path in {"/health", "/ready"}, path


def test_every_reference_leads_somewhere(served: dict[str, Any]) -> None:
    """Generators of clients refuse the whole document for one name that is missing."""
    schemas = served["components"]["schemas"]

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(name := value.get("$ref"), str):
                assert name.rpartition("/")[2] in schemas, name
            for item in value.values():
                look(item)
        elif isinstance(value, list):
            for item in value:
                look(item)

    look(served)


def test_nothing_answers_without_a_key_but_what_says_so(lamplighter: Server, served: dict[str, Any]) -> None:
    """Anybody on the network could use the models, or read who uses them."""
    with httpx.Client(base_url=lamplighter.url, timeout=PATIENCE) as client:
        for method, path, operation in operations(served):
            if (method, path) in KEYLESS:
                continue
            body: dict[str, Any] = {"json": {}} if "requestBody" in operation else {}
            headers = {"x-lamplighter": "1"}
            answer = client.request(method, path.replace("{", "").replace("}", ""), headers=headers, **body)
            assert answer.status_code == 401, (method, path, answer.text)


def test_another_method_is_named(lamplighter: Server, served: dict[str, Any]) -> None:
    """A person who took the wrong one would look for the mistake elsewhere."""
    with lamplighter.http() as client:
        for path, methods in served["paths"].items():
            if "{" in path or "get" in methods:
                continue
            answer = client.get(path)
            assert answer.status_code == 405, (path, answer.status_code)
