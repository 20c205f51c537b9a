"""Examines a machine and an installation: what is well, what is not, what to do about it. Changes nothing, works without a server.

Each check is a function that returns findings and never raises; `examine` runs them all. Not responsible for showing them.
"""

import importlib.util
import json
import os
import platform
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lamplighter.config import Config, ModelConfig, ProcessPool, defaults, load
from lamplighter.config.secrets import resolve
from lamplighter.config.store import StoreConfig
from lamplighter.core.errors import ConfigError, LamplighterError, SourceError
from lamplighter.core.findings import Finding, Verdict
from lamplighter.engines.base import Engine
from lamplighter.operations import federated, kubernetes_pools, servers
from lamplighter.operations.client import Client
from lamplighter.operations.cloud import examine as cloud_examine
from lamplighter.operations.datafolder import DataFolder
from lamplighter.operations.shared import look_at_postgres, look_at_redis

_FEW_BYTES = 2 * 10**9
"""Free disk below which the next model may not fit."""
_CLOCK_TOLERANCE = 300.0
"""Seconds: tokens and certificates of others are refused beyond that."""


@dataclass(frozen=True, slots=True)
class _Patient:
    folder: DataFolder
    config: Config | None
    """None: it cannot be read; then what depends on it is not examined."""
    kinds: Mapping[str, Engine]


def examine(folder: DataFolder, config_file: Path | None, kinds: Mapping[str, Engine]) -> list[Finding]:
    """All findings, in the order in which a person should read them. Takes a few seconds, most of them for servers that do not answer.

    `kinds`: every kind of engine, by its name in the configuration.
    """
    config, configured = _read_config(config_file)
    patient = _Patient(folder, config, kinds)
    return [configured, *(finding for check in CHECKS for finding in _guarded(check, patient))]


def _guarded(check: Callable[[_Patient], Iterable[Finding]], patient: _Patient) -> list[Finding]:
    """A check that itself breaks is a finding, not the end of the examination."""
    try:
        return list(check(patient))
    except Exception as error:  # noqa: BLE001 - see above
        name = check.__name__.strip("_")
        return [Finding(name, Verdict.WARN, f"this check did not work: {type(error).__name__}: {error}", "Please report it.")]


def _read_config(path: Path | None) -> tuple[Config | None, Finding]:
    if path is None:
        return defaults(), Finding("config", Verdict.OK, "no file: the defaults, one small model")
    try:
        config = load(path)
    except ConfigError as error:
        return None, Finding("config", Verdict.FAIL, error.message, error.next_step)
    return config, Finding("config", Verdict.OK, f"{path}: {len(config.models)} models, {len(config.pools)} pools")


def _python(_: _Patient) -> Iterator[Finding]:
    yield Finding("python", Verdict.OK, f"Python {platform.python_version()}")  # an older one cannot even install this
    system, machine = platform.system(), platform.machine()
    tried = (system == "Linux" and machine in {"x86_64", "aarch64"}) or (system == "Darwin" and machine == "arm64")
    yield Finding(
        "platform",
        Verdict.OK if tried else Verdict.WARN,
        f"{system} {machine}",
        "" if tried else "Lamplighter is tried on Linux x86-64 and aarch64, and on Apple silicon.",
    )


def _engine(patient: _Patient) -> Iterator[Finding]:
    """In a process of its own: a broken library must not take the doctor along."""
    if patient.config is not None and not any(model.engine == "llamacpp" for model in patient.config.models.values()):
        return
    if importlib.util.find_spec("xllamacpp") is None:
        yield Finding("engine", Verdict.FAIL, "xllamacpp is not installed", "Run `make setup`, or `pip install xllamacpp`.")
        return
    tried = subprocess.run(
        [sys.executable, "-P", "-c", "import xllamacpp"], capture_output=True, text=True, timeout=60, check=False
    )
    if tried.returncode == 0:
        yield Finding("engine", Verdict.OK, "llama.cpp can be loaded")
    elif "libgomp" in tried.stderr:
        yield Finding(
            "engine", Verdict.FAIL, "the system library libgomp is missing", "Debian, Ubuntu: `apt install libgomp1`. Fedora: `dnf install libgomp`."
        )  # fmt: skip
    else:
        why = tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else f"exit status {tried.returncode}"
        yield Finding(
            "engine",
            Verdict.FAIL,
            f"llama.cpp cannot be loaded: {why}",
            "Reinstall it: `pip install --force-reinstall xllamacpp`.",
        )


def _memory(patient: _Patient) -> Iterator[Finding]:
    from lamplighter.engines import memory

    total, free = memory.total(), memory.available()
    text = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free"
    needed = {name: size for name, size in _weights(patient).items() if size > total}
    if needed:
        names = ", ".join(f"{name} ({size / 1e9:.1f} GB)" for name, size in needed.items())
        yield Finding(
            "memory", Verdict.FAIL, f"{text}; too little for {names}", "Use smaller models: `lamplighter models catalogue`."
        )
    else:
        yield Finding("memory", Verdict.OK, text)


def _weights(patient: _Patient) -> dict[str, int]:
    """Bytes of the weights of each embedded model whose file is here."""
    found = {}
    for name, _, path in _files(patient):
        if isinstance(path, Path):
            found[name] = path.stat().st_size
    return found


def _files(patient: _Patient) -> Iterator[tuple[str, ModelConfig, Path | SourceError | None]]:
    """Each embedded model with its file: None when it must be fetched, an error when it never can be."""
    from lamplighter.engines.sources.files import locate, parse

    for name, model in patient.config.models.items() if patient.config else ():
        if model.engine != "llamacpp":
            continue
        try:
            yield name, model, locate(parse(model.source or ""), patient.folder.models)
        except SourceError as error:
            yield name, model, error


def _disk(patient: _Patient) -> Iterator[Finding]:
    existing = next(path for path in (patient.folder.root, *patient.folder.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    few = free < _FEW_BYTES
    yield Finding(
        "disk",
        Verdict.WARN if few else Verdict.OK,
        f"{free / 1e9:.1f} GB free for {patient.folder.root}",
        "Most models need more: free some space, or choose a larger disk with --data." if few else "",
    )


def _data_folder(patient: _Patient) -> Iterator[Finding]:
    root = patient.folder.root
    if not root.exists():
        yield Finding("data folder", Verdict.OK, f"{root} does not exist yet; `lamplighter up` makes it")
        return
    if not root.is_dir():
        yield Finding("data folder", Verdict.FAIL, f"{root} is a file", "Choose a folder with --data.")
        return
    if not os.access(root, os.W_OK | os.X_OK):
        yield Finding("data folder", Verdict.FAIL, f"{root} cannot be written", f"Correct its owner: `chown -R $USER {root}`.")
        return
    for path in (root, patient.folder.cli_key, patient.folder.store):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding(
                "data folder", Verdict.FAIL, f"others can read {path}", f"`chmod go= {path}`; keys in it may be known to them."
            )
            return
    yield Finding("data folder", Verdict.OK, f"{root}, private")


def _store(patient: _Patient) -> Iterator[Finding]:
    """Read-only, so that a running server is not disturbed and an old schema stays as it is."""
    if patient.config is not None and patient.config.store.url is not None:
        yield from _postgres(patient.config.store, patient.config.store.url)
        return
    path = patient.folder.store
    if not path.exists():
        yield Finding("store", Verdict.OK, "none yet; `lamplighter up` makes it")
        return
    broken = "Restore a backup, or move the file away to begin anew: keys and chats in it are lost then."
    try:
        # Without a write-ahead log nobody has it open: then not even SQLite's own side files need to be made.
        how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        connection = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=5)
        try:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            principals = connection.execute("SELECT count(*) FROM keys WHERE revoked_at IS NULL AND admin").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        yield Finding("store", Verdict.FAIL, f"{path} cannot be read: {error}", broken)
        return
    if verdict != "ok":
        yield Finding("store", Verdict.FAIL, f"{path} is damaged: {verdict}", broken)
        return
    yield from _schema(schema and schema[0], principals, f"{path.stat().st_size / 1e6:.1f} MB")


def _schema(schema: str | None, admins: int, what: str) -> Iterator[Finding]:
    from lamplighter.store.migrate import known_revisions

    if schema not in known_revisions():
        yield Finding("store", Verdict.FAIL, f"it was written by a newer Lamplighter (schema {schema})", "Upgrade Lamplighter.")
    else:
        yield Finding("store", Verdict.OK, f"{what}, schema {schema}, sound")
    if admins == 0:
        yield Finding("keys", Verdict.FAIL, "no admin key is left", "Restart `lamplighter up`: it makes one and prints it.")
    else:
        yield Finding("keys", Verdict.OK, f"{admins} admin key{'s' if admins > 1 else ''}")


def _postgres(config: StoreConfig, reference: str) -> Iterator[Finding]:
    step = "Start PostgreSQL, or correct store.url; docs/runbooks/postgresql.md says more."
    try:
        found = look_at_postgres(config, resolve(reference, where="store.url"))
    except LamplighterError as error:
        yield Finding("store", Verdict.FAIL, error.message, error.next_step or step)
    except Exception as error:  # noqa: BLE001 - the driver's errors have no common base; whatever it is, the store cannot be used
        yield Finding("store", Verdict.FAIL, f"PostgreSQL cannot be used: {str(error) or type(error).__name__}", step)
    else:
        if found.schema is None:
            yield Finding("store", Verdict.OK, f"PostgreSQL {found.version} at {found.place}, empty; `lamplighter up` fills it")
        else:
            yield from _schema(found.schema, found.admins, f"PostgreSQL {found.version} at {found.place}")


def _redis(patient: _Patient) -> Iterator[Finding]:
    """Only where one is configured."""
    reference = patient.config.redis.url if patient.config is not None else None
    if reference is None:
        return
    try:
        url = resolve(reference, where="redis.url") if reference.startswith(("env:", "file:")) else reference
        version = look_at_redis(url)
    except LamplighterError as error:
        yield Finding("redis", Verdict.FAIL, error.message, error.next_step)
    except Exception as error:  # noqa: BLE001 - the client's errors and those of sockets and names
        yield Finding(
            "redis",
            Verdict.FAIL,
            f"it does not answer, so each gateway counts limits for itself: {str(error) or type(error).__name__}",
            "Start Redis, or correct redis.url; docs/runbooks/redis-gone.md says more.",
        )
    else:
        yield Finding("redis", Verdict.OK, f"version {version} answers")


def _server(patient: _Patient) -> Iterator[Finding]:
    info = patient.folder.read_server()
    if info is None:
        yield from _port(patient)
        return
    try:
        with Client.of_folder(patient.folder) as client:
            status = client.get("/api/status")
    except LamplighterError as error:
        yield Finding("server", Verdict.FAIL, f"{info.url} (process {info.pid}): {error.message}", error.next_step)
        return
    yield Finding("server", Verdict.OK, f"{info.url} answers, version {status['version']}, process {info.pid}")
    for model in status["models"]:
        if model["state"] == "failed" and model["failure"]:
            failure = model["failure"]
            yield Finding(
                "model " + model["name"], Verdict.FAIL, f"its last wake failed: {failure['message']}", failure["next_step"]
            )


def _port(patient: _Patient) -> Iterator[Finding]:
    """Nothing serves the folder: is its port free?"""
    yield Finding("server", Verdict.OK, "not running; `lamplighter up` starts it")
    if patient.config is None:
        return
    host, port = patient.config.server.host, patient.config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        yield Finding(
            "port", Verdict.FAIL, f"{host}:{port} cannot be used: {error.strerror}", "Choose another with --port, or server.port."
        )
    else:
        yield Finding("port", Verdict.OK, f"{host}:{port} is free")


def _static(patient: _Patient) -> Iterator[Finding]:
    if patient.config is not None:
        yield from servers.static(patient.config)


def _command(patient: _Patient) -> Iterator[Finding]:
    if patient.config is not None:
        yield from servers.command(patient.config, patient.folder.root)


def _kubernetes(patient: _Patient) -> Iterator[Finding]:
    if patient.config is not None:
        yield from kubernetes_pools.examine(patient.config, patient.kinds)


def _cloud(patient: _Patient) -> Iterator[Finding]:
    if patient.config is not None:
        yield from cloud_examine.examine(patient.config, patient.folder.root)


def _federation(patient: _Patient) -> Iterator[Finding]:
    if patient.config is not None:
        yield from federated.examine(patient.config)


def _models(patient: _Patient) -> Iterator[Finding]:
    for name, model, file in _files(patient):
        label = f"model {name}"
        if isinstance(file, SourceError):
            yield Finding(label, Verdict.FAIL, file.message, file.next_step)
        elif file is None:
            yield Finding(label, Verdict.OK, f"{model.source}: not here yet, its first wake fetches it")
        else:
            yield Finding(label, Verdict.OK, f"{model.source}: {file.stat().st_size / 1e6:.0f} MB at {file}")


def _engines(patient: _Patient) -> Iterator[Finding]:
    """Where the engines' logs are, and what the last one that failed said."""
    if patient.config is not None and not any(isinstance(pool, ProcessPool) for pool in patient.config.pools.values()):
        return
    folders = sorted(patient.folder.engines.iterdir()) if patient.folder.engines.is_dir() else []
    failures = []
    for folder in folders:
        try:
            state = json.loads((folder / "state.json").read_text())
        except (OSError, ValueError):
            continue
        if isinstance(state, dict) and state.get("failure"):
            failures.append((folder, f"{state['failure']}: {state.get('detail') or 'no detail'}"))
    if failures:
        folder, why = failures[-1]
        yield Finding("engine logs", Verdict.WARN, f"an engine failed: {why}", f"Read {folder / 'engine.log'}.")
    else:
        yield Finding("engine logs", Verdict.OK, f"{patient.folder.engines}/*/engine.log, {len(folders)} engines")


def _clock(patient: _Patient) -> Iterator[Finding]:
    """A clock that jumped back would keep models awake and sessions open for too long: nothing may have been written in the future."""
    newest = max((path.stat().st_mtime for path in (patient.folder.server, patient.folder.store) if path.exists()), default=0.0)
    ahead = newest - time.time()
    if ahead > _CLOCK_TOLERANCE:
        yield Finding(
            "clock", Verdict.WARN, f"it was {ahead:.0f} s ahead when the data folder was last written", "Set the clock (NTP)."
        )
    elif time.time() < 1_760_000_000:
        yield Finding(
            "clock",
            Verdict.WARN,
            f"it says {time.strftime('%Y-%m-%d')}, which is before this version was made",
            "Set the clock (NTP).",
        )
    else:
        yield Finding("clock", Verdict.OK, time.strftime("%Y-%m-%d %H:%M:%S %Z"))


CHECKS: tuple[Callable[[_Patient], Iterable[Finding]], ...] = (
    _python, _engine, _memory, _disk, _clock, _data_folder, _store, _redis, _server, _static, _command, _kubernetes, _cloud, _federation, _models, _engines,
)  # fmt: skip
"""In the order in which they are shown, after the configuration."""
