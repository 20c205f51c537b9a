"""Packs `lamplighter.node` into the one file that a cloud node gets: deploy/terraform/aws/files/agent.py. `--check` only says whether it is new.

EC2 takes 16 KiB of user data, script and agent together. So docstrings, comments, protocols, the annotations of functions and the modules'
imports of each other are left out, with the assertions that only a type checker reads; the names of local variables and of what is private
(`_name`) are shortened. Not one other statement is changed. So no function of the package may be called with names that are data
(`**json.loads(...)`): a parameter may be called otherwise there; nor is a private attribute to be had by its name as a text. tests/node executes
the packed file.
"""

import argparse
import ast
import builtins
import itertools
import keyword
import string
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/lamplighter/node"
PACKED = ROOT / "deploy/terraform/aws/files/agent.py"
HEADER = "# Made by tools/pack_agent.py from src/lamplighter/node: read and change it there.\n"
WIDTH = 240
OURS = "lamplighter.node"
MODULES = ("basics", "keys", "aws", "deadman", "stages", "assignment", "docker", "nebula", "engine", "api", "agent", "__main__")
"""Each needs only what stands before it."""


class _Plain(ast.NodeTransformer):
    """Without what the interpreter does not need."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
            if argument is not None:
                argument.annotation = None
        node.body = _without_texts([_bare(one) for one in node.body if not _declares(one)])
        return node

    def visit_Assert(self, node: ast.Assert) -> None:
        """For the type checker alone."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.body = _without_texts(node.body)
        return node


def _bare(statement: ast.stmt) -> ast.stmt:
    """A local variable, or an attribute, without its annotation."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return ast.Assign([statement.target], statement.value, lineno=statement.lineno)
    return statement


def _declares(statement: ast.stmt) -> bool:
    """A type without a value."""
    return isinstance(statement, ast.AnnAssign) and statement.value is None


def _without_texts(body: list[ast.stmt]) -> list[ast.stmt]:
    """Docstrings say nothing to the interpreter."""
    kept = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return kept or [ast.Pass()]


def tree(*, private: bool = True) -> ast.Module:
    """The whole package as one module; `private`: with short private names. Raises ValueError when two modules give a name different meanings."""
    imports: dict[str, set[str]] = {}
    body: list[ast.stmt] = []
    names: dict[str, str] = {}
    for module in MODULES:
        parsed = ast.parse((PACKAGE / f"{module}.py").read_text())
        for statement in _without_texts(parsed.body):
            if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith(OURS):
                continue
            if isinstance(statement, ast.ImportFrom):
                imports.setdefault(f"from {statement.module}", set()).update(alias.name for alias in statement.names)
                continue
            if isinstance(statement, ast.Import):
                imports.setdefault("", set()).update(alias.name for alias in statement.names)
                continue
            if isinstance(statement, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in statement.bases):
                continue
            for name in _defined(statement):
                if name in names:
                    raise ValueError(f"{name} is in {names[name]} and in {module}: one of them needs another name")
                names[name] = module
            body.append(statement)
    lines = [f"{origin} import {', '.join(sorted(names))}".strip() for origin, names in imports.items()]
    first = ast.parse("\n".join(sorted(lines, key=lambda line: "__future__" not in line))).body
    whole = ast.Module(first + body, [])
    plain: ast.Module = _Plain().visit(whole)
    shortened: ast.Module = _Shorter(_shorter_names(plain)).visit(plain)
    done: ast.Module = _Private(private_names(shortened)).visit(shortened) if private else shortened
    return ast.fix_missing_locations(done)


class _Shorter(ast.NodeTransformer):
    """With other names for local variables."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._names.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._names.get(node.arg, node.arg)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        node.name = self._names.get(node.name or "", node.name)
        return node

    def visit_MatchAs(self, node: ast.MatchAs) -> ast.AST:
        self.generic_visit(node)
        node.name = self._names.get(node.name or "", node.name)
        return node

    def visit_MatchStar(self, node: ast.MatchStar) -> ast.AST:
        node.name = self._names.get(node.name or "", node.name)
        return node


class _Private(ast.NodeTransformer):
    """With other names for private attributes, methods and functions."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = self._names.get(node.attr, node.attr)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._names.get(node.id, node.id)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.name = self._names.get(node.name, node.name)
        return node


def private_names(whole: ast.Module) -> dict[str, str]:
    """Each private name that the package itself defines, and its short one: `_a`, which no class of the standard library has."""
    used = Counter(node.attr for node in ast.walk(whole) if isinstance(node, ast.Attribute))
    used.update(node.id for node in ast.walk(whole) if isinstance(node, ast.Name))
    ours = {node.name for node in ast.walk(whole) if isinstance(node, ast.FunctionDef)}
    ours |= {node.attr for node in ast.walk(whole) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    private = {name for name in ours if name.startswith("_") and not name.startswith("__")}
    short = (f"_{name}" for name in _alphabet() if f"_{name}" not in used)
    return {name: next(short) for name in sorted(private, key=lambda one: (-used[one], one))}


def _shorter_names(whole: ast.Module) -> dict[str, str]:
    """For names that are nothing but local variables, wherever they stand: no module's, class's or builtin name, and never a keyword argument."""
    taken = set(dir(builtins)) | set(keyword.kwlist) | set(keyword.softkwlist)
    used = Counter[str]()
    for node in ast.walk(whole):
        if isinstance(node, ast.Name):
            used[node.id] += 1
        elif isinstance(node, ast.arg):
            used[node.arg] += 1
        elif isinstance(node, ast.keyword) and node.arg:
            taken.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            taken.add(node.name)
        elif isinstance(node, ast.alias):
            taken.add(node.name.split(".")[0])
    bodies = [whole.body, *(node.body for node in ast.walk(whole) if isinstance(node, ast.ClassDef))]
    for one in itertools.chain(*bodies):
        if not isinstance(one, ast.FunctionDef | ast.ClassDef):
            taken.update(node.id for node in ast.walk(one) if isinstance(node, ast.Name))
    short = (name for name in _alphabet() if name not in taken and name not in used)
    return {name: next(short) for name, _ in used.most_common() if name not in taken and len(name) > 1}


def _alphabet() -> Iterator[str]:
    for length in (1, 2):
        yield from map("".join, itertools.product(string.ascii_letters, repeat=length))


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def packed() -> str:
    """The file's text: one space a level, no empty lines, short statements side by side. Raises ValueError when that changed its meaning."""
    meant = tree()
    lines: list[str] = []
    for line in filter(str.strip, ast.unparse(meant).splitlines()):
        text, depth = line.lstrip(), _depth(line) // 4
        last = lines[-1] if lines else "@"
        if _simple(last) and _simple(text) and _depth(last) == depth and len(last + text) < WIDTH:
            lines[-1] += ";" + text
        else:
            lines.append(" " * depth + text)
    result = HEADER + "\n".join(lines) + "\n"
    if ast.dump(ast.parse(result)) != ast.dump(ast.parse(ast.unparse(meant))):
        raise ValueError("the packed text means something else than the package")
    return result


def _simple(line: str) -> bool:
    """Not the head of a block, and nothing that belongs to one."""
    return not line.endswith(":") and not line.lstrip().startswith("@")


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def main() -> int:
    """1 with `--check` when the file is not what the package gives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args()
    text = packed()
    if PACKED.exists() and not PACKED.is_symlink() and PACKED.read_text() == text:
        return 0
    if given.check:
        print(f"{PACKED.relative_to(ROOT)} is not what {PACKAGE.relative_to(ROOT)} gives: run tools/pack_agent.py")
        return 1
    PACKED.parent.mkdir(parents=True, exist_ok=True)
    PACKED.unlink(missing_ok=True)
    PACKED.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
