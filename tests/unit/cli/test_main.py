"""The program as a whole: exit statuses, errors with a next step, no traceback unless asked, a fast start."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer

from lamplighter.cli import main
from lamplighter.cli.main import EXIT_CODES, app
from lamplighter.core import errors
from lamplighter.core.errors import LamplighterError
from lamplighter.operations.datafolder import DataFolder
from tests.unit.cli.conftest import Api, Result, status

Run = Callable[..., Result]


def test_help_names_every_command(lamplighter: Run) -> None:
    """A person finds what there is by asking for help, or by giving nothing."""
    answer = lamplighter("--help")
    assert answer.exit == 0
    for name in ("up", "dev", "status", "chat", "models", "wake", "sleep", "keys", "login", "config", "doctor", "version"):
        assert f"\n  {name} " in answer.out
    assert lamplighter().exit == 2


@pytest.mark.parametrize("command", ["up", "chat", "models pull", "config show"])
def test_every_command_explains_itself(lamplighter: Run, command: str) -> None:
    """`-h` works everywhere and imports nothing that is missing."""
    answer = lamplighter(*command.split(), "-h")
    assert answer.exit == 0
    assert "Usage: lamplighter " + command in answer.out


def test_help_imports_nothing_heavy() -> None:
    """Help must appear at once: no web server, database or HTTP client is loaded for it."""
    heavy = ("fastapi", "sqlalchemy", "uvicorn", "httpx", "pydantic", "huggingface_hub", "rich.progress", "xllamacpp", "alembic")
    code = (
        "import sys; from lamplighter.cli.main import run; code = run(['--help']); "
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["status", "--nonsense"], ["wake"], ["up", "--port", "many"], ["up", "--port", "70000"]]
)
def test_a_wrong_command_line_is_status_2(lamplighter: Run, folder: DataFolder, arguments: list[str]) -> None:
    """Scripts tell a typo from a failure."""
    answer = lamplighter(*arguments)
    assert answer.exit == 2
    assert "Traceback" not in answer.err
    assert answer.err


def test_no_server_is_status_6_with_a_next_step(lamplighter: Run, folder: DataFolder) -> None:
    """The commonest mistake is that nothing runs: say so, and how to start it."""
    for command in ("status", "login", "keys list", "wake small", "chat hello"):
        answer = lamplighter(*command.split())
        assert answer.exit == 6, command
        assert answer.out == ""
        assert answer.err.startswith("error: Lamplighter is not running")
        assert "  next: Start it with `lamplighter up`." in answer.err


def test_a_dead_server_is_status_6(lamplighter: Run, running: Api, folder: DataFolder) -> None:
    """After `kill -9` the folder still says where the server was."""
    info = folder.read_server()
    assert info is not None
    folder.write_server(type(info)("http://127.0.0.1:1", 1, 0.0, ""))
    answer = lamplighter("status")
    assert answer.exit == 6
    assert "nothing answers at http://127.0.0.1:1" in answer.err


def test_errors_are_json_for_programs(lamplighter: Run, folder: DataFolder) -> None:
    """A program that asked for JSON must not have to parse a sentence."""
    answer = lamplighter("status", "--json")
    assert answer.exit == 6
    assert answer.out == ""
    error = json.loads(answer.err)["error"]
    assert error["code"] == "not_running"
    assert error["exit_code"] == 6
    assert error["next_step"]


def test_a_refusal_is_status_7_in_the_servers_words(lamplighter: Run, running: Api) -> None:
    """The server knows best why it refused."""
    running.answers["GET /api/status"] = 403, {"error": {"message": "Admins only.", "code": "forbidden", "next_step": "Ask one."}}
    answer = lamplighter("status")
    assert answer.exit == 7
    assert answer.err == "error: Admins only.\n  next: Ask one.\n"


def test_a_stranger_at_the_address_is_told(lamplighter: Run, running: Api) -> None:
    """Another program may have the port by now."""
    running.answers["GET /api/status"] = 200, b"<html>"
    answer = lamplighter("status")
    assert answer.exit == 7
    assert "is not Lamplighter" in answer.err


@pytest.mark.parametrize("url", ["ftp://x", "http://", "nonsense", "http://[::1"])
def test_a_wrong_url_is_a_sentence(lamplighter: Run, folder: DataFolder, url: str) -> None:
    """A typo in --url ends in words."""
    answer = lamplighter("status", "--url", url, "--key", "lk-x")
    assert answer.exit in (1, 6)
    assert answer.err.startswith("error: ")
    assert "defect" not in answer.err


def test_a_remote_server_needs_a_key(lamplighter: Run, api: Api, folder: DataFolder) -> None:
    """The local key must never be sent to another machine."""
    folder.write_private(folder.cli_key, "lk-secret")
    answer = lamplighter("status", "--url", api.url)
    assert answer.exit == 1
    assert "needs a key" in answer.err
    assert api.asked == []
    api.answers["GET /api/status"] = 200, status()
    assert lamplighter("status", "--url", f"{api.url}/v1/", "--key", "lk-remote").exit == 0
    assert api.keys == ["Bearer lk-remote"]


def test_an_unexpected_error_is_a_sentence(lamplighter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even our own defects end in words; the traceback comes with --debug."""

    def broken() -> None:
        raise RuntimeError("the moon fell")

    program = typer.Typer()
    program.callback()(main._everywhere)
    program.command("broken")(broken)
    program.command("other")(broken)
    monkeypatch.setattr(main, "app", program)
    answer = lamplighter("broken")
    assert answer.exit == 1
    assert answer.err.startswith("error: unexpected RuntimeError: the moon fell\n  next: ")
    assert "Traceback" not in answer.err
    assert "Traceback" in lamplighter("--debug", "broken").err


def test_ctrl_c_is_status_130(lamplighter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells and scripts tell an interruption from a failure."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    program = typer.Typer()
    program.command("a")(interrupted)
    program.command("b")(interrupted)
    monkeypatch.setattr(main, "app", program)
    answer = lamplighter("a")
    assert answer.exit == 130
    assert "Traceback" not in answer.err


def test_a_closed_pipe_is_no_error(running: Api) -> None:
    """`lamplighter config schema | head -1` must not print a complaint."""
    line = f"{sys.executable} -c 'from lamplighter.cli.main import main; main()' config schema | head -1"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_every_exit_status_is_explained() -> None:
    """Scripts rely on the table in the docs."""

    def tree(kind: type[LamplighterError]) -> set[int]:
        return {kind.exit_code}.union(*(tree(child) for child in kind.__subclasses__()))

    assert tree(errors.LamplighterError) <= set(EXIT_CODES)


def test_every_option_and_argument_is_explained() -> None:
    """`--help` with an empty line beside an option helps nobody."""

    def check(command: object, path: str) -> None:
        for parameter in command.params:  # type: ignore[attr-defined] # Typer's own classes change from version to version
            assert parameter.help or parameter.name == "help", f"{path} {parameter.name}"
        for name, child in getattr(command, "commands", {}).items():
            assert child.help, f"{path} {name}"
            check(child, f"{path} {name}")

    check(typer.main.get_command(app), "lamplighter")
