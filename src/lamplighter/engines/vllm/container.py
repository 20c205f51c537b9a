"""vLLM in a container: on a cloud node, or in a pod. Pure; the arguments are those of `vllm serve` 0.30.

The key goes by the environment, never on the command line. The hub's cache and what vLLM compiled stay in the folder of weights, so that the
next wake finds them; everything else that it writes goes to `/tmp`, so its root may be read-only. Not responsible for the arguments that a
person gives: they come last and win.
"""

import re

from lamplighter.config import ModelConfig
from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.core.rollouts import base
from lamplighter.engines.base import Accelerator, Container
from lamplighter.engines.vllm.fitting import fitted

IMAGE = "vllm/vllm-openai:v0.30.0-cu129"
"""Built on CUDA 12.9, which more drivers can run than the plain tag's CUDA 13 (that one wants driver 580 or newer)."""
PORT = 8000
DRAIN = 110
"""Seconds that it goes on with its answers after SIGTERM; without saying so, it cuts them off.

Meanwhile it refuses new requests with status 500, and its health stays 200 (measured with 0.32): what asks it must have been told before, which
is what a pod's `preStop` is for. Its own end takes up to ten seconds more.
"""
_STOP_GRACE = DRAIN + 10.0
_DRAINS_SINCE = (0, 18)
"""The first version that knows `--shutdown-timeout`; an older one would refuse to start."""
_SHARED = 2 * 2**30
_SHARED_BY_MANY = 8 * 2**30
"""`/dev/shm`: its processes pass requests through it, and NCCL its buffers; 2 GiB is what vLLM's own Kubernetes page gives it for one GPU."""

_ASK = f"""
import json, os, sys, urllib.error, urllib.request
body = json.dumps({{"model": sys.argv[1], "prompt": "a", "max_tokens": 1}}).encode()
headers = {{"content-type": "application/json", "authorization": "Bearer " + os.environ.get("VLLM_API_KEY", "")}}
try:
    urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:{PORT}/v1/completions", body, headers), timeout=300).read()
except urllib.error.HTTPError as error:
    sys.exit(f"the model does not answer: status {{error.code}}" if error.code >= 500 or error.code in (401, 403) else 0)
except OSError as error:
    sys.exit(f"vLLM does not answer yet: {{error}}")
"""
"""One token: `/health` says 200 of a model that fails at its first answer (seen with 0.32). What a model cannot be asked, 4xx, is no failure."""


def container(name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
    """What to run. Raises SourceError when the source is not on the hub (nothing else has files of ours), or when it can never fit the GPUs."""
    kind, _, repository = (config.source or "").partition(":")
    if kind != "hf" or not repository:
        raise SourceError(
            f"vLLM in a container cannot load {config.source!r}.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Write source: hf:OWNER/REPO.",
        )
    image = config.image or IMAGE
    ours: tuple[str, ...] = ("--served-model-name", base(name), "--host", "0.0.0.0", "--port", str(PORT))
    if config.revision is not None:
        ours += ("--revision", config.revision)
    if drains(image):
        ours += ("--shutdown-timeout", str(DRAIN))
    sized = fitted(repository, accelerator, config.arguments, revision=config.revision)
    ours += _for(accelerator, (*sized, *config.arguments)) + sized
    members = _together(accelerator)
    many = accelerator is not None and accelerator.count * accelerator.nodes > 1
    return Container(
        image=image,
        arguments=(repository, *ours, *members, *config.arguments),
        member_arguments=(repository, *ours, *members, "--headless", *config.arguments) if members else None,
        environment={
            "HF_HOME": "/tmp/huggingface",  # noqa: S108 - inside the container
            "HF_HUB_CACHE": "/models",
            "VLLM_CACHE_ROOT": "/models/vllm",
            "FLASHINFER_WORKSPACE_BASE": "/tmp",  # noqa: S108 - its default is the home of a user whom the image need not know
            "DO_NOT_TRACK": "1",
            **config.environment,
        },
        secrets={"VLLM_API_KEY": "key", "HF_TOKEN": "hub_token"},
        port=PORT,
        health="/health",
        prepare=("python3", "-c", _ASK, name),
        shared_memory=_SHARED_BY_MANY if many else _SHARED,
        stop_grace=_STOP_GRACE if drains(image) else 30.0,
        metrics="/metrics",
    )


def drains(image: str) -> bool:
    """Whether the image's vLLM knows `--shutdown-timeout`: by its tag; where that says no version, as a current one does."""
    found = re.search(r":v?(\d+)\.(\d+)", image.rpartition("/")[2])
    return found is None or (int(found[1]), int(found[2])) >= _DRAINS_SINCE


def _for(accelerator: Accelerator | None, given: tuple[str, ...]) -> tuple[str, ...]:
    """What follows from the GPUs: a T4 has no bfloat16; several work on one model, those of other machines on other layers of it."""
    names = {argument.split("=", 1)[0] for argument in given}
    found: tuple[str, ...] = ()
    if accelerator is None:
        return found
    if not accelerator.bf16 and "--dtype" not in names:
        found += ("--dtype", "half")
    if not names & {"--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"}:
        if accelerator.count > 1:
            found += ("--tensor-parallel-size", str(accelerator.count))
        if accelerator.nodes > 1:
            found += ("--pipeline-parallel-size", str(accelerator.nodes))
    return found


def _together(accelerator: Accelerator | None) -> tuple[str, ...]:
    """How the machines of a group find each other: vLLM's own multi-node mode, without Ray, by what a LeaderWorkerSet tells each pod."""
    if accelerator is None or accelerator.nodes == 1:
        return ()
    return (
        "--distributed-executor-backend", "mp", "--nnodes", str(accelerator.nodes),
        "--node-rank", "$(LWS_WORKER_INDEX)", "--master-addr", "$(LWS_LEADER_ADDRESS)",
    )  # fmt: skip
