"""Certificates against the real nebula-cert, against Nebula's own published vectors, and against damage."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Interface, ip_interface
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.mesh import keys, pem
from lamplighter.mesh.certificates import (
    Certificate,
    _details_v2,
    decode,
    excess,
    issue,
    parse,
    parse_bundle,
    self_signed,
    verify,
)
from lamplighter.mesh.errors import BadCertificate, BeyondAuthority, NotTrusted
from tests.unit.mesh.authority.conftest import NebulaCert, printed

_NOW = int(time.time())
_CA_KEY = keys.new_authority_key()
_NODE_PUBLIC = keys.parse_public(keys.new_node_key()[1])


def _ca(version: int = 1, *, networks: tuple[str, ...] = (), groups: tuple[str, ...] = (), days: int = 10) -> Certificate:
    wanted = Certificate(
        version=version,
        name="test authority",
        networks=tuple(ip_interface(one) for one in networks),
        groups=groups,
        not_before=_NOW - 3600,
        not_after=_NOW + days * 86_400,
        public_key=b"",
    )
    return self_signed(wanted, _CA_KEY)


def _node(version: int = 1, *, network: str = "10.77.128.7/16", groups: tuple[str, ...] = ("gpu",)) -> Certificate:
    return Certificate(
        version=version,
        name="gpu-1",
        networks=(ip_interface(network),),
        groups=groups,
        not_before=_NOW - 60,
        not_after=_NOW + 3600,
        public_key=_NODE_PUBLIC,
    )


def _forged(wanted: Certificate, authority: Certificate) -> Certificate:
    """Signed with the authority's key though it may not certify this: what a thief of the key would make."""
    free = self_signed(replace(_ca(authority.version, days=10_000), not_before=0), _CA_KEY)
    signed = issue(replace(wanted, issuer=""), free, _CA_KEY)
    issuer = replace(signed, issuer=authority.fingerprint, raw_details=b"", signature=b"")
    return replace(issuer, signature=_CA_KEY.sign(issuer._signed_part()))


def test_nebula_cert_accepts_what_we_issue(tmp_path: Path, nebula_cert: NebulaCert) -> None:
    """Else a node that we certify is refused by every other: the mesh never comes up."""
    authority = _ca(networks=("10.77.0.0/16",), groups=("gpu", "home"))
    node = issue(_node(), authority, _CA_KEY)
    ca_file, node_file = tmp_path / "ca.crt", tmp_path / "node.crt"
    ca_file.write_text(authority.to_pem())
    node_file.write_text(node.to_pem())
    verdict = nebula_cert("verify", "-ca", ca_file, "-crt", node_file)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_fingerprints_are_those_of_nebula_cert(tmp_path: Path, nebula_cert: NebulaCert) -> None:
    """Else a blocklist names nothing, and a revoked node stays in."""
    authority = _ca(networks=("10.77.0.0/16",), groups=("gpu",))
    for certificate in (authority, issue(_node(), authority, _CA_KEY)):
        path = tmp_path / "one.crt"
        path.write_text(certificate.to_pem())
        said = printed(nebula_cert, path)
        assert said["fingerprint"] == certificate.fingerprint
        assert said["details"]["name"] == certificate.name
        assert said["details"]["groups"] == list(certificate.groups)
        assert said["details"]["publicKey"] == certificate.public_key.hex()


def test_certificates_of_nebula_cert_are_read_and_trusted(tmp_path: Path, nebula_cert: NebulaCert) -> None:
    """Else a mesh that was made by hand cannot be taken over."""
    ca_file, ca_key, crt, key = (tmp_path / name for name in ("ca.crt", "ca.key", "n.crt", "n.key"))
    newer = "-version" in nebula_cert("ca", "-help").stderr
    version = ("-version", "1") if newer else ()
    made = nebula_cert(
        "ca", "-name", "by hand", "-groups", "a,b", "-ips", "10.77.0.0/16", *version, "-out-crt", ca_file, "-out-key", ca_key
    )
    assert made.returncode == 0, made.stderr
    signed = nebula_cert(
        "sign", "-ca-crt", ca_file, "-ca-key", ca_key, "-name", "n", "-ip", "10.77.0.9/24", "-groups", "a", "-out-crt", crt, "-out-key", key
    )  # fmt: skip
    assert signed.returncode == 0, signed.stderr
    authorities = parse_bundle(ca_file.read_text())
    node = parse(crt.read_text())
    assert verify(node, authorities, time.time()).name == "by hand"
    assert node.fingerprint == printed(nebula_cert, crt)["fingerprint"]
    assert keys.public_of(key.read_text()) == node.public_key
    assert keys.parse_authority_key(ca_key.read_text(), "").public_key().public_bytes_raw() == node_authority(authorities)


def node_authority(authorities: dict[str, Certificate]) -> bytes:
    """The only authority's public key."""
    (only,) = authorities.values()
    return only.public_key


def test_our_key_signs_with_nebula_cert(tmp_path: Path, nebula_cert: NebulaCert) -> None:
    """Else whoever leaves Lamplighter must rebuild the mesh: the authority's files are Nebula's own."""
    authority = _ca()
    (tmp_path / "ca.crt").write_text(authority.to_pem())
    (tmp_path / "ca.key").write_text(keys.plain(_CA_KEY))
    private, public = keys.new_node_key()
    (tmp_path / "n.pub").write_text(public)
    signed = nebula_cert(
        "sign", "-ca-crt", tmp_path / "ca.crt", "-ca-key", tmp_path / "ca.key", "-in-pub", tmp_path / "n.pub",
        "-name", "n", "-ip", "10.77.0.9/24", "-out-crt", tmp_path / "n.crt",
    )  # fmt: skip
    assert signed.returncode == 0, signed.stderr
    node = parse((tmp_path / "n.crt").read_text())
    assert node.public_key == keys.public_of(private)
    assert verify(node, {authority.fingerprint: authority}, time.time()) == authority


@pytest.mark.parametrize(
    ("network", "groups", "allowed"),
    [
        ("10.77.128.7/16", ("gpu",), True),
        ("10.77.128.7/16", (), True),
        ("10.77.128.7/24", ("gpu",), True),
        ("10.77.128.7/15", ("gpu",), False),
        ("10.78.0.7/16", ("gpu",), False),
        ("10.77.128.7/16", ("home",), False),
        ("10.77.128.7/16", ("gpu", "home"), False),
    ],
)
def test_constraints_are_those_that_nebula_enforces(
    tmp_path: Path, nebula_cert: NebulaCert, network: str, groups: tuple[str, ...], allowed: bool
) -> None:
    """What we refuse to sign every peer refuses too, even when a thief of the key signs it; and nothing else is refused."""
    authority = _ca(networks=("10.77.0.0/16",), groups=("gpu",))
    wanted = _node(network=network, groups=groups)
    assert (excess(wanted, authority) is None) is allowed
    forged = _forged(wanted, authority)
    (tmp_path / "ca.crt").write_text(authority.to_pem())
    (tmp_path / "n.crt").write_text(forged.to_pem())
    verdict = nebula_cert("verify", "-ca", tmp_path / "ca.crt", "-crt", tmp_path / "n.crt")
    assert (verdict.returncode == 0) is allowed, verdict.stdout + verdict.stderr
    if allowed:
        verify(forged, {authority.fingerprint: authority}, _NOW)
    else:
        with pytest.raises(NotTrusted, match="may not certify"):
            verify(forged, {authority.fingerprint: authority}, _NOW)


def test_an_authority_limited_to_a_part_cannot_sign_for_the_whole_mesh() -> None:
    """Nebula's rule by which the online authority cannot be held to `mesh.nodes` on the wire; should it change, we want to know."""
    authority = _ca(networks=("10.77.128.0/17",), groups=("gpu",))
    with pytest.raises(BeyondAuthority, match="not within"):
        issue(_node(network="10.77.128.7/16"), authority, _CA_KEY)


def test_details_of_version_2_are_byte_for_byte_nebulas() -> None:
    """Published vector: slackhq/nebula v1.11.1, cert/cert_v2_test.go, TestCertificateV2_marshalForSigningStability."""
    certificate = Certificate(
        version=2,
        name="testing",
        networks=(ip_interface("10.1.1.2/16"), ip_interface("10.1.1.1/24")),
        unsafe_networks=(ip_interface("9.1.1.3/16"), ip_interface("9.1.1.2/24")),
        groups=("test-group1", "test-group2", "test-group3"),
        not_before=0x318BEF80,
        not_after=0x318BEFBC,
        public_key=b"1234567890abcedfghij1234567890ab",
        issuer="1234567890abcdef1234567890abcdef",
    )
    expected = (
        "a070800774657374696e67a10e04050a0101021004050a01010118a20e0405090101031004050901010218"
        "a3270c0b746573742d67726f7570310c0b746573742d67726f7570320c0b746573742d67726f757033"
        "8504318bef808604318befbc87101234567890abcdef1234567890abcdef"
    )
    assert _details_v2(certificate).hex() == expected


def test_the_fingerprint_of_version_2_is_nebulas() -> None:
    """Published vector: slackhq/nebula v1.11.1, cert/cert_v2_test.go, TestCertificateV2_MarshalJSON; its times lie before year 1."""
    year_one = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
    certificate = Certificate(
        version=2,
        name="testing",
        networks=(ip_interface("10.1.1.1/24"), ip_interface("10.1.1.2/16")),
        unsafe_networks=(ip_interface("9.1.1.2/24"), ip_interface("9.1.1.3/16")),
        groups=("test-group1", "test-group2", "test-group3"),
        not_before=year_one - 32 * 86_400 + 3600,
        not_after=year_one - 32 * 86_400 + 7200,
        public_key=b"1234567890abcedf1234567890abcedf",
        issuer="1234567890abcedf1234567890abcedf",
        signature=b"1234567890abcedf1234567890abcedf" * 2,
    )
    assert certificate.fingerprint == "152d9a7400c1e001cb76cffd035215ebb351f69eeb797f7f847dd086e15e56dd"


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_issued_is_read_back_and_verified(version: int) -> None:
    """Else our own index cannot be used."""
    authority = _ca(version, networks=("10.77.0.0/16",), groups=("gpu",))
    node = issue(_node(version), authority, _CA_KEY)
    again = parse(node.to_pem())
    assert replace(again, raw_details=b"") == node
    assert again.fingerprint == node.fingerprint
    assert verify(again, parse_bundle(authority.to_pem()), _NOW).fingerprint == authority.fingerprint


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"groups": ("home",)}, "signature"),
        ({"networks": (IPv4Interface("10.77.0.10/16"),)}, "signature"),
        ({"not_after": _NOW + 999_999_999}, "signature"),
        ({"issuer": "00" * 32}, "not in the bundle"),
    ],
)
def test_a_changed_certificate_is_refused(version: int, change: dict[str, object], why: str) -> None:
    """Else anyone could write themselves into another group."""
    authority = _ca(version, days=20_000)
    node = issue(_node(version), authority, _CA_KEY)
    forged = replace(node, raw_details=b"", **change)  # type: ignore[arg-type]
    with pytest.raises(NotTrusted, match=why):
        verify(forged, {authority.fingerprint: authority}, _NOW)


def test_time_and_blocklist_end_a_certificate() -> None:
    """Revoked, expired and not yet valid each say so: a person must know which."""
    authority = _ca()
    node = issue(_node(), authority, _CA_KEY)
    trusted = {authority.fingerprint: authority}
    verify(node, trusted, node.not_after)
    for now, blocked, why in (
        (_NOW, [node.fingerprint], "revoked"),
        (node.not_after + 1, [], "expired"),
        (node.not_before - 1, [], "not yet valid"),
        (authority.not_after + 1, [], "authority"),
    ):
        with pytest.raises(NotTrusted, match=why):
            verify(node, trusted, now, blocked)


def test_only_an_authority_signs_and_only_with_its_key() -> None:
    """Nebula knows no intermediate authorities."""
    authority = _ca()
    node = issue(_node(), authority, _CA_KEY)
    with pytest.raises(BeyondAuthority):
        issue(_node(), node, _CA_KEY)
    with pytest.raises(BeyondAuthority):
        issue(_ca(), authority, _CA_KEY)
    with pytest.raises(BeyondAuthority, match="not that of"):
        issue(_node(), authority, keys.new_authority_key())


def test_a_bundle_holds_authorities_only() -> None:
    """A node's certificate in a bundle makes Nebula refuse to start."""
    authority = _ca()
    node = issue(_node(), authority, _CA_KEY)
    with pytest.raises(BadCertificate, match="no authority"):
        parse_bundle(authority.to_pem() + node.to_pem())
    with pytest.raises(BadCertificate, match="holds certificates only"):
        parse_bundle(keys.new_node_key()[0])
    assert parse_bundle("") == {}


_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
_addresses = st.tuples(st.integers(1, 2**32 - 1), st.integers(0, 32)).map(IPv4Interface)


@settings(max_examples=150, deadline=None)
@given(
    version=st.sampled_from([1, 2]),
    name=_names,
    groups=st.lists(_names, max_size=4),
    networks=st.lists(_addresses, min_size=1, max_size=3, unique=True),
    unsafe=st.lists(_addresses, max_size=2, unique=True),
    begin=st.integers(-(2**40), 2**40),
    lasts=st.integers(0, 2**40),
)
def test_every_certificate_survives_writing_and_reading(
    version: int,
    name: str,
    groups: list[str],
    networks: list[IPv4Interface],
    unsafe: list[IPv4Interface],
    begin: int,
    lasts: int,
) -> None:
    """Whatever a name, a group or a time is, what is read is what was signed."""
    wanted = Certificate(
        version=version,
        name=name,
        networks=tuple(networks),
        unsafe_networks=tuple(unsafe),
        groups=tuple(groups),
        not_before=begin,
        not_after=begin + lasts,
        public_key=_NODE_PUBLIC,
    )
    authority = self_signed(replace(_ca(version), not_before=-(2**41), not_after=2**42), _CA_KEY)
    signed = issue(wanted, authority, _CA_KEY)
    again = parse(signed.to_pem())
    assert replace(again, raw_details=b"") == signed
    assert again.fingerprint == signed.fingerprint
    assert again.signed_by(authority.public_key)


@settings(max_examples=300, deadline=None)
@given(
    label=st.sampled_from([pem.CERTIFICATE, pem.CERTIFICATE_V2]),
    at=st.integers(0, 400),
    junk=st.binary(max_size=12),
    cut=st.integers(0, 400),
)
def test_damage_is_an_error_and_never_a_crash(label: str, at: int, junk: bytes, cut: int) -> None:
    """A damaged file gets a sentence, and is never trusted."""
    authority = _ca(1 if label == pem.CERTIFICATE else 2)
    whole = issue(_node(authority.version), authority, _CA_KEY)
    content = whole.encoded()
    broken = (content[:at] + junk + content[at + len(junk) :])[: max(0, len(content) - cut)]
    try:
        read = decode(label, broken)
    except BadCertificate:
        return
    if replace(read, raw_details=b"") != whole:
        with pytest.raises(NotTrusted):
            verify(read, {authority.fingerprint: authority}, _NOW)


@settings(max_examples=200, deadline=None)
@given(label=st.sampled_from([pem.CERTIFICATE, pem.CERTIFICATE_V2]), content=st.binary(max_size=200))
def test_rubbish_is_an_error_and_never_a_crash(label: str, content: bytes) -> None:
    """So is what never was a certificate."""
    with pytest.raises(BadCertificate):
        decode(label, content)


@settings(max_examples=200, deadline=None)
@given(
    address=st.tuples(st.integers(0x0A4C0000, 0x0A4EFFFF), st.integers(8, 32)).map(IPv4Interface),
    groups=st.lists(st.sampled_from(["gpu", "home", "admin"]), max_size=3),
    begin=st.integers(-7200, 7200),
    end=st.integers(-7200, 12 * 86_400),
    version=st.sampled_from([1, 2]),
)
def test_nothing_beyond_the_authority_is_ever_signed(
    address: IPv4Interface, groups: list[str], begin: int, end: int, version: int
) -> None:
    """Networks, groups and life of what is signed are always within those of the authority."""
    authority = _ca(version, networks=("10.77.0.0/16",), groups=("gpu",))
    wanted = replace(_node(version), networks=(address,), groups=tuple(groups), not_before=_NOW + begin, not_after=_NOW + end)
    within = (
        set(groups) <= {"gpu"}
        and address.network.subnet_of(authority.networks[0].network)  # type: ignore[arg-type]
        and authority.not_before <= wanted.not_before
        and wanted.not_after <= authority.not_after
    )
    try:
        signed = issue(wanted, authority, _CA_KEY)
    except BeyondAuthority:
        assert not within
    else:
        assert within
        assert signed.signed_by(authority.public_key)
