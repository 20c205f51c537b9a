"""What a model is asked: the branch, in turns, as much of it as fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamplighter.core.errors import RequestError
from lamplighter.gateway.chat.prompt import TITLE_LENGTH, Prompt, estimate_tokens, title_of
from lamplighter.store.chats import Message


def message(role: str, content: str) -> Message:
    return Message(f"msg_{role}", "cht", None, role, content, None, "done", None, None, 0.0)


def prompt(*turns: str, system: str | None = None, kept: str = "", context: int | None = None, prefill: bool = True) -> Prompt:
    history = [message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(turns)]
    return Prompt(system, history, kept, {}, context, prefill)


def contents(one: Prompt) -> list[str]:
    return [turn["content"] for turn in one.body()["messages"]]


def test_the_whole_branch_is_sent_when_it_fits() -> None:
    """If this fails, the model forgets what was said before."""
    assert prompt("a", "b", "c", system="s", context=4096).body()["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_the_oldest_turns_go_first_and_the_question_stays() -> None:
    """If this fails, a long chat ends in errors about its length, or loses the very question."""
    turns = [letter * 400 for letter in "abcdefg"]
    kept = contents(prompt(*turns, system="rules", context=512))
    assert kept[0] == "rules"
    assert kept[-1] == turns[-1]
    assert 1 < len(kept) < len(turns)
    roles = [turn["role"] for turn in prompt(*turns, context=512).body()["messages"]]
    assert roles[0] == "user"
    huge = "z" * 10_000
    assert contents(prompt("a", "b", huge, context=512)) == [huge]


def test_turns_alternate_whatever_happened() -> None:
    """If this fails, a chat after a failed answer is refused by the model's template."""
    one = Prompt(None, [message("user", "a"), message("assistant", ""), message("user", "b")], "", {}, None, True)
    assert one.body()["messages"] == [{"role": "user", "content": "a\n\nb"}]


def test_an_answer_is_continued() -> None:
    """If this fails, Continue begins the answer anew."""
    assert prompt("q", kept="It is").body()["messages"][-1] == {"role": "assistant", "content": "It is"}
    asked = prompt("q", kept="It is", prefill=False).body()["messages"]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "user"]
    refused = RequestError("no prefill", status=400)
    again = prompt("q", kept="It is").after(refused)
    assert again is not None
    assert again.body()["messages"] == asked
    assert again.after(refused) is None


def test_a_prompt_that_is_too_long_after_all_is_shortened() -> None:
    """If this fails, our estimate of tokens decides whether a person gets an answer."""
    too_long = RequestError("too long", code="context_length_exceeded")
    one: Prompt | None = prompt(*[letter * 400 for letter in "abcdefghi"], context=1_500)
    lengths = []
    while one is not None:
        lengths.append(len(contents(one)))
        one = one.after(too_long)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]
    assert prompt("only", context=200).after(too_long) is None
    unknown = prompt(*[letter * 400 for letter in "abcdefghi"]).after(too_long)
    assert unknown is not None
    assert len(contents(unknown)) < 9


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("Hello", "Hello"),
        ("\n\n## A heading  with\tspaces\nmore", "A heading with spaces"),
        ("```\n***", "New chat"),
        ("   ", "New chat"),
        ("word " * 40, "word word word word word word word word word word word word…"),
        ("x" * 200, "x" * TITLE_LENGTH + "…"),
    ],
)
def test_titles(question: str, title: str) -> None:
    """If this fails, the list of chats is unreadable."""
    assert title_of(question) == title


@given(st.text(max_size=500))
def test_any_text_has_a_title_and_a_size(text: str) -> None:
    """If this fails, some message cannot be sent."""
    assert 0 < len(title_of(text)) <= TITLE_LENGTH + 1
    assert "\n" not in title_of(text)
    assert estimate_tokens(text) > 0


@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=12), st.integers(128, 2_000))
def test_the_last_question_always_stays(turns: list[str], context: int) -> None:
    """If this fails, the model answers another question than the one asked."""
    turns = turns if len(turns) % 2 else turns[:-1] or ["q"]
    kept = contents(prompt(*turns, system="s", context=context))
    assert kept[0] == "s"
    assert kept[-1] == turns[-1]
