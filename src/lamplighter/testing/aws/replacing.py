"""Puts our functions in the place of moto's, where moto lacks something or differs from AWS."""

from typing import Any


def replace(owner: Any, **methods: Any) -> None:
    """Set each of `methods` on the class `owner`."""
    for name, method in methods.items():
        setattr(owner, name, method)
