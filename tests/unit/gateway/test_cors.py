"""Pages of other origins: closed by default, open only to those that the configuration names, and never to the control API."""

import pytest

from lamplighter.config.security import CorsConfig
from lamplighter.gateway.cors import Cors, open_to_pages

APP = b"https://app.example.com"


def cors(*origins: str) -> Cors:
    return Cors(CorsConfig.model_validate({"origins": list(origins)}))


def test_nothing_is_said_by_default() -> None:
    """Any web page could use a key that it got hold of, in its visitors' names."""
    closed = cors()
    assert closed.headers_for(APP) == closed.headers_for(None) == b""
    assert not any(name.startswith(b"access-control") for name, _ in closed.preflight({b"origin": APP}))


def test_a_named_origin_is_let_in_and_no_other() -> None:
    """A page of a similar name would read answers."""
    named = cors("https://app.example.com", "http://localhost:3000")
    assert b"access-control-allow-origin: https://app.example.com\r\n" in named.headers_for(APP)
    for foreign in (b"https://app.example.com.evil.example", b"https://evil.example", b"null", b"http://app.example.com", b""):
        assert b"access-control" not in named.headers_for(foreign)


def test_caches_are_told_that_answers_depend_on_the_origin() -> None:
    """A cache would serve one origin's permission to another."""
    named = cors("https://app.example.com")
    for origin in (APP, None, b"https://evil.example"):
        assert b"vary: origin\r\n" in named.headers_for(origin)


def test_everybody_means_a_star_and_never_credentials() -> None:
    """A star that echoed origins and allowed cookies would open the browser's session to every page."""
    everybody = cors("*")
    lines = everybody.headers_for(b"https://evil.example")
    assert b"access-control-allow-origin: *\r\n" in lines
    assert b"credentials" not in lines
    asked = {b"origin": b"https://evil.example", b"access-control-request-method": b"POST"}
    assert b"access-control-allow-credentials" not in dict(everybody.preflight(asked))


def test_a_preflight_allows_what_was_asked_but_echoes_no_garbage() -> None:
    """SDKs' own headers would be refused; or a header could be injected through the echo."""
    named = cors("https://app.example.com")
    asked = {
        b"origin": APP,
        b"access-control-request-method": b"POST",
        b"access-control-request-headers": b"authorization,content-type,x-stainless-os",
    }
    answer = dict(named.preflight(asked))
    assert answer[b"access-control-allow-headers"] == b"authorization,content-type,x-stainless-os"
    assert answer[b"access-control-max-age"] == b"600"
    for garbage in (b"a b", b"x: y", b"a,\r\nb", b"a" * 3_000, b",,"):
        assert b"access-control-allow-headers" not in dict(named.preflight({**asked, b"access-control-request-headers": garbage}))
    assert b"access-control-allow-origin" not in dict(named.preflight({**asked, b"origin": b"https://evil.example"}))


@pytest.mark.parametrize("path", ["/api/session", "/api/keys", "/api/status", "/api/ws", "/metrics", "/", "/login", "/api/chats"])
def test_the_control_api_is_never_open_to_other_origins(path: str) -> None:
    """A foreign page would read chats through the visitor's session."""
    assert not open_to_pages(path)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/api/chat", "/api/tags", "/tokenize"])
def test_inference_can_be_opened(path: str) -> None:
    """A browser client of the OpenAI or Ollama API could not work at all."""
    assert open_to_pages(path)


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://app.example.com/path", "https://*.example.com", "null", "javascript:x"]
)
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    """A mistyped origin would silently never match, and somebody would reach for the star."""
    with pytest.raises(ValueError, match="no origin"):
        CorsConfig.model_validate({"origins": [origin]})
