"""The manifests of a model: valid for every Kubernetes that we promise, admitted by PodSecurity restricted, and with what people configured."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.config import ModelConfig
from lamplighter.config.kubernetes import KubernetesPool
from lamplighter.engines.base import Accelerator, Container
from lamplighter.providers.kubernetes import cronjobs, names
from lamplighter.providers.kubernetes.workload import Workload, accelerator, autoscalers, build

VERSIONS = ("1.25", "1.30", "1.34", "1.37")
CONTAINER = Container(
    image="vllm/vllm-openai@sha256:" + "a" * 64,
    arguments=("org/model", "--chat-template", "{{ $(x) }}", "--node-rank", "$(LWS_WORKER_INDEX)"),
    environment={"VLLM_CACHE_ROOT": "/models/vllm", "GREETING": "$(HOME)"},
    secrets={"VLLM_API_KEY": "key", "HF_TOKEN": "hub_token"},
    port=8000,
    ready="/ready",
    shared_memory=2 * 2**30,
    member_arguments=("--headless",),
    writable=("/tmp", "/var/cache"),
)
EVERYTHING: dict[str, Any] = {
    "gpus": 2, "cpu": "4", "memory": "32 GiB", "node_selector": {"node-type": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                    {"key": "spot", "value": "yes", "effect": "NoExecute", "toleration_seconds": 30}],
    "runtime_class": "nvidia", "priority_class": "models", "service_account": "models", "image_pull_secrets": ["ecr"],
    "labels": {"team": "a"}, "annotations": {"note": "b"}, "cache": {"kind": "claim", "claim": "weights"}, "preload": True,
    "hub_token_secret": "hf/token", "max_replicas": 3, "termination_grace": "5m",
}  # fmt: skip


def made(container: Container = CONTAINER, *, model: dict[str, Any] | None = None, **settings: Any) -> Workload:
    """The objects of one model."""
    config = ModelConfig.model_validate({"engine": "vllm", "pool": "gpu", "source": "hf:org/model", **(model or {})})
    pool = KubernetesPool.model_validate({"kind": "kubernetes", **settings})
    return build("org/model:1", config, "gpu", pool, container, namespace="models", installation="ins_1")


def templates(found: Workload) -> list[dict[str, Any]]:
    """Its pods'."""
    spec = found.object["spec"]
    group = spec.get("leaderWorkerTemplate")
    return [spec["template"]] if group is None else [group["leaderTemplate"], group["workerTemplate"]]


def engine(found: Workload) -> dict[str, Any]:
    """Its engine's container."""
    one: dict[str, Any] = templates(found)[0]["spec"]["containers"][0]
    return one


def unrestricted(pod: dict[str, Any]) -> Iterator[str]:
    """What PodSecurity restricted (kubernetes.io, Pod Security Standards) would refuse."""
    spec = pod["spec"]
    for flag in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(flag):
            yield flag
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if not kinds <= {
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        }:
            yield f"volume {volume}"
    for one in [*spec["containers"], *spec.get("initContainers", ())]:
        context = {**spec.get("securityContext", {}), **one.get("securityContext", {})}
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield "escalation"
        if not context.get("runAsNonRoot") or context.get("runAsUser") == 0:
            yield "root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield "seccomp"
        if "ALL" not in context.get("capabilities", {}).get("drop", ()) or context["capabilities"].get("add"):
            yield "capabilities"
        if any("hostPort" in port for port in one.get("ports", ())):
            yield "hostPort"


SHAPES: list[dict[str, Any]] = [
    {},
    EVERYTHING,
    {"workload": "statefulset", "gpus": 0},
    {"cache": {"kind": "s3", "url": "s3://bucket/models"}},
    {"cache": {"kind": "claim", "claim": "weights", "read_only": True}},
    {"nodes": 2, "gpus": 8},
]


@pytest.mark.parametrize("settings", SHAPES)
def test_pods_are_restricted_and_hold_no_token(settings: dict[str, Any]) -> None:
    """A namespace with PodSecurity `restricted` would admit none of them; a token would be a way from a prompt to the cluster."""
    for template in templates(made(**settings)):
        assert not list(unrestricted(template))
        assert template["spec"]["automountServiceAccountToken"] is False
        for one in [*template["spec"]["containers"], *template["spec"].get("initContainers", ())]:
            assert one["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", SHAPES[:-1])
def test_manifests_are_valid_in_every_version(settings: dict[str, Any], version: str) -> None:
    """A field that one version does not know is dropped in silence, or refused."""
    for manifest in made(**settings).manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    for manifest in (
        *cronjobs.ecr_refresh("1" * 12 + ".dkr.ecr.eu-central-1.amazonaws.com", "ecr", "models"),
        *cronjobs.janitor("models"),
    ):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("settings", SHAPES)
def test_replicas_are_never_part_of_a_manifest(settings: dict[str, Any]) -> None:
    """Applying it would wake or end a model."""
    found = made(**settings)
    assert "replicas" not in found.object["spec"]
    assert found.asleep()["spec"]["replicas"] == 0
    assert names.SPEC_HASH not in found.asleep()["metadata"]["annotations"]


@pytest.mark.parametrize("settings", SHAPES)
def test_selectors_match_the_pods(settings: dict[str, Any]) -> None:
    """The Service would point at nothing, or the Deployment would make pods for ever."""
    found = made(**settings)
    labels = templates(found)[0]["metadata"]["labels"]
    chosen = found.object["spec"].get("selector", {}).get("matchLabels", {})
    assert chosen.items() <= labels.items()
    assert found.service["spec"]["selector"].items() <= labels.items()
    assert found.service["spec"]["ports"][0]["targetPort"] == engine(found)["ports"][0]["name"]
    for member in templates(found)[1:]:
        assert not found.service["spec"]["selector"].items() <= member["metadata"]["labels"].items()


def test_what_was_configured_is_there() -> None:
    """Each setting that did nothing would be found out in production."""
    found = made(model={"gpus": 4, "revision": "abc"}, **EVERYTHING)
    spec, one = templates(found)[0]["spec"], engine(found)
    assert one["image"] == CONTAINER.image
    assert one["resources"] == {
        "requests": {"cpu": "4", "memory": str(32 * 2**30), "nvidia.com/gpu": "4"},
        "limits": {"memory": str(32 * 2**30), "nvidia.com/gpu": "4"},
    }
    assert spec["nodeSelector"] == {"node-type": "gpu"}
    assert spec["tolerations"][1] == {
        "key": "spot",
        "operator": "Equal",
        "value": "yes",
        "effect": "NoExecute",
        "tolerationSeconds": 30,
    }
    assert (spec["runtimeClassName"], spec["priorityClassName"], spec["serviceAccountName"]) == ("nvidia", "models", "models")
    assert spec["imagePullSecrets"] == [{"name": "ecr"}]
    assert spec["terminationGracePeriodSeconds"] == 300
    assert templates(found)[0]["metadata"]["labels"]["team"] == "a"
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}} in one["env"]
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": False}} in spec["volumes"]
    shared = next(volume for volume in spec["volumes"] if volume["name"] == "shared-memory")
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": str(2 * 2**30)}
    preload = spec["initContainers"][0]
    assert preload["args"][:5] == ["models", "pull", "hf:org/model", "--to", "/models"]
    assert preload["args"][-2:] == ["--revision", "abc"]


def test_the_model_that_answers_is_what_counts_as_started() -> None:
    """A probe of the port alone sends people to a model that is still being loaded."""
    one = engine(made())
    assert one["startupProbe"]["httpGet"]["path"] == "/ready"
    assert one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"] >= 900
    assert one["livenessProbe"]["httpGet"]["path"] == CONTAINER.health
    pulled = engine(made(Container("ollama:1", prepare=("sh", "-c", "ollama pull x"))))
    assert pulled["startupProbe"]["exec"]["command"] == ["sh", "-c", "ollama pull x"]
    assert pulled["startupProbe"]["timeoutSeconds"] >= 900


def test_running_answers_may_end() -> None:
    """A pod that is evicted would cut its streams at once."""
    found = made(Container("x", stop_grace=500.0))
    assert templates(found)[0]["spec"]["terminationGracePeriodSeconds"] >= 505
    assert engine(found)["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_a_read_only_cache_is_mounted_so_and_written_to_elsewhere() -> None:
    """vLLM would end because it may not compile into the volume that a hundred pods share."""
    found = made(cache={"kind": "claim", "claim": "weights", "read_only": True})
    one = engine(found)
    assert next(mount for mount in one["volumeMounts"] if mount["name"] == "weights")["readOnly"] is True
    environment = {entry["name"]: entry.get("value") for entry in one["env"]}
    assert environment["VLLM_CACHE_ROOT"] == "/tmp/vllm"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_a_bucket_is_copied_from_before_the_engine_starts() -> None:
    """No engine reads from a bucket by itself: it would load from the hub, slowly, at every wake."""
    found = made(cache={"kind": "s3", "url": "s3://bucket/models"})
    arguments = templates(found)[0]["spec"]["initContainers"][0]["args"]
    assert arguments[arguments.index("--mirror") + 1] == "s3://bucket/models"


def test_preloading_speaks_the_command_line_that_there_is() -> None:
    """The init container would end with `no such option`, at every wake."""
    import typer

    from lamplighter.cli.models import models, register

    register(typer.Typer())
    command: Any = typer.main.get_command(models)
    pull = command.commands["pull"]
    for settings in ({"preload": True}, {"cache": {"kind": "s3", "url": "s3://bucket/models"}}):
        arguments = templates(made(model={"revision": "abc"}, **settings))[0]["spec"]["initContainers"][0]["args"]
        assert arguments[:2] == ["models", "pull"]
        assert pull.make_context("pull", list(arguments[2:]), resilient_parsing=False).params["to"] is not None


def test_dollars_of_people_stay_theirs() -> None:
    """Kubernetes would replace `$(x)` in a chat template; only a group's own variables are meant so."""
    one = engine(made())
    assert "{{ $$(x) }}" in one["args"]
    assert "$(LWS_WORKER_INDEX)" in one["args"]
    assert {"name": "GREETING", "value": "$$(HOME)"} in one["env"]


def test_several_machines_are_one_group() -> None:
    """A model larger than one machine: one answers, the others compute."""
    found = made(nodes=2, gpus=8)
    assert found.object["kind"] == "LeaderWorkerSet"
    leader, worker = templates(found)
    assert found.object["spec"]["leaderWorkerTemplate"]["size"] == 2
    assert worker["spec"]["containers"][0]["args"] == ["--headless"]
    assert "readinessProbe" not in worker["spec"]["containers"][0]
    assert leader["spec"]["containers"][0]["readinessProbe"]


def test_autoscalers_neither_kill_what_answers_nor_are_blocked_for_ever() -> None:
    """A pod that never sleeps and may never be moved holds its node until the end of time."""
    sleeps = KubernetesPool.model_validate({"kind": "kubernetes"})
    assert autoscalers(sleeps) == {names.SAFE_TO_EVICT: "false", names.DO_NOT_DISRUPT: "true"}
    for settings in ({"min_replicas": 1}, {"sleep_after": "never"}, {"keep_warm": ["Mon-Fri 08:00-18:00 UTC"]}):
        stays = KubernetesPool.model_validate({"kind": "kubernetes", **settings})
        assert autoscalers(stays) == {names.SAFE_TO_EVICT: "true"}


def test_what_does_not_concern_pods_replaces_none() -> None:
    """Another idle time would end every model that runs."""
    assert made().settings == made(sleep_after="1h", max_replicas=1, budget=None).settings
    assert made().settings != made(cpu="2").settings
    assert made().settings != made(model={"image": "x"}).settings


def test_the_number_of_gpus_is_the_pools_or_the_models() -> None:
    """An engine told of another number would not start, or leave GPUs idle."""
    pool = KubernetesPool.model_validate({"kind": "kubernetes", "gpus": 2, "nodes": 2})
    model = ModelConfig.model_validate({"engine": "vllm", "pool": "gpu", "source": "hf:a/b"})
    known = Accelerator("T4", 8, 16 * 2**30, bf16=False)
    assert accelerator(pool, model, known) == Accelerator("T4", 2, 16 * 2**30, bf16=False, nodes=2)
    assert accelerator(pool, model.model_copy(update={"gpus": 0}), known) is None
    unknown = accelerator(pool, model, None)
    assert unknown is not None
    assert (unknown.count, unknown.bf16) == (2, True)


@given(
    st.text(min_size=1, max_size=128),
    st.text(min_size=1, max_size=128),
    st.from_regex(r"^[a-z0-9][a-z0-9-]{0,62}$", fullmatch=True),
)
def test_names_are_labels_and_tell_models_apart(one: str, other: str, pool: str) -> None:
    """A model called `meta-llama/Llama-3.2:3b` would have no pod, or another model's."""
    for name in (names.workload_name(pool, one), names.key_secret(pool)):
        assert len(name) <= 52
        assert name.strip("abcdefghijklmnopqrstuvwxyz0123456789-") == ""
        assert name[0].isalpha()
        assert name[-1] != "-"
    assert len(names.slug(one)) <= 63
    assert (names.slug(one) == names.slug(other)) == (one == other)
    assert names.workload_name(pool, one).startswith(names.prefix(pool))


def test_the_refresher_of_a_pull_secret_may_do_nothing_else() -> None:
    """A job with the right to read all Secrets is a way to every key of the namespace."""
    found = {one["kind"]: one for one in cronjobs.ecr_refresh("1" * 12 + ".dkr.ecr.eu-central-1.amazonaws.com", "ecr", "models")}
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in found["Role"]["rules"]] == [
        (["create"], None),
        (["patch"], ["ecr"]),
    ]
    assert not list(unrestricted(found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]))
