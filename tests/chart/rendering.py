"""The chart as documents: rendered by Helm itself, parsed, and remembered, because many tests look at the same render.

`render` has a fixed set of capabilities and no cluster: `lookup` finds nothing, and passwords are new each time.
"""

import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "lamplighter"
RELEASE = "lamplighter"
NAMESPACE = "llm"

Document = Mapping[str, Any]


@functools.cache
def chart() -> helm_python.Chart:
    """The chart, loaded once."""
    return helm_python.Chart.load(CHART)


@functools.cache
def _unchecked() -> helm_python.Chart:
    """The same without its schema, which takes ten times as long as the render; test_values.py holds every scenario against it once."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / CHART.name
        shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("values.schema.json", "examples"))
        return helm_python.Chart.load(copy)


def files(values: Mapping[str, Any], *, name: str = RELEASE, namespace: str = NAMESPACE) -> Mapping[str, str]:
    """What each template became. Raises HelmRenderError when a template refuses the values."""
    return _files(json.dumps(values, sort_keys=True), name, namespace)


@functools.lru_cache(maxsize=1024)
def _files(values: str, name: str, namespace: str) -> Mapping[str, str]:
    rendered: dict[str, str] = _unchecked().render(json.loads(values), name=name, namespace=namespace, is_install=True)
    return rendered


def render(values: Mapping[str, Any], *, name: str = RELEASE, namespace: str = NAMESPACE) -> list[Document]:
    """Every object of a render, hooks and tests included, in the order of the files. Raises HelmError."""
    found: list[Document] = []
    for path, text in sorted(files(values, name=name, namespace=namespace).items()):
        if not path.endswith("NOTES.txt"):
            found += [one for one in yaml.load_all(text, Loader=_Strict) if one]
    return found


def notes(values: Mapping[str, Any]) -> str:
    """What a person reads after the installation."""
    return next(text for path, text in files(values).items() if path.endswith("NOTES.txt"))


def of(documents: list[Document], kind: str, name: str | None = None) -> list[Document]:
    """The documents of one kind."""
    return [one for one in documents if one["kind"] == kind and (name is None or one["metadata"]["name"] == name)]


def one(documents: list[Document], kind: str, name: str) -> Any:
    """The one document of this kind and name."""
    (found,) = of(documents, kind, name)
    return found


class _Strict(yaml.CSafeLoader):
    """Refuses a key that is there twice, of which YAML keeps the last in silence and Kubernetes refuses the whole."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(map(str, twice))}", node.start_mark)
        return super().construct_mapping(node, deep)
