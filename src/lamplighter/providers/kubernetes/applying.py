"""Brings a model's objects into the cluster, so that `replicas` belongs to nobody's manifest, and says who else writes it.

Server-side apply takes away what a manager no longer says; so whoever first said `replicas: 0` must not be who applies the rest later. The field
is given to a manager of its own (`SCALER`), which never says anything else. Not responsible for what is applied (`workload`) nor for how many.
"""

import base64
from collections.abc import Mapping
from typing import Any

import structlog

from lamplighter.core.errors import ProviderError
from lamplighter.core.ids import secret
from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.client import MANAGER, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import SECRET, Kind, Manifest
from lamplighter.providers.kubernetes.reading import annotations, labels
from lamplighter.providers.kubernetes.workload import Workload, key_secret

SCALER = "lamplighter-scale"
_OURS = frozenset({MANAGER, SCALER})
_log = structlog.get_logger(__name__)


async def apply(cluster: Cluster, workload: Workload, there: Manifest | None) -> Manifest:
    """Create or change the workload and its Service; `there`: the workload as it is. What is there afterwards. Raises ProviderError.

    The Service belongs to the workload: whoever deletes that has deleted both.
    """
    if there is None:
        there = await cluster.apply(workload.asleep())
    if names.SPEC_HASH not in annotations(there):
        replicas = int((there.get("spec") or {}).get("replicas") or 0)
        only = {"apiVersion": workload.kind.api_version, "kind": workload.kind.kind, "spec": {"replicas": replicas}}
        metadata = {key: workload.object["metadata"][key] for key in ("name", "namespace")}
        await cluster.apply({**only, "metadata": metadata}, manager=SCALER, force=True)
    owner = {
        "apiVersion": workload.kind.api_version,
        "kind": workload.kind.kind,
        "name": workload.name,
        "uid": there["metadata"]["uid"],
    }
    metadata = {**workload.service["metadata"], "ownerReferences": [owner]}
    await _apply(cluster, {**workload.service, "metadata": metadata})
    return await _apply(cluster, workload.object)


async def ensure_key(cluster: Cluster, pool: str, namespace: str, installation: str) -> str:
    """The key that the pool's engines demand; made once, then only read. Raises ProviderError."""
    name = names.key_secret(pool)
    for _ in range(2):
        found = await cluster.get_or_none(SECRET, name, namespace)
        if found is not None:
            return key_of(found)
        try:
            made = secret("lle")
            await cluster.create(key_secret(pool, made, namespace=namespace, installation=installation))
        except KubernetesError as error:
            if error.word != "AlreadyExists":
                raise
        else:
            return made
    raise ProviderError(f"The Secret {name} in namespace {namespace} comes and goes.", next_step="See what deletes it.")


def key_of(found: Manifest) -> str:
    """The key in a Secret. Raises ProviderError when there is none."""
    try:
        return base64.b64decode(found["data"][names.ENGINE_KEY], validate=True).decode()
    except (KeyError, TypeError, ValueError) as error:
        raise ProviderError(
            f"The Secret {found['metadata']['name']} has no usable `{names.ENGINE_KEY}`.",
            next_step="Delete it while no model of the pool runs: it is made anew.",
        ) from error


def writer(found: Mapping[str, Any]) -> str | None:
    """Who last wrote `replicas` of a workload, when that was not us: its name among the object's managers, and when."""
    last: tuple[str, str] | None = None
    for entry in (found.get("metadata") or {}).get("managedFields") or ():
        fields = entry.get("fieldsV1") or {}
        if "f:replicas" in (fields.get("f:spec") or {}):
            last = max(last or ("", ""), (str(entry.get("time") or ""), str(entry.get("manager") or "somebody")))
    return last[1] if last is not None and last[1] not in _OURS else None


def foreign(kind: Kind, found: Manifest, installation: str) -> ProviderError | None:
    """Why a workload that is there is not ours to touch; None when it is, or says nothing of an installation."""
    other = labels(found).get(names.INSTALLATION)
    name = found["metadata"]["name"]
    if other is not None and other != installation:
        return ProviderError(
            f"{kind.resource} {name} belongs to another installation of Lamplighter ({other}).",
            next_step="Give one of the two another namespace, or its pool another name; or delete what a former installation left.",
        )
    return None


async def _apply(cluster: Cluster, manifest: Manifest) -> Manifest:
    """Apply; a conflict with ourselves under another name (an older object) is no conflict."""
    try:
        return await cluster.apply(manifest)
    except KubernetesError as error:
        if error.status != 409 or not error.managers or not error.managers <= _OURS:
            raise
        return await cluster.apply(manifest, force=True)
