"""A pretended AWS for tests: `Emulator`, and machines in it that live as real nodes do, `NodeFactory`. Importing it is slow (moto); only tests do."""

from lamplighter.testing.aws.capacity import Capacity
from lamplighter.testing.aws.emulator import Emulator, Machine
from lamplighter.testing.aws.factory import NodeFactory, assignment_of
from lamplighter.testing.aws.guard import KEY, REGION, NotEmulatedError, allow, check
from lamplighter.testing.aws.node import FakeNode, Fault, NodePlan
from lamplighter.testing.aws.stack import PoolSeed
from lamplighter.testing.aws.world import Pace

__all__ = [
    "KEY", "REGION", "Capacity", "Emulator", "FakeNode", "Fault", "Machine", "NodeFactory", "NodePlan", "NotEmulatedError", "Pace",
    "PoolSeed", "allow", "assignment_of", "check",
]  # fmt: skip
