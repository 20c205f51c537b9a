"""Permissions of Kubernetes' API as our code relies on them, on the pretended API server and on a real one (`long`)."""

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.kinds import Manifest
from tests.contract.kubernetes_bench import Bench


async def test_a_refusal_names_who_what_and_where(bench: Bench) -> None:
    """A person must learn which rule is missing from the role."""
    client = await bench.as_account("poor")
    user = f"system:serviceaccount:{bench.space}:poor"
    error = await bench.refused(client.get(known.DEPLOYMENT, "engine"))
    assert (error.status, error.word) == (403, "Forbidden")
    assert error.said == (
        f'deployments.apps "engine" is forbidden: User "{user}" cannot get resource "deployments" in API group "apps" '
        f'in the namespace "{bench.space}"'
    )
    error = await bench.refused(client.list(known.POD))
    assert (
        error.said
        == f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "{bench.space}"'
    )
    error = await bench.refused(client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 1))
    assert f'User "{user}" cannot patch resource "deployments/scale" in API group "apps"' in error.said
    error = await bench.refused(client.list(known.NODE))
    assert error.said.endswith('cannot list resource "nodes" in API group "" at the cluster scope')
    await client.close()


async def test_a_role_grants_exactly_what_it_says(bench: Bench) -> None:
    """The chart's least privilege would be more, or too little."""
    await bench.client.create(bench.deployment(replicas=0))
    await bench.client.create(_role(bench.space, "scaler", [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
        {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
    ]))  # fmt: skip
    client = await bench.as_account("scaler")
    await bench.client.create(_binding(bench.space, "scaler"))

    async def may() -> bool:
        return await _allowed(client, bench.space, "apps", "deployments", "patch", "scale")

    await bench.until(may, "the role counts")
    await client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 1)
    await client.get(known.DEPLOYMENT, "engine")
    assert (await bench.refused(client.delete(known.DEPLOYMENT, "engine"))).status == 403
    assert (await bench.refused(client.get(known.SECRET, "one"))).status == 404
    assert (await bench.refused(client.get(known.SECRET, "two"))).status == 403
    assert (await bench.refused(client.list(known.SECRET))).status == 403
    assert (await bench.refused(client.get(known.DEPLOYMENT, "engine", "default"))).status == 403
    assert not await _allowed(client, bench.space, "apps", "deployments", "delete")
    await client.close()


async def test_an_unknown_token_is_refused(bench: Bench) -> None:
    """An expired kubeconfig must be named, not taken for an outage."""
    client = Cluster.connect(bench.server.access("nobody-knows-this-token"))
    assert (await bench.refused(client.list(known.POD, "default"))).status == 401
    await client.close()


async def _allowed(client: Cluster, space: str, group: str, resource: str, verb: str, subresource: str = "") -> bool:
    asked = {"namespace": space, "group": group, "resource": resource, "verb": verb, "subresource": subresource}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
    answer = await client.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
    return bool(answer["status"]["allowed"])


def _role(space: str, name: str, rules: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": space},
        "rules": rules,
    }


def _binding(space: str, name: str) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": space},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
    }  # fmt: skip
