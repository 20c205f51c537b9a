"""Rotation as a model: nodes of their own will, deliveries in any order, and never a certificate that a peer does not trust."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import administration, keys, rotation
from lamplighter.mesh.administration import SignRequest
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.certificates import parse, parse_bundle, verify
from lamplighter.mesh.errors import MeshError
from lamplighter.mesh.issuing import DAY, Wanted, active, issue_into, revoke_into
from lamplighter.mesh.storage import Index, MeshFolder
from lamplighter.testing.clock import VirtualClock
from tests.unit.mesh.authority.conftest import NOW, PASSPHRASE


@dataclass
class Node:
    """A machine somewhere: what it really has, whatever we believe. `mail`: what was sent and has not arrived."""

    name: str
    public: bytes
    trusts: frozenset[str]
    carries: str
    mail: list[tuple[frozenset[str], str]] = field(default_factory=list)


class Rotation(RuleBasedStateMachine):
    """The pure rules under every order of starting, signing, delivering late, renewing, revoking, expiring, cancelling and finishing."""

    def __init__(self) -> None:
        super().__init__()
        self.config = MeshConfig.model_validate({})
        self.index = Index()
        self.keys: dict[str, object] = {}
        self.nodes: list[Node] = []
        self.now = NOW
        self.made = 0

    @initialize()
    def begin(self) -> None:
        for role in ("offline", "online"):
            self._authority(role, "active")

    def _authority(self, role: str, state: str) -> None:
        scratch = Index()
        record = administration.new_authority(_Nowhere(self), scratch, self.config, role, PASSPHRASE, self.now, state=state)  # type: ignore[arg-type]
        if state == "active":
            self.index.authorities[record.fingerprint] = record
        else:
            rotation.begin(self.index, record, self.now)

    @rule(cloud=st.booleans())
    @precondition(lambda self: len(self.nodes) < 5)
    def join(self, cloud: bool) -> None:
        """A node is certified for the first time, and starts with the bundle of that moment."""
        self.made += 1
        name, public = f"node-{self.made}", keys.parse_public(keys.new_node_key()[1])
        record = self._sign(name, public, cloud, self.made)
        rotation.confirm_first(self.index, name, self.now)
        self.nodes.append(Node(name, public, frozenset(rotation.trusted(self.index)), record))

    def _sign(self, name: str, public: bytes, cloud: bool, number: int) -> str:
        role = "online" if cloud else "offline"
        address = IPv4Address(f"10.77.{'128' if cloud else '1'}.{number % 250 + 1}")
        kind, groups = ("gpu", ("gpu",)) if cloud else ("laptop", ("laptop",))
        signer = active(self.index, role)  # type: ignore[arg-type]
        wanted = Wanted(name, kind, public, address, groups, DAY if cloud else 90 * DAY)  # type: ignore[arg-type]
        return issue_into(self.index, self.config, wanted, self.keys[signer.fingerprint], self.now).fingerprint  # type: ignore[arg-type]

    @rule(which=st.integers(0, 4))
    @precondition(lambda self: self.nodes)
    def renew(self, which: int) -> None:
        """A new certificate goes out with the bundle of now; it arrives later, or never."""
        node = self.nodes[which % len(self.nodes)]
        newest = self.index.certificates.get(node.carries)
        if newest is None:
            return
        number = int(newest.address.split(".")[3]) - 1
        fresh = self._sign(node.name, node.public, newest.kind == "gpu", number)
        node.mail.append((frozenset(rotation.trusted(self.index)), fresh))

    @rule(which=st.integers(0, 4))
    @precondition(lambda self: self.nodes)
    def send_bundle(self, which: int) -> None:
        """The bundle alone goes out."""
        node = self.nodes[which % len(self.nodes)]
        node.mail.append((frozenset(rotation.trusted(self.index)), ""))

    @rule(which=st.integers(0, 4), told=st.booleans())
    @precondition(lambda self: self.nodes)
    def arrive(self, which: int, told: bool) -> None:
        """The last thing that was sent arrives (a folder is copied whole); perhaps nobody tells us."""
        node = self.nodes[which % len(self.nodes)]
        if not node.mail:
            return
        trusts, carries = node.mail.pop()
        node.mail.clear()
        node.trusts = trusts
        node.carries = carries or node.carries
        if told:
            rotation.confirm(self.index, node.name, trusts=node.trusts, carries=node.carries, now=self.now)

    @rule(which=st.integers(0, 4))
    @precondition(lambda self: self.nodes)
    def revoke(self, which: int) -> None:
        """A node is lost for good."""
        node = self.nodes.pop(which % len(self.nodes))
        for one in [one for one in self.index.certificates.values() if one.name == node.name and one.living(self.now)]:
            revoke_into(self.index, one.fingerprint, self.now)

    @rule(hours=st.integers(1, 40))
    def time_passes(self, hours: int) -> None:
        """Certificates expire; a node without one is no peer any more."""
        self.now += hours * 3600
        self.nodes = [node for node in self.nodes if self._alive(node)]

    def _alive(self, node: Node) -> bool:
        record = self.index.certificates.get(node.carries)
        return record is not None and record.not_after >= self.now

    @rule(role=st.sampled_from(["offline", "online"]))
    def start(self, role: str) -> None:
        if rotation.progress(self.index, self.now) is None:
            self._authority(role, "introduced")

    @rule()
    def promote(self) -> None:
        _allowed(lambda: rotation.promote(self.index, self.now))

    @rule()
    def drop(self) -> None:
        _allowed(lambda: rotation.drop(self.index, self.now))

    @rule()
    def cancel(self) -> None:
        _allowed(lambda: rotation.cancel(self.index, self.now))

    @invariant()
    def everyone_trusts_everyone(self) -> None:
        """Else two nodes that should talk do not: packets are lost."""
        authorities = {one.fingerprint: one.parsed() for one in self.index.authorities.values()}
        for node in self.nodes:
            shown = parse(self.index.certificates[node.carries].certificate)
            for peer in self.nodes:
                verify(shown, {one: authorities[one] for one in peer.trusts}, self.now)

    @invariant()
    def at_most_one_signs_for_each_role(self) -> None:
        """Else it is chance which one signs."""
        for role in ("offline", "online"):
            states = [one.state for one in self.index.authorities.values() if one.role == role]
            assert states.count("active") == (1 if states else 0)
            assert states.count("introduced") + states.count("retiring") <= 1


class _Nowhere(MeshFolder):
    """Keeps the keys of the model in memory."""

    def __init__(self, model: Rotation) -> None:
        from pathlib import Path

        super().__init__(Path("/nowhere"))
        self._model = model

    def write(self, path: object, text: str, *, mode: int = 0o600) -> bool:
        key = keys.decrypt(text, PASSPHRASE)
        for_fingerprint = str(path).rsplit("-", 1)[1].removesuffix(".key")
        self._model.keys = _Prefixed(self._model.keys, for_fingerprint, key)
        return True


class _Prefixed(dict[str, object]):
    """Keys by the beginning of the fingerprint, as files are named."""

    def __init__(self, others: dict[str, object], fingerprint: str, key: object) -> None:
        super().__init__(others)
        self[fingerprint] = key

    def __missing__(self, fingerprint: str) -> object:
        return self[fingerprint[:16]]


def _allowed(step: object) -> None:
    try:
        step()  # type: ignore[operator]
    except MeshError as error:
        if error.code not in {"rotation_not_ready", "no_rotation", "rotation_under_way", "rotation_settling"}:
            raise


Rotation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRotation = Rotation.TestCase


def _sign(folder: MeshFolder, config: MeshConfig, name: str, kind: str, now: float = NOW) -> None:
    index = folder.read()
    authority = active(index, "offline")
    text = folder.key_file("offline", authority.fingerprint).read_text()
    request = SignRequest(name, kind, address=IPv4Address("10.77.0.1") if kind == "lighthouse" else None)  # type: ignore[arg-type]
    administration.sign(folder, config, request, keys.decrypt(text, PASSPHRASE), now)


def _new_key(folder: MeshFolder) -> object:
    under_way = rotation.progress(folder.read(), NOW)
    assert under_way is not None
    return keys.decrypt(folder.key_file(under_way.role, under_way.new.fingerprint).read_text(), PASSPHRASE)


def test_the_whole_way_with_a_person(folder: MeshFolder, config: MeshConfig) -> None:
    """Start, deliver, sign, deliver, finish; at each step what is missing is named, and each step can be repeated."""
    _sign(folder, config, "home", "home")
    _sign(folder, config, "light", "lighthouse")
    before = {one.name: one.public_key for one in folder.read().certificates.values()}
    old = active(folder.read(), "offline")
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    assert len(parse_bundle((folder.node("home") / "ca.crt").read_text())) == 3
    assert active(folder.read(), "offline") == old
    key = _new_key(folder)
    with pytest.raises(MeshError, match="home, light"):
        administration.sign_rotation(folder, config, key, NOW)  # type: ignore[arg-type]
    administration.delivered(folder, ["home"], NOW)
    with pytest.raises(MeshError, match="not yet: light"):
        administration.sign_rotation(folder, config, key, NOW)  # type: ignore[arg-type]
    administration.delivered(folder, ["light"], NOW)
    assert [one.name for one in administration.sign_rotation(folder, config, key, NOW)] == ["home", "light"]  # type: ignore[arg-type]
    assert administration.sign_rotation(folder, config, key, NOW) == []  # type: ignore[arg-type]
    after = {one.name: one for one in folder.read().certificates.values() if one.authority != old.fingerprint}
    assert {name: one.public_key for name, one in after.items()} == before
    with pytest.raises(MeshError, match="home, light may still"):
        administration.finish_rotation(folder, NOW)
    administration.delivered(folder, ["home", "light"], NOW)
    with pytest.raises(MeshError, match="tunnels are made anew"):
        administration.finish_rotation(folder, NOW + rotation.SETTLE - 1)
    administration.finish_rotation(folder, NOW + rotation.SETTLE)
    with pytest.raises(MeshError, match="no rotation"):
        administration.finish_rotation(folder, NOW + rotation.SETTLE)
    trusted = parse_bundle((folder.node("home") / "ca.crt").read_text())
    assert old.fingerprint not in trusted
    verify(parse((folder.node("home") / "node.crt").read_text()), trusted, NOW)
    assert not folder.key_file("offline", old.fingerprint).exists()


def test_a_lost_node_does_not_hold_up_a_rotation(folder: MeshFolder, config: MeshConfig) -> None:
    """Revoking what is gone is the way out, and the only one: nothing is forced."""
    _sign(folder, config, "home", "home")
    _sign(folder, config, "anna", "laptop")
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    administration.delivered(folder, ["home"], NOW)
    administration.revoke(folder, "anna", NOW)
    assert [one.name for one in administration.sign_rotation(folder, config, _new_key(folder), NOW)] == ["home"]  # type: ignore[arg-type]


def test_the_keeper_carries_an_online_rotation(folder: MeshFolder, config: MeshConfig) -> None:
    """It signs with the new authority as soon as that may, tells what nodes have, and the rest ends by itself within a day."""
    clock = VirtualClock(NOW)
    online = OnlineAuthority.open(folder.root, config, PASSPHRASE, clock=clock)
    public = keys.new_node_key()[1]
    first = online.issue("gpu-1", public, IPv4Address("10.77.128.1"), now=NOW)
    silent = online.issue("gpu-2", keys.new_node_key()[1], IPv4Address("10.77.128.2"), now=NOW)
    administration.start_rotation(folder, config, "online", PASSPHRASE, NOW)
    under_way = rotation.progress(folder.read(), NOW)
    assert under_way is not None
    assert under_way.waiting == ("gpu-1", "gpu-2")
    assert not online.due(first.fingerprint, now=NOW)
    for name, fingerprint in (("gpu-1", first.fingerprint), ("gpu-2", silent.fingerprint)):
        online.confirm(name, bundle=online.bundle(), fingerprint=fingerprint)
    administration.sign_rotation(folder, config, None, NOW)
    assert online.due(first.fingerprint, now=NOW)
    second = online.issue("gpu-1", public, IPv4Address("10.77.128.1"), now=NOW + 10)
    assert verify(parse(second.certificate_pem), parse_bundle(online.bundle()), NOW + 10).fingerprint == under_way.new.fingerprint
    with pytest.raises(MeshError, match="gpu-1, gpu-2"):
        administration.finish_rotation(folder, NOW + 10)
    online.confirm("gpu-1", bundle=online.bundle(), fingerprint=second.fingerprint)
    with pytest.raises(MeshError, match="not yet: gpu-2"):
        administration.finish_rotation(folder, NOW + 10)
    administration.finish_rotation(folder, silent.not_after + 1)
    assert not folder.key_file("online", under_way.old.fingerprint).exists()


def test_a_confirmation_is_not_believed_blindly(folder: MeshFolder, config: MeshConfig) -> None:
    """A node cannot claim another's certificate, nor authorities that do not exist."""
    clock = VirtualClock(NOW)
    online = OnlineAuthority.open(folder.root, config, PASSPHRASE, clock=clock)
    first = online.issue("gpu-1", keys.new_node_key()[1], IPv4Address("10.77.128.1"), now=NOW)
    other = online.issue("gpu-2", keys.new_node_key()[1], IPv4Address("10.77.128.2"), now=NOW)
    online.confirm("gpu-1", bundle="", fingerprint=other.fingerprint)
    known = folder.read().confirmed["gpu-1"]
    assert known.carries == first.fingerprint
    assert known.trusts == ()


def test_cancelling_leaves_everything_as_it_was(folder: MeshFolder, config: MeshConfig) -> None:
    """A rotation begun by mistake costs nothing; once the new one signs the way is forward."""
    _sign(folder, config, "home", "home")
    bundle = (folder.node("home") / "ca.crt").read_text()
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    with pytest.raises(MeshError, match="does not sign yet"):
        administration.finish_rotation(folder, NOW)
    with pytest.raises(MeshError, match="under way"):
        administration.start_rotation(folder, config, "online", PASSPHRASE, NOW)
    administration.cancel_rotation(folder, NOW)
    assert (folder.node("home") / "ca.crt").read_text() == bundle
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    administration.delivered(folder, ["home"], NOW)
    administration.sign_rotation(folder, config, _new_key(folder), NOW)  # type: ignore[arg-type]
    with pytest.raises(MeshError, match="way out is forward"):
        administration.cancel_rotation(folder, NOW)


def test_a_rotation_does_not_change_the_version(folder: MeshFolder) -> None:
    """Nodes with one version each may not understand each other, and older Nebulas refuse a bundle with both."""
    newer = MeshConfig.model_validate({"certificate_version": 2})
    with pytest.raises(MeshError, match="version 1"):
        administration.start_rotation(folder, newer, "offline", PASSPHRASE, NOW)
    assert rotation.progress(folder.read(), NOW) is None


def test_files_that_a_crash_left_behind_are_not_delivered(folder: MeshFolder, config: MeshConfig) -> None:
    """A crash between index and files: what a person carried off is old, so their word must not count."""
    _sign(folder, config, "home", "home")
    old = (folder.node("home") / "ca.crt").read_text()
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    (folder.node("home") / "ca.crt").write_text(old)
    with pytest.raises(MeshError, match="out of date"):
        administration.delivered(folder, ["home"], NOW)
    assert (folder.node("home") / "ca.crt").read_text() != old
    administration.delivered(folder, ["home"], NOW)
    (folder.node("home") / "ca.crt").write_text(old)
    administration.start_rotation(folder, config, "offline", PASSPHRASE, NOW)
    assert (folder.node("home") / "ca.crt").read_text() != old, "the step can be repeated, and heals"


def test_a_life_that_was_cut_is_whole_again(folder: MeshFolder, config: MeshConfig) -> None:
    """The last certificates of an old authority are short; under the new one they last as long as was asked for."""
    almost = NOW + 5 * 365 * DAY - 10 * DAY
    _sign(folder, config, "home", "home", almost)
    cut = next(iter(folder.read().certificates.values()))
    assert cut.not_after - almost < 11 * DAY
    administration.start_rotation(folder, config, "offline", PASSPHRASE, almost)
    administration.delivered(folder, ["home"], almost)
    under_way = rotation.progress(folder.read(), almost)
    assert under_way is not None
    key = keys.decrypt(folder.key_file("offline", under_way.new.fingerprint).read_text(), PASSPHRASE)
    (renewed,) = administration.sign_rotation(folder, config, key, almost)
    assert renewed.not_after - almost > 364 * DAY
