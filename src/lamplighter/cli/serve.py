"""What one `lamplighter up` must have before anything is begun: its plan, the folder, the port. Refusals come from here, at once.

Not responsible for what runs then (`running`), nor for options (`up`, `dev`).
"""

import contextlib
import socket
from dataclasses import dataclass, replace

from lamplighter.cli.listen import listen, listen_together
from lamplighter.cli.roles import Part, Role, check_roles
from lamplighter.config import Config
from lamplighter.config.secrets import check
from lamplighter.core.errors import LamplighterError
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
    role: Role = Role.BOTH
    workers: int = 1


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
    role: Role = Role.BOTH,
    workers: int | None = None,
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
        role=role,
        workers=config.server.workers if workers is None and role.serves else workers or 1,
    )


def serve(plan: Plan) -> None:
    """Serve until a signal asks to end. Raises LamplighterError when it cannot start; a second signal ends the process at once."""
    check(plan.config)
    check_roles(plan.config, plan.role, plan.workers)
    plan.folder.prepare()
    admin = plan.config.server.admin if plan.role.serves else None
    with contextlib.ExitStack() as held:
        if plan.role.keeps:
            held.enter_context(plan.folder.lock())
        if plan.role.serves:
            held.enter_context(plan.folder.lock(gateway=True))
        listeners = listen_together(plan.host, plan.port, plan.workers)
        for listener in listeners:
            held.callback(listener.close)
        second = held.enter_context(contextlib.closing(listen(admin.host, admin.port))) if admin is not None else None
        from lamplighter.cli import running  # late, because it takes a second: who is refused shall not wait for it
        from lamplighter.observability import logging

        logging.configure(format=plan.config.log.format, level=plan.config.log.level)
        _allow_many_files()
        if plan.workers == 1:
            running.run(plan, listeners[0], second, Part(plan.role))
        else:
            _serve_together(plan, listeners, second)


def _serve_together(plan: Plan, listeners: list[socket.socket], admin: socket.socket | None) -> None:
    """Several gateways, and the keeper in a process of its own. Raises SystemExit with the status when it was not 0."""
    from lamplighter.cli import running
    from lamplighter.cli.announce import Announcer
    from lamplighter.cli.workers import Workers

    announcer = Announcer(plan.config.log.format)

    def life(part: Part) -> int:
        listener = listeners[int(part.name or 1) - 1] if part.role.serves else None
        try:
            running.run(replace(plan, role=part.role), listener, admin if part.role.serves else None, part)
        except LamplighterError as error:
            announcer.problem(error.message, error.next_step)
            return error.exit_code
        return 0

    server = plan.config.server
    grace = server.shutdown_delay + server.shutdown_grace
    status = Workers(life, plan.workers, keeps=plan.role.keeps, grace=grace, announcer=announcer).run()
    plan.folder.forget_server()
    if status:
        raise SystemExit(status)


def _allow_many_files() -> None:
    """Every held stream is an open file; the usual soft limit of 1024 would be the true bound on clients."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
