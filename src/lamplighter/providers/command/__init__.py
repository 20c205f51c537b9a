"""A machine of the user's own, woken and put to sleep by the user's own commands."""

from lamplighter.providers.command.provider import CommandProvider

__all__ = ["CommandProvider"]
