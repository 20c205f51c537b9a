"""Writes the generated references under `docs/reference/`, or with `--check` says which are not up to date.

Each text is made by a function that lives beside what it describes; this module knows only which file it goes to.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"


def _settings() -> str:
    from lamplighter.config.reference import settings_markdown

    return settings_markdown()


def _schema() -> str:
    from lamplighter.config.reference import json_schema

    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _cli() -> str:
    from lamplighter.cli.reference import cli_markdown

    return cli_markdown()


def _lifecycle() -> str:
    from lamplighter.capacity.lifecycle import lifecycle_markdown

    return lifecycle_markdown()


def _metrics() -> str:
    from lamplighter.observability.metrics import metrics_markdown

    return metrics_markdown()


def _models() -> str:
    from lamplighter.engines.catalogue import catalogue_markdown

    return catalogue_markdown()


def _http_api() -> str:
    from lamplighter.gateway.openapi import openapi_document
    from lamplighter.gateway.openapi.reference import http_api_markdown

    return http_api_markdown(openapi_document())


GENERATED: Mapping[str, Callable[[], str]] = {
    "settings.md": _settings,
    "lamplighter.schema.json": _schema,
    "cli.md": _cli,
    "lifecycle.md": _lifecycle,
    "metrics.md": _metrics,
    "models.md": _models,
    "http-api.md": _http_api,
}


def stale(folder: Path) -> list[str]:
    """The names of the files in `folder` that are missing or differ from what would be written."""
    found = []
    for name, make in GENERATED.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != make():
            found.append(name)
    return found


def write(folder: Path) -> list[str]:
    """Write what is not up to date; the names of those files."""
    changed = stale(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        (folder / name).write_text(GENERATED[name](), encoding="utf-8")
    return changed


def main(arguments: list[str]) -> int:
    """Exit status 1 when `--check` found something stale."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m tools.generate_docs [--check]", file=sys.stderr)
        return 2
    if arguments:
        old = stale(REFERENCE)
        for name in old:
            print(f"docs/reference/{name} is not up to date: run `make docs`", file=sys.stderr)
        return 1 if old else 0
    for name in write(REFERENCE):
        print(f"wrote docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
