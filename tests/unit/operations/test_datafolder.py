"""The data folder: private, owned by one process, and every obstacle is a sentence."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lamplighter.core.errors import AlreadyRunning
from lamplighter.operations.datafolder import DataFolder, DataFolderError, ServerInfo


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_private_even_if_it_was_not(tmp_path: Path) -> None:
    """Chats and keys lie in it: other users of the machine must not read them."""
    root = tmp_path / "data"
    root.mkdir(mode=0o755)
    folder = DataFolder(root)
    folder.prepare()
    assert mode(root) == 0o700
    os.umask(old := os.umask(0))
    folder.write_private(folder.cli_key, "lk-x")
    os.umask(old)
    assert mode(folder.cli_key) == 0o600
    assert folder.read_cli_key() == "lk-x"


@pytest.mark.parametrize("obstacle", ["a file", "a file above", "a file as run"])
def test_a_file_in_the_way_is_a_sentence(tmp_path: Path, obstacle: str) -> None:
    """A wrong --data must not end in a traceback."""
    blocked = tmp_path / "data"
    if obstacle == "a file as run":
        blocked.mkdir()
        (blocked / "run").write_text("")
    else:
        blocked.write_text("")
    folder = DataFolder(blocked / "below" if obstacle == "a file above" else blocked)
    with pytest.raises(DataFolderError, match="there is a file of that name in the way") as caught:
        folder.prepare()
    assert "--data" in caught.value.next_step
    assert caught.value.exit_code == 3


def test_a_full_disk_is_a_sentence() -> None:
    """/dev/full is a disk without room."""
    folder = DataFolder(Path("/dev/full"))
    with pytest.raises(DataFolderError):
        folder.prepare()


def test_one_process_owns_it(tmp_path: Path) -> None:
    """Two keepers on one store would end each other's engines."""
    folder = DataFolder(tmp_path)
    folder.prepare()
    folder.write_server(ServerInfo("http://127.0.0.1:8080", 1, 0.0, ""))
    with folder.lock(), pytest.raises(AlreadyRunning) as caught:
        folder.lock()
    assert f"process {os.getpid()}" in caught.value.message
    assert "http://127.0.0.1:8080" in caught.value.message
    assert caught.value.exit_code == 4
    with folder.lock():
        pass


def test_a_killed_owner_frees_it(tmp_path: Path) -> None:
    """After `kill -9` nobody has to delete a lock file by hand, even while a child of the dead process lives on."""
    folder = DataFolder(tmp_path)
    folder.prepare()
    code = (
        "import subprocess, sys; from pathlib import Path; from lamplighter.operations.datafolder import DataFolder\n"
        f"lock = DataFolder(Path({str(tmp_path)!r})).lock(); child = subprocess.Popen(['sleep', '30'])\n"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    try:
        with pytest.raises(AlreadyRunning):
            folder.lock()
        owner.kill()
        owner.wait(10)
        folder.lock().release()
    finally:
        os.kill(child, signal.SIGKILL)
        owner.communicate()


def test_who_serves_it_is_remembered_and_forgotten(tmp_path: Path) -> None:
    """The command line finds the server through this file; a torn one must not break it."""
    folder = DataFolder(tmp_path)
    folder.prepare()
    assert folder.read_server() is None
    info = ServerInfo("http://127.0.0.1:1", 7, 12.5, "0.1.0")
    folder.write_server(info)
    assert folder.read_server() == info
    for torn in ("", "{", "[]", '{"url": "x"}', "\x00"):
        folder.server.write_text(torn)
        assert folder.read_server() is None
    folder.forget_server()
    folder.forget_server()
    assert not folder.server.exists()
    assert [path.name for path in folder.server.parent.iterdir()] == []
