"""The key-value cache: bytes of a token, and how much one request reserves, as vLLM 0.32 lays it out.

A layer keeps a key and a value for each token and each of its key-value heads; latent attention keeps one compressed vector instead, the same
on every GPU. Layers with a window keep the window and what is in flight. Where a model has both, vLLM puts layers into groups of one size that
share one pool of blocks (`kv_cache_utils.py`), so the smaller kind sets the size and the last group is padded.
"""

from dataclasses import dataclass

from lamplighter.engines.sizing.architecture import Architecture

BLOCK = 16
"""Tokens in a block, vLLM's default."""
_ALIKE = 1.5
"""Below this ratio between the kinds of layers, the larger kind sets the size of a group."""


@dataclass(frozen=True, slots=True)
class Layout:
    """On one GPU. `page`: bytes of a block of one group of layers. `full`, `windowed`: number of groups. `window`: tokens; `in_flight`: tokens that
    are scheduled and not settled."""

    page: int
    full: int
    windowed: int
    window: int
    in_flight: int

    @property
    def token(self) -> float:
        """Bytes of one token while no window is full."""
        return self.page * (self.full + self.windowed) / BLOCK

    def request(self, length: int) -> int:
        """Bytes that one request of `length` tokens reserves."""
        blocks = self.full * -(-length // BLOCK)
        if self.windowed:
            kept = min(self.window - 1 + self.in_flight, length)
            blocks += self.windowed * (-(-kept // BLOCK) + 1)
        return blocks * self.page

    def longest(self, room: int, most: int, requests: int = 1) -> int:
        """The most tokens, up to `most`, that each of so many requests may have in `room` bytes; 0 when not even one block."""
        if self.request(most) * requests <= room:
            return most
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.request(middle) * requests <= room else (low, middle - 1)
        return low


def layout(model: Architecture, *, tensor: int = 1, pipeline: int = 1, bytes_each: int = 2, batched: int = 2048) -> Layout:
    """The layout on one GPU of `tensor` x `pipeline`. `bytes_each`: of a cached number. `batched`: tokens of one step of the scheduler.

    Two steps are in flight: scheduling runs ahead of the GPU by one.
    """
    latent = model.latent
    numbers = 2 * max(1, model.kv_heads // tensor) * model.head if latent is None else latent.rank + latent.rope
    entry = numbers * bytes_each
    full, windowed = -(-model.full // pipeline), -(-model.windowed // pipeline)
    in_flight = batched * max(2, pipeline)
    window = model.window or 0
    if not full or not windowed:
        return Layout(entry * (full + windowed) * BLOCK, 1 if full else 0, 1 if windowed else 0, window, in_flight)
    size = max(full, windowed) if max(full, windowed) < _ALIKE * min(full, windowed) else min(full, windowed)
    return Layout(entry * size * BLOCK, -(-full // size), -(-windowed // size), window, in_flight)
