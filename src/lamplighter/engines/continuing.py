"""How an engine can be asked to go on with an answer that another one began. Not responsible for when that is done: see `gateway`."""

from enum import StrEnum


class Continues(StrEnum):
    """The ways. An engine kind that has one names it in its attribute `continues`."""

    PREFILL = "prefill"
    """It goes on with a last message of the assistant by itself (llama.cpp, Ollama)."""
    FLAG = "flag"
    """It does so when `continue_final_message` says so (vLLM)."""


def way_of(engine: object) -> Continues | None:
    """How `engine` goes on with an answer; None when it cannot, or nobody knows."""
    way = getattr(engine, "continues", None)
    return way if isinstance(way, Continues) else None
