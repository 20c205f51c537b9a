"""When a node must end: its boot deadline and its lease, counted so that no restart of the agent adds to them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lamplighter.node.basics import Settings, boottime, log, write


class Deadman:
    """When the node must end. Kept on disk, so that an agent that was killed and started again goes on with the time that was left.

    `clock`: seconds that no clock setting moves. After a reboot that clock begins again; then the wall clock says how long the machine was
    away, and never gives back more than there was.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
        boot_id: str = "",
    ) -> None:
        self.boot_deadline, self.lease, self.drain = settings.boot_deadline, settings.lease, settings.drain
        self.ending: str | None = None
        self._path, self._clock, self._wall, self._boot_id = path, clock, wall, boot_id
        self._lock = threading.Lock()
        self.born = clock()
        self._until: float | None = None
        """When the lease runs out; None as long as there never was one."""
        self._restore()
        self._save()

    def _restore(self) -> None:
        now = self._clock()
        try:
            saved = json.loads(self._path.read_text())
            away = 0.0 if saved["boot"] == self._boot_id else now - saved["clock"] - max(0.0, self._wall() - saved["wall"])
            self.born = min(now, saved["born"] + away)
            self._until = None if saved["until"] is None else min(now + self.lease, saved["until"] + away)
            self.ending = saved["ending"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the dead-man's file is not readable (%r): one lease is left", error)
            self._until = now + self.lease

    def _save(self) -> None:
        saved = {"boot": self._boot_id, "born": self.born, "until": self._until, "ending": self.ending}
        try:
            write(self._path, json.dumps(saved | {"clock": self._clock(), "wall": self._wall()}))
        except OSError as error:  # what is on disk is older, so a restarted agent ends sooner
            log.warning("the dead-man's file cannot be written: %s", error)

    def renew(self, seconds: float) -> float:
        """Seconds that the lease now lasts: never longer than the pool's lease."""
        with self._lock:
            left = max(0.0, min(seconds, self.lease))
            self._until = self._clock() + left
            self._save()
            return left

    def end(self, reason: str) -> None:
        """From now on it is due. Waits for nothing, so the disk cannot keep a node from its end; `keep` makes it last over a restart."""
        self.ending = self.ending or reason

    def keep(self) -> None:
        """Write down where it stands."""
        with self._lock:
            self._save()

    def remaining(self) -> float:
        """Seconds until the lease runs out, or before the first one until the boot deadline."""
        until = self.born + self.boot_deadline if self._until is None else self._until
        return max(0.0, until - self._clock())

    def due(self) -> str | None:
        """Why the node must end now. A lease that has run out leaves `drain` seconds for answers that are being written."""
        now = self._clock()
        if self.ending:
            return self.ending
        if self._until is None:
            return "boot_deadline" if now >= self.born + self.boot_deadline else None
        return "lease" if now >= self._until + self.drain else None


def watchdog() -> None:
    """Tell systemd that the main thread lives; one that hangs (or is stopped) is killed and started again."""
    address = os.environ.get("NOTIFY_SOCKET")  # noqa: TID251 - this is how systemd says it
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"WATCHDOG=1", address.replace("@", "\0", 1))
