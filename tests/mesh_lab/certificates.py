"""Certificates of the lab, made by the real `nebula-cert`. Journeys that want ours pass anything with the same three methods."""

import json
import subprocess
from pathlib import Path
from typing import Protocol


class Signer(Protocol):
    """What a lab asks of an authority."""

    def certificate(self) -> str:
        """The authority's own certificate, PEM."""
        ...

    def sign(self, name: str, address: str, group: str, public_key: Path) -> str:
        """A node's certificate, PEM. `address` with the length of the network's prefix."""
        ...


class Authority:
    """One certificate authority in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._crt, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        nebula_cert("ca", "-name", name, "-duration", "48h", "-out-crt", self._crt, "-out-key", self._key)

    def certificate(self) -> str:
        return self._crt.read_text()

    def sign(self, name: str, address: str, group: str, public_key: Path) -> str:
        out = self._folder / f"{name}.signed"
        out.unlink(missing_ok=True)
        nebula_cert(
            "sign", "-ca-crt", self._crt, "-ca-key", self._key, "-in-pub", public_key, "-name", name,
            "-ip", address, "-groups", group, "-duration", "24h", "-out-crt", out,
        )  # fmt: skip
        return out.read_text()


def nebula_cert(*words: object) -> str:
    """Run it; its standard output."""
    return subprocess.run(["nebula-cert", *map(str, words)], check=True, capture_output=True, text=True).stdout


def fingerprint(certificate: Path) -> str:
    """What a blocklist names."""
    printed = json.loads(nebula_cert("print", "-json", "-path", certificate))
    first = printed[0] if isinstance(printed, list) else printed
    return str(first["fingerprint"])
