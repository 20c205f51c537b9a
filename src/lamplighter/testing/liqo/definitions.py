"""Liqo's custom resource definitions, reduced to the fields that its documentation names: enough for the checks that an API server makes.

Written from the published fields of version 1.2.0 in the schema language that Kubernetes 1.20 knows (no expressions). A stand-in: clusters with
Liqo have its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lamplighter.federation import names
from lamplighter.providers.kubernetes.kinds import Kind, Manifest

_S = {"type": "string"}
_I = {"type": "integer"}
_B = {"type": "boolean"}
_BYTES = {"type": "string", "format": "byte"}
_TIME = {"type": "string", "format": "date-time"}
_MAP = {"type": "object", "additionalProperties": _S}
_AMOUNTS = {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, _S]}}
_OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _of(_required: Sequence[str] = (), **fields: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": dict(fields)}
    return {**made, "required": list(_required)} if _required else made


def _many(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(item)}


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


_CIDR = _of(cidr=_of(pod=_many(_S), external=_many(_S)))
_REFERENCE = _of(
    apiVersion=_S, kind=_S, name=_S, namespace=_S, uid=_S, resourceVersion=_S, fieldPath=_S
)  # fmt: skip
_ENDPOINT = _of(addresses=_many(_S), port=_I, protocol=_one_of("TCP", "UDP"))
_INSIDE = _of(ip=_S, node=_S)
_AUTH = _of(apiServer=_S, ca=_BYTES, signedCRT=_BYTES, proxyURL=_S, awsConfig=_OPEN)
_CONDITIONS = _many(_of(("type", "status"), type=_S, status=_S, reason=_S, message=_S, lastTransitionTime=_TIME))
_MODULE = _of(("enabled",), enabled=_B, conditions=_CONDITIONS)
_CLASSES = _many(_OPEN)

_SCHEMAS: Mapping[Kind, tuple[dict[str, Any], dict[str, Any]]] = {
    names.TENANT: (
        _of(
            clusterID=_S, publicKey=_BYTES, csr=_BYTES, signature=_BYTES, proxyURL=_S,
            authzPolicy={**_one_of("KeysExchange", "TolerateNoHandshake"), "default": "KeysExchange"},
            tenantCondition={**_one_of("Active", "Cordoned", "Drained"), "default": "Active"},
        ),
        _of(tenantNamespace=_S, authParams=_AUTH),
    ),
    names.IDENTITY: (
        _of(clusterID=_S, type=_one_of("ControlPlane", "ResourceSlice"), authParams=_AUTH, namespace=_S),
        _of(kubeconfigSecretRef=_of(name=_S)),
    ),
    names.RESOURCE_SLICE: (
        _of((), consumerClusterID=_S, providerClusterID=_S, csr=_BYTES, resources=_AMOUNTS, **{"class": _S}),
        _of(
            conditions=_many(
                _of(
                    ("type", "status"),
                    type=_one_of("Authentication", "Resources"), status=_one_of("Accepted", "Denied"),
                    reason=_S, message=_S, lastTransitionTime=_TIME,
                )
            ),
            resources=_AMOUNTS, authParams=_AUTH, storageClasses=_CLASSES, ingressClasses=_CLASSES, loadBalancerClasses=_CLASSES,
            nodeLabels=_MAP, nodeSelector=_MAP,
        ),
    ),
    names.FOREIGN_CLUSTER: (
        _of(("clusterID",), clusterID=_S),
        _of(
            role={**_one_of("Consumer", "Provider", "ConsumerAndProvider", "Unknown"), "default": "Unknown"},
            apiServerUrl=_S, foreignProxyUrl=_S, observedGeneration=_I, conditions=_CONDITIONS,
            modules=_of(networking=_MODULE, authentication=_MODULE, offloading=_MODULE),
            tenantNamespace=_of(local=_S, remote=_S),
        ),
    ),
    names.CONFIGURATION: (_of(local=_CIDR, remote=_CIDR), _of(remote=_CIDR, conditions=_CONDITIONS)),
    names.CONNECTION: (
        _of(("type", "gatewayRef"), type=_one_of("Server", "Client"), gatewayRef=_REFERENCE),
        _of(value=_S, latency=_of(value=_S, timestamp=_TIME)),
    ),
    names.GATEWAY_CLIENT: (
        _of(endpoint=_ENDPOINT, mtu=_I, secretRef=_of(name=_S), clientTemplateRef=_REFERENCE),
        _of(clientRef=_REFERENCE, secretRef=_REFERENCE, internalEndpoint=_INSIDE),
    ),
    names.GATEWAY_SERVER: (
        _of(
            endpoint=_of(
                port=_I, nodePort=_I, loadBalancerIP=_S,
                serviceType={**_one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"), "default": "ClusterIP"},
            ),
            mtu=_I, secretRef=_of(name=_S), serverTemplateRef=_REFERENCE, serviceAnnotations=_MAP, serviceLabels=_MAP,
        ),
        _of(endpoint=_ENDPOINT, serverRef=_REFERENCE, secretRef=_REFERENCE, internalEndpoint=_INSIDE),
    ),
    names.PUBLIC_KEY: (_of(publicKey=_BYTES), {}),
    names.NETWORK: (_of(("cidr",), cidr=_S, preAllocated=_I), _of(cidr=_S)),
    names.NAMESPACE_MAP: (
        _of(desiredMapping=_MAP),
        _of(
            currentMapping={
                "type": "object",
                "additionalProperties": _of(phase=_one_of("Accepted", "CreationLoopBackOff", "Terminating"), remoteNamespace=_S),
            }
        ),
    ),
    names.NAMESPACE_OFFLOADING: (
        _of(
            namespaceMappingStrategy={**_one_of("EnforceSameName", "DefaultName", "SelectedName"), "default": "DefaultName"},
            podOffloadingStrategy={**_one_of("Local", "Remote", "LocalAndRemote"), "default": "LocalAndRemote"},
            remoteNamespaceName=_S,
            clusterSelector=_of(("nodeSelectorTerms",), nodeSelectorTerms=_many(_OPEN)),
        ),
        _of(
            offloadingPhase=_S, remoteNamespaceName=_S, observedGeneration=_I,
            remoteNamespacesConditions={"type": "object", "additionalProperties": _CONDITIONS},
        ),
    ),
    names.QUOTA: (
        _of(("resources", "user"), resources=_AMOUNTS, user=_S, cordoned=_B, limitsEnforcement=_one_of("Hard", "Soft", "None")),
        {},
    ),
    names.VIRTUAL_NODE: (
        _of(
            clusterID=_S, createNode=_B, disableNetworkCheck=_B, kubeconfigSecretRef=_of(name=_S), labels=_MAP, annotations=_MAP,
            resourceQuota=_of(hard=_AMOUNTS, scopes=_many(_S)), offloadingPatch=_OPEN, storageClasses=_CLASSES, taints=_many(_OPEN),
            template=_OPEN, images=_many(_OPEN), ingressClasses=_CLASSES, loadBalancerClasses=_CLASSES, vkOptionsTemplateRef=_REFERENCE,
        ),
        _of(conditions=_CONDITIONS),
    ),
}  # fmt: skip


def definitions() -> Sequence[Manifest]:
    """One CustomResourceDefinition for each kind that is used, `apiextensions.k8s.io/v1`."""
    return [_definition(kind, *schemas) for kind, schemas in _SCHEMAS.items()]


def _definition(kind: Kind, spec: dict[str, Any], status: dict[str, Any]) -> Manifest:
    version: dict[str, Any] = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, **({"status": status} if status else {})}}},
    }
    if status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.resource},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {"kind": kind.kind, "plural": kind.plural, "singular": kind.kind.lower(), "listKind": f"{kind.kind}List"},
            "versions": [version],
        },
    }
