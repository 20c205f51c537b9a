"""The pool kind `command`: what may be written of a machine's commands, and that they can be written nowhere else."""

from typing import Any

import pytest
from pydantic import ValidationError

from lamplighter.config import CommandPool, Config, parse
from lamplighter.core.errors import ConfigError

DESK = {
    "kind": "command",
    "url": "http://desk.lan:11434",
    "wake": "wakeonlan 00:11:22:33:44:55",
    "sleep": ["ssh", "desk", "sleep"],
}


def pool(**settings: Any) -> CommandPool:
    return CommandPool.model_validate({**DESK, **settings})


def test_a_text_and_a_list_of_words_are_both_commands() -> None:
    """A text that became words, or words that became a text, would run something else than what stands there."""
    one = pool()
    assert one.wake == "wakeonlan 00:11:22:33:44:55"
    assert one.sleep == ("ssh", "desk", "sleep")
    assert one.running is None
    written = parse("models: {}\npools: {desk: {kind: command, url: 'http://d', wake: [a, 'b c'], sleep: 'x; y'}}").pools["desk"]
    assert isinstance(written, CommandPool)
    assert (written.wake, written.sleep) == (("a", "b c"), "x; y")


@pytest.mark.parametrize(
    "settings",
    [
        {"wake": ""}, {"wake": "  \n"}, {"sleep": []}, {"sleep": ["ssh", ""]}, {"wake": 7}, {"wake": ["a", 7]}, {"running": ""},
        {"wake": "x" * 9000}, {"url": "ftp://desk"}, {"url": "http://desk:99999"}, {"wake_every": "0s"}, {"command_timeout": "0s"},
        {"max_loaded": 0}, {"min_replicas": 1}, {"max_replicas": 2},
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(settings: dict[str, Any]) -> None:
    """It would be found out at the first wake, when somebody waits."""
    with pytest.raises(ValidationError):
        pool(**settings)


@pytest.mark.parametrize("missing", ["url", "wake", "sleep"])
def test_a_machine_needs_its_url_and_both_commands(missing: str) -> None:
    """One that can be woken and not put to sleep would be on for ever, and nobody have meant it."""
    with pytest.raises(ValidationError, match=missing):
        CommandPool.model_validate({name: value for name, value in DESK.items() if name != missing})


def test_the_url_is_the_same_with_and_without_its_version() -> None:
    """`/v1/v1/models` would never answer, and the machine be woken again and again."""
    assert pool(url="http://desk:8000/v1/").url == "http://desk:8000"


@pytest.mark.parametrize(
    "text",
    [
        "models: {m: {engine: openai, pool: desk, wake: rm}}",
        "models: {m: {engine: openai, pool: desk, sleep: rm}}",
        "models: {m: {engine: openai, pool: desk, running: rm}}",
        "models: {m: {engine: openai, pool: desk, command: rm}}",
    ],
)
def test_a_model_has_no_commands(text: str) -> None:
    """Models can be added at run time: what stood at one could be set by whoever has a key."""
    with pytest.raises(ConfigError):
        parse(f"{text}\npools: {{desk: {{kind: command, url: 'http://d', wake: w, sleep: s}}}}")


def test_no_other_part_of_the_file_names_a_program_of_the_pool() -> None:
    """Whoever adds a field that could carry a command elsewhere must come by here."""
    assert {name for name in CommandPool.model_fields if name in ("wake", "sleep", "running")} == {"wake", "sleep", "running"}
    assert not {"wake", "sleep", "running"} & Config.model_fields.keys()
