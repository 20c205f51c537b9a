"""Enters the networks of a lab from this process: sockets and programs that are made inside belong to it for good."""

import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(namespace: str) -> None:
    """Move the calling thread, and what it starts from now on, into a network namespace."""
    with (Path("/run/netns") / namespace).open() as file:
        if _libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)


def inside(namespace: str, call: Callable[[], T]) -> T:
    """The result of `call`, made by a thread of that network. What it starts (threads, programs) is there too."""
    with dwelling(namespace) as pool:
        return pool.submit(call).result()


def dwelling(namespace: str) -> ThreadPoolExecutor:
    """A thread that stays in that network."""
    return ThreadPoolExecutor(1, initializer=_enter, initargs=(namespace,))


def listening(namespace: str, host: str, port: int) -> socket.socket:
    """A listening socket in that network."""

    def make() -> socket.socket:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(256)
        return found

    return inside(namespace, make)
