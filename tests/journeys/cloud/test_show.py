"""A machine in the cloud joins home when somebody asks, and ends itself when nobody does: with real parts on one machine."""

import time

from tests.journeys.cloud.world import MODEL, Show

QUESTION = [{"role": "user", "content": "Who lit the lamp?"}]


def test_the_show(installation: Show) -> None:
    """The whole promise at once: a request to a sleeping model is held, a machine comes, answers, and goes."""
    installation.at_home(lambda: _wake(installation))


def _wake(show: Show) -> None:
    client = show.server.openai(timeout=120)
    began = time.monotonic()
    text = ""
    for chunk in client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, max_tokens=12):
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    print(f"answered after {time.monotonic() - began:.1f}: {text}")
    show.asleep()
