"""Bad configuration: each mistake is one clear line with the setting's path and its line; good configuration means what it says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config import Config, ProcessPool, StaticPool, defaults, load, parse
from lamplighter.config.reference import settings
from lamplighter.core.errors import ConfigError
from lamplighter.core.units import Duration

GOOD_MODEL = {"engine": "llamacpp", "pool": "here", "source": "bundled"}
GOOD_POOL: Mapping[str, Mapping[str, Any]] = {
    "process": {"kind": "process"},
    "static": {"kind": "static", "url": "http://nas.lan:11434"},
    "command": {"kind": "command", "url": "http://desk.lan:11434", "wake": "wakeonlan", "sleep": ["ssh", "desk"]},
    "aws": {"kind": "aws", "region": "eu-central-1"},
    "kubernetes": {"kind": "kubernetes"},
    "fake": {"kind": "fake"},
}
NEEDED: Mapping[str, Mapping[str, Any]] = {
    "server.tls": {"certificate": "tls.crt", "key": "tls.key"},
    "server.admin": {"port": 9090},
    "cloud.lighthouse": {"name": "light"},
}
"""What a section within a section must have before anything else in it can be wrong."""
SETTINGS = list(settings())


def bad_values(setting: Mapping[str, Any]) -> list[Any]:
    """Values that the setting must refuse, derived from its own schema."""
    if options := [option for option in setting.get("anyOf", ()) if option.get("type") != "null"]:
        if {option.get("type") for option in options} == {"string", "array"}:  # a command: a text or a list of words
            return [5, "", [], [""], ["word", 5], {"a": "b"}]
        setting = options[0]
    bad: list[Any] = [["a", "list"]] if setting.get("type") != "array" else ["no list", [["a", "list"]], [7], {"a": 1}]
    if setting.get("type") in ("integer", "number"):
        bad += ["many", True, "12"]
        if "minimum" in setting:
            bad.append(setting["minimum"] - 1)
        if "exclusiveMinimum" in setting:
            bad.append(setting["exclusiveMinimum"])
        if "maximum" in setting:
            bad.append(setting["maximum"] + 1)
        if setting["type"] == "integer":
            bad.append(1.5)
    elif setting.get("type") == "boolean":
        bad += ["perhaps", 2]
    elif setting.get("type") == "array":
        if setting.get("items", {}).get("type") == "integer":
            bad.remove([7])
            bad += [["many"], [True], [1.5]]
    elif setting.get("type") == "object":
        bad += ["text", 3, {"stage": [7]}]
    elif "enum" in setting or "const" in setting:
        bad += ["something else", 7]
    elif "pattern" in setting:
        bad += ["", "???", {"a": 1}]
        if "ms|s|m|h|d" in setting["pattern"]:
            bad += [10, "10", "10 weeks", "-5s"] + ([] if "never" in setting["pattern"] else ["never"])
        if "KMGT" in setting["pattern"]:
            bad += [10, "10", "-5MB", "0MB"]
    else:
        bad += [5, ""]
    return bad


def document(path: str, value: Any) -> dict[str, Any]:
    """A configuration that is good but for `value` at `path`."""
    section, _, name = path.rpartition(".")
    if section == "models.*":
        return {"models": {"m": {**GOOD_MODEL, name: value}}, "pools": {"here": {"kind": "process"}}}
    if section.startswith("models.*."):
        part = section.removeprefix("models.*.")
        return {"models": {"m": {**GOOD_MODEL, part: {name: value}}}, "pools": {"here": {"kind": "process"}}}
    if section.startswith("pools.*"):
        kind, _, part = section.partition("(")[2].partition(")")
        inside = {part.removeprefix("."): {name: value}} if part else {name: value}
        return {"models": {}, "pools": {"here": {**GOOD_POOL[kind], **inside}}}
    *outer, inner = section.split(".")
    whole: dict[str, Any] = {inner: {**NEEDED.get(section, {}), name: value}}
    for part in reversed(outer):
        whole = {part: whole}
    return whole


def as_yaml(value: Any) -> str:
    import json

    return json.dumps(value, indent=1)  # JSON is YAML, and gives each setting a line of its own


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, setting, _ in SETTINGS for value in bad_values(setting)], ids=str
)
def test_every_setting_refuses_nonsense_in_one_line(path: str, value: Any) -> None:
    """A typo in any setting would otherwise be taken for something else, or end in a traceback."""
    text = as_yaml(document(path, value))
    with pytest.raises(ConfigError) as caught:
        parse(text, name="lamplighter.yaml")
    error = caught.value
    name = path.rpartition(".")[2]
    assert name in error.message, error.message
    assert "\n" not in error.message
    assert error.next_step
    assert error.line is not None
    assert f"lamplighter.yaml:{error.line}: " in error.message
    assert name in text.splitlines()[error.line - 1] or isinstance(value, dict | list)  # an element has a line of its own
    for internal in ("pydantic", "Input should", "function", "tagged-union", "type=", "ctx"):
        assert internal not in error.message


@pytest.mark.parametrize("path", [path for path, _, required in SETTINGS if required])
def test_a_missing_required_setting_is_named(path: str) -> None:
    """Whoever forgets a setting learns which one."""
    section, _, name = path.rpartition(".")
    whole: dict[str, Any] = document(path, "x")
    if section == "models.*":
        item = whole["models"]["m"]
    elif section.startswith("pools.*"):
        item = whole["pools"]["here"]
    else:
        item = whole
        for part in section.split("."):
            item = item[part]
    del item[name]
    with pytest.raises(ConfigError, match=name):
        parse(as_yaml(whole))


@pytest.mark.parametrize("section", ["", "server", "gateway", "keeper", "log", "models.m", "pools.here"])
def test_an_unknown_setting_is_refused_with_its_line(section: str) -> None:
    """A misspelt setting must not be ignored in silence."""
    lines = ["models:", " m:", "  engine: llamacpp", "  pool: here", "  source: bundled", "pools:", " here:", "  kind: process"]
    if section in ("server", "gateway", "keeper", "log"):
        lines += [f"{section}:", " sleep_afer: 5s"]
    elif section == "models.m":
        lines.insert(5, "  sleep_afer: 5s")
    elif section == "pools.here":
        lines.append("  sleep_afer: 5s")
    else:
        lines.append("sleep_afer: 5s")
    with pytest.raises(ConfigError, match="there is no such setting") as caught:
        parse("\n".join(lines))
    assert caught.value.line == next(number for number, line in enumerate(lines, 1) if "sleep_afer" in line)
    assert caught.value.where == ".".join(part for part in (section, "sleep_afer") if part)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: {m: {engine: llamacpp, pool: nowhere, source: bundled}}\npools: {here: {kind: process}}", "there is no pool 'nowhere'"),
        ("models: {m: {engine: openai, pool: here}}\npools: {here: {kind: process}}", "runs in a pool of kind 'static'"),
        ("models: {m: {engine: llamacpp, pool: here}}\npools: {here: {kind: process}}", "models.m.source: write bundled"),
        ("models: {m: {engine: llamacpp, pool: here, source: 's3:x'}}\npools: {here: {kind: process}}", "models.m.source: write bundled"),
        ("models: {m: {engine: llamacpp, pool: here, source: bundled, while_waking: m}}\npools: {here: {kind: process}}", "stand in for itself"),
        ("models: {m: {engine: llamacpp, pool: here, source: bundled, while_waking: n}}\npools: {here: {kind: process}}", "no model 'n'"),
        ("pools: {here: {kind: process, min_replicas: 3, max_replicas: 2}}", "min_replicas must not be larger"),
        ("pools: {here: {}}", "pools.here.kind: is missing"),
        ("pools: {here: {kind: rented}}", "pools.here.kind: must be one of"),
        ("pools: {UPPER: {kind: process}}", "UPPER"),
        ("models: {'bad name': {engine: llamacpp, pool: here, source: bundled}}\npools: {here: {kind: process}}", "bad name"),
        ("models: [a, b]", "models"),
        ("[1, 2]", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("server: {port: 80}\nserver: {port: 81}", "there twice (first on line 1)"),
        ("server:\n  port: 80\n  port: 81", "there twice (first on line 2)"),
        ("server: {port: 80", "lamplighter.yaml:"),
        ("server:\n\tport: 80", "lamplighter.yaml:2"),
        ("a: *nothing", "nothing"),
        ("a: !!python/object/apply:os.system [true]", "lamplighter.yaml:1"),
        ("\x00", "lamplighter.yaml"),
    ],
)  # fmt: skip
def test_mistakes_across_settings_are_explained(text: str, says: str) -> None:
    """Mistakes that no single setting shows must be found before anything starts."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert says in caught.value.message


def test_all_mistakes_come_at_once() -> None:
    """Nobody wants to correct a file one mistake at a time."""
    with pytest.raises(ConfigError) as caught:
        parse("server: {port: 0}\nkeeper: {interval: 5}\nlog: {format: xml}")
    assert len(caught.value.message.splitlines()) == 3
    assert caught.value.where == "server.port"


def test_no_file_serves_the_bundled_model() -> None:
    """The first start of a newcomer has no file."""
    config = defaults()
    assert config.models["small"].source == "bundled"
    assert isinstance(config.pools["here"], ProcessPool)
    assert parse("") == config
    assert parse("# only a comment") == config


def test_a_file_that_only_tunes_still_serves_the_bundled_model() -> None:
    """Changing the port must not take the models away."""
    config = parse("server: {port: 9999}")
    assert config.server.port == 9999
    assert list(config.models) == ["small"]


def test_units_mean_what_they_say() -> None:
    """A duration read as another would hold requests for hours, or not at all."""
    config = parse("gateway: {hold: 1m30s, max_body: 2MiB, max_wait: never}\npools: {here: {kind: process, sleep_after: never}}")
    assert config.gateway.hold == Duration(90)
    assert config.gateway.max_body == 2 * 2**20
    assert config.gateway.max_wait == float("inf")
    assert isinstance(config.pools["here"], ProcessPool)
    assert str(config.pools["here"].sleep_after) == "never"


def test_a_static_url_may_end_in_v1() -> None:
    """People paste the base URL of an SDK, which ends in /v1."""
    for url in ("http://nas.lan:11434/v1", "http://nas.lan:11434/v1/", "http://nas.lan:11434/"):
        pool = parse(f"pools: {{nas: {{kind: static, url: '{url}'}}}}").pools["nas"]
        assert isinstance(pool, StaticPool)
        assert pool.url == "http://nas.lan:11434"


def test_what_is_shown_can_be_read_again() -> None:
    """`lamplighter config show > lamplighter.yaml` must not change anything."""
    import yaml

    config = parse(
        "gateway: {max_body: 1234567B, hold: 1234567ms, early_headers: 0s}\n"
        "pools: {f: {kind: fake}, s: {kind: static, url: 'http://x', key: 'env:X'}, p: {kind: process, sleep_after: never}}"
    )
    assert parse(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True))) == config
    assert config.gateway.hold == Duration(1234.567)


def test_the_tree_cannot_be_changed() -> None:
    """A part that changed the settings of another would be impossible to find."""
    with pytest.raises(Exception, match="frozen"):
        defaults().server.port = 1


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """A wrong --config ends in a sentence."""
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)
    (binary := tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(binary)
    (huge := tmp_path / "huge.yaml").write_text("#" * 1_000_001)
    with pytest.raises(ConfigError, match="1 MB"):
        load(huge)


def test_a_file_made_to_exhaust_memory_is_refused(tmp_path: Path) -> None:
    """A few lines of aliases must not grow into gigabytes."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(ConfigError) as caught:
        parse(bomb)
    assert len(caught.value.message) < 20_000


def test_deep_nesting_is_refused() -> None:
    """A file of brackets ends in a sentence, not in a stack overflow."""
    with pytest.raises(ConfigError):
        parse("[" * 100_000)


def test_every_config_field_is_reachable() -> None:
    """The generated reference must not forget a section."""
    assert {path.partition(".")[0] for path, _, _ in SETTINGS} == set(Config.model_fields)


def test_a_pool_may_be_named_like_its_kind() -> None:
    """Whoever calls the AWS pool `aws` would be shown the wrong line for a mistake in it."""
    with pytest.raises(ConfigError) as caught:
        parse("pools:\n process: {kind: process}\n aws:\n  kind: aws\n  region: nowhere\n", name="lamplighter.yaml")
    assert caught.value.line == 5
    assert "pools.aws.region" in caught.value.message
