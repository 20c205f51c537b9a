"""Values to render the chart with: named scenarios, and many more in which every two choices meet at least once.

All pairs and not all combinations: there are millions of these, and mistakes in a chart come from two choices that meet.
"""

import copy
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.chart.rendering import CHART

Values = dict[str, Any]

DIGEST = "sha256:" + "0123456789abcdef" * 4
HOST = "llm.example.com"
EXAMPLES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CHART / "examples").glob("*.yaml"))}

VLLM: Values = {
    "pools": {
        "gpu": {
            "kind": "kubernetes",
            "gpus": 1,
            "accelerator": "T4",
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        }
    },
    "models": {"llama": {"engine": "vllm", "pool": "gpu", "source": "hf:meta-llama/Llama-3.2-3B-Instruct"}},
}
TWO_NAMESPACES: Values = {
    "pools": {
        "a": {"kind": "kubernetes", "namespace": "models-a", "gpus": 2, "nodes": 2},
        "b": {"kind": "kubernetes", "namespace": "models-b", "gpus": 0},
        "far": {"kind": "kubernetes", "context": "elsewhere", "kubeconfig": "/clusters/far"},
        "lan": {"kind": "static", "url": "http://192.0.2.7:8000"},
    },
    "models": {
        "big": {"engine": "vllm", "pool": "a", "source": "hf:meta-llama/Llama-3.1-70B-Instruct"},
        "code": {"engine": "ollama", "pool": "b", "source": "codellama:7b", "pull": True},
        "far": {"engine": "vllm", "pool": "far", "source": "hf:Qwen/Qwen3-8B"},
        "lan": {"engine": "openai", "pool": "lan"},
    },
}

FACTORS: dict[str, dict[str, Values]] = {
    "mode": {"single": {}, "distributed": {"mode": "distributed"}},
    "postgresql": {
        "none": {},
        "embedded": {"postgresql": {"mode": "embedded"}},
        "secret": {
            "postgresql": {
                "mode": "external",
                "external": {"existingSecret": "db", "listenUrlKey": "direct", "caCertificate": "PEM"},
            }
        },
        "forgetful": {"postgresql": {"mode": "embedded", "embedded": {"persistence": {"enabled": False}}}},
        "url": {"postgresql": {"mode": "external", "external": {"url": "postgresql://u:p4ssw0rd@db/x"}}},
    },
    "redis": {
        "none": {},
        "embedded": {"redis": {"mode": "embedded"}},
        "secret": {"redis": {"mode": "external", "external": {"existingSecret": "cache"}}},
        "url": {"redis": {"mode": "external", "external": {"url": "rediss://:p4ssw0rd@cache:6379/0"}}},
    },
    "page": {"gateway": {}, "nginx": {"page": {"mode": "nginx"}}},
    "ingress": {
        "none": {},
        **{
            kind: {"ingress": {"kind": kind, "hosts": [HOST, "*.llm.example.com"]}}
            for kind in ("traefik", "nginx", "alb", "generic")
        },
        "gateway": {
            "ingress": {
                "kind": "gateway",
                "hosts": [HOST],
                "gateway": {"parentRefs": [{"name": "public", "namespace": "ingress"}]},
            }
        },
        "own-gateway": {"ingress": {"kind": "gateway", "hosts": [HOST, "chat.example.com"], "gateway": {"createClass": "envoy"}}},
    },
    "tls": {
        "none": {},
        "secret": {"ingress": {"tls": {"mode": "secret", "secretName": "wildcard"}}},
        "certManager": {"ingress": {"tls": {"mode": "certManager", "issuer": {"name": "letsencrypt"}}}},
        "terminated": {"ingress": {"tls": {"mode": "terminated"}, "alb": {"group": "shared"}}},
    },
    "models": {"none": {}, "vllm": VLLM, "two-namespaces": TWO_NAMESPACES},
    "namespace": {
        "own": {},
        "away": {
            "modelServers": {
                "namespace": "llm-models",
                "createNamespace": True,
                "resourceQuota": {"enabled": True},
                "limitRange": {"enabled": True},
            }
        },
    },
    "metrics": {
        "none": {},
        "services": {
            "metrics": {"discovery": "serviceMonitor", "labels": {"release": "monitoring"}, "rules": {"kind": "prometheusRule"}}
        },
        "pods": {"metrics": {"discovery": "podMonitor", "dashboards": {"enabled": True}}},
        "annotations": {
            "metrics": {"discovery": "annotations", "rules": {"kind": "configMap", "runbookBase": "https://docs.example.com"}}
        },
    },
    "admin": {"port": {}, "none": {"adminPort": {"enabled": False}, "metrics": {"keySecret": {"name": "scrape"}}}},
    "scaling": {
        "auto": {},
        "fixed": {"gateway": {"autoscaling": {"enabled": False}, "replicas": 3}, "keeper": {"replicas": 2}},
        "one": {"gateway": {"autoscaling": {"enabled": False}, "replicas": 1}, "keeper": {"persistence": {"enabled": True}}},
        "vertical": {
            "gateway": {"verticalPodAutoscaler": {"enabled": True}},
            "keeper": {"verticalPodAutoscaler": {"enabled": True}},
        },
    },
    "network": {
        "open": {},
        "narrow": {
            "networkPolicy": {
                "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
                "kubeApi": [{"ipBlock": {"cidr": "192.0.2.1/32"}}],
                "enginesToHubs": False,
            }
        },
        "off": {"networkPolicy": {"enabled": False}},
    },
    "secrets": {
        "made": {},
        "given": {"keys": {"existingSecret": "keys"}, "hub": {"existingSecret": "hf"}},
        "plain": {"keys": {"adminKey": "a-chosen-key-of-16"}, "hub": {"token": "hf_0123456789abcdefghij"}},
        "operator": {
            "externalSecrets": {
                "enabled": True,
                "store": {"name": "aws"},
                "secrets": {
                    "keys": {"admin-key": {"key": "lamplighter/admin"}},
                    "hub": {"token": {"key": "lamplighter/hub", "property": "token"}},
                },
            }
        },
    },
    "cluster": {
        "plain": {},
        "full": {
            "priorityClasses": {"create": True},
            "resourceQuota": {"enabled": True},
            "limitRange": {"enabled": True},
            "cronjobs": {
                "janitor": {"enabled": True},
                "ecr": {"enabled": True, "registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com"},
            },
            "rbac": {"nodes": True},
            "federation": {"enabled": True},
            "image": {"digest": DIGEST},
            "commonAnnotations": {"example.com/owner": "platform"},
            "modelCaches": {
                "weights": {
                    "size": "200Gi",
                    "volume": {"nfs": {"server": "192.0.2.9", "path": "/w"}},
                    "readOnlyClaim": "weights-read",
                },
                "ollama": {"size": "50Gi", "storageClassName": "retained", "accessModes": ["ReadWriteOnce"]},
            },
        },
        "openshift": {
            "podSecurity": {"runAsUser": None, "fsGroup": None},
            "tests": {"enabled": False},
            "migrations": {"enabled": False},
        },
    },
}

Choice = Mapping[str, str]


def combined(*parts: Values) -> Values:
    """Values laid over each other, as Helm does with several files."""
    result: Values = {}
    for part in parts:
        _lay(result, copy.deepcopy(part))
    return result


def _lay(below: Values, above: Values) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay(below[key], value)
        else:
            below[key] = value


def possible(choice: Choice) -> bool:
    """Whether the chart takes this combination; what it refuses has tests of its own."""
    single = choice["mode"] == "single"
    return not (
        (not single and choice["postgresql"] == "none")
        or (single and choice["page"] == "nginx")
        or (choice["ingress"] == "alb" and choice["tls"] in ("secret", "certManager"))
        or (choice["metrics"] == "annotations" and choice["admin"] == "none")
    )


def values_of(choice: Choice) -> Values:
    """The values of one combination."""
    return combined(*(FACTORS[factor][name] for factor, name in choice.items()))


def _pairs(choice: Choice) -> Iterator[tuple[str, str, str, str]]:
    for (one, first), (other, second) in itertools.combinations(choice.items(), 2):
        yield one, first, other, second


def all_pairs(seed: int = 5) -> dict[str, Values]:
    """Combinations in which every two choices that can meet do. Always the same ones, so that a failure stays."""
    chance = random.Random(seed)
    wanted = {
        (one, first, other, second)
        for one, other in itertools.combinations(FACTORS, 2)
        for first in FACTORS[one]
        for second in FACTORS[other]
    }
    found: dict[str, Values] = {}
    idle = 0
    while wanted and idle < 60:  # what is left then cannot meet
        tried = [{factor: chance.choice(list(names)) for factor, names in FACTORS.items()} for _ in range(60)]
        choices = [choice for choice in tried if possible(choice)]
        best = max(choices, key=lambda choice: len(wanted.intersection(_pairs(choice))))
        gained = wanted.intersection(_pairs(best))
        if not gained:
            idle += 1
            continue
        idle = 0
        wanted -= gained
        found[f"pair-{len(found):02}"] = values_of(best)
    return found


SCENARIOS: dict[str, Values] = {"default": {}, **EXAMPLES, **all_pairs()}

OUTSIDE = (
    *(
        f"Secret/{name}"
        for name in ("db", "cache", "keys", "hf", "wildcard", "scrape", "lamplighter-postgresql", "lamplighter-cache")
    ),
    *(f"Secret/lamplighter-{name}" for name in ("database", "redis", "hub", "keys", "engine-gpu")),
)
"""What scenarios say is there already."""
