"""What is said of authorities and certificates as time goes on."""

from ipaddress import IPv4Address

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import administration, keys
from lamplighter.mesh.administration import SignRequest
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.issuing import DAY, active
from lamplighter.mesh.listing import authorities, certificates, warnings
from lamplighter.mesh.storage import MeshFolder
from lamplighter.testing.clock import VirtualClock
from tests.unit.mesh.authority.conftest import NOW, PASSPHRASE


def _sign(folder: MeshFolder, config: MeshConfig, now: float) -> None:
    authority = active(folder.read(), "offline")
    key = keys.decrypt(folder.key_file("offline", authority.fingerprint).read_text(), PASSPHRASE)
    administration.sign(folder, config, SignRequest("anna", "laptop"), key, now)


def test_a_certificate_is_announced_before_it_ends(folder: MeshFolder, config: MeshConfig) -> None:
    """A laptop that is cut off on a journey cannot be helped any more: said 30 days before, and no longer once renewed."""
    _sign(folder, config, NOW)
    for days, standing, said in ((0, "valid", False), (59, "valid", False), (61, "expiring", True), (91, "expired", False)):
        now = NOW + days * DAY
        assert [one.standing for one in certificates(folder.read(), now)] == [standing]
        assert any("anna" in one and "renew anna" in one for one in warnings(folder, now)) is said
    _sign(folder, config, NOW + 61 * DAY)
    assert [one.standing for one in certificates(folder.read(), NOW + 61 * DAY)] == ["valid", "renewed"]
    assert warnings(folder, NOW + 61 * DAY) == []
    administration.revoke(folder, "anna", NOW + 61 * DAY)
    assert [one.standing for one in certificates(folder.read(), NOW + 61 * DAY)] == ["revoked", "revoked"]


def test_a_cloud_node_that_is_not_renewed_is_announced(folder: MeshFolder, config: MeshConfig) -> None:
    """The keeper renews at half; when less than a third is left it does not do what it should."""
    online = OnlineAuthority.open(folder.root, config, PASSPHRASE, clock=VirtualClock(NOW))
    online.issue("gpu-1", keys.new_node_key()[1], IPv4Address("10.77.128.1"), now=NOW)
    assert warnings(folder, NOW + DAY / 2) == []
    assert any("gpu-1 expires in 6 hours" in one for one in warnings(folder, NOW + DAY * 0.75))


def test_an_authority_is_announced_a_season_before(folder: MeshFolder, config: MeshConfig) -> None:
    """Replacing it takes work on every machine; and nothing that it signs outlives it."""
    year = NOW + 365 * DAY
    assert not [one for one in authorities(folder, folder.read(), year - 91 * DAY) if one.expiring]
    (said,) = warnings(folder, year - 80 * DAY)
    assert "online authority expires in 80 days" in said
    assert "rotate start online" in said
    assert any("has expired" in one for one in warnings(folder, year + DAY))
    assert [(one.role, one.key_here) for one in authorities(folder, folder.read(), NOW)] == [("offline", True), ("online", True)]
