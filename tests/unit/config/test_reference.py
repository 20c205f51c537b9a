"""The generated descriptions of the configuration are complete and true."""

import re
from pathlib import Path

import pytest
import yaml

from lamplighter.config import defaults, parse
from lamplighter.config.reference import json_schema, settings, settings_markdown
from lamplighter.engines.sources.files import parse as parse_source

EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "examples").glob("*.yaml"))


@pytest.mark.parametrize(("path", "description"), [(path, setting.get("description", "")) for path, setting, _ in settings()])
def test_every_setting_is_described(path: str, description: str) -> None:
    """A setting that nobody explains is one that nobody can use."""
    assert len(description) > 10, path
    assert description.endswith("."), path


def test_every_setting_is_in_the_reference() -> None:
    """The page that people search must hold every setting."""
    text = settings_markdown()
    for path, _, _ in settings():
        section, _, name = path.rpartition(".")
        part = text.split(f"## `{section}`\n")[1].split("\n## ")[0]
        assert f"| `{name}` |" in part


def test_every_default_of_the_schema_is_the_real_one() -> None:
    """A reference that names another default than the program has is worse than none."""
    real = defaults().model_dump(mode="json")
    for path, setting, required in settings():
        section, _, name = path.rpartition(".")
        part = real
        for step in section.split("."):
            part = part.get(step) or {}
        if name in part and not required:
            shown, actual = setting.get("default"), part[name]
            assert str(shown).replace(" ", "") == str(actual).replace(" ", ""), path


def test_the_schema_accepts_the_shape_that_people_write() -> None:
    """Editors would otherwise underline good files: units are text, nothing is required at the top."""
    schema = json_schema()
    assert schema["required"] == []
    hold = schema["$defs"]["GatewayConfig"]["properties"]["hold"]
    assert hold["type"] == "string"
    assert re.fullmatch(hold["pattern"], "1h30m")
    assert not re.fullmatch(hold["pattern"], "never")
    assert not re.fullmatch(hold["pattern"], "30")


def test_making_the_schema_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    """A warning here means that a default is missing from what editors show."""
    json_schema()
    assert not list(recwarn)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_good_configuration(path: Path) -> None:
    """People begin by copying an example: it must work, and name only what exists."""
    config = parse(path.read_text(encoding="utf-8"), name=path.name)
    assert config.models
    for model in config.models.values():
        if model.engine == "llamacpp":
            parse_source(model.source or "")  # raises for what the catalogue does not have
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_there_are_examples() -> None:
    """The parametrised test above must not pass for want of files."""
    assert len(EXAMPLES) >= 4


def test_the_readme_of_settings_shows_the_defaults() -> None:
    """The example at the top of the reference is what is served with no file."""
    block = settings_markdown().split("```yaml\n")[1].split("```")[0]
    assert parse(block) == defaults()
    assert yaml.safe_load(block)
