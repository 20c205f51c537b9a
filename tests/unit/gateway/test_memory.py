"""What a request leaves behind: nothing."""

import gc

from lamplighter.gateway.inference.dispatch import Call
from lamplighter.testing.engine import FakeEngine
from tests.unit.gateway.harness import running


async def test_requests_leave_no_work_for_the_garbage_collector() -> None:
    """Memory would grow between collections, and collections would pause everybody's stream."""
    async with FakeEngine(tokens=5) as engine, running() as rig:
        await rig.ready(engine.url)
        for stream in (False, True):
            await rig.chat(stream=stream)
        gc.collect()
        gc.disable()
        try:
            for index in range(20):
                await rig.chat(stream=index % 2 == 0)
            await rig.until_idle()
            assert not [thing for thing in gc.get_objects() if isinstance(thing, Call)]
        finally:
            gc.enable()
