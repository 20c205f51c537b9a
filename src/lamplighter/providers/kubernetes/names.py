"""Names, labels and annotations of everything that the keeper makes in a cluster. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
INSTALLATION = "lamplighter.dev/installation"
POOL = "lamplighter.dev/pool"
MODEL = "lamplighter.dev/model"
ROLE = "lamplighter.dev/role"
"""`engine`: the pod that answers; `member`: another machine of the same replica."""
MODEL_NAME = "lamplighter.dev/model-name"
SPEC_HASH = "lamplighter.dev/spec-hash"
SETTINGS_HASH = "lamplighter.dev/settings-hash"
"""Of what a person configured; the spec's hash also changes with a version of Lamplighter."""
DOOMED = "lamplighter.dev/doomed"
RENEWED = "lamplighter.dev/renewed-at"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"

OURS = "lamplighter"
APP = "lamplighter-model"
ENGINE = "engine"
MEMBER = "member"
ENGINE_KEY = "key"
"""Key of the Secret with the engines' bearer key."""

_POOL_MOST = 15
_SLUG_MOST = 24
_HASH = 6


def slug(text: str, most: int = _SLUG_MOST) -> str:
    """`text` as an RFC 1123 label that a person recognises, of at most `most` characters; other texts give other slugs."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH]
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[: most - _HASH - 1].strip("-")
    return f"{readable}-{digest}" if readable else f"m-{digest}"


def workload_name(pool: str, model: str) -> str:
    """Of a model's workload and Service: at most 52 characters, since a StatefulSet's pods carry it and a hash in a label of 63."""
    return f"{OURS}-{_pool(pool)}-{slug(model)}"


def prefix(pool: str) -> str:
    """With which the names of a pool's workloads begin, and so those of their pods."""
    return f"{OURS}-{_pool(pool)}-"


def key_secret(pool: str) -> str:
    """Of the Secret with the key that the pool's engines demand."""
    return f"{OURS}-engine-{_pool(pool)}"


def labels(pool: str, model: str, installation: str | None) -> dict[str, str]:
    """Of a workload, its Service and its pods."""
    found = {MANAGED_BY: OURS, NAME: APP, POOL: pool, MODEL: slug(model)}
    return found if installation is None else {**found, INSTALLATION: installation}


def selector(pool: str, model: str) -> dict[str, str]:
    """The labels by which a workload knows its pods; they can never be changed, so nothing is among them that might."""
    return {NAME: APP, POOL: pool, MODEL: slug(model)}


def digest(value: Mapping[str, Any]) -> str:
    """A short hash of what JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _pool(pool: str) -> str:
    plain = len(pool) <= _POOL_MOST and not pool.endswith("-")
    return pool if plain else slug(pool, _POOL_MOST)
