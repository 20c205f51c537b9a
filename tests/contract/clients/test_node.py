"""The libraries of OpenAI, Anthropic and Ollama for JavaScript, unmodified, against the real embedded engine."""

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.model


@pytest.mark.parametrize("library", ["openai", "anthropic", "ollama"])
def test_the_library_for_javascript(node: Callable[[str], None], library: str) -> None:
    """Web applications and editors would not work; `node/*.test.mjs` say in what."""
    node(f"{library}.test.mjs")
