"""What the keeper does at any hour: certify cloud nodes, renew, revoke; and what it must not be able to do."""

import shutil
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import keys
from lamplighter.mesh.authority import OnlineAuthority, read_blocklist, read_bundle, read_node
from lamplighter.mesh.certificates import parse, parse_bundle, verify
from lamplighter.mesh.errors import BadCertificate, BeyondAuthority, MeshError, WrongPassphrase
from lamplighter.mesh.issuing import DAY
from lamplighter.mesh.storage import Index, MeshFolder
from lamplighter.testing.clock import VirtualClock
from tests.unit.mesh.authority.conftest import NOW, PASSPHRASE, NebulaCert

_ADDRESS = IPv4Address("10.77.128.7")


@pytest.fixture
def online(folder: MeshFolder, config: MeshConfig) -> OnlineAuthority:
    """Unlocked, its clock at NOW."""
    return OnlineAuthority.open(folder.root, config, PASSPHRASE, clock=VirtualClock(NOW))


def _public() -> str:
    return keys.new_node_key()[1]


def test_a_node_gets_what_it_needs_and_no_more(online: OnlineAuthority) -> None:
    """Group `gpu`, its one address, a day of life: what a stolen node is worth."""
    public = _public()
    issued = online.issue("gpu-1", public, _ADDRESS, now=NOW)
    certificate = parse(issued.certificate_pem)
    assert certificate.groups == ("gpu",)
    assert certificate.networks == (IPv4Interface("10.77.128.7/16"),)
    assert certificate.public_key == keys.parse_public(public)
    assert (issued.not_after, issued.fingerprint) == (certificate.not_after, certificate.fingerprint)
    assert NOW + DAY - 1 <= issued.not_after <= NOW + DAY
    assert verify(certificate, parse_bundle(online.bundle()), NOW).name == "lamplighter-online"
    verify(certificate, parse_bundle(online.bundle()), NOW - 60)  # a peer's clock may be a minute behind


def test_real_nebula_trusts_the_bundle_and_the_node(tmp_path: Path, config: MeshConfig, nebula_cert: NebulaCert) -> None:
    """The whole chain with the oracle, at the time of now, as nebula-cert reads the clock."""
    import time

    from lamplighter.mesh.administration import make_authority

    folder = MeshFolder(tmp_path / "real")
    for role in ("online", "offline"):
        make_authority(folder, config, role, PASSPHRASE, time.time())
    online = OnlineAuthority.open(folder.root, config, PASSPHRASE)
    issued = online.issue("gpu-1", _public(), _ADDRESS, now=time.time())
    (tmp_path / "ca.crt").write_text(online.bundle())
    (tmp_path / "n.crt").write_text(issued.certificate_pem)
    verdict = nebula_cert("verify", "-ca", tmp_path / "ca.crt", "-crt", tmp_path / "n.crt")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.mark.parametrize("address", ["10.77.0.10", "10.77.127.255", "10.77.255.255", "10.78.0.1", "8.8.8.8"])
def test_addresses_of_others_are_refused(online: OnlineAuthority, folder: MeshFolder, address: str) -> None:
    """Home's address in a cloud node's hands would take home's traffic; nothing is signed or recorded."""
    with pytest.raises(BeyondAuthority):
        online.issue("gpu-1", _public(), IPv4Address(address), now=NOW)
    assert folder.read().certificates == {}


@settings(max_examples=60, deadline=None)
@given(address=st.integers(0, 2**32 - 1) | st.integers(0x0A4D0000, 0x0A4DFFFF), name=st.text(max_size=12) | st.just("gpu-1"))
def test_whatever_is_asked_it_stays_in_its_range(tmp_path_factory: pytest.TempPathFactory, address: int, name: str) -> None:
    """For every address and every name: certified in `mesh.nodes` and group `gpu`, or refused with a sentence."""
    online, config = _shared(tmp_path_factory)
    wanted = IPv4Address(address)
    try:
        issued = online.issue(name, _public(), wanted, now=NOW)
    except MeshError:
        assert wanted not in config.nodes or name != "gpu-1" or wanted == IPv4Address("10.77.255.255")
        return
    certificate = parse(issued.certificate_pem)
    assert wanted in config.nodes
    assert certificate.groups == ("gpu",)
    assert certificate.not_after <= NOW + DAY


_SHARED: list[tuple[OnlineAuthority, MeshConfig]] = []


def _shared(factory: pytest.TempPathFactory) -> tuple[OnlineAuthority, MeshConfig]:
    """One authority for all examples of a property."""
    if not _SHARED:
        from lamplighter.mesh.administration import make_authority

        config, folder = MeshConfig.model_validate({}), MeshFolder(factory.mktemp("shared") / "mesh")
        make_authority(folder, config, "online", PASSPHRASE, NOW)
        _SHARED.append((OnlineAuthority.open(folder.root, config, PASSPHRASE, clock=VirtualClock(NOW)), config))
    return _SHARED[0]


def test_a_bad_key_is_refused(online: OnlineAuthority) -> None:
    """The public key comes over the network from a machine in the cloud."""
    for bad in ("", "x", keys.new_node_key()[0], _public()[:60]):
        with pytest.raises(BadCertificate):
            online.issue("gpu-1", bad, _ADDRESS, now=NOW)


def test_renewing_keeps_the_old_certificate_valid(online: OnlineAuthority) -> None:
    """Until the node has the new one it shows the old."""
    public = _public()
    first = online.issue("gpu-1", public, _ADDRESS, now=NOW)
    second = online.issue("gpu-1", public, _ADDRESS, now=NOW + DAY / 2)
    assert second.not_after > first.not_after
    assert online.blocklist() == ()
    assert not online.due(second.fingerprint, now=NOW + DAY / 2 + 1)
    assert online.due(first.fingerprint, now=NOW + DAY / 2 + 1)
    assert online.due("unknown", now=NOW)


def test_revoking_blocks_every_certificate_of_the_key(online: OnlineAuthority, folder: MeshFolder) -> None:
    """A node that is gone must not come back with the certificate before the last one."""
    public = _public()
    first = online.issue("gpu-1", public, _ADDRESS, now=NOW)
    second = online.issue("gpu-1", public, _ADDRESS, now=NOW + 60)
    other = online.issue("gpu-2", _public(), IPv4Address("10.77.128.8"), now=NOW)
    online.revoke(second.fingerprint, second.not_after)
    online.revoke(second.fingerprint, second.not_after)
    assert set(online.blocklist()) == {first.fingerprint, second.fingerprint}
    assert read_blocklist(folder.root) == online.blocklist()
    assert online.taken() == {IPv4Address("10.77.128.8")}
    with pytest.raises(MeshError, match="revoked"):
        online.issue("gpu-1", public, _ADDRESS, now=NOW + 120)
    assert other.fingerprint not in online.blocklist()


def test_an_unknown_certificate_can_be_revoked_too(online: OnlineAuthority) -> None:
    """Of an index that was lost, or forgot it already; an endless time is no trouble."""
    online.revoke("ab" * 32, float("inf"))
    assert online.blocklist() == ("ab" * 32,)


def test_the_newest_has_the_address_and_the_name(online: OnlineAuthority) -> None:
    """A crash can lose the end of a node; its successor must get the address, and the lost one must stay out."""
    lost = online.issue("gpu-1", _public(), _ADDRESS, now=NOW)
    online.issue("gpu-2", _public(), _ADDRESS, now=NOW + 1)
    assert online.blocklist() == (lost.fingerprint,)


def test_the_index_stays_small(online: OnlineAuthority, folder: MeshFolder) -> None:
    """Nodes come and go every day for years: what can do nothing any more is forgotten."""
    for day in range(30):
        issued = online.issue(f"gpu-{day}", _public(), IPv4Address(f"10.77.128.{day + 1}"), now=NOW + day * DAY)
        online.revoke(issued.fingerprint, issued.not_after)
    index = folder.read()
    assert len(index.certificates) <= 10
    assert len(index.blocklist) <= 4
    assert folder.index.stat().st_size < 20_000


def test_a_wrong_passphrase_opens_nothing(folder: MeshFolder, config: MeshConfig) -> None:
    """And says so when the keeper starts, not at 3 a.m."""
    with pytest.raises(WrongPassphrase):
        OnlineAuthority.open(folder.root, config, "wrong horse battery staple")
    with pytest.raises(MeshError, match="not known") as caught:
        OnlineAuthority.open(folder.root, config, None)
    assert "mesh.passphrase" in caught.value.next_step


def test_what_is_missing_is_named(tmp_path: Path, folder: MeshFolder, config: MeshConfig) -> None:
    """No authority, or no key: two sentences with two ways out."""
    with pytest.raises(MeshError, match="no online authority") as caught:
        OnlineAuthority.open(tmp_path / "nothing", config, PASSPHRASE)
    assert "mesh init" in caught.value.next_step
    assert not (tmp_path / "nothing").exists(), "looking must not make anything"
    shutil.rmtree(folder.root / "keys")
    with pytest.raises(MeshError, match="not on this machine") as caught:
        OnlineAuthority.open(folder.root, config, PASSPHRASE)
    assert "mesh import" in caught.value.next_step


def test_an_authority_that_ends_says_so(online: OnlineAuthority) -> None:
    """Near its end certificates get shorter, and then there are none; never one that outlives it."""
    last = next(one for one in parse_bundle(online.bundle()).values() if one.groups).not_after
    issued = online.issue("gpu-1", _public(), _ADDRESS, now=last - 60)
    assert issued.not_after == last
    with pytest.raises(MeshError, match="expired") as caught:
        online.issue("gpu-2", _public(), IPv4Address("10.77.128.9"), now=last + 1)
    assert "rotate start online" in caught.value.next_step


def test_readers_of_an_empty_folder_find_nothing(tmp_path: Path) -> None:
    """A mesh that is not set up is no error for those who only look."""
    assert read_bundle(tmp_path / "mesh") == ""
    assert read_blocklist(tmp_path / "mesh") == ()
    with pytest.raises(MeshError, match="no valid certificate"):
        read_node(tmp_path / "mesh", "home", now=NOW)
    assert Index().authorities == {}
