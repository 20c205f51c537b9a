"""Pools whose servers are somebody else's to start, as findings for `doctor`: whether they answer, whether their commands exist.

Runs none of the commands: to look must not wake a machine.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from lamplighter.config import CommandPool, Config, StaticPool
from lamplighter.config.secrets import resolve
from lamplighter.core.errors import ConfigError
from lamplighter.core.findings import Finding, Verdict
from lamplighter.providers.command import memory


def static(config: Config) -> Iterator[Finding]:
    """Whether always-on servers answer."""
    for name, pool in config.pools.items():
        if not isinstance(pool, StaticPool):
            continue
        yield from _answers(f"pool {name}", name, pool)


def _answers(
    label: str, name: str, pool: StaticPool | CommandPool, silent: tuple[Verdict, str] | None = None
) -> Iterator[Finding]:
    """Whether the server at the pool's URL answers with its models. `silent`: what it means when it does not."""
    try:
        key = resolve(pool.key, where=f"pools.{name}.key") if pool.key else None
    except ConfigError as error:
        yield Finding(label, Verdict.FAIL, error.message, error.next_step)
        return
    try:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = httpx.get(f"{pool.url}/v1/models", headers=headers, timeout=5)
    except httpx.HTTPError as error:
        if silent is not None:
            verdict, meaning = silent
            yield Finding(label, verdict, f"{pool.url}: {meaning}", "" if verdict is Verdict.OK else "Look at the machine.")
            return
        yield Finding(
            label, Verdict.FAIL, f"{pool.url} does not answer: {error}", "Check that it runs and that its URL is right."
        )
        return
    if answer.status_code in (401, 403):
        yield Finding(label, Verdict.FAIL, f"{pool.url} refuses the key", f"Correct pools.{name}.key.")
    elif answer.is_error:
        yield Finding(label, Verdict.WARN, f"{pool.url} answers, but not with a list of models (HTTP {answer.status_code})")
    else:
        yield Finding(label, Verdict.OK, f"{pool.url} answers")


def command(config: Config, data: Path) -> Iterator[Finding]:
    """Whether the commands of a machine can be run at all, and what it says now. Runs none of them: to look must not wake it."""
    for name, pool in config.pools.items():
        if not isinstance(pool, CommandPool):
            continue
        label = f"pool {name}"
        commands = {"wake": pool.wake, "sleep": pool.sleep} | ({"running": pool.running} if pool.running is not None else {})
        missing = {f"pools.{name}.{verb}": one[0] for verb, one in commands.items() if _no_program(one)}
        if missing:
            where, program = next(iter(missing.items()))
            yield Finding(
                label, Verdict.FAIL, f"{where}: there is no program {program!r}", "Install it, or write its whole path."
            )
        remembered = memory.read(memory.place(data, name))
        if remembered.trouble is not None:
            yield Finding(
                label,
                Verdict.WARN,
                f"the machine may still be on: {remembered.trouble}",
                f"Try pools.{name}.sleep by hand, as the user that Lamplighter runs as.",
            )
        yield from _answers(label, name, pool, silent=_SILENT[remembered.woken_at is not None])


_SILENT = {
    False: (Verdict.OK, "it does not answer: asleep, until a model on it is asked for"),
    True: (Verdict.WARN, "it was woken by Lamplighter, and does not answer"),
}
"""What silence means, by whether we woke it."""


def _no_program(command: str | Sequence[str]) -> bool:
    """Only a list of words can be judged: of a text the shell knows more than we do."""
    return not isinstance(command, str) and shutil.which(command[0]) is None
