"""`lamplighter models render`: the manifests of models in Kubernetes pools, for GitOps and for a look before the first wake. Asks no cluster."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, JsonOption, of
from lamplighter.core.errors import ConfigError

if TYPE_CHECKING:
    from lamplighter.config import Config, KubernetesPool

_HEAD = """\
# Made by `lamplighter models render`. `replicas` is left out on purpose: only Lamplighter's keeper writes it, through the scale subresource.
# Kubernetes starts one replica where it is left out, at the first apply alone; the keeper puts it to sleep when nobody asks.
# With these, set `manage: false` on the pool: then the keeper scales what is here and changes nothing else.
"""


def register(models: typer.Typer) -> None:
    """Add the command to the group `models`."""
    models.command("render")(render)


def render(
    context: typer.Context,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", metavar="NAME", help="Only this one; may be repeated.")
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option("--pool", "-p", metavar="NAME", help="Only this pool's; may be repeated.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NAME", help="For pools that name none; default: `default`.")
    ] = None,
    ecr: Annotated[
        str | None,
        typer.Option(
            "--ecr",
            metavar="REGISTRY",
            help="Instead: a CronJob that keeps the pull secret --ecr-secret for this ECR registry fresh.",
        ),
    ] = None,
    ecr_secret: Annotated[str, typer.Option("--ecr-secret", metavar="NAME", help="Name of that Secret.")] = "ecr",  # noqa: S107 - a name
    janitor: Annotated[
        bool, typer.Option("--janitor", help="Instead: a CronJob that puts to sleep what no keeper has looked after for a while.")
    ] = False,
    data: DataOption = None,
    named: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the manifests of the models in Kubernetes pools: Service and Deployment, StatefulSet or LeaderWorkerSet.

    The keeper makes the same by itself, unless a pool says `manage: false`. Asks no cluster, and prints no secret.
    """
    from lamplighter.providers.kubernetes import cronjobs

    invocation = of(context)
    tree, _ = read(invocation, named)
    pools = _pools(tree, pool or [])
    found: list[dict[str, Any]] = []
    for title, settings in pools.items() if ecr is None and not janitor else ():
        found += _manifests(tree, title, settings, set(model or []), namespace)
    if model and (missing := set(model) - {one for one, config in tree.models.items() if config.pool in pools}):
        raise ConfigError(f"There is no model {', '.join(sorted(missing))} in a Kubernetes pool.", where="models")
    for space in sorted({settings.namespace or namespace or "default" for settings in pools.values()}):
        if ecr is not None:
            found += cronjobs.ecr_refresh(ecr, ecr_secret, space)
        if janitor:
            found += cronjobs.janitor(space)
    if invocation.json:
        invocation.show({"manifests": found})
        return
    import yaml

    head = _HEAD if ecr is None and not janitor else "# Made by `lamplighter models render`.\n"
    print(head + yaml.safe_dump_all(found, sort_keys=False, allow_unicode=True, width=120), end="")


def _pools(tree: "Config", wanted: list[str]) -> "dict[str, KubernetesPool]":
    from lamplighter.config import KubernetesPool

    there = {name: pool for name, pool in tree.pools.items() if isinstance(pool, KubernetesPool)}
    if missing := set(wanted) - set(there):
        raise ConfigError(
            f"There is no Kubernetes pool {', '.join(sorted(missing))}; there are: {', '.join(there) or 'none'}.", where="pools"
        )
    return {name: there[name] for name in wanted} if wanted else there


def _manifests(
    tree: "Config", pool: str, settings: "KubernetesPool", wanted: set[str], namespace: str | None
) -> list[dict[str, Any]]:
    from lamplighter.cli.kinds import accelerator, engines
    from lamplighter.providers.kubernetes.scaling import make

    kinds = engines()
    found: list[dict[str, Any]] = []
    for name, config in tree.models.items():
        if config.pool == pool and (not wanted or name in wanted):
            made = make(
                name,
                config,
                pool,
                settings,
                kinds.get(config.engine),
                partial(accelerator, pool),
                namespace=settings.namespace or namespace or "default",
                installation=None,
            )
            found += made.manifests
    return found
