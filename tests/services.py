"""Starts real PostgreSQL and Redis servers for tests: on sockets of their own, as root or not, gone when the tests are.

Not a fake of anything. Where a program is not installed, the tests that need it are skipped and say so.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from lamplighter.core.ids import new_id

USER = "lamplighter"
_PATIENCE = 60.0
_PLAIN_USER = "nobody"
"""Who runs PostgreSQL when the tests are root's: it refuses to be."""


def postgres_programs() -> Path | None:
    """The folder with PostgreSQL's programs: on the PATH, or where Debian hides them; None where there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    return versions[-1].parent if versions else None


def _until(look: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not look():
        assert time.monotonic() < end, f"waited {_PATIENCE:g} s in vain: {what}"
        time.sleep(0.05)


class Postgres:
    """One PostgreSQL server on a Unix socket. `url()` names one of its databases; `stop`, `kill`, `freeze` and `start` as a journey likes."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not below pytest's own folder: that is closed to the user who runs PostgreSQL, and too deep for a socket's path.
        self.root = Path(tempfile.mkdtemp(prefix="lamplighter-pg-"))
        self._data = self.root / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, object] = {}
        if os.geteuid() == 0:
            shutil.chown(self.root, _PLAIN_USER)
            self._as = {"user": _PLAIN_USER, "extra_groups": []}

    def initialise(self) -> None:
        """Make the cluster: without fsync, for it holds nothing that matters."""
        self._run("initdb", "-D", self._data, "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self._programs / program, *map(str, arguments)],
            capture_output=True, cwd=self.root, timeout=_PATIENCE, check=False, **self._as,  # type: ignore[call-overload]
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr.decode(errors='replace')}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.root,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.root, **self._as,  # type: ignore[call-overload]
            )  # fmt: skip
        _until(self._answers, f"PostgreSQL answers; its log:\n{(self.root / 'log').read_text(errors='replace')[-2000:]}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"PostgreSQL ended:\n{(self.root / 'log').read_text(errors='replace')[-4000:]}"
        asked = subprocess.run(
            [self._programs / "pg_isready", "-q", "-h", self.root, "-U", USER], capture_output=True, timeout=10, check=False
        )
        return asked.returncode == 0

    def stop(self, *, fast: bool = True) -> None:
        """End it in order, cutting its clients off (`fast`) or at once, as a crash does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if fast else signal.SIGQUIT)
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._process = None

    def restart(self, *, away: float = 0.0, fast: bool = True) -> None:
        """Stop it, wait `away` seconds, start it again."""
        self.stop(fast=fast)
        time.sleep(away)
        self.start()

    def url(self, database: str = "postgres") -> str:
        """The URL of a database of this server."""
        return f"postgresql://{USER}@/{database}?host={quote(str(self.root))}"

    def create(self, database: str, *, template: str = "template1") -> str:
        """A new database, empty or a copy of `template`; its URL."""
        self.query(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected."""
        self.query(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def query(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """The rows of one statement."""
        import asyncpg

        async def ask() -> list[tuple[object, ...]]:
            connection = await asyncpg.connect(user=USER, host=str(self.root), database=database, timeout=10)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()

        # In a thread of its own: callers may be inside a running loop.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, ask()).result()

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop(fast=False)
        shutil.rmtree(self.root, ignore_errors=True)


class Redis:
    """One Redis server on a Unix socket, keeping nothing on disk."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.root = Path(tempfile.mkdtemp(prefix="lamplighter-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL; the database number can be put behind it as `?db=N`."""
        return f"unix://{self.root / 'redis.sock'}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = [
            "--port",
            "0",
            "--unixsocket",
            self.root / "redis.sock",
            "--dir",
            self.root,
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *map(str, options)], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        _until(self._answers, "Redis answers")

    def _answers(self) -> bool:
        import redis

        assert self._process is not None
        assert self._process.poll() is None, f"Redis ended:\n{(self.root / 'log').read_text(errors='replace')[-4000:]}"
        client = redis.Redis.from_url(self.url, socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._process = None
        (self.root / "redis.sock").unlink(missing_ok=True)

    def freeze(self) -> None:
        """It answers no more, but its socket is there: what a hung server looks like."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it and delete everything."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)


def _new_postgres() -> Postgres:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are not installed")
    server = Postgres(programs)
    try:
        server.initialise()
        server.start()
    except BaseException:
        server.remove()
        raise
    return server


def _new_redis() -> Redis:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    server = Redis(program)
    try:
        server.start()
    except BaseException:
        server.remove()
        raise
    return server


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[Postgres]:
    """One PostgreSQL for the whole run; nobody may stop it."""
    server = _new_postgres()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(shared_postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    name = new_id("test")
    yield shared_postgres.create(name)
    shared_postgres.drop(name)


@pytest.fixture
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL of this test's own, to be stopped, restarted and broken."""
    server = _new_postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Redis]:
    """One Redis for the whole run; nobody may stop it."""
    server = _new_redis()
    yield server
    server.remove()


@pytest.fixture
def redis_url(shared_redis: Redis) -> str:
    """The URL of an empty Redis."""
    import redis

    client = redis.Redis.from_url(shared_redis.url)
    client.flushall()
    client.close()
    return shared_redis.url


@pytest.fixture
def redis_server() -> Iterator[Redis]:
    """A Redis of this test's own, to be killed and frozen. `redis_server.url` names it."""
    server = _new_redis()
    yield server
    server.remove()
