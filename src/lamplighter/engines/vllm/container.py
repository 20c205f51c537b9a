"""vLLM as a container on a cloud node. Pure; the arguments are those of `vllm serve` 0.30.

The key goes by the environment, never on the command line. Weights, the hub's files and what vLLM compiled stay in the folder of weights, so
that the next wake finds them. Not responsible for the arguments that a person gives: they come last and win.
"""

from lamplighter.config import ModelConfig
from lamplighter.core.errors import SourceError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Accelerator, Container

IMAGE = "vllm/vllm-openai:v0.30.0-cu129"
"""Built on CUDA 12.9, which more drivers can run than the plain tag's CUDA 13 (that one wants driver 580 or newer)."""
PORT = 8000


def container(name: str, config: ModelConfig, accelerator: Accelerator | None) -> Container:
    """What to run. Raises SourceError when the source is not on the hub: a node has no files of ours."""
    kind, _, repository = (config.source or "").partition(":")
    if kind != "hf" or not repository:
        raise SourceError(
            f"vLLM on a cloud node cannot load {config.source!r}.",
            reason=WakeFailure.MODEL_NOT_FOUND,
            next_step="Write source: hf:OWNER/REPO.",
        )
    ours = ("--served-model-name", name, "--host", "0.0.0.0", "--port", str(PORT), "--download-dir", "/models")
    return Container(
        image=config.image or IMAGE,
        arguments=(repository, *ours, *_for(accelerator, config.arguments), *config.arguments),
        environment={
            "HF_HOME": "/models/huggingface",
            "VLLM_CACHE_ROOT": "/models/vllm",
            "DO_NOT_TRACK": "1",
            **config.environment,
        },
        secrets={"VLLM_API_KEY": "key", "HF_TOKEN": "hub_token"},
        port=PORT,
        health="/health",
    )


def _for(accelerator: Accelerator | None, given: tuple[str, ...]) -> tuple[str, ...]:
    """What follows from the GPU: a T4 has no bfloat16, and several GPUs work on one model."""
    names = {argument.split("=", 1)[0] for argument in given}
    found: tuple[str, ...] = ()
    if accelerator is None:
        return found
    if not accelerator.bf16 and "--dtype" not in names:
        found += ("--dtype", "half")
    if accelerator.count > 1 and not names & {"--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"}:
        found += ("--tensor-parallel-size", str(accelerator.count))
    return found
