"""Engines as processes of this machine. `provider` is the contract, `replica` one replica's folder and process."""

from lamplighter.providers.process.provider import ProcessProvider

__all__ = ["ProcessProvider"]
