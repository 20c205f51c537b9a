"""What the `lamplighter mesh` commands share: the folder, the configuration, the clock, and where passphrases come from."""

import secrets
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.config import read
from lamplighter.cli.invocation import Invocation, of
from lamplighter.core.errors import ConfigError, LamplighterError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from lamplighter.config.mesh import MeshConfig
    from lamplighter.mesh.storage import AuthorityRecord, MeshFolder, Role

PASSPHRASE_LIMIT = 120.0
"""Seconds for `mesh.offline_passphrase`: a password manager may ask for a fingerprint meanwhile."""

CaKeyOption = Annotated[
    str | None,
    typer.Option(
        "--ca-key",
        metavar="FILE",
        help="An exported authority to sign with, which is not kept here; `-` reads it from standard input.",
    ),
]


@dataclass
class Desk:
    """One command's view of the mesh: where it is, how it is configured, what time it is."""

    invocation: Invocation
    config: "MeshConfig"
    folder: "MeshFolder"
    now: float
    _passphrases: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, context: typer.Context, named: Path | None) -> "Desk":
        """Of this invocation. Raises ConfigError."""
        from lamplighter.mesh.storage import MeshFolder

        invocation = of(context)
        tree, _ = read(invocation, named)
        return cls(invocation, tree.mesh, MeshFolder(invocation.folder.root / "mesh"), time.time())

    def passphrase(self, role: "Role", *, new: bool = False) -> str:
        """The passphrase of an authority's key; `new`: for a key that is made now. Asked for once at most. Raises LamplighterError."""
        if role not in self._passphrases:
            self._passphrases[role] = self._online(new=new) if role == "online" else self._offline(new=new)
        return self._passphrases[role]

    def key(self, role: "Role", ca_key: str | None = None) -> "Ed25519PrivateKey":
        """The private key of the authority of this role that signs. Raises LamplighterError."""
        from lamplighter.mesh.issuing import active

        return self.key_of(active(self.folder.read(), role), ca_key)

    def key_of(self, authority: "AuthorityRecord", ca_key: str | None = None) -> "Ed25519PrivateKey":
        """The private key of this authority, from the disk or from an exported file. Raises LamplighterError."""
        from lamplighter.mesh.administration import unlock
        from lamplighter.mesh.authority import read_key

        text = read_input(ca_key) if ca_key is not None else read_key(self.folder, authority.role, authority.fingerprint)
        return unlock(authority, text, self.passphrase(authority.role))

    def publish(self, *, after: str, always: bool = False) -> None:
        """Tell this machine's Nebula; when that fails, say that the change itself was made. Raises LamplighterError."""
        from lamplighter.mesh.errors import MeshError
        from lamplighter.mesh.publishing import publish, target

        try:
            publish(self.folder, self.config, now=self.now, always=always)
        except MeshError as error:
            raise MeshError(
                f"{after}, but this machine's Nebula does not know: {error.message}",
                code="not_published",
                next_step="Correct that, then run `lamplighter mesh publish`.",
            ) from error
        self.invocation.note(f"Published to {target(self.folder, self.config)}.")

    def _online(self, *, new: bool) -> str:
        from lamplighter.config.secrets import resolve

        reference = self.config.passphrase
        if reference is None:
            suggested = f"file:{self.invocation.folder.root / 'mesh.passphrase'}"
            raise ConfigError(
                "the keeper could not open the online authority: mesh.passphrase is not set",
                where="mesh.passphrase",
                next_step=f"Add `mesh: {{passphrase: '{suggested}'}}` to lamplighter.yaml and run this again: the file is made.",
            )
        kind, _, name = reference.partition(":")
        path = Path(name).expanduser()
        if new and kind == "file" and not path.exists():
            self._make_passphrase(path)
        return resolve(reference, where="mesh.passphrase")

    def _make_passphrase(self, path: Path) -> None:
        self.folder.write(path, secrets.token_urlsafe(32) + "\n")
        self.invocation.note(f"Made a passphrase for the online authority in {path}. Keep a copy with the exported key.")

    def _offline(self, *, new: bool) -> str:
        from lamplighter.mesh.commands import run

        if self.config.offline_passphrase is not None:
            said = run(self.config.offline_passphrase, what="mesh.offline_passphrase", limit=PASSPHRASE_LIMIT).rstrip("\r\n")
            if not said:
                raise LamplighterError("mesh.offline_passphrase: the command printed nothing", code="no_passphrase")
            return said
        if not sys.stdin.isatty():
            raise LamplighterError(
                "the passphrase of the offline authority is needed, and there is nobody to ask",
                code="no_passphrase",
                next_step="Run this in a terminal, or set mesh.offline_passphrase to a command that prints it.",
            )
        what = "New passphrase of the offline authority" if new else "Passphrase of the offline authority"
        return str(typer.prompt(what, hide_input=True, confirmation_prompt=new, err=True))


def read_input(name: str) -> str:
    """A file's text, or that of standard input for `-`. Raises LamplighterError."""
    limit = 1_000_000
    if name == "-":
        text = sys.stdin.read(limit + 1)
    else:
        try:
            with Path(name).expanduser().open(encoding="utf-8") as file:
                text = file.read(limit + 1)
        except UnicodeDecodeError as error:
            raise LamplighterError(f"{name} is no text: no key or certificate") from error
        except OSError as error:
            raise LamplighterError(f"{name} cannot be read: {error.strerror}", next_step="Check the name.") from error
    if len(text) > limit:
        raise LamplighterError(f"{name} is longer than any key or certificate")
    return text


def life(days: float | None) -> float | None:
    """Days as seconds. Raises LamplighterError."""
    if days is None:
        return None
    if not 0 < days <= 36_500:
        raise LamplighterError("--days: give a number larger than 0, and at most 36500", next_step="Such as --days 90.")
    return days * 86_400.0


def role_named(text: str) -> "Role":
    """The authority that a person names. Raises LamplighterError."""
    if text == "offline":
        return "offline"
    if text == "online":
        return "online"
    raise LamplighterError(f"there is no authority {text!r}", next_step="Name offline or online.")
