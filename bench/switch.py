"""`python -m bench.switch`: what a request pays for the possibility that its model is being changed, and while it is.

The same gateway admits the same request in turn: as it is, without the look at the lane's split, with a change at half of the requests, and with
one in force. Medians of many short rounds, interleaved, so that what else the machine does hits all alike: the ratios count.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import gateway as rig
from lamplighter.core.clock import SystemClock
from lamplighter.gateway.app import Gateway
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.inference.dispatch import Call, Dispatch
from lamplighter.gateway.inference.request import InferenceRequest, parse
from lamplighter.gateway.metering import Record
from lamplighter.gateway.switching import Split
from lamplighter.store.rollouts import Route

BODY = b'{"model":"mock","stream":true,"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"What is a lamp?"}]}'
ROUNDS, EACH = 300, 400


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="lamplighter-bench-") as folder:
        asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> None:
    await rig.prepare(folder)
    async with rig.opened(folder, ["http://127.0.0.1:9"]) as gateway:
        dispatch = gateway._dispatch  # noqa: SLF001 - what is measured
        lane = gateway._lanes.find(rig.MODEL)  # noqa: SLF001 - likewise
        assert lane is not None  # noqa: S101 - the rig made it
        identity = _identity(gateway)
        plain = _without_look()
        half = Split(Route(rig.MODEL, rig.MODEL, rig.MODEL, 5000, "rol_1", 0), lane, lane, None)
        whole = Split(Route(rig.MODEL, rig.MODEL), lane, None, None)
        cases: dict[str, tuple[Callable[..., Call], Split | None]] = {
            "without the look": (plain, None),
            "no change": (Dispatch.admit, None),
            "a change at 50 %": (Dispatch.admit, half),
            "a change in force": (Dispatch.admit, whole),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, (admit, split) in cases.items():
                lane.split = split
                times[name].append(_round(dispatch, admit, identity))
        base = statistics.median(times["without the look"])
        for name, found in times.items():
            middle = statistics.median(found)
            print(f"{name:20} {middle * 1e6:7.2f} us a request  {middle / base:5.3f}")
        lane.split = None
        del lane


def _identity(gateway: Gateway) -> Identity:
    return gateway.keyring.identify({b"authorization": f"Bearer {rig.KEY}".encode()})


def _round(dispatch: Dispatch, admit: Callable[..., Call], identity: Identity) -> float:
    requests: list[InferenceRequest] = [parse("chat", BODY) for _ in range(EACH)]
    clock = SystemClock()
    records = [Record("chat", "req", clock.monotonic(), key_id="key") for _ in requests]
    began = time.perf_counter()
    for request, record in zip(requests, records, strict=True):
        admit(dispatch, request, record, identity, None, b"")
    return (time.perf_counter() - began) / EACH


def _without_look() -> Callable[..., Call]:
    """`Dispatch.admit` as it would be if no model could ever be changed: the same source less the two lines that look."""
    import inspect
    import textwrap

    from lamplighter.gateway.inference import dispatch as module

    source = textwrap.dedent(inspect.getsource(Dispatch.admit))
    look = "    if lane.split is not None:\n        lane = self._target_of(lane.split, request, record, session)\n"
    if look not in source:
        raise RuntimeError("Dispatch.admit no longer looks as this measurement expects")
    names: dict[str, Callable[..., Call]] = {}
    exec(source.replace(look, ""), vars(module), names)  # noqa: S102 - our own source
    return names["admit"]


if __name__ == "__main__":
    main()
