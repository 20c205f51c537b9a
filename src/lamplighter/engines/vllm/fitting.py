"""Right-sized arguments for a model that is known without asking anybody: the longest context that the GPUs hold, and no more sequences at once
than the cache could hold short ones of. Pure.

Only where the model is in the shipped table, the GPU is known, and the person gave nothing that changes the sum; a `--max-model-len` of theirs
always wins. The context is the largest for one request: a shorter one would refuse what the GPU can do, and vLLM lets requests wait by itself.
"""

from lamplighter.core.errors import SourceError
from lamplighter.core.gpus import GIB, find
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Accelerator
from lamplighter.engines.sizing import known
from lamplighter.engines.sizing.budget import UTILISATION
from lamplighter.engines.sizing.plan import Machines, Wish, plan

_CHANGES_THE_SUM = frozenset(
    (
        *(
            "--tensor-parallel-size",
            "-tp",
            "--pipeline-parallel-size",
            "-pp",
            "--data-parallel-size",
            "-dp",
            "--quantization",
            "-q",
            "--dtype",
        ),
        *(
            "--load-format",
            "--hf-overrides",
            "--cpu-offload-gb",
            "--kv-cache-memory-bytes",
            "--speculative-config",
            "--enable-lora",
            "--config",
        ),
        *(
            "--max-num-batched-tokens",
            "--kv-cache-dtype",
            "--gpu-memory-utilization",
            "--enable-expert-parallel",
            "--model",
            "--block-size",
        ),
    )
)
"""Arguments after which another sum would have to be made: then none is, and vLLM decides."""


def fitted(
    repository: str, accelerator: Accelerator | None, given: tuple[str, ...], *, revision: str | None = None
) -> tuple[str, ...]:
    """Arguments beside `given`. A pinned `revision` is taken for the model that the table knows: shapes do not change between commits.

    Raises SourceError when not even the weights fit, whatever the arguments.
    """
    names = {argument.split("=", 1)[0].replace("_", "-") for argument in given}
    gpu = find(accelerator.name) if accelerator is not None else None
    model = known.find(repository)
    if accelerator is None or gpu is None or model is None or names & _CHANGES_THE_SUM:
        return ()
    made = plan(model, Machines(gpu, accelerator.count, accelerator.nodes), Wish())
    if (made.tensor, made.pipeline) != (accelerator.count, accelerator.nodes):
        return ()  # heads do not divide by the GPUs: vLLM says so itself
    if made.budget.weights > gpu.memory:
        if revision is not None:
            return ()  # a branch may hold the same model in fewer bits: vLLM will tell
        many = accelerator.count * accelerator.nodes
        raise SourceError(
            f"{repository} has {made.budget.weights / GIB:.1f} GiB of weights for each of {many} {gpu.name} with {gpu.memory / GIB:.1f} GiB.",
            reason=WakeFailure.OUT_OF_MEMORY,
            next_step=f"`lamplighter fit {repository}` says which GPUs can hold it, and which quantisation would help.",
        )
    found: tuple[str, ...] = ()
    if made.dtype == "float32":
        found += ("--dtype", "float32")
    if made.context and "--max-model-len" not in names:
        if made.context < model.context:
            found += ("--max-model-len", str(made.context))
        if "--max-num-seqs" not in names:
            found += ("--max-num-seqs", str(made.step.sequences))
        found += ("--gpu-memory-utilization", f"{UTILISATION:g}")
    return found
