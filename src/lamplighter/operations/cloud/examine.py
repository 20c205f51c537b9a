"""What cloud pools need beside AWS's machines, as findings for `doctor`: credentials, stacks, authorities, the mesh. Changes nothing and costs nothing.

Not responsible for what runs or costs (`lamplighter cloud status`), nor for the mesh in depth (`lamplighter mesh check`).
"""

import time
from collections.abc import Generator, Iterator
from pathlib import Path

from lamplighter.config import AwsPool, Config
from lamplighter.config.secrets import resolve
from lamplighter.core.errors import LamplighterError, ProviderError
from lamplighter.core.findings import Finding, Verdict
from lamplighter.mesh import listing, sight
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.storage import MeshFolder

_BUILD = "Run `lamplighter cloud plan`, then `lamplighter cloud apply`."


def examine(config: Config, data: Path) -> Iterator[Finding]:
    """All findings; none where no pool is in AWS."""
    pools = {name: pool for name, pool in config.pools.items() if isinstance(pool, AwsPool)}
    if not pools:
        return
    yield from _authority(config, data)
    yield from _interface(config)
    for region in sorted({pool.region for pool in pools.values()}):
        known = yield from _identity(region)
        for stack in sorted({pool.stack for pool in pools.values() if pool.region == region}) if known else ():
            mine = {name: pool for name, pool in pools.items() if (pool.region, pool.stack) == (region, stack)}
            yield from _stack(region, stack, mine)


def _authority(config: Config, data: Path) -> Iterator[Finding]:
    try:
        passphrase = resolve(config.mesh.passphrase, where="mesh.passphrase") if config.mesh.passphrase is not None else None
        OnlineAuthority.open(data / "mesh", config.mesh, passphrase)
    except LamplighterError as error:
        yield Finding("mesh authority", Verdict.FAIL, error.message, error.next_step)
    else:
        yield Finding("mesh authority", Verdict.OK, "the online authority can certify nodes")
        for warning in listing.warnings(MeshFolder(data / "mesh"), time.time()):
            yield Finding(
                "mesh certificates", Verdict.WARN, warning, "`lamplighter mesh list` shows all; `lamplighter mesh renew` renews."
            )
    if not config.mesh.lighthouses:
        yield Finding(
            "mesh", Verdict.FAIL, "there is no lighthouse: nodes would not find home", "Add one to mesh.lighthouses, see docs/guides/mesh.md."
        )  # fmt: skip


def _interface(config: Config) -> Iterator[Finding]:
    link = sight.interface(config.mesh.interface)
    if link is not None and link.up:
        yield Finding("mesh interface", Verdict.OK, f"{config.mesh.interface} is up")
    else:
        yield Finding(
            "mesh interface",
            Verdict.WARN,
            f"there is no interface {config.mesh.interface} on this machine: unless another one routes to {config.mesh.network}, nodes are out of reach",
            "`lamplighter mesh check` looks closer; docs/guides/mesh.md says how this machine joins.",
        )


def _identity(region: str) -> Generator[Finding, None, bool]:
    from lamplighter.providers.aws import account  # late: who has no cloud shall not pay for its library

    try:
        who = account.identity(region)
    except ProviderError as error:
        yield Finding(f"AWS {region}", Verdict.FAIL, error.message, error.next_step)
        return False
    kind = ", EMULATED: this is not AWS" if who.emulated else ""
    yield Finding(f"AWS {region}", Verdict.OK, f"account {who.account}{kind}")
    return True


def _stack(region: str, stack: str, pools: dict[str, AwsPool]) -> Iterator[Finding]:
    from lamplighter.providers.aws import account

    label = f"stack {stack}"
    try:
        manifest = account.manifest(region, stack)
    except ProviderError as error:
        yield Finding(label, Verdict.FAIL, error.message, error.next_step)
        return
    if manifest is None:
        yield Finding(label, Verdict.FAIL, f"there is none in {region}", _BUILD)
        return
    built = manifest.get("pools", {})
    absent = sorted(set(pools) - set(built))
    if absent:
        yield Finding(label, Verdict.FAIL, f"it has no pool {', '.join(absent)}", _BUILD)
    stale = [
        f"pools.{name}.{setting} is {wanted:g} s, but nodes start with {built[name][setting]:g} s"
        for name, pool in pools.items()
        if name in built
        for setting, wanted in (
            ("lease", float(pool.lease)),
            ("boot_deadline", float(pool.boot_deadline)),
            ("drain", float(pool.drain)),
        )
        if setting in built[name] and float(built[name][setting]) != wanted
    ]
    if stale:
        yield Finding(label, Verdict.WARN, "; ".join(stale), _BUILD)
    if not absent and not stale:
        yield Finding(label, Verdict.OK, f"built in {region}, with {', '.join(sorted(pools))}")
