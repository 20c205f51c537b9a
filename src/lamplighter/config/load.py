"""Reads `lamplighter.yaml` and turns every mistake into one sentence with the setting's path, its line and what to write instead.

Not responsible for where the file is looked for: that is the command line's business.
"""

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lamplighter.config.model import DEFAULT_MODELS, DEFAULT_POOLS, Config
from lamplighter.core.errors import ConfigError

_MAX_FILE = 1_000_000
_KINDS = ("process", "static", "command", "kubernetes", "aws")
_TAGS = (*_KINDS, "fake")
_NO_KIND = {"union_tag_invalid", "union_tag_not_found"}


def load(path: Path) -> Config:
    """The configuration in the file at `path`. Raises ConfigError."""
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ConfigError(f"{path} is larger than 1 MB; that is no configuration", next_step="Check --config.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", next_step="Check --config.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})", next_step="Save it as UTF-8.") from error
    return parse(text, name=str(path))


def defaults() -> Config:
    """What is served with no file at all."""
    return Config.model_validate({"models": DEFAULT_MODELS, "pools": DEFAULT_POOLS})


def parse(text: str, *, name: str = "lamplighter.yaml") -> Config:
    """The configuration in `text`; `name` appears in errors. Raises ConfigError, all mistakes in one message."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicates(root, name)
        raw = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = error.problem or error.context or "is not YAML"
        raise ConfigError(
            f"{name}:{line or 1}: {problem}",
            line=line,
            next_step="Correct the YAML; `lamplighter config show` prints a whole example.",
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name}: is not YAML: {error}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}:1: the file must be a mapping with models and pools", line=1)
    # A file that only tunes the server still serves the bundled model; one that names models must name their pools.
    unnamed = "models" not in raw and "pools" not in raw
    raw = {**({"models": DEFAULT_MODELS, "pools": DEFAULT_POOLS} if unnamed else {"models": {}, "pools": {}}), **raw}
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, root, name) from None


def _refuse_duplicates(node: yaml.Node | None, name: str) -> None:
    """YAML lets the later of two equal keys win in silence; a person never means that."""
    for mapping in _mappings(node):
        seen: dict[Hashable, int] = {}
        for key, _ in mapping.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(
                    f"{name}:{line}: {key.value!r} is there twice (first on line {seen[key.value]})",
                    where=str(key.value),
                    line=line,
                    next_step="Delete one.",
                )
            seen[key.value] = key.start_mark.line + 1


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    pending, done = [node], set()
    while pending:
        current = pending.pop()
        if current is None or id(current) in done:
            continue
        done.add(id(current))
        if isinstance(current, yaml.MappingNode):
            yield current
            pending.extend(value for _, value in current.value)
        elif isinstance(current, yaml.SequenceNode):
            pending.extend(current.value)


def _explain(error: ValidationError, root: yaml.Node | None, name: str) -> ConfigError:
    sentences, first_where, first_line = [], "", None
    for detail in error.errors():
        where = list(detail["loc"])
        if len(where) > 2 and where[0] == "pools" and where[2] in _TAGS:
            del where[2]  # the tag of the kind, which stands nowhere in the file
        if detail["type"] in _NO_KIND:
            where.append("kind")
        message = _sentence(detail)
        path, colon, rest = message.partition(": ")
        if not where and colon and path.startswith(("models.", "pools.", "cloud.")):  # a cross-field rule names its own place
            where, message = _split(path), rest
        line = _line(root, where)
        dotted = ".".join(str(part) for part in where)
        sentences.append(f"{name}{f':{line}' if line else ''}: {dotted + ': ' if dotted else ''}{message}")
        if not first_where:
            first_where, first_line = dotted, line
    return ConfigError(
        "\n".join(sentences),
        where=first_where,
        line=first_line,
        next_step="`lamplighter config schema` and docs/reference/settings.md list every setting.",
    )


def _split(path: str) -> list[str | int]:
    section, _, rest = path.partition(".")
    item, _, setting = rest.rpartition(".")
    return [section, item, setting]


def _sentence(detail: ErrorDetails) -> str:
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "there is no such setting"
    if kind == "missing":
        return "is missing"
    if kind in _NO_KIND:
        got = value.get("kind") if isinstance(value, dict) else value
        kinds = ", ".join(_KINDS)
        return f"is missing; write one of {kinds}" if got is None else f"must be one of {kinds}; got {got!r}"
    if kind == "value_error":
        return str(context.get("error", detail["msg"]))
    if kind == "literal_error":
        return f"must be {context.get('expected')}; got {value!r}"
    if kind == "string_pattern_mismatch":
        return f"{value!r} does not have the right form ({context.get('pattern')})"
    message = detail["msg"].removeprefix("Input should be ")
    return f"must be {message}; got {value!r}" if message != detail["msg"] else f"{message}; got {value!r}"


def _line(root: yaml.Node | None, where: Sequence[str | int]) -> int | None:
    """The 1-based line of the setting, or of its nearest ancestor that is written in the file."""
    node, line = root, None
    for part in where:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
