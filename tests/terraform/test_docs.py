"""The tables of the module's README."""

import pytest

from tests.terraform.toolchain import MODULE
from tools import terraform_docs


def test_the_tables_are_up_to_date() -> None:
    """A person would set a variable that is not there, or miss one that is."""
    readme = (MODULE / "README.md").read_text(encoding="utf-8")
    assert terraform_docs.rendered(readme, MODULE) == readme


def test_every_variable_and_output_is_in_them() -> None:
    """The reader of the files would have skipped one in silence."""
    text = terraform_docs.tables(MODULE)
    for kind in ("variable", "output"):
        for path in MODULE.glob("*.tf"):
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.startswith(f'{kind} "'):
                    assert f"| `{line.split(chr(34))[1]}` |" in text, line


def test_one_without_a_description_is_refused() -> None:
    """Nobody would know what it is for."""
    with pytest.raises(ValueError, match="lost"):
        list(terraform_docs.blocks('variable "lost" {\n  type = string\n}\n', "variable"))


def test_an_attribute_of_a_nested_block_is_not_the_variables_own() -> None:
    """The table would show a default that the variable does not have."""
    text = 'variable "a" {\n  description = "An \\"a\\"."\n  type = object({\n    default = string\n  })\n}\n'
    assert list(terraform_docs.blocks(text, "variable")) == [
        terraform_docs.Block("a", 'An "a".', "object({\n    default = string\n  })", None)
    ]
