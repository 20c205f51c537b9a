"""Writes the tables of inputs and outputs into the README of the Terraform module, or with `--check` says that they are not up to date.

Reads only what this module uses of Terraform's language: top-level `variable` and `output` blocks with `description`, `type` and `default`.
Not a parser of HCL. Standard library only.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).resolve().parent.parent / "deploy" / "terraform" / "aws"
BEGIN, END = "<!-- inputs and outputs: made by tools/terraform_docs.py -->", "<!-- end of what is made -->"
_CLOSING = {"{": "}", "[": "]", "(": ")"}


@dataclass(frozen=True, slots=True)
class Block:
    """One variable or output. `default`: as it is written; None where there is none."""

    name: str
    description: str
    type: str
    default: str | None


def blocks(text: str, kind: str) -> Iterator[Block]:
    """The top-level blocks of one kind, in the order of the file. Raises ValueError for one without description."""
    for found in re.finditer(rf'^{kind} "([^"]+)" \{{\n(.*?)^\}}', text, re.MULTILINE | re.DOTALL):
        name, body = found.groups()
        description = _attribute(body, "description")
        if description is None:
            message = f'{kind} "{name}" has no description'
            raise ValueError(message)
        yield Block(name, _text(description), _attribute(body, "type") or "", _attribute(body, "default"))


def _attribute(body: str, name: str) -> str | None:
    """The value of an attribute of the block itself, as it is written; one of a nested block is indented further and does not count."""
    found = re.search(rf"^  {name}\s*=\s*", body, re.MULTILINE)
    if found is None:
        return None
    rest = body[found.end() :]
    marked = re.match(r"<<-?([A-Z]+)\n(.*?)^\s*\1$", rest, re.MULTILINE | re.DOTALL)
    if marked:
        return rest[: marked.end()]
    return rest[: _end(rest)].strip()


def _end(text: str) -> int:
    """Where a value ends: at the end of a line, outside of brackets and quotes."""
    open_brackets: list[str] = []
    quoted = False
    for position, sign in enumerate(text):
        if sign == '"' and text[position - 1 : position] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif sign in _CLOSING:
            open_brackets.append(_CLOSING[sign])
        elif open_brackets and sign == open_brackets[-1]:
            open_brackets.pop()
        elif sign == "\n" and not open_brackets:
            return position
    return len(text)


def _text(value: str) -> str:
    if value.startswith("<<"):
        lines = value.split("\n")[1:-1]
        return " ".join(line.strip() for line in lines)
    return value.strip('"').replace('\\"', '"')


def _cell(value: str) -> str:
    return value.replace("|", "\\|")


def _word(value: str) -> str:
    """A type or default in a cell of one line."""
    return f"`{_cell(' '.join(value.split()))}`"


def tables(folder: Path) -> str:
    """The generated part of the README."""
    lines = ["## Inputs", "", "| name | type | default | what it is |", "|---|---|---|---|"]
    details = []
    for one in blocks((folder / "variables.tf").read_text(encoding="utf-8"), "variable"):
        simple = "\n" not in one.type
        kind = _word(one.type) if simple else f"[below](#{one.name})"
        default = _word(one.default) if one.default is not None else "required"
        lines.append(f"| `{one.name}` | {kind} | {default} | {_cell(one.description)} |")
        if not simple:
            details += ["", f"### {one.name}", "", "```hcl", one.type.replace("\n  ", "\n"), "```"]
    lines += [*details, "", "## Outputs", "", "| name | what it is |", "|---|---|"]
    lines += [
        f"| `{one.name}` | {_cell(one.description)} |"
        for one in blocks((folder / "outputs.tf").read_text(encoding="utf-8"), "output")
    ]
    return "\n".join(lines)


def rendered(readme: str, folder: Path) -> str:
    """The README with its generated part as it should be. Raises ValueError when it has no place for it."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        message = f"README.md has no lines {BEGIN!r} and {END!r}"
        raise ValueError(message)
    return f"{before}{BEGIN}\n\n{tables(folder)}\n\n{END}{after}"


def main(folder: Path = MODULE) -> int:
    """Write what is not up to date; with `--check` only say it and exit 1."""
    path = folder / "README.md"
    there = path.read_text(encoding="utf-8")
    wanted = rendered(there, folder)
    if there == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{path.name} of {folder.name} is not up to date; run `python -m tools.terraform_docs`", file=sys.stderr)
        return 1
    path.write_text(wanted, encoding="utf-8")
    print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
