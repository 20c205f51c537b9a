"""A machine in the cloud joins home when somebody asks, and ends itself when nobody does: with real parts on one machine.

Real: Nebula on every machine with our own authorities, Terraform's stack (applied to an emulated AWS), the launch template's user data, the
agent, `lamplighter up`. Pretended: AWS itself (`lamplighter.testing.aws`) and what `standins` names. Nobody has run this on the real AWS.
"""

import subprocess
import time

import httpx
import pytest

from lamplighter.mesh import certificates
from tests.journeys.cloud.actor import CloudMachine
from tests.journeys.cloud.asking import ask, beside, times
from tests.journeys.cloud.world import DRAIN, LEASE, MODEL, SLEEP_AFTER, Show
from tests.journeys.harness import eventually

SLACK = 12.0
"""Seconds of a busy machine."""


def _show(show: Show) -> None:
    """The whole promise at once: a request to a sleeping model is held, a machine comes, answers, is taken, is replaced, and goes."""
    assert show.aws.instances() == []
    # As on any day but the first second of it: prices were read, so AWS was talked to before.
    eventually(lambda: show.server.model(MODEL)["quote"], what="the price of a wake is known")
    show.cloud.flags = "--fake-tokens-per-second 25 --fake-tokens 400"

    # A request wakes the sleeping model; it is held, and told how far it is.
    noticed: list[str] = []

    def take() -> None:
        (machine,) = show.cloud.living
        noticed.append(machine.id)
        show.aws.reclaim(machine.id, 120)

    first = ask(show, 300, at=25, act=take)
    assert first.error is None, show.story()
    assert first.headers < 2.0
    assert {"capacity", "boot", "mesh"} & set(first.stages), first.comments
    measured = times(show, first, noticed[0])
    print(measured.table("A wake, emulated AWS, direct, stand-ins for docker and GPU:"))
    show.overheads.append(measured.overhead)

    # The spot notice came in the middle of that answer: it was finished on the machine that is taken, another one came meanwhile.
    assert first.done
    assert len(first.pieces) == 300
    old, new = show.cloud.machines.values()
    assert old.id == noticed[0]
    began = time.monotonic()
    second = ask(show, 5, question="And who put it out?")
    assert second.done
    assert second.comments == [], "the conversation goes on without a second wait"
    print(f"  {'the next turn, on the other machine':<58}{second.first:6.2f} s")
    eventually(lambda: old.gone, what=f"the noticed machine is ended; {show.story()}")
    assert time.monotonic() - began < 60, "long before AWS takes it"
    assert show.aws.instance(new.id).state == "running"
    _has_its_own_certificate(show, new)

    # Idle: to zero, and what the machines held is worth nothing any more.
    idle = time.monotonic()
    show.asleep()
    print(f"  {'idle until nothing runs (sleep_after ' + f'{SLEEP_AFTER:g} s)':<58}{time.monotonic() - idle:6.2f} s")
    assert len(show.aws.instances()) == 2
    eventually(lambda: len(show.revoked()) == 2, what=f"both certificates are revoked: {show.revoked()}")


def _has_its_own_certificate(show: Show, machine: CloudMachine) -> None:
    """For its own key, of the online authority, in group gpu, for a day; and the key is nowhere but there."""
    pem = machine.path("/etc/nebula/node.crt").read_text()
    certificate = certificates.parse(pem)
    assert certificate.groups == ("gpu",)
    assert certificate.name == machine.id
    assert certificate.not_after - time.time() <= 86_400
    ca = show.server.data.parent / "ca.crt"
    ca.write_text(machine.path("/etc/nebula/ca.crt").read_text())
    (show.server.data.parent / "node.crt").write_text(pem)
    subprocess.run(
        ["nebula-cert", "verify", "-ca", ca, "-crt", show.server.data.parent / "node.crt"], check=True, capture_output=True
    )
    key = machine.path("/etc/nebula/node.key")
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_text().splitlines()[1]
    assert all(secret.encode() not in path.read_bytes() for path in show.server.data.rglob("*") if path.is_file())


def _woken(show: Show) -> CloudMachine:
    """A machine that serves, from a wake just now."""
    answer = ask(show)
    assert answer.done, f"{answer.error} {show.story()}"
    (machine,) = show.cloud.living
    if show.aws.instance(machine.id).market == "spot":
        show.overheads.append(times(show, answer, machine.id).overhead)
    return machine


def _lighthouse(show: Show) -> None:
    """A lighthouse that is gone would take running conversations with it."""
    show.asleep()
    show.cloud.flags = ""
    _woken(show)
    show.lighthouse.stop(kill=True)
    try:
        for _ in range(3):
            answer = ask(show, 5)
            assert answer.done
            assert answer.comments == []
            time.sleep(0.7)
    finally:
        show.lighthouse.start()
    show.asleep()


def _cut(show: Show) -> None:
    """Home without internet would leave a machine that bills for ever."""
    show.asleep()
    show.cloud.flags = "--fake-tokens-per-second 2 --fake-tokens 400"
    thread, answers = beside(show, 400)
    try:
        eventually(lambda: show.cloud.living and show.cloud.living[0].leased(), what=f"it is leased; {show.story()}")
    finally:
        show.cloud.flags = ""
    (machine,) = show.cloud.living
    show.home.cut()
    cut = time.monotonic()
    try:
        eventually(lambda: machine.gone, what=f"the lease ends the node; {machine.logs()}", timeout=LEASE + DRAIN + SLACK)
        took = time.monotonic() - cut
        assert show.aws.instance(machine.id).state in ("shutting-down", "terminated")
        assert not any(show.groups().values()), "nothing is launched in its place"
        assert "the node ends: lease" in show.log_of(machine.id, "agent")
    finally:
        show.home.restore()
    print(f"\nHome's link is cut: the node ended after {took:.1f} s (lease {LEASE:g} s, drain {DRAIN:g} s)")
    thread.join(90)
    assert answers, "whoever waited was answered or told"
    assert answers[0].done or answers[0].error is not None, "no answer ends silently"
    eventually(lambda: ask(show).done, what=f"it wakes again; {show.story()}", timeout=90)
    show.asleep()


def _no_capacity(show: Show) -> None:
    """Without spot machines nobody would get an answer, although on-demand ones are allowed."""
    show.asleep()
    show.aws.capacity.none("spot")
    try:
        machine = _woken(show)
        assert show.aws.instance(machine.id).market == "on-demand"
        assert "taking an on-demand g4dn.xlarge" in show.wakes()[-1]["stages"], "it is told why, and what it costs"
        show.asleep()
        show.aws.capacity.none()
        answer = ask(show)
        assert answer.error is not None
        assert "no_capacity" in str(answer.error), answer.error
    finally:
        show.aws.capacity.clear()
    assert show.aws.instances(live=True) == []
    assert not any(show.groups().values())


def _failed_boot(show: Show) -> None:
    """A wrong image would be waited for until the deadline, without a word, and bill meanwhile."""
    before = len(show.aws.instances())
    show.cloud.fail = "Error response from daemon: manifest for vllm/vllm-openai:v0 not found: manifest unknown"
    try:
        show.server.order("wake", MODEL)  # a person's own wish: what failed a moment ago is tried at once
        answer = ask(show)
    finally:
        show.cloud.fail = ""
    assert answer.error is not None
    assert "image" in answer.error["message"], answer.error
    assert answer.error.get("code") is not None
    eventually(lambda: not show.aws.instances(live=True), what=f"nothing is left running; {show.story()}", timeout=30)
    assert not any(show.groups().values())
    made = show.aws.instances()[before:]
    assert len(made) == 1, "what can never work is not tried again and again"
    assert "the node ends" in show.log_of(made[0].id, "agent"), "its logs can be read after its death"


JOURNEYS = {
    "the whole show": _show,
    "the lighthouse dies": _lighthouse,
    "home's link is cut": _cut,
    "no spot capacity": _no_capacity,
    "a boot that fails": _failed_boot,
}
"""In this order, on one installation: applying the stack takes longer than any of them."""


@pytest.mark.timeout(900)
def test_the_cloud(installation: Show) -> None:
    """What `JOURNEYS` say; and seconds that are nobody's stage are seconds that everybody waits for nothing."""
    failed: list[Exception] = []
    for name, journey in JOURNEYS.items():
        began = time.monotonic()
        try:
            installation.at_home(lambda journey=journey: journey(installation))  # type: ignore[misc]
        except (AssertionError, OSError, ValueError, LookupError, httpx.HTTPError) as error:
            error.add_note(f"in the journey: {name}")
            failed.append(error)
        print(
            f"\n{name}: {'failed' if failed and name in str(failed[-1].__notes__) else 'well'}, {time.monotonic() - began:.0f} s"
        )
    if failed:
        raise ExceptionGroup("journeys failed", failed)
    print(f"\nOur own share of the wakes: {', '.join(f'{one:.2f} s' for one in installation.overheads)}")
    # The best of several: a busy machine only adds.
    assert min(installation.overheads) <= 1.0
    assert installation.cloud.problems == []
    # Neither keeper nor nodes tried what Terraform's policies do not allow.
    assert not [text for text in installation.aws.denied if "not authorized" in text]
