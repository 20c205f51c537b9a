"""`engines.sources.lease`: two pods that fill one volume, and one that died doing so."""

import threading
import time
from pathlib import Path

from lamplighter.engines.sources.lease import held


def test_one_waits_for_the_other(tmp_path: Path) -> None:
    """Two pods that start together would download the same 140 GB twice."""
    lease, order, began = tmp_path / "locks" / "model", list[str](), threading.Event()

    def first() -> None:
        with held(lease, look=0.01):
            began.set()
            time.sleep(0.05)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(5)
    holders = list[str]()
    with held(lease, holders.append, look=0.01):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert holders, "a person is told whom it waits for"
    assert list(lease.parent.iterdir()) == [], "nothing is left behind"


def test_one_who_died_is_replaced(tmp_path: Path) -> None:
    """A pod that was killed leaves its lease on the volume, and nobody else could ever fill it."""
    lease, now = tmp_path / "model", [0.0]
    lease.write_text('{"owner": "dead", "host": "gone", "count": 3}')

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with held(lease, stale=60, look=1, clock=lambda: now[0], sleep=sleep):
        assert 60 <= now[0] <= 62
        assert "dead" not in lease.read_text()


def test_one_who_lives_is_not_replaced_however_long_it_takes(tmp_path: Path) -> None:
    """A slow download renews its lease; taking it away would start a second one."""
    lease, now, renewed = tmp_path / "model", [0.0], [0]
    lease.write_text("alive 0")

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] < 500:
            renewed[0] += 1
            lease.write_text(f"alive {renewed[0]}")
        else:
            lease.unlink(missing_ok=True)

    with held(lease, stale=60, look=10, clock=lambda: now[0], sleep=sleep):
        assert now[0] >= 500


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    """What others see must change, or they take the holder for dead."""
    lease = tmp_path / "model"
    with held(lease, renew=0.01):
        before = lease.read_text()
        end = time.monotonic() + 5
        while lease.read_text() == before:
            assert time.monotonic() < end
            time.sleep(0.005)


def test_half_a_lease_counts_as_one_and_grows_stale(tmp_path: Path) -> None:
    """A disk that was full left an empty file."""
    lease, now = tmp_path / "model", [0.0]
    lease.touch()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with held(lease, stale=5, look=1, clock=lambda: now[0], sleep=sleep):
        assert now[0] >= 5


def test_a_lease_that_was_taken_over_is_not_deleted(tmp_path: Path) -> None:
    """One who was stopped for an hour wakes up and must not end the lease of the one who went on."""
    lease = tmp_path / "model"
    with held(lease):
        lease.write_text('{"owner": "another", "host": "b", "count": 1}')
    assert "another" in lease.read_text()


def test_many_at_once_are_one_at_a_time(tmp_path: Path) -> None:
    """Whatever the order in which they look."""
    lease, inside, most = tmp_path / "model", [0], [0]

    def work() -> None:
        with held(lease, look=0.001):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most[0] == 1
