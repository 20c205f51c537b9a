"""Single objects of the chart where a detail decides whether it works: drains, migrations, secrets, caches, the test pod, priorities."""

import base64
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import helm_python
import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from lamplighter.config import parse
from lamplighter.core.units import Duration
from tests.chart.matrix import VLLM, Values, combined
from tests.chart.rendering import CHART, NAMESPACE, of, one, render

DISTRIBUTED: Values = {"mode": "distributed", "postgresql": {"mode": "embedded"}}
EXTERNAL: Values = {"mode": "distributed", "postgresql": {"mode": "external", "external": {"existingSecret": "db"}}}
HOOK = "helm.sh/hook"


@pytest.mark.parametrize(
    ("written", "seconds"), [("500ms", 1), ("90s", 90), ("1m30s", 90), ("1h", 3600), ("0s", 0), ("1.5m", 90), ("1d", 86400)]
)
def test_durations_are_read_as_the_program_reads_them(written: str, seconds: int) -> None:
    """The chart reckons with them: a wrong sum kills pods in the middle of an answer."""
    values = combined(DISTRIBUTED, {"server": {"drain": {"delay": "0s", "grace": written}}})
    spec = one(render(values), "Deployment", "lamplighter-gateway")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == seconds + 15
    assert Duration.parse(written) <= seconds


def test_a_rollout_of_gateways_never_has_fewer_than_before() -> None:
    """Updates that nobody notices: one more, then one less."""
    deployment = one(render(DISTRIBUTED), "Deployment", "lamplighter-gateway")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    spreads = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spreads] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert all(one["labelSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"] for one in spreads)


def test_a_keeper_with_a_folder_of_its_own_is_replaced_and_not_doubled() -> None:
    """Two pods cannot mount one volume: the new one would wait for the old one for ever."""
    keeper = one(
        render(combined(DISTRIBUTED, {"keeper": {"persistence": {"enabled": True}}})), "Deployment", "lamplighter-keeper"
    )
    assert keeper["spec"]["strategy"] == {"type": "Recreate"}
    assert one(render(DISTRIBUTED), "Deployment", "lamplighter-keeper")["spec"]["strategy"]["type"] == "RollingUpdate"


# -- migrations


@pytest.mark.parametrize(
    ("values", "when"),
    [
        (EXTERNAL, "pre-install,pre-upgrade"),
        (DISTRIBUTED, "pre-upgrade"),
        (
            {
                "mode": "distributed",
                "postgresql": {"mode": "external"},
                "externalSecrets": {"enabled": True, "store": {"name": "aws"}, "secrets": {"database": {"url": {"key": "db"}}}},
            },
            "pre-upgrade",
        ),
    ],
)
def test_the_migration_runs_when_its_database_can_be_there(values: Values, when: str) -> None:
    """A hook that waits for what is installed after it never ends."""
    job = one(render(values), "Job", "lamplighter-migrate")
    assert job["metadata"]["annotations"][HOOK] == when
    assert job["spec"]["template"]["spec"]["containers"][0]["args"][0] == "migrate"


def test_the_migration_brings_what_it_needs() -> None:
    """At that moment the new ConfigMap and Secret of the release do not exist."""
    documents = render(
        {"mode": "distributed", "postgresql": {"mode": "external", "external": {"url": "postgresql://u:new@db/x"}}}
    )
    job = one(documents, "Job", "lamplighter-migrate")
    for volume in job["spec"]["template"]["spec"]["volumes"]:
        if "configMap" in volume:
            assert HOOK in one(documents, "ConfigMap", volume["configMap"]["name"])["metadata"]["annotations"]
        if "secret" in volume:
            secret = one(documents, "Secret", volume["secret"]["secretName"])
            assert HOOK in secret["metadata"]["annotations"]
            assert base64.b64decode(secret["data"]["url"]) == b"postgresql://u:new@db/x"
    weights = {
        one["kind"]: int(one["metadata"]["annotations"]["helm.sh/hook-weight"])
        for one in documents
        if one["metadata"]["name"] == "lamplighter-migrate" and one["kind"] in ("Job", "ConfigMap", "Secret")
    }
    assert weights["ConfigMap"] == weights["Secret"] < weights["Job"]


# -- secrets


def test_secrets_come_as_files_and_what_must_be_as_environment() -> None:
    """What is in the environment is in every crash report and every child process."""
    documents = render(
        combined(
            EXTERNAL, VLLM, {"redis": {"mode": "external", "external": {"existingSecret": "r"}}, "hub": {"existingSecret": "hf"}}
        )
    )
    for name, secrets in (("gateway", {"LAMPLIGHTER_ADMIN_KEY"}), ("keeper", set[str]())):
        (container,) = one(documents, "Deployment", f"lamplighter-{name}")["spec"]["template"]["spec"]["containers"]
        assert {one["name"] for one in container["env"] if "valueFrom" in one} == secrets
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {
            "/etc/lamplighter/database",
            "/etc/lamplighter/redis",
        }
    config = parse(one(documents, "ConfigMap", "lamplighter-config")["data"]["lamplighter.yaml"])
    assert config.store.url == "file:/etc/lamplighter/database/url"
    pool = config.pools["gpu"]
    assert pool.kind == "kubernetes"
    assert pool.hub_token == ("hf", "token")


@pytest.mark.parametrize("name", ["gateway", "keeper"])
def test_the_hubs_token_is_only_where_it_is_read(name: str) -> None:
    """Models' pods take it from its Secret; our own processes only when a model of a cloud refers to it, and then every one of them resolves it."""
    values = combined(EXTERNAL, {"hub": {"existingSecret": "hf"}})
    assert "HF_TOKEN" not in {one["name"] for one in _env(render(values), name)}
    cloud: Values = {
        "pools": {"cloud": {"kind": "aws", "region": "eu-central-1"}},
        "models": {"a": {"engine": "vllm", "pool": "cloud", "source": "hf:a/b", "hub_token": "env:HF_TOKEN"}},
    }
    assert "HF_TOKEN" in {one["name"] for one in _env(render(combined(values, cloud)), name)}


def test_made_secrets_outlive_the_release() -> None:
    """The volume of the embedded database does too, and a new password would not open it."""
    documents = render(combined(DISTRIBUTED, {"redis": {"mode": "embedded"}}))
    for name in ("keys", "database", "redis"):
        secret = one(documents, "Secret", f"lamplighter-{name}")
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    database = one(documents, "Secret", "lamplighter-database")["data"]
    password = base64.b64decode(database["password"]).decode()
    assert len(password) == 32
    assert (
        base64.b64decode(database["url"]).decode()
        == f"postgresql://lamplighter:{password}@lamplighter-postgresql:5432/lamplighter"
    )
    key = base64.b64decode(one(documents, "Secret", "lamplighter-keys")["data"]["admin-key"]).decode()
    assert key.startswith("lk-")
    assert len(key) == 43


def test_given_secrets_are_not_made() -> None:
    """Two owners of one Secret fight over it."""
    documents = render(combined(EXTERNAL, {"keys": {"existingSecret": "k", "existingSecretKey": "admin"}}))
    assert of(documents, "Secret") == []
    (variable,) = [one for one in _env(documents, "gateway") if one["name"] == "LAMPLIGHTER_ADMIN_KEY"]
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "k", "key": "admin"}


def _env(documents: list[Any], name: str) -> list[Any]:
    (container,) = one(documents, "Deployment", f"lamplighter-{name}")["spec"]["template"]["spec"]["containers"]
    return list(container["env"])


def test_the_hubs_token_is_where_models_run() -> None:
    """A pod can only use a Secret of its own namespace."""
    values = combined(EXTERNAL, VLLM, {"hub": {"token": "hf_x"}, "modelServers": {"namespace": "models"}})
    found = {secret["metadata"]["namespace"] for secret in of(render(values), "Secret", "lamplighter-hub")}
    assert found == {NAMESPACE, "models"}
    elsewhere = combined(values, {"pools": {"gpu": {"namespace": "elsewhere"}}})
    assert "elsewhere" in {secret["metadata"]["namespace"] for secret in of(render(elsewhere), "Secret", "lamplighter-hub")}


# -- pools and caches


def test_pools_get_what_the_chart_knows_and_keep_what_they_say() -> None:
    """Writing a namespace and a token into every pool is what people forget."""
    values = combined(
        EXTERNAL,
        VLLM,
        {
            "modelServers": {"namespace": "models", "imagePullSecrets": ["registry"]},
            "hub": {"existingSecret": "hf", "existingSecretKey": "hub"},
            "pools": {
                "own": {"kind": "kubernetes", "namespace": "own", "hub_token_secret": "mine/t", "image_pull_secrets": []},
                "fetch": {"kind": "kubernetes", "preload": True},
                "far": {"kind": "kubernetes", "context": "far"},
            },
            "cronjobs": {"ecr": {"enabled": True, "registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com"}},
            "image": {"repository": "registry.example.com/lamplighter", "tag": "9"},
        },
    )
    pools = parse(one(render(values), "ConfigMap", "lamplighter-config")["data"]["lamplighter.yaml"]).pools
    gpu, own, fetch, far = (pools[name] for name in ("gpu", "own", "fetch", "far"))
    assert gpu.kind == own.kind == fetch.kind == far.kind == "kubernetes"
    assert (gpu.namespace, gpu.hub_token, gpu.image_pull_secrets) == ("models", ("hf", "hub"), ("registry", "ecr-pull"))
    assert (own.namespace, own.hub_token, own.image_pull_secrets) == ("own", ("mine", "t"), ())
    assert fetch.preload_image == "registry.example.com/lamplighter:9"
    assert far.namespace is None


def test_caches_are_static_retained_and_shared_for_reading() -> None:
    """Weights of a hundred gigabytes must survive the release, the namespace's federation, and a mistake."""
    documents = render(
        {
            "modelServers": {"namespace": "models", "createNamespace": True},
            "modelCaches": {
                "weights": {
                    "size": "200Gi",
                    "volume": {"nfs": {"server": "192.0.2.9", "path": "/w"}},
                    "readOnlyClaim": "weights-read",
                }
            },
        }
    )
    volumes = of(documents, "PersistentVolume")
    claims = {
        claim["metadata"]["name"]: claim
        for claim in of(documents, "PersistentVolumeClaim")
        if claim["metadata"]["namespace"] == "models"
    }
    assert {claim: claims[claim]["spec"]["accessModes"] for claim in claims} == {
        "weights": ["ReadWriteMany"],
        "weights-read": ["ReadOnlyMany"],
    }
    for volume in volumes:
        assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        reference = volume["spec"]["claimRef"]
        assert claims[reference["name"]]["spec"]["volumeName"] == volume["metadata"]["name"]
        assert claims[reference["name"]]["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""
    kept = [*volumes, *claims.values(), one(documents, "Namespace", "models")]
    assert all(document["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for document in kept)
    assert one(documents, "Namespace", "models")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


# -- the test pod


def test_helm_test_asks_as_a_client_does() -> None:
    """It must go through the Service with a real key, and have longer than the wake takes."""
    pod = one(
        render({"tests": {"model": "small", "timeout": "20m"}, "gateway": {"service": {"port": 8000}}}), "Pod", "lamplighter-test"
    )
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["annotations"][HOOK] == "test"
    assert container["args"] == ["check", "--url", "http://lamplighter-gateway:8000", "--timeout", "20m", "--model", "small"]
    assert pod["spec"]["activeDeadlineSeconds"] > 1200
    (key,) = [one for one in container["env"] if one["name"] == "LAMPLIGHTER_KEY"]
    assert key["valueFrom"]["secretKeyRef"] == {"name": "lamplighter-keys", "key": "admin-key"}


def test_the_programs_options_exist() -> None:
    """An option that the program does not know is a pod that crashes."""
    import typer
    from typer.testing import CliRunner

    from lamplighter.cli import check, migrate, up

    app = typer.Typer()
    for command in (up, check, migrate):
        command.register(app)
    for words, wanted in (
        ("up", ("--only", "--config", "--data")),
        ("check", ("--url", "--model", "--timeout")),
        ("migrate", ("--config", "--data")),
    ):
        said = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, [words, "--help"]).output
        assert all(option in said for option in wanted), said


def test_the_embedded_redis_wants_the_password_and_keeps_nothing(tmp_path: Path) -> None:
    """The command is a line of shell: run here as it stands, with the folders of this test."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    documents = render({"redis": {"mode": "embedded", "embedded": {"maxMemory": "32mb"}}})
    (container,) = one(documents, "StatefulSet", "lamplighter-redis")["spec"]["template"]["spec"]["containers"]
    shell, option, line = container["command"]
    password = tmp_path / "password"
    password.write_text("s3cret", encoding="utf-8")
    line = line.replace("/tmp", str(tmp_path)).replace("/etc/redis-secret/password", str(password))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [shell, option, f"{line} --bind 127.0.0.1 --port {port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        known = redis.Redis(host="127.0.0.1", port=port, password="s3cret", retry=Retry(ConstantBackoff(0.05), 100))
        assert known.ping()
        assert known.config_get("maxmemory*")["maxmemory-policy"] == "volatile-ttl"
        assert known.config_get("maxmemory")["maxmemory"] == str(32 * 2**20)
        assert known.config_get("save")["save"] == ""
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(host="127.0.0.1", port=port).ping()
        known.close()
        process.terminate()  # it must reach the server itself, not a shell around it
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)


def test_the_package_holds_what_the_templates_read(tmp_path: Path) -> None:
    """A chart that works from the repository and not from its archive is found out by everybody but us."""
    archive = Path(helm_python.package(CHART, destination=tmp_path))
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("lamplighter/") for name in packed.getnames()}
    assert {
        "values.schema.json",
        "README.md",
        "files/rules/lamplighter.yaml",
        "templates/NOTES.txt",
    } <= names
    assert not [name for name in names if name.startswith("examples")]
    assert archive.stat().st_size < 200_000


def test_priorities_order_serving_before_models() -> None:
    """When a node is full, a model goes before the gateway does."""
    documents = render(combined(DISTRIBUTED, {"priorityClasses": {"create": True}}))
    assert (
        one(documents, "PriorityClass", "lamplighter-control")["value"]
        > one(documents, "PriorityClass", "lamplighter-models")["value"]
    )
    assert (
        one(documents, "Deployment", "lamplighter-gateway")["spec"]["template"]["spec"]["priorityClassName"]
        == "lamplighter-control"
    )
