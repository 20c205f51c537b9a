"""Nebula certificates, versions 1 and 2: making, signing, reading and verifying them, by Nebula's own rules.

The reference is slackhq/nebula, package `cert` (`cert_v1.go`, `cert_v2.go`, `ca_pool.go`); the tests hold every rule against the real
`nebula-cert`. Curve 25519 alone: Ed25519 authorities, X25519 nodes. Not responsible for where keys and certificates are kept.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lamplighter.mesh import pem
from lamplighter.mesh.errors import BadCertificate, BeyondAuthority, NotTrusted
from lamplighter.mesh.wire import Reader, field, fields, integer, number_field, read_varint, signed, tlv, varint

Interface = IPv4Interface | IPv6Interface

MAX_SIZE = 65_536
MAX_NAME = 253
_CURVE_25519 = b"\x00"

# Tags of version 2: context-specific, numbered in the order of `cert_v2.asn1`.
_DETAILS, _CURVE, _PUBLIC_KEY, _SIGNATURE = 0xA0, 0x81, 0x82, 0x83
_NAME, _NETWORKS, _UNSAFE, _GROUPS, _IS_CA, _NOT_BEFORE, _NOT_AFTER, _ISSUER = 0x80, 0xA1, 0xA2, 0xA3, 0x84, 0x85, 0x86, 0x87


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says, and its authority's signature. Times are whole Unix seconds; both ends are included.

    `networks` of a node: its address with the mesh's prefix length. `networks`, `unsafe_networks` and `groups` of an authority are what it
    may certify; empty: anything. `issuer`: the authority's fingerprint; empty for an authority.
    """

    version: int
    name: str
    networks: tuple[Interface, ...]
    groups: tuple[str, ...]
    not_before: int
    not_after: int
    public_key: bytes
    is_ca: bool = False
    issuer: str = ""
    unsafe_networks: tuple[Interface, ...] = ()
    signature: bytes = b""
    raw_details: bytes = b""
    """Version 2 as it was read: its signature and fingerprint are over these very bytes."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal, by which Nebula names a certificate: in `issuer` and in blocklists."""
        if self.version == 1:
            return hashlib.sha256(self.encoded()).hexdigest()
        return hashlib.sha256(self._signed_part() + self.signature).hexdigest()

    @property
    def address(self) -> Interface:
        """A node's address; Nebula uses the first network."""
        return self.networks[0]

    def encoded(self) -> bytes:
        """Protobuf or DER."""
        if self.version == 1:
            return field(1, _details_v1(self)) + field(2, self.signature)
        return tlv(0x30, self._details() + tlv(_PUBLIC_KEY, self.public_key) + tlv(_SIGNATURE, self.signature))

    def to_pem(self) -> str:
        """One PEM block, as Nebula reads it."""
        return pem.encode(pem.CERTIFICATE if self.version == 1 else pem.CERTIFICATE_V2, self.encoded())

    def signed_by(self, public_key: bytes) -> bool:
        """Whether the signature is that of the Ed25519 key."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(self.signature, self._signed_part())
        except (InvalidSignature, ValueError):  # ValueError: the key has not 32 bytes
            return False
        return True

    def valid_at(self, now: float) -> bool:
        """Whether `now` (Unix seconds) is within its life."""
        return self.not_before <= now <= self.not_after

    def _details(self) -> bytes:
        return self.raw_details or _details_v2(self)

    def _signed_part(self) -> bytes:
        return _details_v1(self) if self.version == 1 else self._details() + _CURVE_25519 + self.public_key


def self_signed(wanted: Certificate, key: Ed25519PrivateKey) -> Certificate:
    """The certificate of an authority: `wanted` with the key's public half and its signature. Raises BeyondAuthority."""
    return _sealed(replace(wanted, is_ca=True, issuer="", public_key=public_bytes(key)), key)


def issue(wanted: Certificate, authority: Certificate, key: Ed25519PrivateKey) -> Certificate:
    """`wanted` signed by `authority`, whose private key is `key`.

    Raises BeyondAuthority when it goes beyond what the authority may certify, and then signs nothing: a certificate that Nebula would
    refuse must not exist.
    """
    if wanted.is_ca or not authority.is_ca:
        raise BeyondAuthority("Nebula has no intermediate authorities: an authority signs nodes, and only an authority signs")
    if public_bytes(key) != authority.public_key:
        raise BeyondAuthority(f"the key is not that of the authority {authority.name!r}")
    if problem := excess(wanted, authority):
        raise BeyondAuthority(f"the authority {authority.name!r} may not certify {wanted.name!r}: {problem}")
    return _sealed(replace(wanted, issuer=authority.fingerprint), key)


def excess(subject: Certificate, authority: Certificate) -> str | None:
    """In which respect a certificate goes beyond its authority; None when it does not. Nebula's `checkCAConstraints`."""
    if subject.not_after > authority.not_after:
        return "it would be valid longer than its authority"
    if subject.not_before < authority.not_before:
        return "it would be valid before its authority is"
    if authority.groups:
        for group in subject.groups:
            if group not in authority.groups:
                return f"the group {group!r} is none of {', '.join(authority.groups)}"
    for what, mine, allowed in (
        ("address", subject.networks, authority.networks),
        ("network", subject.unsafe_networks, authority.unsafe_networks),
    ):
        for network in mine if allowed else ():
            if not any(_within(network, one) for one in allowed):
                return f"the {what} {network} is not within {', '.join(str(one.network) for one in allowed)}"
    return None


def verify(
    subject: Certificate, authorities: Mapping[str, Certificate], now: float, blocklist: Iterable[str] = ()
) -> Certificate:
    """The authority (of those, by fingerprint) that vouches for `subject` at `now`. Raises NotTrusted with the reason."""
    if subject.fingerprint in set(blocklist):
        raise NotTrusted(f"{subject.name!r} is revoked: its fingerprint is on the blocklist")
    if subject.is_ca:
        raise NotTrusted(f"{subject.name!r} is an authority's certificate, not a node's")
    authority = authorities.get(subject.issuer)
    if authority is None:
        raise NotTrusted(
            f"{subject.name!r} was signed by the authority {subject.issuer[:16] or 'nobody'}, which is not in the bundle"
        )
    if not authority.valid_at(now):
        raise NotTrusted(f"the authority {authority.name!r} of {subject.name!r} is expired or not yet valid")
    if not subject.valid_at(now):
        raise NotTrusted(f"{subject.name!r} is {'expired' if now > subject.not_after else 'not yet valid'}")
    if not subject.signed_by(authority.public_key):
        raise NotTrusted(f"the signature of {subject.name!r} is not that of {authority.name!r}: it is forged or damaged")
    if problem := excess(subject, authority):
        raise NotTrusted(f"{authority.name!r} may not certify {subject.name!r}: {problem}")
    return authority


def parse(text: str) -> Certificate:
    """The first certificate of a PEM text. Raises BadCertificate."""
    return decode(*pem.only(text, pem.CERTIFICATE, pem.CERTIFICATE_V2, what="Nebula certificate"))


def parse_bundle(text: str) -> dict[str, Certificate]:
    """The authorities of a bundle (`ca.crt`) by fingerprint. Raises BadCertificate, as for one that is not self-signed."""
    found = {}
    for label, content in pem.blocks(text):
        if label not in (pem.CERTIFICATE, pem.CERTIFICATE_V2):
            raise BadCertificate(f"a bundle holds certificates only, and this one holds a {label}")
        certificate = decode(label, content)
        if not certificate.is_ca or not certificate.signed_by(certificate.public_key):
            raise BadCertificate(f"{certificate.name!r} is no authority: it cannot be in a bundle")
        found[certificate.fingerprint] = certificate
    return found


def decode(label: str, content: bytes) -> Certificate:
    """The certificate in a PEM block. Raises BadCertificate."""
    if len(content) > MAX_SIZE:
        raise BadCertificate("the certificate is larger than any can be")
    certificate = _read_v1(content) if label == pem.CERTIFICATE else _read_v2(content)
    if problem := _malformed(certificate):
        raise BadCertificate(f"the certificate is not valid: {problem}")
    return certificate


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _sealed(certificate: Certificate, key: Ed25519PrivateKey) -> Certificate:
    if certificate.version == 2:  # by which Nebula sorts: its readers refuse doubles, which sorting finds
        certificate = replace(
            certificate,
            networks=tuple(sorted(certificate.networks, key=_order)),
            unsafe_networks=tuple(sorted(certificate.unsafe_networks, key=_order)),
        )
    certificate = replace(certificate, raw_details=b"", signature=b"")
    if problem := _malformed(certificate):
        raise BeyondAuthority(f"there can be no such certificate: {problem}")
    return replace(certificate, signature=key.sign(certificate._signed_part()))  # noqa: SLF001 - the same subject


def _malformed(certificate: Certificate) -> str | None:
    """What Nebula's `validate` would refuse; None when nothing."""
    if certificate.version not in (1, 2):
        return f"there is no version {certificate.version}"
    size = len(certificate.name.encode())
    if size > MAX_NAME or (certificate.version == 2 and size == 0):
        return f"a name has 1 to {MAX_NAME} bytes"
    if len(certificate.public_key) != 32:
        return "its key has not 32 bytes"
    if not certificate.is_ca and not certificate.networks:
        return "a node's certificate has an address"
    both = (*certificate.networks, *certificate.unsafe_networks)
    if certificate.version == 1 and any(isinstance(one, IPv6Interface) for one in both):
        return "version 1 knows IPv4 only"
    if any(int(one.ip) == 0 for one in certificate.networks):
        return "0.0.0.0 is no address"
    if certificate.version == 2 and any(len(set(one)) < len(one) for one in (certificate.networks, certificate.unsafe_networks)):
        return "a network is named twice"
    if "" in certificate.groups:
        return "a group has a name"
    return None


def _within(network: Interface, allowed: Interface) -> bool:
    """Nebula asks that the address lies within, and that the prefix is at least as long."""
    return (
        network.version == allowed.version
        and network.ip in allowed.network
        and network.network.prefixlen >= allowed.network.prefixlen
    )


def _order(network: Interface) -> tuple[int, int, int]:
    return network.version, int(network.ip), network.network.prefixlen


def _details_v1(certificate: Certificate) -> bytes:
    return (
        (field(1, certificate.name.encode()) if certificate.name else b"")
        + _packed(2, certificate.networks)
        + _packed(3, certificate.unsafe_networks)
        + b"".join(field(4, group.encode()) for group in certificate.groups)
        + number_field(5, certificate.not_before)
        + number_field(6, certificate.not_after)
        + (field(7, certificate.public_key) if certificate.public_key else b"")
        + number_field(8, int(certificate.is_ca))
        + (field(9, bytes.fromhex(certificate.issuer)) if certificate.issuer else b"")
    )


def _packed(number: int, networks: tuple[Interface, ...]) -> bytes:
    if not networks:
        return b""
    return field(number, b"".join(varint(int(one.ip)) + varint(int(one.netmask)) for one in networks))


def _read_v1(content: bytes) -> Certificate:
    outer = _grouped(content)
    details = outer.get(1, [])
    if len(details) != 1 or not isinstance(details[0], bytes):
        raise BadCertificate("the certificate is damaged: it says nothing")
    inner = _grouped(details[0])
    if _number(inner, 100) != 0:
        raise BadCertificate("the certificate is of the curve P256; Lamplighter reads those of curve 25519")
    return Certificate(
        version=1,
        name=_text(_bytes(inner, 1)),
        networks=_unpacked(inner.get(2, [])),
        unsafe_networks=_unpacked(inner.get(3, [])),
        groups=tuple(_text(one) for one in inner.get(4, [])),
        not_before=signed(_number(inner, 5)),
        not_after=signed(_number(inner, 6)),
        public_key=_bytes(inner, 7),
        is_ca=bool(_number(inner, 8)),
        issuer=_bytes(inner, 9).hex(),
        signature=_bytes(outer, 2),
    )


def _grouped(data: bytes) -> dict[int, list[int | bytes]]:
    found: dict[int, list[int | bytes]] = {}
    for number, value in fields(data):
        found.setdefault(number, []).append(value)
    return found


def _bytes(found: Mapping[int, list[int | bytes]], number: int) -> bytes:
    value = found.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise BadCertificate("the certificate is damaged: a field has the wrong type")
    return value


def _number(found: Mapping[int, list[int | bytes]], number: int) -> int:
    value = found.get(number, [0])[-1]
    if not isinstance(value, int):
        raise BadCertificate("the certificate is damaged: a field has the wrong type")
    return value


def _text(value: int | bytes) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else ""
    except UnicodeDecodeError as error:
        raise BadCertificate("the certificate is damaged: a name is not UTF-8") from error


def _unpacked(values: list[int | bytes]) -> tuple[Interface, ...]:
    """Pairs of address and mask, packed into one field or in a field each."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = read_varint(value, at)
            numbers.append(number)
    if len(numbers) % 2 or any(number >= 1 << 32 for number in numbers):
        raise BadCertificate("the certificate is damaged: an address has no mask")
    found = []
    for address, mask in zip(numbers[::2], numbers[1::2], strict=True):
        prefix = mask.bit_count()
        if mask != ((1 << prefix) - 1) << (32 - prefix):
            raise BadCertificate("the certificate is damaged: a network's mask has holes")
        found.append(IPv4Interface((IPv4Address(address), prefix)))
    return tuple(found)


def _details_v2(certificate: Certificate) -> bytes:
    content = tlv(_NAME, certificate.name.encode())
    for tag, networks in ((_NETWORKS, certificate.networks), (_UNSAFE, certificate.unsafe_networks)):
        if networks:
            content += tlv(tag, b"".join(tlv(0x04, one.ip.packed + bytes([one.network.prefixlen])) for one in networks))
    if certificate.groups:
        content += tlv(_GROUPS, b"".join(tlv(0x0C, group.encode()) for group in certificate.groups))
    if certificate.is_ca:
        content += tlv(_IS_CA, b"\xff")
    content += integer(_NOT_BEFORE, certificate.not_before) + integer(_NOT_AFTER, certificate.not_after)
    if certificate.issuer:
        content += tlv(_ISSUER, bytes.fromhex(certificate.issuer))
    return tlv(_DETAILS, content)


def _read_v2(content: bytes) -> Certificate:
    outer = Reader(Reader(content).read(0x30))
    raw, inside = outer.element(_DETAILS)
    if outer.optional(_CURVE) not in (None, _CURVE_25519):
        raise BadCertificate("the certificate is of the curve P256; Lamplighter reads those of curve 25519")
    public_key, signature = outer.read(_PUBLIC_KEY), outer.read(_SIGNATURE)
    details = Reader(inside)
    name = _text(details.read(_NAME))
    networks, unsafe = _networks_v2(details.optional(_NETWORKS)), _networks_v2(details.optional(_UNSAFE))
    groups = []
    group_list = Reader(details.optional(_GROUPS) or b"")
    while not group_list.empty:
        groups.append(_text(group_list.read(0x0C)))
    is_ca = details.optional(_IS_CA)
    if is_ca not in (None, b"\x00", b"\xff"):
        raise BadCertificate("the certificate is damaged: a truth value is neither")
    return Certificate(
        version=2,
        name=name,
        networks=networks,
        unsafe_networks=unsafe,
        groups=tuple(groups),
        is_ca=is_ca == b"\xff",
        not_before=details.integer(_NOT_BEFORE),
        not_after=details.integer(_NOT_AFTER),
        issuer=(details.optional(_ISSUER) or b"").hex(),
        public_key=public_key,
        signature=signature,
        raw_details=raw,
    )


def _networks_v2(content: bytes | None) -> tuple[Interface, ...]:
    reader, found = Reader(content or b""), list[Interface]()
    while not reader.empty:
        value = reader.read(0x04)
        address, prefix = value[:-1], value[-1] if value else 0
        if len(address) == 4 and prefix <= 32:
            found.append(IPv4Interface((address, prefix)))
        elif len(address) == 16 and prefix <= 128:
            found.append(IPv6Interface((address, prefix)))
        else:
            raise BadCertificate("the certificate is damaged: a network is none")
    return tuple(sorted(found, key=_order))
