"""The values of each part's chart: what we ship, what this cluster and this configuration decide, and what the person adds. Pure but for files.

What the person says wins, key by key; a list takes the place of a list.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lamplighter.operations.cluster.errors import ClusterError
from lamplighter.operations.cluster.parts import NAMES, PARTS, shipped_values


def read(file: Path | None) -> dict[str, dict[str, Any]]:
    """A person's file: parts, and under each the values of its chart. Raises ClusterError."""
    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ClusterError(f"{file} cannot be read: {error.strerror}", next_step="Check --values.") from error
    except yaml.YAMLError as error:
        raise ClusterError(f"{file} is no YAML: {error}", next_step="Correct it.") from error
    if not isinstance(content, dict) or not all(isinstance(one, dict) for one in content.values()):
        raise ClusterError(
            f"{file} must have parts at the top, and under each the values of its chart",
            next_step="Write for example `monitoring: {prometheus: {prometheusSpec: {retention: 60d}}}`.",
        )
    if unknown := sorted(set(map(str, content)) - set(NAMES)):
        raise ClusterError(
            f"{file} has values for {unknown[0]!r}, which is no part", next_step=f"The parts are: {', '.join(NAMES)}."
        )
    return content


def complete(
    person: Mapping[str, Mapping[str, Any]], *, monitors: bool, liqo: Mapping[str, Any] | None, federation: bool
) -> dict[str, dict[str, Any]]:
    """For every part. `monitors`: Prometheus's operator is there. `liqo`: what the federation's settings make of its chart's values."""
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        decided: Mapping[str, Any] = {}
        if part.name == "dcgm-exporter":
            decided = {"serviceMonitor": {"enabled": monitors}}
        elif part.name == "liqo":
            decided = liqo or {}
        elif part.name == "lamplighter":
            decided = _lamplighter(monitors=monitors, federation=federation)
        found[part.name] = merged(merged(shipped_values(part), decided), person.get(part.name, {}))
    return found


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; where they differ, `above`."""
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _lamplighter(*, monitors: bool, federation: bool) -> dict[str, Any]:
    decided: dict[str, Any] = {}
    if monitors:
        decided["metrics"] = {"discovery": "serviceMonitor", "dashboards": {"enabled": True}, "rules": {"kind": "prometheusRule"}}
    if federation:
        decided["federation"] = {"enabled": True}
    return decided
