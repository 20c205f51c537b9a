"""Contract suites: subclass one in a test module, give it its fixture, and every promise of the contract is tested against yours.

They import pytest, which only tests have.
"""

from lamplighter.testing.contracts.engine import EngineContract, EngineWorld
from lamplighter.testing.contracts.provider import ProviderContract, ProviderWorld

__all__ = ["EngineContract", "EngineWorld", "ProviderContract", "ProviderWorld"]
