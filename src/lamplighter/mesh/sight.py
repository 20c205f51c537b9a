"""What this machine shows of its mesh: interface, routes, Nebula's program and log, the clock, pings and knocks. Reads and asks; changes nothing.

Linux alone: on another system the programs are missing, and what cannot be seen is None. Not responsible for judging: that is `check`.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Literal

_LIMIT = 10.0
Way = Literal["direct", "relayed"]
_HEADER = struct.Struct("!BBHIQ")
"""Nebula's header (slackhq/nebula `header/header.go`): version and type in one byte, subtype, reserved, index, counter."""
_MESSAGE, _RECV_ERROR = 1, 2


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that is there."""

    addresses: tuple[IPv4Address, ...]
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of the main routing table, default routes left out."""

    network: IPv4Network
    device: str


def interface(name: str) -> Interface | None:
    """The interface as it is now; None when there is none."""
    shown = _json("ip", "-j", "address", "show", "dev", name)
    if not shown:
        return None
    link = shown[0]
    addresses = tuple(IPv4Address(one["local"]) for one in link.get("addr_info", ()) if one.get("family") == "inet")
    return Interface(addresses, int(link.get("mtu", 0)), "UP" in link.get("flags", ()))


def routes() -> tuple[Route, ...] | None:
    """The main routing table; None when it cannot be read."""
    shown = _json("ip", "-j", "-4", "route", "show", "table", "main")
    if shown is None:
        return None
    return tuple(Route(IPv4Network(one["dst"]), one.get("dev", "?")) for one in shown if one.get("dst", "default") != "default")


def version(program: str = "nebula") -> str | None:
    """Nebula's version, such as `1.9.6`; None where it is not installed."""
    said = _run(program, "-version")
    found = re.search(r"(\d+\.\d+\.\d+)", said or "")
    return found[1] if found else None


def accepted(folder: Path, program: str = "nebula") -> tuple[bool, str] | None:
    """Whether Nebula takes the configuration in `folder`, and the end of what it said; None where it is not installed."""
    if shutil.which(program) is None:
        return None
    with contextlib.suppress(subprocess.TimeoutExpired, OSError):
        done = subprocess.run(
            [program, "-test", "-config", str(folder)], check=False, capture_output=True, text=True, timeout=_LIMIT
        )
        return done.returncode == 0, _last(done.stdout + done.stderr)
    return None


def journal(file: Path | None = None, unit: str = "nebula") -> str | None:
    """Nebula's log: the file, else the journal of its unit; None where neither can be read."""
    if file is not None:
        with contextlib.suppress(OSError):
            return file.read_text(errors="replace")
        return None
    return _run("journalctl", "--unit", unit, "--output", "cat", "--lines", "20000", "--no-pager") or None


def way(log: str, address: IPv4Address) -> Way | None:
    """How the last tunnel to `address` was made, by Nebula's log in JSON: directly, or through a relay; None when the log does not tell."""
    found: Way | None = None
    for line in log.splitlines():
        if "Handshake message received" not in line:
            continue
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if str(address) in (said.get("vpnIp"), *(said.get("vpnAddrs") or ())):
                # Up to 1.9 `udpAddr` is null for a relay; later ones name the relay in `from`, or say `relay`.
                where = str(said.get("udpAddr") or said.get("from") or "")
                found = "direct" if where and "relay" not in where and not said.get("relay") else "relayed"
    return found


def synchronised() -> bool | None:
    """Whether the system keeps its clock by others'; None when it does not say."""
    said = (_run("timedatectl", "show", "--property=NTPSynchronized", "--value") or "").strip()
    return {"yes": True, "no": False}.get(said)


def pings(address: IPv4Address, *, size: int | None = None, wait: int = 2, tries: int = 2) -> bool | None:
    """Whether a ping is answered. `size`: the whole packet, not to be fragmented. None where there is no `ping`."""
    if shutil.which("ping") is None:
        return None
    whole = [] if size is None else ["-M", "do", "-s", str(size - 28)]
    done = subprocess.run(
        ["ping", "-n", "-c", str(tries), "-W", str(wait), "-i", "0.3", *whole, str(address)],
        check=False,
        capture_output=True,
        timeout=_LIMIT + wait * tries,
    )
    return done.returncode == 0


def largest(address: IPv4Address, mtu: int) -> int | None:
    """The largest packet that is answered, up to `mtu`; None when none of 576 bytes is."""
    if not pings(address, size=576, wait=1):
        return None
    low, high = 576, mtu
    while low < high:
        middle = (low + high + 1) // 2
        if pings(address, size=middle, wait=1, tries=1):
            low = middle
        else:
            high = middle - 1
    return low


def knock(host: str, port: int, *, wait: float = 1.0, tries: int = 3) -> bool:
    """Whether a Nebula answers at this UDP address.

    A message for a tunnel that does not exist is answered by a short error (`send_recv_error`, on by default up to 1.11), which needs no
    certificate. Silence may also mean that the other side has switched these off. Raises OSError when the name cannot be resolved.
    """
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as asking:
        asking.settimeout(wait)
        for _ in range(tries):
            index = struct.unpack("!I", os.urandom(4))[0] | 1
            with contextlib.suppress(OSError):
                asking.sendto(_HEADER.pack(1 << 4 | _MESSAGE, 0, 0, index, 1) + bytes(32), where)
                answer = asking.recv(256)
                if len(answer) >= _HEADER.size:
                    kinds, _, _, about, _ = _HEADER.unpack_from(answer)
                    if kinds & 0x0F == _RECV_ERROR and about == index:
                        return True
    return False


def connects(address: IPv4Address, ports: Iterable[int], *, wait: float = 2.0) -> dict[int, bool | None]:
    """For each port: True when something listens, False when the machine refuses, None when nothing comes back."""
    found: dict[int, bool | None] = {}
    for port in ports:
        try:
            with socket.create_connection((str(address), port), timeout=wait):
                found[port] = True
        except ConnectionRefusedError:
            found[port] = False
        except OSError:
            found[port] = None
    return found


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _json(*command: str) -> list[dict[str, Any]] | None:
    said = _run(*command)
    if said is None:
        return None
    with contextlib.suppress(ValueError):
        found = json.loads(said or "[]")
        if isinstance(found, list):
            return [one for one in found if one]
    return None


def _run(*command: str) -> str | None:
    words: Sequence[str] = command
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=_LIMIT)
        return done.stdout if done.returncode == 0 else None
    return None


__all__ = [
    "Interface", "Route", "Way", "accepted", "connects", "interface", "journal", "knock", "largest", "pings", "routes", "synchronised", "version",
    "way",
]  # fmt: skip
