"""The doctor: finds each thing that is wrong, says what to do, changes nothing, and never breaks itself."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from lamplighter.core.clock import SystemClock
from lamplighter.core.findings import Finding, Verdict
from lamplighter.operations import doctor
from lamplighter.operations.datafolder import DataFolder, ServerInfo
from lamplighter.operations.doctor import examine
from lamplighter.providers.command import memory
from lamplighter.store import principals
from lamplighter.store.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """An installation that was started once."""
    made = DataFolder(tmp_path / "data")
    made.prepare()

    async def begin() -> None:
        store = await Store.open(made.store, SystemClock())
        await principals.ensure_first_key(store)
        await store.close()

    asyncio.run(begin())
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file whose port is surely free."""
    path = tmp_path / "lamplighter.yaml"
    path.write_text("server: {port: 39999}\n")
    return path


def named(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def snapshot(folder: DataFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.root.rglob("*")) if path.is_file()}


def test_a_sound_installation_is_well(folder: DataFolder, config: Path) -> None:
    """A doctor that cries wolf is not believed."""
    before = snapshot(folder)
    findings = examine(folder, config, {})
    assert not [finding for finding in findings if finding.verdict is Verdict.FAIL]
    assert {"python", "platform", "engine", "memory", "disk", "clock", "data folder", "store", "keys", "server", "config"} <= {
        finding.name for finding in findings
    }
    assert snapshot(folder) == before


def test_before_the_first_start_all_is_well(tmp_path: Path, config: Path) -> None:
    """Nothing exists yet, and that is no failure; nor is anything made."""
    findings = examine(DataFolder(tmp_path / "none"), config, {})
    assert not [finding for finding in findings if finding.verdict is Verdict.FAIL]
    assert not (tmp_path / "none").exists()


def test_a_bad_configuration_is_found_and_the_rest_examined(folder: DataFolder, config: Path) -> None:
    """The configuration is not the only thing that can be wrong."""
    config.write_text("server: {port: no}\n")
    findings = examine(folder, config, {})
    assert named(findings, "config").verdict is Verdict.FAIL
    assert "server.port" in named(findings, "config").message
    assert named(findings, "store").verdict is Verdict.OK


def test_a_readable_key_is_found(folder: DataFolder, config: Path) -> None:
    """Whoever can read the key can do everything."""
    folder.write_private(folder.cli_key, "lk-x")
    folder.cli_key.chmod(0o644)
    finding = named(examine(folder, config, {}), "data folder")
    assert finding.verdict is Verdict.FAIL
    assert "cli.key" in finding.message
    assert "chmod" in finding.next_step


def test_a_file_instead_of_the_folder_is_found(tmp_path: Path, config: Path) -> None:
    """The message of `up` is confirmed by the doctor."""
    (tmp_path / "data").write_text("")
    assert named(examine(DataFolder(tmp_path / "data"), config, {}), "data folder").verdict is Verdict.FAIL


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_damaged_store_is_found(folder: DataFolder, config: Path, content: bytes) -> None:
    """A torn database explains everything else that fails."""
    folder.store.write_bytes(content)
    finding = named(examine(folder, config, {}), "store")
    assert finding.verdict is Verdict.FAIL
    assert "backup" in finding.next_step


def test_a_store_of_the_future_is_found(folder: DataFolder, config: Path) -> None:
    """After a downgrade."""
    with sqlite3.connect(folder.store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    finding = named(examine(folder, config, {}), "store")
    assert finding.verdict is Verdict.FAIL
    assert "newer" in finding.message


def test_no_key_left_is_found(folder: DataFolder, config: Path) -> None:
    """Nobody could come in."""
    with sqlite3.connect(folder.store) as connection:
        connection.execute("UPDATE keys SET revoked_at = 1")
    connection.close()
    assert named(examine(folder, config, {}), "keys").verdict is Verdict.FAIL


def test_a_dead_server_is_found(folder: DataFolder, config: Path) -> None:
    """After `kill -9` the folder still names it."""
    folder.write_server(ServerInfo("http://127.0.0.1:1", 1, 0.0, ""))
    folder.write_private(folder.cli_key, "lk-x")
    finding = named(examine(folder, config, {}), "server")
    assert finding.verdict is Verdict.FAIL
    assert "lamplighter up" in finding.next_step


def test_an_occupied_port_is_found(folder: DataFolder, config: Path) -> None:
    """Before a start, not after it."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(f"server: {{port: {taken.getsockname()[1]}}}\n")
        finding = named(examine(folder, config, {}), "port")
    assert finding.verdict is Verdict.FAIL
    assert "--port" in finding.next_step


def test_machines_that_are_woken_by_commands_are_judged_without_waking_them(folder: DataFolder, config: Path) -> None:
    """A typing error would show itself at the first wake, at night; and a doctor that wakes machines would not be asked again."""
    touched = folder.root.parent / "touched"
    config.write_text(
        "server: {port: 39999}\nmodels: {}\npools:\n"
        f"  desk: {{kind: command, url: 'http://127.0.0.1:1', wake: 'touch {touched}', sleep: [touch, '{touched}'], running: 'touch {touched}'}}\n"
        "  typo: {kind: command, url: 'http://127.0.0.1:1', wake: [no-such-wakeonlan, x], sleep: 'no-such'}\n"
        "  stuck: {kind: command, url: 'http://127.0.0.1:1', wake: w, sleep: s}\n"
    )
    memory.write(memory.place(folder.root, "stuck"), memory.Memory(woken_at=1.0, failures=2, trouble="The sleep command failed."))
    findings = examine(folder, config, {})
    assert named(findings, "pool desk").verdict is Verdict.OK
    assert "asleep" in named(findings, "pool desk").message
    assert named(findings, "pool typo").verdict is Verdict.FAIL
    assert "pools.typo.wake: there is no program 'no-such-wakeonlan'" in named(findings, "pool typo").message
    assert named(findings, "pool stuck").verdict is Verdict.WARN
    assert "may still be on: The sleep command failed." in named(findings, "pool stuck").message
    assert not touched.exists()


def test_static_pools_are_asked(folder: DataFolder, config: Path) -> None:
    """A server that does not answer, and a key that is not there, are told apart."""
    config.write_text(
        "server: {port: 39999}\npools:\n  gone: {kind: static, url: 'http://127.0.0.1:1'}\n"
        "  locked: {kind: static, url: 'http://127.0.0.1:1', key: 'env:LAMPLIGHTER_TEST_NO_SUCH'}\n"
    )
    findings = examine(folder, config, {})
    assert "does not answer" in named(findings, "pool gone").message
    assert "is not set" in named(findings, "pool locked").message


def test_models_that_can_never_load_are_found(folder: DataFolder, config: Path, tmp_path: Path) -> None:
    """A path with a typo would otherwise show at the first request."""
    config.write_text(
        f"server: {{port: 39999}}\npools: {{here: {{kind: process}}}}\n"
        f"models:\n  a: {{engine: llamacpp, pool: here, source: 'file:{tmp_path}/none.gguf'}}\n"
        "  b: {engine: llamacpp, pool: here, source: bundled}\n"
    )
    findings = examine(folder, config, {})
    assert named(findings, "model a").verdict is Verdict.FAIL
    assert named(findings, "model b").verdict is Verdict.OK


def test_a_model_larger_than_memory_is_found(folder: DataFolder, config: Path, tmp_path: Path) -> None:
    """It would be killed while it loads."""
    huge = tmp_path / "huge.gguf"
    with huge.open("wb") as file:
        file.truncate(2**42)  # sparse: takes no room
    config.write_text(
        f"server: {{port: 39999}}\npools: {{here: {{kind: process}}}}\nmodels: {{h: {{engine: llamacpp, pool: here, source: 'file:{huge}'}}}}\n"
    )
    finding = named(examine(folder, config, {}), "memory")
    assert finding.verdict is Verdict.FAIL
    assert "h (4398.0 GB)" in finding.message


def test_the_last_failure_of_an_engine_is_told(folder: DataFolder, config: Path) -> None:
    """Where the log is, and why it failed, is what a person needs after `wake failed`."""
    run = folder.engines / "prc_1"
    run.mkdir(parents=True)
    (run / "state.json").write_text('{"failure": "out_of_memory", "detail": "It needs 9 GB."}')
    (folder.engines / "prc_2").mkdir()
    finding = named(examine(folder, config, {}), "engine logs")
    assert "It needs 9 GB." in finding.message
    assert str(run / "engine.log") in finding.next_step


def test_a_check_that_breaks_is_a_finding(folder: DataFolder, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One defect of ours must not hide all other findings."""

    def broken(_: object) -> list[Finding]:
        raise RuntimeError("oh")

    monkeypatch.setattr(doctor, "CHECKS", (broken, *doctor.CHECKS))
    findings = examine(folder, config, {})
    assert named(findings, "broken").verdict is Verdict.WARN
    assert named(findings, "store").verdict is Verdict.OK


def test_everything_unwell_has_a_next_step(folder: DataFolder, config: Path) -> None:
    """A diagnosis without a cure is only bad news."""
    folder.store.write_bytes(b"x" * 5000)
    folder.root.chmod(0o755)
    folder.write_server(ServerInfo("http://127.0.0.1:1", 1, 0.0, ""))
    for finding in examine(folder, config, {}):
        assert finding.verdict is Verdict.OK or finding.next_step, finding
