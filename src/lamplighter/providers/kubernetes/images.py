"""Why an image cannot be pulled, from what registries and container runtimes say. Pure.

Not responsible for asking a registry (`registry`).
"""

import re

from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.kubernetes.hindrance import A_WHILE, BRIEF, LONG, Hindrance
from lamplighter.providers.kubernetes.kinds import Manifest

F = WakeFailure
_ECR = re.compile(r"(?P<server>\d{12}\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)")
_DENIED = r"\b40[13]\b|[Uu]nauthorized|[Ff]orbidden|no basic auth credentials|denied|authorization (?:failed|token)|authentication required"
_NO_IMAGE = r"not found|manifest unknown|name unknown|does not exist|InvalidImageName|couldn't parse image|invalid reference format|ErrImageNeverPull"


def image_refused(named: str, said: str, pod: Manifest, namespace: str) -> Hindrance:
    """Why an image cannot be had."""
    short = _shortened(said)
    registry = named.partition("/")[0]
    if re.search(r"toomanyrequests|\b429\b|rate limit", said):
        return Hindrance(
            F.DOWNLOAD_FAILED,
            f"The registry limits how often {named} may be pulled ({short}). Add a pull secret to the pool's `image_pull_secrets`, or use a mirror.",
            LONG,
        )
    if re.search(r"no space left|disk quota", said):
        return Hindrance(F.DISK_FULL, f"The node's disk has no room for {named} ({short}).", A_WHILE)
    ecr = _ECR.search(named) or _ECR.search(said)
    if ecr and re.search(_DENIED, said):
        return Hindrance(
            F.BAD_IMAGE,
            f"ECR refused {named} ({short}): the registry's token expired (it lasts 12 hours), or is missing. "
            f"{ecr_fix(ecr['server'], ecr['region'], pod, namespace)}",
        )
    if re.search(r"no match for platform|no matching manifest|exec format", said):
        return Hindrance(F.BAD_IMAGE, f"{named} has no build for this node's kind of processor ({short}).")
    if re.search(_NO_IMAGE, said) and not re.search(r"no such host|secret .* not found", said):
        hint = " A private image that may not be seen looks the same." if "docker.io" in said or registry.count(".") == 0 else ""
        return Hindrance(F.BAD_IMAGE, f"There is no image {named} ({short}). Correct the model's `image`.{hint}")
    if re.search(_DENIED, said):
        secrets = [str(one.get("name")) for one in (pod.get("spec") or {}).get("imagePullSecrets") or ()]
        what = f"the pull secret {', '.join(secrets)} does not open it" if secrets else "no pull secret is set"
        return Hindrance(
            F.BAD_IMAGE,
            f"The registry refused {named} ({short}): {what}. Make one (`kubectl -n {namespace} create secret docker-registry ...`) and name it in "
            "the pool's `image_pull_secrets`.",
        )
    if re.search(r"x509|certificate|server gave HTTP response", said):
        return Hindrance(
            F.BAD_IMAGE,
            f"The node does not trust the registry of {named} ({short}). Give its container runtime the authority.",
            BRIEF,
        )
    return Hindrance(F.DOWNLOAD_FAILED, f"The node cannot fetch {named} yet ({short}).", LONG)


def ecr_fix(server: str, region: str, pod: Manifest, namespace: str) -> str:
    """The command that makes the pull secret anew."""
    secrets = [str(one.get("name")) for one in (pod.get("spec") or {}).get("imagePullSecrets") or ()]
    secret = secrets[0] if secrets else "ecr"
    first = "" if secrets else "Add `ecr` to the pool's `image_pull_secrets`, and "
    return (
        f"{first}run: kubectl -n {namespace} create secret docker-registry {secret} --docker-server={server} --docker-username=AWS "
        f'--docker-password="$(aws ecr get-login-password --region {region})" --dry-run=client -o yaml | kubectl apply -f - '
        "(a CronJob that does so is in docs/guides/kubernetes-pool.md)"
    )


_WRAPPING = (
    r"\b(?:ErrImagePull|ImagePullBackOff|InvalidImageName)\b:?",
    r'Back-off pulling image "[^"]*":?',
    r'Failed to pull image "[^"]*":?',
    r"rpc error: code = \w+ desc =",
    r'failed to pull and unpack image "[^"]*":',
    r'failed to resolve reference "[^"]*":',
)


def _shortened(said: str) -> str:
    """What a registry said, without what the kubelet wraps around it."""
    words = " ".join(re.sub("|".join(_WRAPPING), " ", said).split()).strip(" :")
    half = words[: len(words) // 2].strip()
    return (half if half and words == f"{half} {half}" else words)[:240] or "no reason told"
