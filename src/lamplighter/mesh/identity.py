"""Whether a node's files belong together: its certificate to its key, to the authorities that it trusts, to the mesh and to the day.

Used by `mesh check` on this machine's own files and by `mesh talos --check` on rendered ones. Not responsible for reading files.
"""

from collections.abc import Iterator

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.findings import Finding
from lamplighter.core.units import Duration
from lamplighter.mesh import certificates, keys
from lamplighter.mesh.certificates import Certificate
from lamplighter.mesh.errors import BadCertificate, NotTrusted
from lamplighter.mesh.findings import fail, ok, warn

_SOON = 14 * 86_400
"""Seconds before its end when a certificate of a long-lived node should be renewed."""


def identity(
    config: MeshConfig, *, bundle: str, certificate: str, key: str | None, now: float, kind: str | None = None
) -> Iterator[Finding]:
    """One finding for each question. `key` None: it cannot be read here. `kind`: the group that the certificate should carry."""
    try:
        own = certificates.parse(certificate)
    except BadCertificate as error:
        yield fail("certificate", f"it cannot be read: {error.message}", _ANEW)
        return
    yield from _key(own, key)
    yield from _authority(own, bundle, now)
    yield from _place(own, config)
    yield from _life(own, now)
    if kind is not None and kind not in own.groups:
        yield fail(
            "group", f"{own.name!r} is in {', '.join(own.groups) or 'no group'}, not in {kind}: others will refuse it", _ANEW
        )


_ANEW = "Certify it anew: `lamplighter mesh sign NAME --kind KIND`."


def _key(own: Certificate, key: str | None) -> Iterator[Finding]:
    if key is None:
        return
    try:
        matches = keys.public_of(key) == own.public_key
    except BadCertificate as error:
        yield fail("key", f"it cannot be read: {error.message}", "Take the node.key that was made with this certificate.")
        return
    if matches:
        yield ok("key", f"the key is the one of {own.name!r}")
    else:
        yield fail(
            "key",
            f"the key is not the one of {own.name!r}",
            "Take the node.key that was made with this certificate, or certify it anew.",
        )


def _authority(own: Certificate, bundle: str, now: float) -> Iterator[Finding]:
    try:
        trusted = certificates.parse_bundle(bundle)
    except BadCertificate as error:
        yield fail("authority", f"the bundle cannot be read: {error.message}", "Take ca.crt from `lamplighter mesh export`.")
        return
    try:
        authority = certificates.verify(own, trusted, now)
    except NotTrusted as error:
        yield fail("authority", error.message, error.next_step or _ANEW)
        return
    if authority.not_after - now < _SOON:
        left = Duration(int(max(0, authority.not_after - now)))
        yield warn(
            "authority",
            f"{authority.name!r} ends in {left}, and every certificate with it",
            "Rotate it: `lamplighter mesh rotate`.",
        )
    else:
        yield ok("authority", f"signed by {authority.name!r}, one of {len(trusted)} in the bundle")


def _place(own: Certificate, config: MeshConfig) -> Iterator[Finding]:
    address = own.address
    if address.network != config.network:
        yield fail("address", f"{address} is not an address of the mesh {config.network}", _ANEW)
    else:
        yield ok("address", f"{address.ip} in {config.network}")
    if own.version != config.certificate_version:
        yield warn(
            "version",
            f"the certificate is of version {own.version}, and mesh.certificate_version is {config.certificate_version}",
            "Certify it anew, or change the setting: nodes older than Nebula 1.10 refuse version 2.",
        )


def _life(own: Certificate, now: float) -> Iterator[Finding]:
    if now < own.not_before:
        yield fail(
            "validity",
            f"{own.name!r} is valid only from {Duration(int(own.not_before - now) + 1)} from now on: this machine's clock is behind",
            "Set the clock: `timedatectl set-ntp true`.",
        )
    elif now > own.not_after:
        yield fail("validity", f"{own.name!r} has expired", _ANEW)
    elif own.not_after - now < min(_SOON, (own.not_after - own.not_before) / 4):
        yield warn(
            "validity", f"{own.name!r} ends in {Duration(int(own.not_after - now))}", "Renew it: `lamplighter mesh renew`."
        )
    else:
        yield ok("validity", f"{own.name!r} is valid for {Duration(int(own.not_after - now) // 3600 * 3600)} more")


__all__ = ["identity"]
