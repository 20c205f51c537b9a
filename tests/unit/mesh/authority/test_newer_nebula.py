"""Version 2 and encrypted keys against nebula-cert 1.10 and newer where it is on the PATH, else against what 1.11.1 made."""

import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import keys, pem
from lamplighter.mesh.administration import make_authority
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.certificates import excess, parse, parse_bundle, verify
from lamplighter.mesh.errors import BadCertificate, NotTrusted
from lamplighter.mesh.storage import MeshFolder
from tests.unit.mesh.authority.conftest import PASSPHRASE, NebulaCert, printed

# nebula-cert 1.11.1: `ca -version 2 -groups gpu,home -networks 10.77.0.0/16,fd00:77::/64`, then `sign -networks fd00:77::7/64,10.77.128.7/16`.
_AUTHORITY = """-----BEGIN NEBULA CERTIFICATE V2-----
MIGuoEiADm1hZGUgYnkgMS4xMS4xoRoEBQpNAAAQBBH9AAB3AAAAAAAAAAAAAAAA
QKMLDANncHUMBGhvbWWEAf+FBGsLSm6GBGzsfe6CINDvTKSpcLPs/J61A9y0OV++
BZtwyUYQopMcy8MbxHaKg0CWgwgfTVoLbbs7BXYvmg86JhD/+1LLhLaMal/ruv90
4Y1TBSADkdagVbUAB/fEPWnVgcmswrXbtxA5I/SwOMAP
-----END NEBULA CERTIFICATE V2-----
"""
_NODE = """-----BEGIN NEBULA CERTIFICATE V2-----
MIG+oFiABWdwdS0xoRoEBQpNgAcQBBH9AAB3AAAAAAAAAAAAAAAHQKMFDANncHWF
BGsLSm6GBGsMm+6HIGVoCDCXlEAsoW2VosG7mmzzmSIj5qZcDhspgPmj3a+0giAE
UVc8B9JPquCr2ft+nEnbUrnHsEX2b095Ug85bsWeUYNAiJX4C7EMXrtyQ3fJlSra
4UAYUF1jKuSqCmJ/+6iQW74RC8yKi3TdS2YIypzWzmaKOB0/8ydh9p+L9CDV2lL6
AQ==
-----END NEBULA CERTIFICATE V2-----
"""
_SIGNED_AT = datetime(2026, 11, 28, 21, 41, 2, tzinfo=UTC).timestamp()


def test_certificates_of_1_11_are_read_and_trusted() -> None:
    """A dual-stack mesh made with the newest nebula-cert; fingerprints are those that it printed."""
    trusted = parse_bundle(_AUTHORITY)
    assert list(trusted) == ["656808309794402ca16d95a2c1bb9a6cf3992223e6a65c0e1b2980f9a3ddafb4"]
    node = parse(_NODE)
    assert node.fingerprint == "76b561b14b2687d15421b11714d132d0914c775a2d74ae4fd8239f820be08a1c"
    assert [str(one) for one in node.networks] == ["10.77.128.7/16", "fd00:77::7/64"]
    assert (node.not_before, node.groups) == (_SIGNED_AT, ("gpu",))
    authority = verify(node, trusted, _SIGNED_AT + 60)
    assert (authority.name, authority.groups, authority.is_ca) == ("made by 1.11.1", ("gpu", "home"), True)
    assert node.to_pem() == _NODE
    assert replace(node, raw_details=b"").to_pem() == _NODE, "what we write is byte for byte the same"
    with pytest.raises(NotTrusted, match="expired"):
        verify(node, trusted, _SIGNED_AT + 90_000)


def test_every_changed_bit_of_it_is_noticed() -> None:
    """Not one bit of a certificate is without a guard."""
    trusted = parse_bundle(_AUTHORITY)
    whole = parse(_NODE).encoded()
    for bit in range(len(whole) * 8):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        try:
            changed = parse(pem.encode(pem.CERTIFICATE_V2, bytes(content)))
        except BadCertificate:
            continue
        with pytest.raises(NotTrusted):
            verify(changed, trusted, _SIGNED_AT + 60)


@pytest.fixture
def newer(nebula_cert: NebulaCert) -> NebulaCert:
    """nebula-cert 1.10 or newer, which knows version 2 and takes the passphrase from the environment."""
    said = nebula_cert("-version").stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < (1, 10):
        pytest.skip(f"nebula-cert is {said.strip() or 'unknown'}: version 2 came with 1.10")
    return nebula_cert


@pytest.fixture
def online(tmp_path: Path) -> OnlineAuthority:
    """An authority of version 2, made now: nebula-cert reads the clock."""
    config = MeshConfig.model_validate({"certificate_version": 2})
    folder = MeshFolder(tmp_path / "mesh")
    for role in ("online", "offline"):
        make_authority(folder, config, role, PASSPHRASE, time.time())
    return OnlineAuthority.open(folder.root, config, PASSPHRASE)


def test_it_accepts_our_version_2(tmp_path: Path, newer: NebulaCert, online: OnlineAuthority) -> None:
    """Else a mesh of new nodes never comes up."""
    issued = online.issue("gpu-1", keys.new_node_key()[1], IPv4Address("10.77.128.1"), now=time.time())
    (tmp_path / "ca.crt").write_text(online.bundle())
    (tmp_path / "n.crt").write_text(issued.certificate_pem)
    verdict = newer("verify", "-ca", tmp_path / "ca.crt", "-crt", tmp_path / "n.crt")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    said = printed(newer, tmp_path / "n.crt")
    assert (said["fingerprint"], said["version"]) == (issued.fingerprint, 2)


def test_our_encrypted_key_signs_there(tmp_path: Path, newer: NebulaCert, online: OnlineAuthority) -> None:
    """The file on the disk is enough, with the passphrase: no way of ours is needed to go on without us."""
    authority = next(one for one in parse_bundle(online.bundle()).values() if one.groups)
    (tmp_path / "ca.crt").write_text(authority.to_pem())
    (tmp_path / "n.pub").write_text(keys.new_node_key()[1])
    key = next((tmp_path / "mesh" / "keys").glob("online-*.key"))
    program = shutil.which("nebula-cert")
    assert program is not None
    for passphrase, works in ((PASSPHRASE, True), ("another passphrase", False)):
        signed = subprocess.run(
            [program, "sign", "-ca-crt", tmp_path / "ca.crt", "-ca-key", key, "-in-pub", tmp_path / "n.pub", "-name", "n",
             "-networks", "10.77.128.9/16", "-groups", "gpu", "-out-crt", tmp_path / f"{works}.crt"],
            env={**os.environ, "NEBULA_CA_PASSPHRASE": passphrase}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (signed.returncode == 0) is works, signed.stderr
    assert verify(parse((tmp_path / "True.crt").read_text()), parse_bundle(online.bundle()), time.time()) == authority
    refused = newer(
        "sign", "-ca-crt", tmp_path / "ca.crt", "-ca-key", key, "-in-pub", tmp_path / "n.pub", "-name", "n", "-networks", "10.77.128.9/16"
    )  # fmt: skip
    assert refused.returncode != 0, "without a passphrase the key is closed"


def test_its_encrypted_key_opens_here(tmp_path: Path, newer: NebulaCert) -> None:
    """And the other way."""
    program = shutil.which("nebula-cert")
    assert program is not None
    subprocess.run(
        [program, "ca", "-name", "theirs", "-version", "2", "-encrypt", "-argon-memory", "1024", "-argon-iterations", "1",
         "-out-crt", tmp_path / "ca.crt", "-out-key", tmp_path / "ca.key"],
        env={**os.environ, "NEBULA_CA_PASSPHRASE": "their passphrase"}, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    key = keys.decrypt((tmp_path / "ca.key").read_text(), "their passphrase")
    authority = parse((tmp_path / "ca.crt").read_text())
    assert key.public_key().public_bytes_raw() == authority.public_key
    assert excess(authority, authority) is None
