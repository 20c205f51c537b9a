"""No client can make the gateway or an engine fetch what the client could not reach itself."""

import json
from typing import Any

import msgspec
import pytest

from lamplighter.core.errors import RequestError
from lamplighter.gateway.inference import remote
from lamplighter.gateway.inference.fields import read
from lamplighter.testing.engine import FakeEngine
from tests.unit.gateway.harness import config_of, running

INNER = "http://169.254.169.254/latest/meta-data/iam"
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def refused(body: dict[str, Any] | str, *, allowed: bool = False) -> str | None:
    """The param of the refusal, or None."""
    raw = body if isinstance(body, str) else json.dumps(body)
    try:
        remote.check(read(raw.encode()), allowed=allowed)
    except RequestError as error:
        return error.param if error.status == 400 else "not 400"
    return None


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (user({"type": "image_url", "image_url": {"url": INNER}}), "messages[0].content[0].image_url"),
        (user({"type": "text", "text": "x"}, {"type": "image_url", "image_url": INNER}), "messages[0].content[1].image_url"),
        (user({"image_url": {"url": INNER}}), "messages[0].content[0].image_url"),
        (user({"type": "video_url", "video_url": {"url": INNER}}), "messages[0].content[0].video_url"),
        (user({"type": "audio_url", "audio_url": {"url": INNER}}), "messages[0].content[0].audio_url"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": INNER}]}]},
            "input[0].content[0].image_url",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": INNER}]}]}, "input[0].content[0].file_url"),
        (user({"type": "image", "source": {"type": "url", "url": INNER}}), "messages[0].content[0].source.url"),
        (user({"type": "document", "source": {"type": "url", "url": INNER}}), "messages[0].content[0].source.url"),
        (
            user({"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": INNER}}]}),
            "messages[0].content[0].content[0].source.url",
        ),
        ({"documents": [{"content": [{"type": "image_url", "image_url": {"url": INNER}}]}]}, "documents[0].content[0].image_url"),
        ({"tools": [{"type": "mcp", "server_url": INNER}]}, "tools[0].server_url"),
        ({"image_url": INNER}, "image_url"),
    ],
)
def test_urls_are_found_wherever_an_engine_would_look(body: dict[str, Any], param: str) -> None:
    """An engine would read the cloud's credentials, or anything in the private network, for anybody with a key."""
    assert refused(body) == param


@pytest.mark.parametrize(
    "url",
    [
        INNER,
        INNER.upper(),
        "  " + INNER,
        "file:///etc/passwd",
        "ftp://nas/x",
        "//nas/x",
        "/etc/passwd",
        "gopher://x",
        "DATAX:1",
        "",
    ],
)
def test_whatever_is_no_content_is_refused(url: str) -> None:
    """A scheme that nobody thought of would be open."""
    assert refused(user({"type": "image_url", "image_url": {"url": url}}))


def test_escapes_and_doubles_hide_nothing() -> None:
    """What we read would differ from what the engine reads."""
    image = '{"type": "image_url", "image_url": {"url": "%s"}}' % INNER  # noqa: UP031 - braces all around
    whole = '{"messages": [{"role": "user", "content": [%s]}]}'
    assert refused(whole % image)
    assert refused(whole % image.replace("image_url", "image\\u005furl"))
    assert refused(whole % image.replace('"url"', '"\\u0075rl"'))
    assert refused(whole % image.replace("http", "\\u0068ttp"))
    assert refused(whole % image.replace('"url": ', f'"url": "{PICTURE}", "url": '))
    assert refused(whole % image.replace(f'"{INNER}"', f'"{INNER}", "url": "{PICTURE}"'))
    assert refused(whole % image.replace('{"url"', f'"{PICTURE}", "image_url": {{"url"'))


@pytest.mark.parametrize(
    "body",
    [
        user({"type": "image_url", "image_url": {"url": PICTURE}}),
        user({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,x", "detail": "low"}}),
        user({"type": "text", "text": f'see {INNER} and {{"image_url": "{INNER}"}}'}),
        {"messages": [{"role": "user", "content": f"what is at {INNER}?"}]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"image_url": INNER}}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "web_search_result", "url": INNER}]}]},
        {
            "input": [
                {"type": "message", "content": [{"type": "output_text", "annotations": [{"type": "url_citation", "url": INNER}]}]}
            ]
        },
        {"tools": [{"type": "function", "function": {"parameters": {"properties": {"image_url": {"type": "string"}}}}}]},
        {"response_format": {"json_schema": {"schema": {"properties": {"image_url": {"url": "string"}}}}}},
        {"metadata": {"image_url": INNER}},
        user({"type": "image_url", "image_url": {"url": 5}}),
    ],
)
def test_what_nobody_fetches_passes(body: dict[str, Any]) -> None:
    """Talking about links, calling tools and sending pictures as they are must go on working."""
    assert refused(body) is None


def test_the_configuration_can_allow_the_web_but_no_files() -> None:
    """Whoever wants pictures from the web could not have them, or would open the engine's disk with it."""
    assert refused(user({"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}), allowed=True) is None
    assert refused(user({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), allowed=True)


def test_a_deep_nest_ends_in_words() -> None:
    """A thousand brackets would end in a traceback."""
    deep = b'{"messages": ' + b"[" * 100_000 + b'"url"' + b"]" * 100_000 + b"}"
    with pytest.raises((RequestError, msgspec.DecodeError)):
        remote.check({"messages": deep[13:-1]}, allowed=False)


@pytest.mark.parametrize("allowed", [False, True])
async def test_the_engine_is_never_asked(allowed: bool) -> None:
    """The check would stand beside the way that requests take."""
    body = {**user({"type": "image_url", "image_url": {"url": "http://10.0.0.1/x"}}), "model": "big"}
    config = config_of(gateway={"remote_images": allowed})
    async with FakeEngine() as engine, running(config) as rig:
        await rig.ready(engine.url)
        for stream in (False, True):
            answer = await rig.client.post("/v1/chat/completions", json={**body, "stream": stream})
            assert answer.status_code == (200 if allowed else 400), answer.text
            if not allowed:
                assert answer.json()["error"]["code"] == "remote_url_refused"
        assert engine.counters.requests == (2 if allowed else 0)


@pytest.mark.parametrize(
    "source",
    [
        "file:/etc/passwd", "file:~/model.gguf", "http://10.0.0.1/x.gguf", "https://evil.example/x.gguf", "/etc/x.gguf", "../x.gguf",
        "hf:http://evil/x", "hf:a/../../x:y.gguf", "hf:a/b:/etc/x.gguf", "hf:a/b:../../x.gguf", "hf:a/b?revision=x", "hf:@evil/x", "hf:a/b#x",
    ],
)  # fmt: skip
async def test_models_added_through_the_api_name_no_place(source: str) -> None:
    """An admin key would read any file of the machine, or make it fetch from anywhere."""
    from lamplighter.core.errors import SourceError
    from lamplighter.engines.sources.files import parse

    async with running(config_of(pools={"cloud": {"kind": "fake"}, "here": {"kind": "process"}})) as rig:
        answer = await rig.client.post("/api/models", json={"name": "x", "source": source})
        for more in ({"url": "http://10.0.0.1"}, {"command": "sh"}, {"engine": "openai"}, {"arguments": ["-x"]}):
            extra = await rig.client.post("/api/models", json={"name": "x", "source": "bundled", **more})
            assert extra.status_code in {400, 422}
    if source.startswith("hf:"):  # taken as a name, and refused when it is looked for
        with pytest.raises(SourceError):
            parse(source)
    else:
        assert answer.status_code in {400, 422}
