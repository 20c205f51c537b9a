"""What a copy of models in a place of one's own must answer, such as a bucket. Implemented by a provider; used by `repository` and `registry`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol


class Entry(Protocol):
    """One file of a mirror."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def sha256(self) -> str | None:
        """Of its content, in hex, when known."""
        ...

    @property
    def md5(self) -> str | None:
        """The same."""
        ...


class Mirror(Protocol):
    """A place with files under names. Every method raises SourceError."""

    @property
    def address(self) -> str:
        """Where it is, for a person."""
        ...

    def entries(self, folder: str) -> Mapping[str, Entry]:
        """The files under `folder`, by their names inside; empty when there are none."""
        ...

    def read(self, name: str) -> bytes:
        """A small file's content."""
        ...

    def download(self, name: str, part: Path, progress: Callable[[int], None]) -> None:
        """Complete `part`, beginning where it ends; `progress` is told its length."""
        ...
