"""The folder: private, whole after every crash, one writer at a time, clear about a full disk and a damaged index."""

import errno
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import keys
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.errors import MeshError
from lamplighter.mesh.storage import MeshFolder
from tests.unit.mesh.authority.conftest import NOW, PASSPHRASE


def _issue(folder: MeshFolder, config: MeshConfig, name: str, host: int) -> str:
    authority = OnlineAuthority.open(folder.root, config, PASSPHRASE)
    return authority.issue(name, keys.new_node_key()[1], IPv4Address(f"10.77.128.{host}"), now=NOW).fingerprint


def test_only_the_owner_reads_keys_and_index(folder: MeshFolder) -> None:
    """A key that others can read is as good as published, encrypted or not."""
    for path in (folder.root, *folder.root.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_folder_that_others_could_read_is_closed(tmp_path: Path, folder: MeshFolder, config: MeshConfig) -> None:
    """As after a restore from a backup that knew no modes; folders that are not ours stay as they are."""
    folder.root.chmod(0o755)
    tmp_path.chmod(0o755)
    _issue(folder, config, "gpu-1", 1)
    folder.write(tmp_path / "elsewhere" / "ca.crt", "x", mode=0o644)
    assert folder.root.stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_crash_at_any_step_loses_nothing_that_was_promised(
    folder: MeshFolder, config: MeshConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between any two system calls, the index is the one before or the one after, and the next change works."""
    authority = OnlineAuthority.open(folder.root, config, PASSPHRASE)
    kept = [_issue(folder, config, "gpu-0", 250)]

    class Killed(BaseException):
        """As `kill -9`: nothing of ours runs afterwards."""

    calls = ("open", "fsync", "fchmod")
    for step in range(40):
        count = 0

        def counted(real: Callable[..., object], step: int = step) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count > step:
                    raise Killed
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as broken:
            for name in calls:
                broken.setattr(os, name, counted(getattr(os, name)))
            broken.setattr(Path, "replace", counted(Path.replace))
            broken.setattr(Path, "hardlink_to", counted(Path.hardlink_to))
            broken.setattr(Path, "unlink", counted(Path.unlink))
            try:
                issued = authority.issue(f"gpu-{step + 1}", keys.new_node_key()[1], IPv4Address(f"10.77.129.{step + 1}"), now=NOW)
            except Killed:
                pass
            else:
                kept.append(issued.fingerprint)
                break
        there = folder.read()
        assert set(kept) <= set(there.certificates)
        assert len(there.authorities) == 2
    else:
        pytest.fail("the steps never ended")
    assert step > 5
    assert kept[-1] in folder.read().certificates
    assert not [path for path in folder.root.rglob(".*.new") if path.stat().st_size == 0]


def test_a_full_disk_changes_nothing_and_says_so(folder: MeshFolder, config: MeshConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation that was not written must not be reported as done."""
    fingerprint = _issue(folder, config, "gpu-1", 1)
    authority = OnlineAuthority.open(folder.root, config, PASSPHRASE)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(MeshError, match="disk is full") as caught:
            authority.revoke(fingerprint, NOW)
    assert caught.value.code == "disk_full"
    assert authority.blocklist() == ()
    authority.revoke(fingerprint, NOW)
    assert authority.blocklist() == (fingerprint,)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"version": 2}', b'{"authorities": {"x": {}}}'])
def test_a_damaged_index_is_never_taken_for_an_empty_one(folder: MeshFolder, config: MeshConfig, content: bytes) -> None:
    """Else every revoked node would be welcome again, and `init` would make a second authority."""
    _issue(folder, config, "gpu-1", 1)
    folder.index.write_bytes(content)
    for attempt in (folder.read, lambda: OnlineAuthority.open(folder.root, config, PASSPHRASE)):
        with pytest.raises(MeshError, match="damaged") as caught:
            attempt()
        assert "index.json.previous" in caught.value.next_step
    assert folder.index.read_bytes() == content
    Path(f"{folder.index}.previous").replace(folder.index)
    assert len(folder.read().authorities) == 2


def _many(root: Path, start: int, count: int) -> None:
    keys.DEFAULT_COST = keys.Argon2(memory=32, iterations=1, lanes=1)
    for number in range(start, start + count):
        _issue(MeshFolder(root), MeshConfig.model_validate({}), f"gpu-{number}", number)


def test_two_processes_lose_no_certificate_of_each_other(folder: MeshFolder) -> None:
    """The keeper issues at the moment when a person revokes: both are written."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_many, args=(folder.root, start, 8)) for start in (10, 50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    names = {one.name for one in folder.read().certificates.values()}
    assert names == {f"gpu-{number}" for start in (10, 50) for number in range(start, start + 8)}


def test_threads_share_one_authority(folder: MeshFolder, config: MeshConfig) -> None:
    """The provider works on many nodes at a time."""
    authority = OnlineAuthority.open(folder.root, config, PASSPHRASE)
    publics = [keys.new_node_key()[1] for _ in range(12)]

    def work(number: int) -> None:
        issued = authority.issue(f"gpu-{number}", publics[number], IPv4Address(f"10.77.130.{number + 1}"), now=NOW)
        if number % 2:
            authority.revoke(issued.fingerprint, issued.not_after)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    index = folder.read()
    assert len(index.certificates) == 12
    assert len(authority.blocklist()) == 6


def test_a_lock_that_is_not_given_back_is_named(folder: MeshFolder) -> None:
    """Waiting for ever would look like a crash of the keeper."""
    with folder.locked("lock"):
        begun = time.monotonic()
        with pytest.raises(MeshError, match="another process") as caught, folder.locked("lock", wait=0.05):
            pass
        assert caught.value.code == "mesh_busy"
        assert time.monotonic() - begun < 5
    with folder.locked("lock", wait=0.05):
        pass


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, config: MeshConfig) -> None:
    """A file in the way, as after a wrong copy."""
    (tmp_path / "mesh").write_text("in the way")
    with pytest.raises(MeshError, match="cannot be used"):
        MeshFolder(tmp_path / "mesh").read()


def test_a_place_of_others_that_cannot_be_written_is_named(tmp_path: Path, folder: MeshFolder) -> None:
    """`mesh.publish` belongs to Nebula's user: choosing another data folder would not help."""
    (tmp_path / "nebula").write_text("in the way")
    with pytest.raises(MeshError, match=r"nebula/ca\.crt cannot be used") as caught:
        folder.write(tmp_path / "nebula" / "ca.crt", "x")
    assert "--data" not in caught.value.next_step
