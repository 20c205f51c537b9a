"""Schemas of what a render may hold: Kubernetes's own for every supported version, and for custom resources those of the fields that the chart
uses, written from their documentation. A kind that is not listed here fails: nobody would notice its typing errors.

Not responsible for what is valid but wrong (`consistency`, `policies`).
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped] # ships no types
from kubernetes_validate import utils
from referencing import Registry, Resource

Schema = dict[str, Any]

VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")

utils.schema_contents = functools.cache(utils.schema_contents)  # each call reads and parses megabytes of definitions anew


@functools.cache
def _definitions(folder: str) -> Registry[Any]:
    """What schemas of one version refer to, followed once: `kubernetes_validate.validate` follows it anew for each document."""
    contents = utils.schema_contents(f"{folder}/_definitions.json", folder)
    return (Resource.from_contents(contents) @ Registry()).crawl()


@functools.cache
def _validator(api_version: str, kind: str, version: str) -> jsonschema.Draft202012Validator:
    """Checks one kind as one version of Kubernetes has it, unknown fields refused. Raises FileNotFoundError when that version has no such kind."""
    folder = next(
        f"kubernetes-json-schema/v{full}-local-strict" for full in utils.all_versions() if utils.major_minor(full) == version
    )
    group, slash, number = api_version.partition("/")
    api = f"{group.partition('.')[0]}-{number}" if slash else group
    contents = utils.schema_contents(f"{folder}/{kind.lower()}-{api}.json", folder)
    return jsonschema.Draft202012Validator(contents, registry=Resource.from_contents(contents) @ _definitions(folder))


def _closed(required: str = "", **properties: Any) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required.split()}


def _many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


TEXT: Schema = {"type": "string", "minLength": 1}
NUMBER: Schema = {"type": "integer"}
TEXTS = _many(TEXT)
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
SELECTOR = _closed("matchLabels", matchLabels=LABELS)
SPAN: Schema = {"type": "string", "pattern": r"^-?([0-9]+(ms|s|m|h))+$"}
PORT: Schema = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, TEXT]}

_CREDENTIALS = _closed("name key", name=TEXT, key=TEXT)
_ENDPOINT = _closed(
    "port",
    port=TEXT,
    path=TEXT,
    interval=SPAN,
    authorization=_closed("credentials", type=TEXT, credentials=_CREDENTIALS),
)
_TRAEFIK_SERVICE = _closed(
    "name",
    name=TEXT,
    kind={"enum": ["Service", "TraefikService"]},
    port=PORT,
    passHostHeader={"type": "boolean"},
    responseForwarding=_closed("flushInterval", flushInterval=SPAN),
    serversTransport=TEXT,
)
_MATCH = _closed(
    "path", path=_closed("type value", type={"enum": ["PathPrefix", "Exact"]}, value={"type": "string", "pattern": "^/"})
)
_PARENT = _closed("name", group=TEXT, kind=TEXT, name=TEXT, namespace=TEXT, sectionName=TEXT, port=NUMBER)
_RULE = _closed("expr", alert=TEXT, record=TEXT, expr=TEXT, **{"for": SPAN}, labels=LABELS, annotations=LABELS)

CUSTOM: dict[tuple[str, str], Schema] = {
    # https://doc.traefik.io/traefik/reference/routing-configuration/kubernetes/crd/http/ingressroute/
    ("traefik.io/v1alpha1", "IngressRoute"): _closed(
        "routes entryPoints",
        entryPoints=TEXTS,
        routes=_many(
            _closed(
                "match kind services",
                kind={"const": "Rule"},
                match=TEXT,
                priority=NUMBER,
                middlewares=_many(_closed("name", name=TEXT, namespace=TEXT)),
                services=_many(_TRAEFIK_SERVICE),
            )
        ),
        tls=_closed(secretName=TEXT, certResolver=TEXT),
    ),
    ("traefik.io/v1alpha1", "Middleware"): {
        **_closed(
            headers=_closed(stsSeconds=NUMBER), redirectScheme=_closed("scheme", scheme=TEXT, permanent={"type": "boolean"})
        ),
        "minProperties": 1,
        "maxProperties": 1,
    },
    ("traefik.io/v1alpha1", "ServersTransport"): _closed(
        maxIdleConnsPerHost=NUMBER,
        forwardingTimeouts=_closed(dialTimeout=SPAN, responseHeaderTimeout=SPAN, idleConnTimeout=SPAN),
    ),
    # https://gateway-api.sigs.k8s.io/reference/spec/
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _closed(
        "parentRefs rules hostnames",
        parentRefs=_many(_PARENT),
        hostnames=TEXTS,
        rules=_many(
            _closed(
                matches=_many(_MATCH),
                timeouts=_closed(request=SPAN, backendRequest=SPAN),
                backendRefs=_many(_closed("name port", name=TEXT, port=NUMBER)),
                filters=_many(
                    _closed(
                        "type",
                        type={"const": "RequestRedirect"},
                        requestRedirect=_closed(scheme=TEXT, statusCode={"enum": [301, 302]}),
                    )
                ),
            )
        ),
    ),
    ("gateway.networking.k8s.io/v1", "Gateway"): _closed(
        "gatewayClassName listeners",
        gatewayClassName=TEXT,
        listeners=_many(
            _closed(
                "name port protocol",
                name=TEXT,
                hostname=TEXT,
                port=NUMBER,
                protocol={"enum": ["HTTP", "HTTPS"]},
                tls=_closed(
                    "mode certificateRefs",
                    mode={"const": "Terminate"},
                    certificateRefs=_many(_closed("name", kind=TEXT, name=TEXT)),
                ),
                allowedRoutes=_closed(namespaces={"type": "object", "properties": {"from": {"enum": ["Same", "All"]}}}),
            )
        ),
    ),
    # https://cert-manager.io/docs/reference/api-docs/
    ("cert-manager.io/v1", "Certificate"): _closed(
        "secretName dnsNames issuerRef",
        secretName=TEXT,
        dnsNames=TEXTS,
        issuerRef=_closed("name", name=TEXT, kind=TEXT, group=TEXT),
        privateKey=_closed(
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]}, size=NUMBER, rotationPolicy={"enum": ["Never", "Always"]}
        ),
    ),
    # https://prometheus-operator.dev/docs/api-reference/api/
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _closed("selector endpoints", selector=SELECTOR, endpoints=_many(_ENDPOINT)),
    ("monitoring.coreos.com/v1", "PodMonitor"): _closed(
        "selector podMetricsEndpoints", selector=SELECTOR, podMetricsEndpoints=_many(_ENDPOINT)
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _closed(
        "groups", groups=_many(_closed("name rules", name=TEXT, interval=SPAN, rules=_many(_RULE)))
    ),
    # https://external-secrets.io/latest/api/externalsecret/
    ("external-secrets.io/v1", "ExternalSecret"): _closed(
        "secretStoreRef target data",
        refreshInterval=SPAN,
        secretStoreRef=_closed("name kind", name=TEXT, kind={"enum": ["SecretStore", "ClusterSecretStore"]}),
        target=_closed("name", name=TEXT, creationPolicy={"enum": ["Owner", "Orphan", "Merge", "None"]}),
        data=_many(
            _closed("secretKey remoteRef", secretKey=TEXT, remoteRef=_closed("key", key=TEXT, property=TEXT, version=TEXT))
        ),
    ),
    # https://github.com/kubernetes/autoscaler/blob/master/vertical-pod-autoscaler/docs/api.md
    ("autoscaling.k8s.io/v1", "VerticalPodAutoscaler"): _closed(
        "targetRef",
        targetRef=_closed("apiVersion kind name", apiVersion=TEXT, kind=TEXT, name=TEXT),
        updatePolicy=_closed(updateMode={"enum": ["Off", "Initial", "Recreate", "InPlaceOrRecreate", "Auto"]}),
        resourcePolicy=_closed(
            containerPolicies=_many(
                _closed(
                    "containerName",
                    containerName=TEXT,
                    controlledResources=_many({"enum": ["cpu", "memory"]}),
                    minAllowed={"type": "object"},
                    maxAllowed={"type": "object"},
                )
            )
        ),
    ),
}
CUSTOM["external-secrets.io/v1beta1", "ExternalSecret"] = CUSTOM["external-secrets.io/v1", "ExternalSecret"]
_ENVELOPE = _closed(
    "apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata={"type": "object"}, spec={"type": "object"}
)


def problems(document: Mapping[str, Any], version: str) -> Iterator[str]:
    """What an API server of this version would refuse, as far as schemas tell."""
    name = f"{document['kind']}/{document['metadata']['name']}"
    custom = CUSTOM.get((document["apiVersion"], document["kind"]))
    try:
        if custom is not None:
            jsonschema.validate(document, _ENVELOPE)
            jsonschema.validate(document["spec"], custom)
        else:
            _validator(document["apiVersion"], document["kind"], version).validate(dict(document))
    except jsonschema.ValidationError as error:
        yield f"{name} ({version}): {'.'.join(map(str, error.path))}: {error.message}"
    except FileNotFoundError:
        yield f"{name}: Kubernetes {version} has no {document['kind']} of {document['apiVersion']}; list its schema in CUSTOM, or correct it"


def shape(tree: Any) -> Any:
    """A document without its texts: two of the same shape are valid or not together, as far as these schemas look."""
    if isinstance(tree, Mapping):
        return tuple(
            sorted((key, shape(value)) for key, value in tree.items() if key not in ("labels", "annotations", "matchLabels"))
        )
    if isinstance(tree, list | tuple):
        return tuple(sorted({shape(one) for one in tree}, key=repr))
    return type(tree).__name__
