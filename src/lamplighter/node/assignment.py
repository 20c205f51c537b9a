"""What the keeper wants of a node: read, and refused when this agent does not understand all of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamplighter.node.basics import BODY_LIMIT, VERSION

NEBULA_FILES = ("config.yml", "ca.crt", "node.crt")


@dataclass(frozen=True)
class Engine:
    """What to run: the assignment's `engine`."""

    image: str
    port: int
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    key: str = field(default="", repr=False)
    weights: str = "/models"
    health: str = "/health"
    prepare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """A cluster of its own, in which others will run the engine: the assignment's `cluster`. `files`: texts by path; `script`: bash, may be run again."""

    script: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Assignment:
    """What the keeper wants of this node."""

    replica: str
    model: str
    overlay: str
    nebula: Mapping[str, str]
    agent_token: str = field(repr=False)
    engine: Engine | None
    cluster: Cluster | None = None
    hub_token_secret: str | None = None
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], instance: str) -> Assignment:
        """Raises ValueError for one that is not for `instance`, or that this agent does not understand."""
        try:
            if raw["version"] != VERSION or raw["instance"] != instance:
                raise ValueError(f"it is of version {raw['version']!r} for {raw['instance']!r}")
            engine, cluster = None, None
            if given := raw.get("cluster"):
                cluster = Cluster(given["script"], given["files"])
                "".join((cluster.script, *cluster.files, *cluster.files.values()))  # all are texts
            else:
                engine = engine_of(raw["engine"])
            if len(raw["agent_token"]) < 16:
                raise ValueError("its token is of no use")
            limits = {name: float(raw[name]) for name in ("lease", "boot_deadline", "drain") if name in raw}
            overlay = str(ipaddress.IPv4Address(raw["overlay"]))
            nebula = nebula_files(raw["nebula"])
            token, secret = str(raw["agent_token"]), raw.get("hub_token_secret")
            return cls(str(raw["replica"]), str(raw["model"]), overlay, nebula, token, engine, cluster, secret, limits)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(repr(error)) from error


def engine_of(given: Mapping[str, Any]) -> Engine:
    """Raises ValueError, KeyError, TypeError or AttributeError for one that cannot be run."""
    known = {name: given[name] for name in Engine.__dataclass_fields__ if name in given}
    engine = Engine(**known | {name: tuple(map(str, given.get(name, ()))) for name in ("arguments", "prepare")})
    if not 0 < engine.port < 65536 or not str(engine.image).strip() or engine.image.startswith("-"):
        raise ValueError("its port or image is impossible")
    if "\n" in "".join(f"{name}{value}" for name, value in engine.environment.items()) + engine.key:
        raise ValueError("its environment or key is of no use")
    return engine


def nebula_files(files: object) -> dict[str, str]:
    """Files of Nebula that came from outside. Raises ValueError."""
    if not isinstance(files, dict) or not files or not set(files) <= set(NEBULA_FILES):
        raise ValueError(f"files of Nebula are {NEBULA_FILES}")
    if not all(isinstance(text, str) and 0 < len(text) < BODY_LIMIT for text in files.values()):
        raise ValueError("a file of Nebula is a text")
    return files
