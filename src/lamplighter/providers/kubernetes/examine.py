"""What a Kubernetes pool needs and whether it is there, as plain findings for `doctor`. Changes nothing.

Each is a sentence with what to do. What the account may not look at is not guessed. Not responsible for how findings are shown, nor for what runs.
"""

import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from lamplighter.config.kubernetes import KubernetesPool, Toleration
from lamplighter.core.errors import ProviderError
from lamplighter.core.findings import Finding, Verdict
from lamplighter.providers.kubernetes import applying, names, registry
from lamplighter.providers.kubernetes.client import Access, Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError, Target, grant
from lamplighter.providers.kubernetes.images import ecr_fix, image_refused
from lamplighter.providers.kubernetes.kinds import (
    ACCESS_REVIEW,
    AUTOSCALER,
    CLAIM,
    LEADER_WORKER_SET,
    NAMESPACE,
    NODE,
    SECRET,
    Kind,
    Manifest,
)
from lamplighter.providers.kubernetes.provider import access_of
from lamplighter.providers.kubernetes.reading import created, deleting, labels, moment, name, true
from lamplighter.providers.kubernetes.workload import kind_of

OLDEST = (1, 20)
ECR_LASTS = 12 * 3600.0
_ECR = re.compile(r"\d{12}\.dkr\.ecr(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?")


async def examine(
    pool: str, settings: KubernetesPool, images: Mapping[str, str], *, access: Access | None = None, now: float | None = None
) -> list[Finding]:
    """All findings about one pool. `images`: by model, its engine's image."""
    label = f"pool {pool}"
    try:
        cluster = Cluster.connect(access or access_of(settings))
    except ProviderError as error:
        return [Finding(label, Verdict.FAIL, error.message, error.next_step)]
    found: list[Finding] = []
    try:
        examination = _Examination(label, pool, settings, images, cluster, time.time() if now is None else now)
        found += [finding async for finding in examination.run()]
    finally:
        await cluster.close()
    return found


def permissions(settings: KubernetesPool) -> Sequence[tuple[str, str, str, bool]]:
    """What the keeper's account must be allowed in the pool's namespace: verb, API group, resource, and whether nothing works without it."""
    kind = kind_of(settings)
    wanted: list[tuple[str, str, str, bool]] = [
        *(("", "pods", verb, True) for verb in ("list", "watch", "patch", "delete")),
        ("", "pods/log", "get", False),
        *(("", "events", verb, False) for verb in ("list", "watch")),
        *((kind.group, kind.plural, verb, True) for verb in ("get", "list", "watch", "patch")),
        (kind.group, f"{kind.plural}/scale", "patch", True),
        ("", "secrets", "create", True),
    ]
    if settings.manage:
        wanted += [(kind.group, kind.plural, "create", True), ("", "services", "create", True), ("", "services", "patch", True)]
    return [(verb, group, resource, needed) for group, resource, verb, needed in wanted]


class _Examination:
    def __init__(
        self, label: str, pool: str, settings: KubernetesPool, images: Mapping[str, str], cluster: Cluster, now: float
    ) -> None:
        self.label = label
        self.pool = pool
        self.settings = settings
        self.images = images
        self.cluster = cluster
        self.space = cluster.namespace
        self.now = now

    async def run(self) -> AsyncIterator[Finding]:
        try:
            version = await self.cluster.version()
        except ProviderError as error:
            yield Finding(self.label, Verdict.FAIL, error.message, error.next_step)
            return
        digits = [int(part) for part in re.findall(r"\d+", version)[:2]]
        if tuple(digits) < OLDEST:
            yield Finding(self.label, Verdict.FAIL, f"the cluster is Kubernetes {version}", "Kubernetes 1.20 or newer is needed.")
        else:
            yield Finding(self.label, Verdict.OK, f"Kubernetes {version} at {self.cluster.server}, namespace {self.space}")
        for check in (self._namespace, self._permissions, self._nodes, self._objects, self._images, self._workloads):
            try:
                async for finding in check():
                    yield finding
            except ProviderError as error:
                yield Finding(self.label, Verdict.WARN, error.message, error.next_step)

    async def _namespace(self) -> AsyncIterator[Finding]:
        label = f"namespace {self.space}"
        try:
            found = await self.cluster.get_or_none(NAMESPACE, self.space)
        except KubernetesError as error:
            if error.status == 403:
                return  # it may not be seen from inside it: what is refused in it says enough
            raise
        if found is None:
            yield Finding(label, Verdict.FAIL, "it does not exist", f"Make it: `kubectl create namespace {self.space}`.")
        elif deleting(found):
            yield Finding(
                label, Verdict.FAIL, "it is being deleted", "Wait until it is gone and make it anew, or configure another one."
            )
        else:
            level = labels(found).get("pod-security.kubernetes.io/enforce", "not set")
            yield Finding(label, Verdict.OK, f"PodSecurity level {level}; the models' pods fit `restricted`")

    async def _permissions(self) -> AsyncIterator[Finding]:
        missing: dict[bool, list[Target]] = {True: [], False: []}
        for verb, group, resource, needed in permissions(self.settings):
            if not await self._may(verb, group, resource):
                missing[needed].append(Target(verb, group, resource, self.space))
        for needed, targets in missing.items():
            if targets:
                what = ", ".join(f"{one.verb} {one.full}" for one in targets)
                more = "" if needed else "; models run without, but less is told"
                yield Finding(
                    f"{self.label}: permissions",
                    Verdict.FAIL if needed else Verdict.WARN,
                    f"the account may not {what}{more}",
                    " ".join(map(grant, targets)),
                )
        if not missing[True]:
            yield Finding(f"{self.label}: permissions", Verdict.OK, "the account may do what it needs")

    async def _may(self, verb: str, group: str, resource: str, *, namespace: str | None = "") -> bool:
        plural, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
        if namespace is not None:
            attributes["namespace"] = namespace or self.space
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        answer = await self.cluster.call("POST", ACCESS_REVIEW.path(), body=body)
        return bool((answer.get("status") or {}).get("allowed"))

    async def _nodes(self) -> AsyncIterator[Finding]:
        """GPUs on some node that the pool's pods may use."""
        resource = self.settings.gpu_resource
        if self.settings.gpus == 0:
            return
        label = f"{self.label}: GPUs"
        try:
            nodes = await self.cluster.list(NODE)
        except KubernetesError as error:
            if error.status != 403:
                raise
            yield Finding(
                label,
                Verdict.WARN,
                "the account may not see nodes, so nobody knows whether one has a GPU",
                "Look yourself: `kubectl get nodes`.",
            )
            return
        having = [node for node in nodes if _count(node, resource) > 0]
        fitting = [node for node in having if self._suits(node)]
        most = max((_count(node, resource) for node in fitting), default=0)
        if most >= self.settings.gpus:
            yield Finding(label, Verdict.OK, f"{len(fitting)} nodes have {resource}, up to {most} each")
        elif fitting:
            yield Finding(
                label,
                Verdict.FAIL,
                f"no node has {self.settings.gpus} {resource}: the largest has {most}",
                "Lower the pool's `gpus`, or add a larger node.",
            )
        elif having:
            yield Finding(
                label,
                Verdict.FAIL,
                f"{len(having)} nodes have {resource}, but the pool's pods may use none of them",
                "Compare the pool's `node_selector` and `tolerations` with the nodes' labels and taints.",
            )
        else:
            yield Finding(
                label,
                Verdict.WARN,
                f"no node has {resource}",
                "Fine if an autoscaler adds one. Otherwise install NVIDIA's device plugin, or correct the pool's `gpu_resource`.",
            )

    def _suits(self, node: Manifest) -> bool:
        spec, has = node.get("spec") or {}, labels(node)
        taints = [one for one in spec.get("taints") or () if one.get("effect") in ("NoSchedule", "NoExecute")]
        return (
            self.settings.node_selector.items() <= has.items()
            and true(node, "Ready")
            and not spec.get("unschedulable")
            and all(any(_tolerates(one, taint) for one in self.settings.tolerations) for taint in taints)
        )

    async def _objects(self) -> AsyncIterator[Finding]:
        """What the pool's settings name."""
        if self.settings.cache.claim is not None:
            async for finding in self._claim(self.settings.cache.claim):
                yield finding
        if (token := self.settings.hub_token) is not None:
            found = await self._look(SECRET, token[0])
            make = f"Make it: `kubectl -n {self.space} create secret generic {token[0]} --from-literal={token[1]}=hf_...`."
            if found is False:
                yield Finding(
                    f"secret {token[0]}", Verdict.FAIL, "it does not exist, and the pool's `hub_token_secret` names it", make
                )
            elif isinstance(found, dict) and token[1] not in (found.get("data") or {}):
                yield Finding(f"secret {token[0]}", Verdict.FAIL, f"it has no key {token[1]}", make)
        if self.settings.nodes > 1 and await self._look(LEADER_WORKER_SET, "lamplighter-look") is False:
            try:
                await self.cluster.list(LEADER_WORKER_SET)
            except KubernetesError as error:
                yield Finding(
                    f"{self.label}: groups",
                    Verdict.FAIL,
                    error.message,
                    "Install LeaderWorkerSet (sigs.k8s.io/lws), or set `nodes: 1`.",
                )

    async def _claim(self, wanted: str) -> AsyncIterator[Finding]:
        label = f"claim {wanted}"
        found = await self._look(CLAIM, wanted)
        if found is False:
            yield Finding(
                label,
                Verdict.FAIL,
                "it does not exist, and the pool's `cache.claim` names it",
                "Create it, see docs/guides/model-cache.md.",
            )
        elif isinstance(found, dict):
            modes = set((found.get("spec") or {}).get("accessModes") or ())
            phase = (found.get("status") or {}).get("phase")
            if phase == "Lost":
                yield Finding(
                    label, Verdict.FAIL, "its volume is gone", "Restore the volume, or make the claim anew and fill it."
                )
            elif self.settings.max_replicas > 1 and not modes & {"ReadWriteMany", "ReadOnlyMany"}:
                yield Finding(
                    label,
                    Verdict.WARN,
                    f"it can only be used on one node at a time ({', '.join(sorted(modes))}), and the pool may have {self.settings.max_replicas} replicas",
                    "Use a volume that many may read (ReadWriteMany, or ReadOnlyMany with `cache.read_only`), or set `max_replicas: 1`.",
                )
            else:
                yield Finding(label, Verdict.OK, f"{phase or 'there'}, {', '.join(sorted(modes))}")

    async def _images(self) -> AsyncIterator[Finding]:
        """Whether the images may be pulled with the pool's pull secrets."""
        known: list[registry.Login] = []
        for wanted in self.settings.image_pull_secrets:
            found = await self._look(SECRET, wanted)
            if found is False:
                make = f"kubectl -n {self.space} create secret docker-registry {wanted} --docker-server=SERVER --docker-username=USER --docker-password=..."
                yield Finding(f"pull secret {wanted}", Verdict.FAIL, "it does not exist", f"Make it: `{make}`.")
            elif isinstance(found, dict):
                known += registry.logins(found)
                if (finding := self._age(wanted, found)) is not None:
                    yield finding
            else:
                yield Finding(
                    f"pull secret {wanted}",
                    Verdict.WARN,
                    "the account may not read it, so the pull cannot be tested",
                    "Run `lamplighter doctor` with an account that may.",
                )
        for image in sorted(set(self.images.values())):
            yield await self._image(image, known)

    def _age(self, wanted: str, found: Manifest) -> Finding | None:
        """Of a token of ECR, by when the Secret was last written."""
        servers = [one.registry for one in registry.logins(found) if _ECR.fullmatch(one.registry)]
        if not servers:
            return None
        times = [moment(entry.get("time")) for entry in found["metadata"].get("managedFields") or ()]
        age = self.now - max([at for at in times if at is not None], default=created(found))
        region = servers[0].split(".")[3]
        fix = ecr_fix(servers[0], region, {"spec": {"imagePullSecrets": [{"name": wanted}]}}, self.space)
        fix = f"{fix[:1].upper()}{fix[1:]}"
        if age >= ECR_LASTS:
            return Finding(
                f"pull secret {wanted}",
                Verdict.FAIL,
                f"ECR's tokens live for 12 hours, and this one is {age / 3600:.0f} hours old",
                fix,
            )
        if age >= ECR_LASTS - 3600:
            return Finding(f"pull secret {wanted}", Verdict.WARN, "ECR's token in it expires within the hour", fix)
        return Finding(
            f"pull secret {wanted}", Verdict.OK, f"ECR's token in it is valid for another {(ECR_LASTS - age) / 3600:.0f} hours"
        )

    async def _image(self, image: str, known: Sequence[registry.Login]) -> Finding:
        parsed = registry.parse(image)
        login = registry.login_for(parsed, known)
        answer = await registry.ask(parsed, login)
        label = f"image {image}"
        how = f"with the pull secret for {parsed.registry}" if login is not None else "without a pull secret"
        if 200 <= answer.status < 300:
            return Finding(label, Verdict.OK, f"the registry gives it {how}")
        if answer.status == 0:
            return Finding(
                label,
                Verdict.WARN,
                f"its registry cannot be asked from here ({answer.said})",
                "Nodes may have another way; a wake tells.",
            )
        if answer.status in (401, 403) and login is None and _ECR.fullmatch(parsed.registry):
            return Finding(
                label,
                Verdict.WARN,
                "it is private, and the pool has no pull secret for it",
                "Fine where the kubelet has an ECR credential provider (EKS, and nodes of `lamplighter cloud`). Else see docs/guides/kubernetes-pool.md.",
            )
        said = (
            f"{answer.status} {'not found' if answer.status == 404 else 'Unauthorized' if answer.status == 401 else ''}".strip()
        )
        pod = {"spec": {"imagePullSecrets": [{"name": one} for one in self.settings.image_pull_secrets]}}
        hindrance = image_refused(image, said, pod, self.space)
        return Finding(label, Verdict.FAIL, f"the registry refuses it {how} (status {answer.status})", hindrance.detail)

    async def _workloads(self) -> AsyncIterator[Finding]:
        """Whether somebody else writes replicas; and, where others make the workloads, whether they did."""
        kind = kind_of(self.settings)
        for model in self.images:
            title = names.workload_name(self.pool, model)
            found = await self._look(kind, title)
            if found is False and not self.settings.manage:
                yield Finding(
                    f"model {model}",
                    Verdict.FAIL,
                    f"there is no {kind.resource} {title}, and the pool says `manage: false`",
                    "Apply what `lamplighter models render` prints.",
                )
            elif isinstance(found, dict) and (who := applying.writer(found)) is not None:
                yield Finding(
                    f"model {model}", Verdict.WARN, f"{who} wrote the replicas of {title} last: only the keeper may", _ONE_WRITER
                )
        try:
            scalers = await self.cluster.list(AUTOSCALER)
        except KubernetesError:
            return  # not to be seen with the keeper's own account
        for scaler in scalers:
            about = (scaler.get("spec") or {}).get("scaleTargetRef") or {}
            if str(about.get("name", "")).startswith(names.prefix(self.pool)):
                yield Finding(
                    f"autoscaler {name(scaler)}",
                    Verdict.FAIL,
                    f"it writes the replicas of {about.get('name')}, as the keeper does",
                    _ONE_WRITER,
                )

    async def _look(self, kind: Kind, wanted: str) -> dict[str, Any] | bool:
        """The object; False when it is not there, True when it may not be seen."""
        try:
            found = await self.cluster.get_or_none(kind, wanted)
        except KubernetesError as error:
            if error.status == 403:
                return True
            raise
        return False if found is None else found


_ONE_WRITER = "Delete the HorizontalPodAutoscaler, or take `replicas` out of what applies the manifest."


def _count(node: Manifest, resource: str) -> int:
    told = str(((node.get("status") or {}).get("allocatable") or {}).get(resource, "0"))
    return int(told) if told.isdigit() else 0


def _tolerates(toleration: Toleration, taint: Mapping[str, Any]) -> bool:
    if toleration.effect is not None and toleration.effect != taint.get("effect"):
        return False
    if toleration.key is not None and toleration.key != taint.get("key"):
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == str(taint.get("value") or "")
