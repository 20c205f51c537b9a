"""What one `lamplighter up` must have before anything is begun: its plan, the folder, the port. Refusals come from here, at once.

Not responsible for what runs then (`running`), nor for options (`up`, `dev`).
"""

import contextlib
from dataclasses import dataclass

from lamplighter.cli.listen import listen
from lamplighter.config import Config
from lamplighter.config.secrets import check
from lamplighter.operations.datafolder import DataFolder

_OPEN_FILES = 65_536


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run is to do, options and configuration combined. `port` 0: any free one."""

    config: Config
    folder: DataFolder
    host: str
    port: int
    config_file: str | None = None
    open_browser: bool = False


def plan(
    config: Config,
    folder: DataFolder,
    *,
    host: str | None,
    port: int | None,
    log_format: str | None,
    log_level: str | None,
    config_file: str | None,
    open_browser: bool,
) -> Plan:
    """The plan of one run: what the command line says wins over the configuration."""
    said = {"format": log_format, "level": log_level}
    log = config.log.model_copy(update={name: str(value) for name, value in said.items() if value is not None})
    return Plan(
        config=config.model_copy(update={"log": log}),
        folder=folder,
        host=host or config.server.host,
        port=config.server.port if port is None else port,
        config_file=config_file,
        open_browser=open_browser,
    )


def serve(plan: Plan) -> None:
    """Serve until a signal asks to end. Raises LamplighterError when it cannot start; a second signal ends the process at once."""
    check(plan.config)
    plan.folder.prepare()
    admin = plan.config.server.admin
    with contextlib.ExitStack() as held:
        held.enter_context(plan.folder.lock())
        listener = held.enter_context(contextlib.closing(listen(plan.host, plan.port)))
        second = held.enter_context(contextlib.closing(listen(admin.host, admin.port))) if admin is not None else None
        from lamplighter.cli import running  # late, because it takes a second: who is refused shall not wait for it
        from lamplighter.observability import logging

        logging.configure(format=plan.config.log.format, level=plan.config.log.level)
        _allow_many_files()
        running.run(plan, listener, second)


def _allow_many_files() -> None:
    """Every held stream is an open file; the usual soft limit of 1024 would be the true bound on clients."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
