"""Shapes that several values of the Helm chart share, as JSON Schema: what `@schema {$ref: "#/definitions/NAME"}` in values.yaml refers to.

Those of Lamplighter's own settings come from its configuration. Objects of Kubernetes are described as far as a typing error goes; the API
server checks the rest.
"""

from typing import Any

Schema = dict[str, Any]

_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_META_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABEL = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|[kKMGTPE]i?)?$"
_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
_CIDR = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"


def _closed(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required or [], **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


_TEXTS = {"type": "array", "items": {"type": "string"}}
_SELECTOR: Schema = _closed(
    {
        "matchLabels": _ref("labels"),
        "matchExpressions": {
            "type": "array",
            "items": _closed(
                {"key": {"type": "string"}, "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]}, "values": _TEXTS},
                ["key", "operator"],
            ),
        },
    }
)
_QUANTITIES: Schema = {
    "type": "object",
    "propertyNames": {"pattern": r"^[A-Za-z0-9][-A-Za-z0-9./]*$"},
    "additionalProperties": _ref("quantity"),
}

DEFINITIONS: dict[str, Schema] = {
    "labels": {
        "type": "object",
        "propertyNames": {"pattern": _META_KEY},
        "additionalProperties": {"type": "string", "pattern": _LABEL},
        "examples": [{"example.com/team": "platform"}],
    },
    "annotations": {
        "type": "object",
        "propertyNames": {"pattern": _META_KEY},
        "additionalProperties": {"type": "string"},
        "examples": [{"example.com/note": "mutated"}],
    },
    "name": {"type": "string", "pattern": _NAME, "examples": ["mutated"]},
    "optionalName": {"type": "string", "pattern": f"{_NAME}|^$", "examples": ["mutated"]},
    "hostname": {
        "type": "string",
        "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        "examples": ["mutated.example.com"],
    },
    "port": {"type": "integer", "minimum": 1, "maximum": 65535, "examples": [4321]},
    "duration": {"type": "string", "pattern": _DURATION, "examples": ["17m"]},
    "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$", "examples": ["sha256:" + "0123456789abcdef" * 4]},
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"], "examples": ["Always"]},
    "vpaMode": {"enum": ["Off", "Initial", "Recreate", "InPlaceOrRecreate", "Auto"], "examples": ["Initial"]},
    "vpaBounds": _closed({"minAllowed": _QUANTITIES, "maxAllowed": _QUANTITIES}, examples=[{"maxAllowed": {"memory": "3Gi"}}]),
    "quantity": {"type": ["string", "integer", "number"], "pattern": _QUANTITY, "minimum": 0, "examples": ["33Gi"]},
    "quantities": {**_QUANTITIES, "examples": [{"pods": "77"}]},
    "resources": _closed({"requests": _QUANTITIES, "limits": _QUANTITIES}, examples=[{"requests": {"cpu": "77m"}}]),
    "tolerations": {
        "type": "array",
        "items": _closed(
            {
                "key": {"type": "string"},
                "operator": {"enum": ["Exists", "Equal"]},
                "value": {"type": "string"},
                "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                "tolerationSeconds": {"type": "integer", "minimum": 0},
            }
        ),
        "examples": [[{"key": "mutated", "operator": "Exists"}]],
    },
    "affinity": _closed(
        {name: {"type": "object"} for name in ("nodeAffinity", "podAffinity", "podAntiAffinity")},
        examples=[
            {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {"topologyKey": "mutated", "labelSelector": {"matchLabels": {"a": "b"}}}
                    ]
                }
            }
        ],
    ),
    "env": {
        "type": "array",
        "items": _closed(
            {
                "name": {"type": "string", "pattern": "^[-._a-zA-Z][-._a-zA-Z0-9]*$"},
                "value": {"type": "string"},
                "valueFrom": {"type": "object"},
            },
            ["name"],
        ),
        "examples": [[{"name": "MUTATED", "value": "1"}]],
    },
    "volumes": {
        "type": "array",
        "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        "examples": [[{"name": "mutated", "emptyDir": {}}]],
    },
    "mounts": {
        "type": "array",
        "items": _closed(
            {
                "name": {"type": "string"},
                "mountPath": {"type": "string"},
                "subPath": {"type": "string"},
                "readOnly": {"type": "boolean"},
            },
            ["name", "mountPath"],
        ),
        "examples": [[{"name": "tmp", "mountPath": "/mutated"}]],
    },
    "objectRef": _closed({"name": _ref("name"), "namespace": _ref("name")}, ["name"]),
    "parentRef": _closed(
        {
            "group": {"type": "string"},
            "kind": {"type": "string"},
            "name": _ref("name"),
            "namespace": _ref("name"),
            "sectionName": {"type": "string"},
            "port": _ref("port"),
        },
        ["name"],
    ),
    "peers": {
        "type": "array",
        "items": _closed(
            {
                "podSelector": _SELECTOR,
                "namespaceSelector": _SELECTOR,
                "ipBlock": _closed(
                    {
                        "cidr": {"type": "string", "pattern": _CIDR},
                        "except": {"type": "array", "items": {"type": "string", "pattern": _CIDR}},
                    },
                    ["cidr"],
                ),
            },
            minProperties=1,
        ),
        "examples": [[{"ipBlock": {"cidr": "192.0.2.0/24"}}]],
    },
    "egress": {
        "type": "array",
        "items": _closed(
            {
                "ports": {
                    "type": "array",
                    "items": _closed(
                        {
                            "port": {"type": ["integer", "string"]},
                            "endPort": _ref("port"),
                            "protocol": {"enum": ["TCP", "UDP", "SCTP"]},
                        }
                    ),
                },
                "to": _ref("peers"),
            }
        ),
        "examples": [[{"ports": [{"port": 8000, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]],
    },
    "externalSecrets": _closed(
        {
            role: {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": _closed(
                    {"key": {"type": "string", "minLength": 1}, "property": {"type": "string"}, "version": {"type": "string"}},
                    ["key"],
                ),
            }
            for role in ("keys", "database", "redis", "hub")
        },
        examples=[{"keys": {"admin-key": {"key": "lamplighter/admin", "property": "key"}}}],
    ),
    "modelCaches": {
        "type": "object",
        "propertyNames": {"pattern": _NAME},
        "additionalProperties": _closed(
            {
                "size": {**_ref("quantity"), "description": "Its size."},
                "namespace": {**_ref("name"), "description": "Its namespace; default: the models'."},
                "accessModes": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"enum": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"]},
                    "description": "How it can be mounted; default: ReadWriteMany.",
                },
                "storageClassName": {**_ref("name"), "description": "Class that makes it; give it a reclaim policy of Retain."},
                "volume": {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        kind: {"type": "object"}
                        for kind in ("csi", "nfs", "local", "hostPath", "fc", "iscsi", "cephfs", "rbd", "awsElasticBlockStore")
                    },
                    "additionalProperties": False,
                    "description": "Storage that exists, as a PersistentVolume names it: a static volume is made, with reclaim policy Retain.",
                },
                "nodeAffinity": {"type": "object", "description": "Nodes that have it, for a `local` volume."},
                "mountOptions": {**_TEXTS, "description": "Options of the mount."},
                "readOnlyClaim": {
                    **_ref("name"),
                    "description": "A second claim of this name, ReadOnlyMany, on the same storage.",
                },
            },
            ["size"],
        ),
        "examples": [{"weights": {"size": "200Gi", "volume": {"nfs": {"server": "192.0.2.7", "path": "/weights"}}}}],
    },
}
