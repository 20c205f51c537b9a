"""What a person means by `--gpu`: a GPU (`A10G`, `2xL4`), or a type of AWS machine (`g5.12xlarge`). Pure."""

import re
from collections.abc import Iterator

from lamplighter.core.errors import LamplighterError
from lamplighter.core.gpus import GPUS, find
from lamplighter.engines.sizing.architecture import Architecture
from lamplighter.engines.sizing.instances import INSTANCES, by_memory
from lamplighter.engines.sizing.plan import Machines, Plan, Wish, plan

_MOST_NODES = 4


def machines(text: str, *, nodes: int = 1) -> Machines:
    """The GPUs that `text` names. Raises LamplighterError with the names that are known."""
    instance = INSTANCES.get(text.strip().lower())
    if instance is not None:
        return Machines(instance.gpu, instance.count, nodes)
    match = re.fullmatch(r"(?:(\d{1,2}) ?[xX] ?)?(.+?)(?: ?[xX] ?(\d{1,2}))?", text.strip())
    gpu = find(match[2]) if match else None
    if match is None or gpu is None:
        raise LamplighterError(
            f"no GPU or machine {text!r} is known",
            next_step=f"GPUs: {', '.join(GPUS)}; several: 2xL4. Or an AWS machine: {', '.join(sorted(INSTANCES)[:6])}, ...",
        )
    return Machines(gpu, int(match[1] or match[3] or 1), nodes)


def others(model: Architecture, wish: Wish, *, checkpoint: int | None = None, most: int = 3) -> Iterator[tuple[str, Plan]]:
    """AWS machines on which it would fit, least GPU memory first; (name, plan). Several of the largest when no single one does."""
    found = 0
    for nodes in range(1, _MOST_NODES + 1):
        for instance in by_memory():
            if nodes > 1 and instance.count < 8:
                continue
            made = plan(model, Machines(instance.gpu, instance.count, nodes), wish, checkpoint=checkpoint)
            if made.fits and not any("does not run" in note for note in made.notes):
                yield (instance.name if nodes == 1 else f"{nodes} x {instance.name}"), made
                found += 1
                if found == most:
                    return
        if found:
            return
