"""`lamplighter cloud bake`: an image from which a pool's machines start in the fewest steps."""

from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.cloud_shared import ask, installation_of, orderly
from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, JsonOption, of, table

if TYPE_CHECKING:
    from lamplighter.config import Config
    from lamplighter.operations.cloud.bake import Recipe


def register(group: typer.Typer) -> None:
    """Add the command to the group."""
    group.command("bake")(bake)


def bake(
    context: typer.Context,
    pool: Annotated[str | None, typer.Argument(metavar="[POOL]", help="The pool; default: the only one of kind aws.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Type of the machine that bakes; default: the pool's.")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Also put the pool's models into the image (engine vllm).")] = False,
    limit: Annotated[
        float, typer.Option("--limit", min=300, metavar="SECONDS", help="For the machine's work; then it ends.")
    ] = 3600,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an image with runtime and engine for a pool, and say what each step took.

    Starts one machine on demand for some minutes and ends it in every case, also on Ctrl-C. The two newest images are kept."""
    from lamplighter.operations.cloud.bake import Oven
    from lamplighter.operations.cloud.stacks import find_pool

    invocation = of(context)
    config, _ = read(invocation, named)
    stack, name = find_pool(config, pool)
    recipe = recipe_of(config, name, weights=weights)
    invocation.note(
        f"Into the image of pool {name}: {', '.join((*recipe.images, *(' '.join(one[1:]) for one in recipe.weights)))}"
    )
    ask(invocation, yes, f"Start a machine in {stack.region} for that?", what="starting a machine that costs")
    oven = Oven(stack, name, installation_of(invocation, config), invocation.note)
    with orderly():
        done = oven.bake(recipe, types=(kind,) if kind else stack.pools[name].instance_types, limit=limit)
    rows = [(step, f"{seconds:.1f}") for step, seconds in done.steps.items()]
    answer = {
        "image": done.image, "pool": name, "stack": stack.name, "region": stack.region, "steps": done.steps, "pruned": list(done.pruned),
        "builder": done.builder, "type": done.kind,
    }  # fmt: skip
    invocation.show(answer, table(("step", "seconds"), rows))
    if stack.pools[name].image == "baked":
        invocation.note("`lamplighter cloud apply` lets the pool's machines start from it.")
    else:
        invocation.note(f"To use it write `image: baked` into pools.{name} and run `lamplighter cloud apply`.")


def recipe_of(config: "Config", pool: str, *, weights: bool) -> "Recipe":
    """The containers that the pool's models need; with `weights` also how to fetch those. Raises CloudError, SourceError."""
    from lamplighter.cli.kinds import engines
    from lamplighter.engines.base import Containerised
    from lamplighter.operations.cloud.bake import Recipe
    from lamplighter.operations.cloud.errors import CloudError

    kinds, images, fetching = engines(), dict[str, None](), list[tuple[str, ...]]()
    for name, model in config.models.items():
        engine = kinds[model.engine]
        if model.pool != pool or not isinstance(engine, Containerised):
            continue
        container = engine.container(name, model, None)
        images[container.image] = None
        source = (model.source or "").removeprefix("hf:").partition(":")[0]
        if weights and model.engine == "vllm" and model.hub_token is None:
            pinned = ("--revision", model.revision) if model.revision is not None else ()
            fetching.append((container.image, "hf", "download", source, *pinned, "--cache-dir", "/models"))
    if not images:
        raise CloudError(f"no model of pool {pool} needs a container", next_step="Give the pool a model first.")
    return Recipe(tuple(images), tuple(fetching))
