"""Makes what the Helm chart says about its values from values.yaml and its comments: values.schema.json and the table in README.md. Also
copies dashboards and rules of deploy/monitoring into the chart, which can only read its own files. With `--check` it only says what is not
up to date.

A comment above a value is its description; a line `@schema {...}` in it adds JSON Schema. The schema of models, pools and the rest of
lamplighter.yaml is the configuration's own, so that `helm install` refuses what the program would.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tools.chart_definitions import DEFINITIONS, Schema

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm" / "lamplighter"
MONITORING = ROOT / "deploy" / "monitoring"
CONFIGURATION = ROOT / "docs" / "reference" / "lamplighter.schema.json"
BEGIN, END = "<!-- values: made by tools/chart_docs.py -->", "<!-- end of what is made -->"
_MARK = "@schema "
_DECIDED = {"server", "models", "pools", "redis"}
"""Sections of lamplighter.yaml that have values of their own."""
_DECIDED_STORE = {"url", "listen_url"}


@dataclass(slots=True)
class Value:
    """One value: where it is, what it is by default, what is said about it."""

    path: str
    default: Any
    description: str
    schema: Schema
    children: "list[Value]" = field(default_factory=list)


def values(text: str) -> list[Value]:
    """The tree of values. Raises ValueError for one without description, or whose shape nothing tells."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("values.yaml is no mapping")  # noqa: TRY004 - as for every other mistake in it
    return list(_values(root, text.splitlines(), ""))


def _values(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Value]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        description, schema = _said(lines, key.start_mark.line)
        default = yaml.safe_load(yaml.serialize(value))
        if isinstance(value, yaml.MappingNode) and value.value and not schema:
            yield Value(path, default, description, schema, list(_values(value, lines, f"{path}.")))
            continue
        if not description:
            raise ValueError(f"{path} has no description")
        yield Value(path, default, description, _shape(path, default, schema))


def _said(lines: list[str], line: int) -> tuple[str, Schema]:
    """The comment that ends above `line`: its sentences and its schema."""
    words: list[str] = []
    schema: Schema = {}
    at = line - 1
    while at >= 0 and lines[at].strip().startswith("#"):
        text = lines[at].strip().removeprefix("#").strip()
        if text.startswith(_MARK):
            schema = yaml.safe_load(text.removeprefix(_MARK))
        else:
            words.insert(0, text)
        at -= 1
    return " ".join(words), schema


def _shape(path: str, default: Any, schema: Schema) -> Schema:
    """The JSON Schema of a value without children. Raises ValueError when its default does not tell and nothing else does."""
    if "$ref" in schema or "enum" in schema or "type" in schema:
        return dict(schema)
    match default:
        case bool():
            kind = "boolean"
        case int():
            kind = "integer"
        case str():
            kind = "string"
        case list() if "items" in schema:
            kind = "array"
        case _:
            raise ValueError(f"{path}: say its shape with {_MARK}")
    return {"type": kind, **schema}


def schema(tree: list[Value], configuration: Mapping[str, Any]) -> Schema:
    """values.schema.json. Draft 7: the newest that every Helm 3 understands."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart lamplighter",
        "description": "Made by tools/chart_docs.py from values.yaml; do not edit.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "global": {"type": "object", "description": "Values that Helm gives to every chart; not used."},
            **_properties(tree),
        },
        "definitions": {**DEFINITIONS, **_configuration(configuration)},
    }


def _properties(tree: list[Value]) -> Schema:
    found: Schema = {}
    for one in tree:
        name = one.path.rpartition(".")[2]
        if one.children:
            found[name] = {"type": "object", "additionalProperties": False, "properties": _properties(one.children)}
            if one.description:
                found[name]["description"] = one.description
        elif "$ref" in one.schema:  # in draft 7 nothing counts beside a reference
            found[name] = {"description": one.description, "allOf": [one.schema]}
        else:
            found[name] = {"description": one.description, **one.schema}
    return found


def _configuration(configuration: Mapping[str, Any]) -> Schema:
    """Lamplighter's own settings: models, pools, and the sections that no value of the chart decides."""
    text = json.dumps(configuration).replace("#/$defs/", "#/definitions/lamplighter")
    tree = json.loads(text)
    own = {f"lamplighter{name}": _lean(one) for name, one in tree["$defs"].items()}
    store = own["lamplighterStoreConfig"]
    store["properties"] = {name: one for name, one in store["properties"].items() if name not in _DECIDED_STORE}
    sections = {name: _lean(one) for name, one in tree["properties"].items() if name not in _DECIDED}
    fields = ("models", "pools")
    for name in fields:
        tree["properties"][name] = {**tree["properties"][name], "additionalProperties": False}
    for pattern, union in tree["properties"]["pools"]["patternProperties"].items():
        tree["properties"]["pools"]["patternProperties"][pattern] = _by_kind(union)
    found = {name: _lean(tree["properties"][name]) for name in fields}
    return {
        **own,
        **found,
        "config": {
            "type": "object",
            "additionalProperties": False,
            "properties": sections,
            "examples": [{"keeper": {"interval": "7s"}}],
        },
    }


def _by_kind(union: Mapping[str, Any]) -> Schema:
    """A union of which one field tells the alternative, so that a mistake is one sentence and not one for each alternative."""
    field, kinds = union["discriminator"]["propertyName"], union["discriminator"]["mapping"]
    return {
        "type": "object",
        "required": [field],
        "properties": {field: {"enum": list(kinds)}},
        "allOf": [
            {"if": {"required": [field], "properties": {field: {"const": kind}}}, "then": {"$ref": reference}}
            for kind, reference in kinds.items()
        ],
    }


def _lean(tree: Any) -> Any:
    """A schema without what only readers of the reference need, and without OpenAPI's `discriminator`, which JSON Schema does not know."""
    if isinstance(tree, list):
        return [_lean(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: {name: _lean(one) for name, one in value.items()} if key in ("properties", "patternProperties") else _lean(value)
        for key, value in tree.items()
        if key not in ("discriminator", "title", "default")
    }


def table(tree: list[Value]) -> str:
    """The generated part of README.md."""
    lines = []
    loose = [one for one in tree if not one.children]
    lines += ["| value | default | what it is |", "|---|---|---|"]
    lines += [_row(one) for one in loose]
    for one in tree:
        if one.children:
            lines += ["", f"### `{one.path}`", "", one.description, "", "| value | default | what it is |", "|---|---|---|"]
            lines += [_row(leaf) for leaf in _leaves(one)]
    return "\n".join(line for line in lines)


def _leaves(value: Value) -> Iterator[Value]:
    for one in value.children:
        if one.children:
            yield from _leaves(one)
        else:
            yield one


def leaves(tree: list[Value]) -> list[Value]:
    """Every value that has none below it."""
    return [leaf for one in tree for leaf in (_leaves(one) if one.children else [one])]


def _row(value: Value) -> str:
    default = json.dumps(value.default, ensure_ascii=False).replace("|", "\\|")
    choices = value.schema.get("enum")
    said = value.description.replace("|", "\\|")
    if choices and not all(f"`{one}`" in said for one in choices):
        said += f" One of {', '.join(f'`{one}`' for one in choices)}."
    return f"| `{value.path}` | `{default}` | {said} |"


def made(chart: Path = CHART, monitoring: Path = MONITORING) -> dict[Path, str]:
    """Every file that is made, as it should be. Raises ValueError."""
    tree = values((chart / "values.yaml").read_text(encoding="utf-8"))
    configuration = json.loads(CONFIGURATION.read_text(encoding="utf-8"))
    readme = (chart / "README.md").read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no lines {BEGIN!r} and {END!r}")
    found = {
        chart / "values.schema.json": json.dumps(schema(tree, configuration), indent=1, ensure_ascii=False) + "\n",
        chart / "README.md": f"{before}{BEGIN}\n\n{table(tree)}\n\n{END}{after}",
    }
    for folder, pattern in (("dashboards", "*.json"), ("rules", "*.yaml")):
        for path in sorted((monitoring / folder).glob(pattern)):
            found[chart / "files" / folder / path.name] = path.read_text(encoding="utf-8")
    return found


def stale(chart: Path = CHART, monitoring: Path = MONITORING) -> Iterator[Path]:
    """Copies in the chart of what deploy/monitoring has no more."""
    for folder in ("dashboards", "rules"):
        for path in sorted((chart / "files" / folder).glob("*")):
            if not (monitoring / folder / path.name).is_file():
                yield path


def main() -> int:
    """Write what is not up to date; with `--check` only say it and exit 1."""
    wrong = [path for path, text in made().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    old = list(stale())
    if "--check" in sys.argv[1:]:
        for path in [*wrong, *old]:
            print(f"{path.relative_to(ROOT)} is not up to date; run `python -m tools.chart_docs`", file=sys.stderr)
        return 1 if wrong or old else 0
    texts = made()
    for path in wrong:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path], encoding="utf-8")
        print(f"Wrote {path.relative_to(ROOT)}")
    for path in old:
        path.unlink()
        print(f"Removed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
