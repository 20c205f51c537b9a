"""Aliases, fallbacks, servers and breakers: what is refused, and in which words."""

import pytest
import yaml

from lamplighter.config import Config, StaticPool, parse
from lamplighter.core.errors import ConfigError

POOL = {"kind": "static", "url": "http://a:1"}


def config_of(pool: dict[str, object] | None = None, **models: dict[str, object]) -> Config:
    full = {name: {"engine": "openai", "pool": "p", **model} for name, model in models.items()}
    return parse(yaml.safe_dump({"models": full, "pools": {"p": pool or POOL}}))


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"a": {"aliases": ["b"]}, "b": {}}, "'b' is a model of its own"),
        ({"a": {"aliases": ["a"]}}, "'a' is a model of its own"),
        ({"a": {"aliases": ["x"]}, "b": {"aliases": ["x"]}}, "'x' is an alias of the model"),
        ({"a": {"aliases": ["x", "x"]}}, "'x' is written twice"),
        ({"a": {"fallback": ["x"]}}, "there is no model 'x'"),
        ({"a": {"fallback": ["a"]}}, "it leads back to 'a'"),
        ({"a": {"fallback": ["b"]}, "b": {"fallback": ["a"]}}, "it leads back to 'a'"),
        ({"a": {"fallback": ["b"]}, "b": {"fallback": ["c"]}, "c": {"fallback": ["a"]}}, "it leads back to"),
        ({"a": {"fallback": ["b", "b"]}, "b": {}}, "'b' is written twice"),
    ],
)
def test_names_that_lead_nowhere_or_in_circles(models: dict[str, dict[str, object]], words: str) -> None:
    """A request would go to another model than the file seems to say, or to none."""
    with pytest.raises(ConfigError, match=words):
        config_of(**models)


def test_a_chain_may_branch_and_meet() -> None:
    """A sensible chain would be refused as a circle."""
    config = config_of(a={"fallback": ["b", "c"]}, b={"fallback": ["c"]}, c={"aliases": ["gpt-4o", "gpt-4o-mini"]})
    assert config.models["a"].fallback == ["b", "c"]


def test_servers_of_a_pool() -> None:
    """Weights would go to the wrong server, or `/v1` be there twice."""
    pool = config_of({**POOL, "weight": 3, "servers": [{"url": "http://b:1/v1/"}]}, a={}).pools["p"]
    assert isinstance(pool, StaticPool)
    assert pool.weights == {"http://a:1": 3, "http://b:1": 1}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"servers": [{"url": "http://a:1/v1"}]}, "written twice"),
        ({"servers": [{"url": "http://b:99999"}]}, "impossible port"),
        ({"servers": [{"url": "http://b:1", "weight": 0}]}, "greater than 0"),
    ],
)
def test_servers_that_make_no_sense(more: dict[str, object], words: str) -> None:
    """A typing error would halve the capacity in silence."""
    with pytest.raises(ConfigError, match=words):
        config_of({**POOL, **more}, a={})


def test_a_breaker_that_opens_for_longer_than_its_longest() -> None:
    """The doubling would go backwards."""
    with pytest.raises(ConfigError, match="open must not be longer than open_max"):
        parse("breaker: {open: 5m}")
