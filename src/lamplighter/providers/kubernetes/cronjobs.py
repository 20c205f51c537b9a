"""What runs now and then beside the models, for clusters that do not use the chart (which has both): manifests, as pure functions.

`ecr_refresh`: makes a pull secret for Amazon ECR anew, whose tokens live for twelve hours. On nodes of ours, and on EKS, nothing of it is needed:
there the kubelet's own ECR credential provider fetches them. `janitor`: puts to sleep what no keeper looks after any more.
"""

from collections.abc import Mapping, Sequence

from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.template import PRELOAD_IMAGE, USER, locked

_RBAC = "rbac.authorization.k8s.io"
_NAME = "lamplighter-ecr"
_JANITOR = "lamplighter-janitor"


def ecr_refresh(
    registry: str,
    secret: str,
    namespace: str,
    *,
    schedule: str = "0 */6 * * *",
    image: str = PRELOAD_IMAGE,
    credentials: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Sequence[Manifest]:
    """A CronJob that writes the pull secret, with the account and the Role that it needs and no more.

    `credentials`: a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. `annotations`: of the account, such as EKS's `eks.amazonaws.com/role-arn`.
    """
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},  # a name cannot be asked for before it is there
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["patch"]},
    ]
    command = ["python", "-m", "lamplighter.operations.pull_secret", "--registry", registry, "--secret", secret]
    job = _cron_job(_NAME, namespace, schedule, image, command, credentials)
    return (*_account(_NAME, namespace, rules, annotations or {}), job)


def janitor(
    namespace: str, *, schedule: str = "*/5 * * * *", after: float = 900.0, image: str = PRELOAD_IMAGE
) -> Sequence[Manifest]:
    """A CronJob that scales to nothing what was not renewed for `after` seconds, with its account and Role."""
    rules = [
        {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["list"]},
        {"apiGroups": ["apps"], "resources": ["deployments/scale", "statefulsets/scale"], "verbs": ["patch"]},
        {"apiGroups": ["leaderworkerset.x-k8s.io"], "resources": ["leaderworkersets"], "verbs": ["list"]},
        {"apiGroups": ["leaderworkerset.x-k8s.io"], "resources": ["leaderworkersets/scale"], "verbs": ["patch"]},
    ]
    command = ["python", "-m", "lamplighter.providers.kubernetes.janitor", "--after", f"{after:g}"]
    return (*_account(_JANITOR, namespace, rules, {}), _cron_job(_JANITOR, namespace, schedule, image, command, None))


def _account(name: str, namespace: str, rules: Sequence[Manifest], annotations: Mapping[str, str]) -> Sequence[Manifest]:
    meta = _meta(name, namespace)
    return (
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {**meta, **({"annotations": dict(annotations)} if annotations else {})},
            "automountServiceAccountToken": False,
        },
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": meta, "rules": list(rules)},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    )


def _cron_job(name: str, namespace: str, schedule: str, image: str, command: Sequence[str], credentials: str | None) -> Manifest:
    container: Manifest = {
        "name": "job",
        "image": image,
        "command": list(command),
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - inside the container
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": locked(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - inside the container
    }
    if credentials is not None:
        container["envFrom"] = [{"secretRef": {"name": credentials}}]
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": name,
        "automountServiceAccountToken": True,  # the one thing that it is there for is to speak to the API server
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}}],
    }
    labels = {names.MANAGED_BY: names.OURS, names.NAME: name}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _meta(name, namespace),
        "spec": {
            "schedule": schedule,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 600,
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 3,
                    "activeDeadlineSeconds": 300,
                    "ttlSecondsAfterFinished": 86_400,
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                }
            },
        },
    }


def _meta(name: str, namespace: str) -> Manifest:
    return {"name": name, "namespace": namespace, "labels": {names.MANAGED_BY: names.OURS, names.NAME: name}}
