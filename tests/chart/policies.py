"""Rules about pods that hold for everything this project puts into a cluster, in plain Python over manifests. Each yields a sentence for what
breaks it. They are used on every render of the chart, and fit any other workload (the models' own, for one).

Not responsible for how objects refer to each other (`consistency`), nor for the network (`network`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
Documents = Sequence[Document]
Rule = Callable[[Documents], Iterator[str]]

BASELINE_CAPABILITIES = frozenset(
    (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
        "SETUID", "SYS_CHROOT",
    )
)  # fmt: skip
RESTRICTED_VOLUMES = frozenset(
    ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
)
SAFE_SYSCTLS = frozenset(
    (
        "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
    )
)  # fmt: skip
SELINUX_TYPES = frozenset(("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"))
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
HANDLERS = ("httpGet", "tcpSocket")


def where(document: Document) -> str:
    """How a sentence names an object."""
    return f"{document['kind']}/{document['metadata']['name']}"


def pods(documents: Iterable[Document]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Every pod that the documents make: whose it is, its metadata, its spec."""
    for one in documents:
        name = where(one)
        match one["kind"]:
            case "Pod":
                yield name, one["metadata"], one["spec"]
            case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
                template = one["spec"]["template"]
                yield name, template.get("metadata", {}), template["spec"]
            case "CronJob":
                template = one["spec"]["jobTemplate"]["spec"]["template"]
                yield name, template.get("metadata", {}), template["spec"]
            case "LeaderWorkerSet":
                for part in ("leaderTemplate", "workerTemplate"):
                    if part in one["spec"]["leaderWorkerTemplate"]:
                        template = one["spec"]["leaderWorkerTemplate"][part]
                        yield f"{name}.{part}", template.get("metadata", {}), template["spec"]
            case _:
                pass


def containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All containers of a pod, those that only begin or debug it included."""
    return [one for key in ("initContainers", "containers", "ephemeralContainers") for one in spec.get(key, ())]


# -- PodSecurity, https://kubernetes.io/docs/concepts/security/pod-security-standards/


def baseline(documents: Documents) -> Iterator[str]:
    """What no pod needs that is no part of the node itself: each of these is a known way out of a container."""
    for name, metadata, spec in pods(documents):
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key):
                yield f"{name}: {key}"
        for volume in spec.get("volumes", ()):
            if "hostPath" in volume:
                yield f"{name}: volume {volume['name']} is a folder of the node"
        for key, value in metadata.get("annotations", {}).items():
            if key.startswith("container.apparmor.security.beta.kubernetes.io/") and not re.match(
                "runtime/default$|localhost/|$", value
            ):
                yield f"{name}: {key} is {value}"
        pod_context = spec.get("securityContext", {})
        for sysctl in pod_context.get("sysctls", ()):
            if sysctl["name"] not in SAFE_SYSCTLS:
                yield f"{name}: sysctl {sysctl['name']}"
        contexts = [("pod", pod_context), *((one["name"], one.get("securityContext", {})) for one in containers(spec))]
        for whose, context in contexts:
            yield from (f"{name}: {whose}: {problem}" for problem in _baseline(context))
        for container in containers(spec):
            for port in container.get("ports", ()):
                if port.get("hostPort"):
                    yield f"{name}: {container['name']}: hostPort {port['hostPort']}"
            handlers = [container.get(probe, {}) for probe in PROBES] + list(container.get("lifecycle", {}).values())
            for handler in handlers:
                if any(handler.get(kind, {}).get("host") for kind in HANDLERS):
                    yield f"{name}: {container['name']}: a probe or hook asks another host"


def _baseline(context: Mapping[str, Any]) -> Iterator[str]:
    if context.get("privileged"):
        yield "privileged"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    added = set(context.get("capabilities", {}).get("add", ()))
    if added - BASELINE_CAPABILITIES:
        yield f"adds {sorted(added - BASELINE_CAPABILITIES)}"
    if context.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "seccomp is off"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield "AppArmor is off"
    if context.get("procMount", "Default") != "Default":
        yield f"procMount {context['procMount']}"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"SELinux {dict(selinux)}"


def restricted(documents: Documents) -> Iterator[str]:
    """The strictest of Kubernetes's own levels, `baseline` included: a namespace that enforces it refuses a pod that breaks it."""
    yield from baseline(documents)
    for name, _, spec in pods(documents):
        for volume in spec.get("volumes", ()):
            kinds = set(volume) - {"name"}
            if kinds - RESTRICTED_VOLUMES:
                yield f"{name}: volume {volume['name']} is of kind {sorted(kinds)}"
        pod_context = spec.get("securityContext", {})
        if pod_context.get("runAsUser") == 0:
            yield f"{name}: runs as root"
        for container in containers(spec):
            who = f"{name}: {container['name']}"
            context = container.get("securityContext", {})
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"{who}: may gain privileges"
            if context.get("runAsNonRoot", pod_context.get("runAsNonRoot")) is not True:
                yield f"{who}: runAsNonRoot is not said"
            if context.get("runAsUser") == 0:
                yield f"{who}: runs as root"
            seccomp = context.get("seccompProfile", pod_context.get("seccompProfile", {})).get("type")
            if seccomp not in ("RuntimeDefault", "Localhost"):
                yield f"{who}: no seccomp profile"
            capabilities = context.get("capabilities", {})
            if "ALL" not in capabilities.get("drop", ()):
                yield f"{who}: keeps capabilities"
            if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
                yield f"{who}: adds {capabilities['add']}"


# -- ours


def read_only(documents: Documents) -> Iterator[str]:
    """Who breaks in finds nowhere to write a program, and every image runs as it was built."""
    for name, _, spec in pods(documents):
        for container in containers(spec):
            if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
                yield f"{name}: {container['name']}: its root is writable"


def bounded(documents: Documents) -> Iterator[str]:
    """What a pod writes into its own space is taken from the node, and a full node evicts its neighbours."""
    for name, _, spec in pods(documents):
        for volume in spec.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name}: volume {volume['name']} may fill the node's disk"


def resources(documents: Documents) -> Iterator[str]:
    """The scheduler must know what fits, and one pod must not take the memory of the others on its node."""
    for name, _, spec in pods(documents):
        for container in containers(spec):
            given = container.get("resources", {})
            missing = [f"requests.{one}" for one in ("cpu", "memory") if one not in given.get("requests", {})]
            missing += ["limits.memory"] if "memory" not in given.get("limits", {}) else []
            if missing:
                yield f"{name}: {container['name']}: no {', '.join(missing)}"


def probes(documents: Documents) -> Iterator[str]:
    """A server without probes gets requests before it can answer, and goes on getting them when it hangs."""
    for name, _, spec in pods(documents):
        for container in spec.get("containers", ()):
            if not container.get("ports"):
                continue
            for probe in PROBES:
                if probe not in container:
                    yield f"{name}: {container['name']}: no {probe}"


def images(documents: Documents) -> Iterator[str]:
    """A tag that moves makes two pods of one Deployment two programs."""
    for name, _, spec in pods(documents):
        for container in containers(spec):
            image = container["image"]
            path, at, digest = image.partition("@")
            tag = path.rpartition("/")[2].partition(":")[2]
            if at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                yield f"{name}: {container['name']}: {image} has no digest that means anything"
            if not at and (not tag or tag in ("latest", "main", "master", "stable")):
                yield f"{name}: {container['name']}: {image} is not pinned"


def tokens(documents: Documents, allowed: Iterable[str] = ()) -> Iterator[str]:
    """A token for the API server in a pod that never asks it is a gift to whoever breaks in. `allowed`: pods that ask it."""
    allowed = set(allowed)
    for name, _, spec in pods(documents):
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: gets a token by itself"
        projected = [
            source["serviceAccountToken"]
            for volume in spec.get("volumes", ())
            for source in volume.get("projected", {}).get("sources", ())
            if "serviceAccountToken" in source
        ]
        if projected and name not in allowed:
            yield f"{name}: has a token that it does not need"
        if not projected and name in allowed:
            yield f"{name}: asks the API server, and has no token"
        if any(one.get("expirationSeconds", 10**9) > 3600 for one in projected):
            yield f"{name}: its token lives for longer than an hour"
    for one in documents:
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken") is not False:
            yield f"{where(one)}: gives a token to every pod"


_SECRET_NAMES = re.compile(r"(?i)(password|secret|token|api_?key|admin_?key|_key)$")
_SECRET_VALUES = re.compile(
    r"lk-[A-Za-z0-9]{16,}|hf_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|(?:postgres(?:ql)?|rediss?)://[^\s:/@]*:[^\s@]+@"
)


def open_secrets(documents: Documents) -> Iterator[str]:
    """A secret in a ConfigMap, an annotation or an argument is read by everybody who may look at pods, and is in every backup."""
    for one in documents:
        if one["kind"] == "Secret":
            continue
        for path, text in _texts(one, ""):
            if _SECRET_VALUES.search(text):
                yield f"{where(one)}: a secret at {path}"
    for name, _, spec in pods(documents):
        for container in containers(spec):
            for variable in container.get("env", ()):
                if "value" in variable and _SECRET_NAMES.search(variable["name"]):
                    yield f"{name}: {container['name']}: {variable['name']} in plain text"


def _texts(tree: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _texts(value, f"{path}.{key}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _texts(value, f"{path}[{index}]")


def rights(documents: Documents) -> Iterator[str]:
    """No wildcard, nothing for the whole cluster, no reading of all Secrets, no way to more rights than one has."""
    escalating = {"escalate", "bind", "impersonate"}
    for one in documents:
        if one["kind"] in ("ClusterRole", "Role"):
            for rule in one.get("rules", ()):
                if "*" in {*rule.get("apiGroups", ()), *rule["resources"], *rule["verbs"]}:
                    yield f"{where(one)}: a wildcard in {rule}"
                if escalating & set(rule["verbs"]):
                    yield f"{where(one)}: may give itself more rights"
                if (
                    "secrets" in rule["resources"]
                    and set(rule["verbs"]) - {"create"}
                    and not rule.get("resourceNames")
                    and not _of_liqo(one)
                ):
                    yield f"{where(one)}: may read or change every Secret"
                if {"pods/exec", "pods/attach", "pods/portforward", "nodes/proxy", "serviceaccounts/token"} & set(
                    rule["resources"]
                ):
                    yield f"{where(one)}: may step into pods: {rule['resources']}"
        if one["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            for subject in one.get("subjects", ()):
                if subject["kind"] != "ServiceAccount" or subject["name"] == "default":
                    yield f"{where(one)}: gives rights to {subject['kind']} {subject['name']}"


def _of_liqo(role: Document) -> bool:
    """Liqo keeps each peering's secrets in a namespace whose name nobody knows ahead; RBAC has no pattern for names. Off unless asked for."""
    return str(role["metadata"]["name"]).endswith("-federation")


RULES: tuple[Rule, ...] = (restricted, read_only, bounded, resources, probes, images, open_secrets, rights)
"""What every pod of ours must keep; `tokens` needs to know who may have one."""


def broken(documents: Documents, rules: Iterable[Rule] = RULES) -> list[str]:
    """What breaks any of the rules, in words."""
    return [sentence for rule in rules for sentence in rule(documents)]
