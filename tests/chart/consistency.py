"""Whether the objects of one render fit together: selectors, names of ports, references, autoscalers, budgets. Kubernetes accepts all of these
mistakes, and nothing works then. Each rule yields a sentence for what breaks it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from lamplighter.core.units import Duration
from tests.chart.policies import PROBES, Documents, containers, pods, where

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
Labels = Mapping[str, str]


def matches(selector: Mapping[str, Any] | None, labels: Labels) -> bool:
    """Whether a selector chooses something with these labels; an empty one chooses everything."""
    if not selector:
        return True
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", ()):
        value = labels.get(rule["key"])
        held = {
            "In": value in rule.get("values", ()),
            "NotIn": value not in rule.get("values", ()),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[rule["operator"]]
        if not held:
            return False
    return True


def chosen(documents: Documents, selector: Mapping[str, Any], namespace: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The pods that a selector chooses in a namespace: whose they are, and their spec."""
    homes = {where(one): one["metadata"].get("namespace") for one in documents}
    return [
        (name, spec)
        for name, metadata, spec in pods(documents)
        if matches(selector, metadata.get("labels", {})) and homes[name.partition(".")[0]] == namespace
    ]


def ports_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """The named ports of a pod."""
    return {port["name"]: port["containerPort"] for one in containers(spec) for port in one.get("ports", ()) if "name" in port}


def identities(documents: Documents) -> Iterator[str]:
    """Two objects of one name: the later one overwrites the first, or Helm refuses the release."""
    seen = set()
    for one in documents:
        metadata = one["metadata"]
        identity = (one["apiVersion"].partition("/")[0], one["kind"], metadata.get("namespace"), metadata["name"])
        if identity in seen:
            yield f"{where(one)} is there twice"
        seen.add(identity)
        if len(metadata["name"]) > 63:
            yield f"{where(one)}: its name is too long"


def labels(documents: Documents) -> Iterator[str]:
    """What `kubectl get --selector` and every dashboard look for."""
    for one in documents:
        have = one["metadata"].get("labels", {})
        for key in ("name", "instance", "component", "version", "part-of", "managed-by"):
            if f"app.kubernetes.io/{key}" not in have:
                yield f"{where(one)}: no label {key}"
        if "helm.sh/chart" not in have:
            yield f"{where(one)}: no label helm.sh/chart"


def selectors(documents: Documents) -> Iterator[str]:
    """A selector that chooses nothing, or somebody else's pods as well."""
    for one in documents:
        namespace = one["metadata"].get("namespace", "")
        spec = one.get("spec", {})
        match one["kind"]:
            case "Deployment" | "StatefulSet" | "DaemonSet":
                if not matches(spec["selector"], spec["template"]["metadata"]["labels"]):
                    yield f"{where(one)}: does not choose its own pods"
                if len(chosen(documents, spec["selector"], namespace)) != 1:
                    yield f"{where(one)}: chooses pods of others"
            case "Service":
                if len(chosen(documents, {"matchLabels": spec["selector"]}, namespace)) != 1:
                    yield f"{where(one)}: leads to {[name for name, _ in chosen(documents, {'matchLabels': spec['selector']}, namespace)]}"
            case "PodDisruptionBudget":
                if len(chosen(documents, spec["selector"], namespace)) != 1:
                    yield f"{where(one)}: protects nothing, or too much"
            case "PodMonitor":
                found = chosen(documents, spec["selector"], namespace)
                for endpoint in spec["podMetricsEndpoints"]:
                    if not any(endpoint["port"] in ports_of(pod) for _, pod in found):
                        yield f"{where(one)}: no pod has a port {endpoint['port']}"
            case "ServiceMonitor":
                services = [
                    service
                    for service in documents
                    if service["kind"] == "Service" and matches(spec["selector"], service["metadata"]["labels"])
                ]
                for endpoint in spec["endpoints"]:
                    found_ports = [
                        port for service in services for port in service["spec"]["ports"] if port["name"] == endpoint["port"]
                    ]
                    if len(found_ports) != 1:
                        yield f"{where(one)}: {len(found_ports)} services have a port {endpoint['port']}"
            case _:
                pass


def ports(documents: Documents) -> Iterator[str]:
    """Services, probes and routes that name a port which nobody has."""
    services = {one["metadata"]["name"]: one for one in documents if one["kind"] == "Service"}
    for one in documents:
        if one["kind"] == "Service":
            for _, spec in chosen(documents, {"matchLabels": one["spec"]["selector"]}, one["metadata"]["namespace"]):
                for port in one["spec"]["ports"]:
                    if port["targetPort"] not in ports_of(spec):
                        yield f"{where(one)}: its pods have no port {port['targetPort']}"
        for name, port in _backends(one):
            if name not in services:
                yield f"{where(one)}: there is no Service {name}"
            elif port not in {value for given in services[name]["spec"]["ports"] for value in (given["name"], given["port"])}:
                yield f"{where(one)}: Service {name} has no port {port}"
    for name, _, spec in pods(documents):
        for container in containers(spec):
            known = ports_of({"containers": [container]})
            for probe in PROBES:
                for kind in ("httpGet", "tcpSocket"):
                    port = container.get(probe, {}).get(kind, {}).get("port")
                    if port is not None and port not in known:
                        yield f"{name}: {container['name']}: {probe} asks port {port}"


def _backends(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    spec = document.get("spec", {})
    match document["kind"]:
        case "Ingress":
            for rule in spec["rules"]:
                for path in rule["http"]["paths"]:
                    service = path["backend"]["service"]
                    yield service["name"], service["port"].get("name", service["port"].get("number"))
        case "IngressRoute":
            for route in spec["routes"]:
                for service in route["services"]:
                    if service.get("kind", "Service") == "Service":
                        yield service["name"], service["port"]
        case "HTTPRoute":
            for rule in spec["rules"]:
                for backend in rule.get("backendRefs", ()):
                    yield backend["name"], backend["port"]
        case _:
            pass


def mounts(documents: Documents) -> Iterator[str]:
    """A mount without its volume, a volume that nobody mounts, two at one place."""
    for name, _, spec in pods(documents):
        volumes = [volume["name"] for volume in spec.get("volumes", ())]
        if len(set(volumes)) != len(volumes):
            yield f"{name}: two volumes of one name"
        templates = {
            claim["metadata"]["name"]
            for one in documents
            if where(one) == name
            for claim in one["spec"].get("volumeClaimTemplates", ())
        }
        mounted = [mount for container in containers(spec) for mount in container.get("volumeMounts", ())]
        for mount in mounted:
            if mount["name"] not in {*volumes, *templates}:
                yield f"{name}: mounts {mount['name']}, which is no volume"
        for volume in (*volumes, *templates):
            if volume not in {mount["name"] for mount in mounted}:
                yield f"{name}: nobody mounts {volume}"
        for container in containers(spec):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            if len(set(paths)) != len(paths):
                yield f"{name}: {container['name']}: two mounts at one path"


def references(documents: Documents, outside: Iterable[str] = ()) -> Iterator[str]:
    """A pod that waits for a ConfigMap, Secret, claim or account that nobody makes. `outside`: what the person is to make, as `Kind/name`."""
    there = {where(one) for one in documents} | set(outside)
    for one in documents:
        if one["kind"] == "ExternalSecret":
            there.add(f"Secret/{one['spec']['target']['name']}")
        if one["kind"] == "Certificate":
            there.add(f"Secret/{one['spec']['secretName']}")
    there.add("ConfigMap/kube-root-ca.crt")  # Kubernetes makes it in every namespace
    for name, _, spec in pods(documents):
        for needed in _needed(spec):
            if needed not in there:
                yield f"{name}: there is no {needed}"


def _needed(spec: Mapping[str, Any]) -> Iterator[str]:
    if "serviceAccountName" in spec:
        yield f"ServiceAccount/{spec['serviceAccountName']}"
    if "priorityClassName" in spec:
        yield f"PriorityClass/{spec['priorityClassName']}"
    for secret in spec.get("imagePullSecrets", ()):
        yield f"Secret/{secret['name']}"
    for volume in spec.get("volumes", ()):
        if "configMap" in volume:
            yield f"ConfigMap/{volume['configMap']['name']}"
        if "secret" in volume:
            yield f"Secret/{volume['secret']['secretName']}"
        if "persistentVolumeClaim" in volume:
            yield f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}"
        for source in volume.get("projected", {}).get("sources", ()):
            if "configMap" in source:
                yield f"ConfigMap/{source['configMap']['name']}"
    for container in containers(spec):
        for variable in container.get("env", ()):
            reference = variable.get("valueFrom", {})
            if "secretKeyRef" in reference:
                yield f"Secret/{reference['secretKeyRef']['name']}"
            if "configMapKeyRef" in reference:
                yield f"ConfigMap/{reference['configMapKeyRef']['name']}"
        for source in container.get("envFrom", ()):
            if "secretRef" in source:
                yield f"Secret/{source['secretRef']['name']}"


def scaling(documents: Documents) -> Iterator[str]:
    """Autoscalers without a target, two writers of one number of replicas, budgets that never let a node be drained."""
    workloads = {(one["kind"], one["metadata"]["name"]): one for one in documents if one["kind"] in WORKLOADS}
    scaled = {}
    for one in documents:
        if one["kind"] not in ("HorizontalPodAutoscaler", "VerticalPodAutoscaler"):
            continue
        horizontal = one["kind"] == "HorizontalPodAutoscaler"
        target = one["spec"]["scaleTargetRef" if horizontal else "targetRef"]
        workload = workloads.get((target["kind"], target["name"]))
        if workload is None:
            yield f"{where(one)}: its target does not exist"
            continue
        if horizontal:
            scaled[target["name"]] = one["spec"]
            if "replicas" in workload["spec"]:
                yield f"{where(workload)}: the chart and the autoscaler both write its replicas"
            watched = {metric["resource"]["name"] for metric in one["spec"]["metrics"] if metric["type"] == "Resource"}
            for container in workload["spec"]["template"]["spec"]["containers"]:
                lacking = watched - set(container["resources"].get("requests", {}))
                if lacking:
                    yield f"{where(one)}: {container['name']} requests no {sorted(lacking)}, so nothing can be reckoned"
        else:
            names = {container["name"] for container in workload["spec"]["template"]["spec"]["containers"]}
            for policy in one["spec"]["resourcePolicy"]["containerPolicies"]:
                if policy["containerName"] not in names:
                    yield f"{where(one)}: there is no container {policy['containerName']}"
                if target["name"] in scaled and "cpu" in policy["controlledResources"]:
                    yield f"{where(one)}: both autoscalers answer to CPU"
    for one in documents:
        if one["kind"] == "PodDisruptionBudget":
            for (_, name), workload in workloads.items():
                if matches(one["spec"]["selector"], workload["spec"]["template"]["metadata"]["labels"]):
                    least = scaled[name]["minReplicas"] if name in scaled else workload["spec"].get("replicas", 1)
                    if least < 2:
                        yield f"{where(one)}: with one pod it means nothing, or blocks a drain for ever"


def drains(documents: Documents) -> Iterator[str]:
    """A pod that is killed before its answers are whole: Kubernetes's patience must exceed the gateway's own."""
    config = next(
        one
        for one in documents
        if one["kind"] == "ConfigMap" and "lamplighter.yaml" in one["data"] and "server:" in one["data"]["lamplighter.yaml"]
    )
    server = yaml.safe_load(config["data"]["lamplighter.yaml"])["server"]
    needed = Duration.parse(server["shutdown_delay"]) + Duration.parse(server["shutdown_grace"])
    for name, metadata, spec in pods(documents):
        drained = metadata["labels"]["app.kubernetes.io/component"] in ("gateway", "single")
        if drained and spec["terminationGracePeriodSeconds"] < needed + 5:
            yield f"{name}: killed after {spec['terminationGracePeriodSeconds']} s, but it drains for {needed:g} s"


RULES = (identities, labels, selectors, ports, mounts, scaling, drains)
"""What every render must keep; `references` needs to know what the person makes."""
