"""What `doctor` finds out about a Kubernetes pool before a wake does."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from lamplighter.core.findings import Finding
from lamplighter.providers.kubernetes import names, registry
from lamplighter.providers.kubernetes.client import Access
from lamplighter.providers.kubernetes.examine import examine
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.reading import moment
from lamplighter.testing.kubernetes.cluster import FakeCluster
from tests.contract.kubernetes_world import NAMESPACE, pool

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeCluster]:
    async def ask(image: registry.Image, login: registry.Login | None, *, scheme: str = "https") -> registry.Answer:
        return registry.Answer(200 if "public" in image.repository or login is not None else 401)

    monkeypatch.setattr(registry, "ask", ask)
    with FakeCluster() as cluster:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield cluster


async def found(
    cluster: FakeCluster,
    images: dict[str, str] | None = None,
    now: float | None = None,
    token: str | None = None,
    **settings: Any,
) -> dict[str, Finding]:
    """The findings by name."""
    access = cluster.access(token, NAMESPACE)
    some = await examine("gpu", pool(**settings), images or {"one": "docker.io/public/x:1"}, access=access, now=now)
    return {one.name: one for one in some}


def node(name: str = "n", **more: Any) -> Manifest:
    """A node with two GPUs."""
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": more.get("labels", {})}, "spec": {"taints": more.get("taints", [])},
        "status": {"allocatable": {"nvidia.com/gpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


async def test_all_is_well(cluster: FakeCluster) -> None:
    """A doctor who finds fault with what works is not asked again."""
    cluster.create(node())
    findings = await found(cluster)
    assert {one.verdict for one in findings.values()} == {"ok"}, findings
    assert "restricted" in findings[f"namespace {NAMESPACE}"].message


async def test_no_cluster() -> None:
    """The reason, and not a traceback."""
    (one,) = await examine("gpu", pool(), {}, access=Access(content={"clusters": [], "contexts": [], "users": []}))
    assert one.verdict == "fail"
    assert one.next_step


async def test_a_namespace_that_is_not_there(cluster: FakeCluster) -> None:
    """Every call would be answered 404, each for another object."""
    findings = await found(cluster, namespace="typo")
    access = cluster.access(None, "typo")
    (one, *_) = [
        finding for finding in await examine("gpu", pool(namespace="typo"), {}, access=access) if finding.name == "namespace typo"
    ]
    assert findings
    assert (one.verdict, one.next_step) == ("fail", "Make it: `kubectl create namespace typo`.")


@pytest.mark.parametrize(
    ("there", "settings", "verdict", "words"),
    [
        (None, {}, "warn", "no node has nvidia.com/gpu"),
        (node(), {"gpus": 4}, "fail", "the largest has 2"),
        (node(), {"node_selector": {"gpu": "yes"}}, "fail", "may use none"),
        (node(taints=[{"key": "gpu", "effect": "NoSchedule"}]), {}, "fail", "may use none"),
        (node(taints=[{"key": "gpu", "effect": "NoSchedule"}]), {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, "ok", "up to 2"),
    ],
)  # fmt: skip
async def test_gpus(cluster: FakeCluster, there: Manifest | None, settings: dict[str, Any], verdict: str, words: str) -> None:
    """`Insufficient nvidia.com/gpu` does not say which of four things is wrong."""
    if there is not None:
        cluster.create(there)
    one = (await found(cluster, **settings))["pool gpu: GPUs"]
    assert (one.verdict, words in one.message) == (verdict, True), one


async def test_permissions_that_are_missing_are_named_as_rules() -> None:
    """Whoever looks after RBAC wants the rule, not the error."""
    with FakeCluster(rbac=True) as cluster:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        token = cluster.account(NAMESPACE, "keeper")
        meta = {"name": "keeper", "namespace": NAMESPACE}
        rules = [{"apiGroups": [""], "resources": ["pods", "secrets", "services"], "verbs": ["*"]}]
        cluster.create({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules})
        cluster.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "keeper"},
                "subjects": [{"kind": "ServiceAccount", "name": "keeper", "namespace": NAMESPACE}],
            }
        )  # fmt: skip
        some = await examine("gpu", pool(), {}, access=cluster.access(token, NAMESPACE))
        (one,) = [finding for finding in some if finding.name == "pool gpu: permissions" and finding.verdict == "fail"]
        assert "patch deployments.apps/scale" in one.message
        assert 'resources: ["deployments/scale"], verbs: ["patch"]' in one.next_step
        assert "pods" not in one.message


def pull_secret(name: str = "ecr", server: str = ECR) -> Manifest:
    """One for a registry."""
    config = json.dumps({"auths": {server: {"auth": base64.b64encode(b"AWS:token").decode()}}})
    return {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(config.encode()).decode()},
    }  # fmt: skip


@pytest.mark.parametrize(("hours", "verdict"), [(1, "ok"), (11.5, "warn"), (13, "fail")])
async def test_the_age_of_a_token_of_ecr(cluster: FakeCluster, hours: float, verdict: str) -> None:
    """Yesterday it worked."""
    made = cluster.create(pull_secret())
    at = moment(made["metadata"]["creationTimestamp"])
    assert at is not None
    findings = await found(cluster, {"one": f"{ECR}/x:1"}, at + hours * 3600, image_pull_secrets=["ecr"])
    one = findings["pull secret ecr"]
    assert one.verdict == verdict, one
    assert findings[f"image {ECR}/x:1"].verdict == "ok"
    if verdict == "fail":
        assert "aws ecr get-login-password --region eu-central-1" in one.next_step


async def test_pull_secrets_that_are_missing(cluster: FakeCluster) -> None:
    """The kubelet tells it only once the pod is there."""
    findings = await found(cluster, {"one": "ghcr.io/private/x:1", "two": f"{ECR}/y:1"}, image_pull_secrets=["nope"])
    assert findings["pull secret nope"].verdict == "fail"
    assert findings["image ghcr.io/private/x:1"].verdict == "fail"
    assert "image_pull_secrets" in findings["image ghcr.io/private/x:1"].next_step
    assert findings[f"image {ECR}/y:1"].verdict == "warn"
    assert "credential provider" in findings[f"image {ECR}/y:1"].next_step


async def test_what_the_settings_name_and_nobody_made(cluster: FakeCluster) -> None:
    """A claim, a token: each would cost a wake to find out."""
    findings = await found(cluster, cache={"kind": "claim", "claim": "weights"}, hub_token_secret="hf/token", manage=False)
    assert findings["claim weights"].verdict == "fail"
    assert "create secret generic hf --from-literal=token=" in findings["secret hf"].next_step
    assert "models render" in findings["model one"].next_step


async def test_a_claim_for_one_node_and_a_pool_of_several(cluster: FakeCluster) -> None:
    """The second replica would wait for the volume for ever."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "weights", "namespace": NAMESPACE},
            "spec": spec,
        }
    )
    one = (await found(cluster, cache={"kind": "claim", "claim": "weights"}))["claim weights"]
    assert one.verdict == "warn"
    assert (await found(cluster, cache={"kind": "claim", "claim": "weights"}, max_replicas=1))["claim weights"].verdict == "ok"


async def test_an_autoscaler_beside_the_keeper(cluster: FakeCluster) -> None:
    """Two writers of one number fight for ever."""
    cluster.define("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.workload_name("gpu", "one")},
        "maxReplicas": 3,
    }
    cluster.create(
        {
            "apiVersion": "autoscaling/v1",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "hpa", "namespace": NAMESPACE},
            "spec": spec,
        }
    )
    assert (await found(cluster))["autoscaler hpa"].verdict == "fail"


# --- the registry itself ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("busybox", registry.Image("docker.io", "library/busybox", "latest")),
        ("ollama/ollama:0.33.3", registry.Image("docker.io", "ollama/ollama", "0.33.3")),
        ("localhost:5000/x/y", registry.Image("localhost:5000", "x/y", "latest")),
        (f"{ECR}/a/b@sha256:1", registry.Image(ECR, "a/b", "sha256:1")),
        ("ghcr.io/a/b:1@sha256:2", registry.Image("ghcr.io", "a/b", "sha256:2")),
    ],
)
def test_names_of_images(name: str, image: registry.Image) -> None:
    """Another registry would be asked."""
    assert registry.parse(name) == image


@pytest.fixture
def server() -> Iterator[str]:
    class Registry(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            if self.headers.get("Authorization") == "Bearer good":
                self.reply(200 if "/known/" in self.path else 404)
            else:
                realm = f"http://{self.headers['Host']}/token"
                self.reply(401, WWW_Authenticate=f'Bearer realm="{realm}",service="test",scope="pull"')

        def do_GET(self) -> None:
            right = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:pass").decode()
            assert "service=test" in self.path
            self.reply(200, json.dumps({"token": "good" if right else "bad"}).encode())

    http = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    thread.join()
    http.server_close()


async def test_a_registry_that_gives_tokens(server: str) -> None:
    """Docker Hub and GitHub do; without the second step every private image would be called missing."""
    login = registry.Login(server, "me", "pass")
    assert (await registry.ask(registry.Image(server, "known", "1"), login, scheme="http")).status == 200
    assert (await registry.ask(registry.Image(server, "unknown", "1"), login, scheme="http")).status == 404
    assert (await registry.ask(registry.Image(server, "known", "1"), None, scheme="http")).status == 401
    assert (await registry.ask(registry.Image("127.0.0.1:1", "known", "1"), None, scheme="http")).status == 0
