"""One lab for each module of journeys: two lighthouses, home, two cloud nodes and a laptop."""

from collections.abc import Iterator

import pytest

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh.nodes import Node
from tests.mesh_lab import Lab, missing

CONFIG = MeshConfig.model_validate(
    {
        "lighthouses": [
            {"name": "one", "overlay": "10.77.0.1"},
            {"name": "two", "overlay": "10.77.0.2"},
        ]
    }
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """All machines, running."""
    if reason := missing():
        pytest.skip(reason)
    with Lab(CONFIG) as made:
        made.add("one", Node("lighthouse"), "10.77.0.1")
        made.add("two", Node("lighthouse"), "10.77.0.2")
        for machine in made.machines.values():
            machine.write()  # each now knows the other's address
        made.add("home", Node("home", ssh=True), "10.77.0.10")
        made.add("gpu", Node("gpu"), "10.77.128.1")
        made.add("other", Node("gpu"), "10.77.128.2")
        made.add("laptop", Node("laptop"), "10.77.0.20")
        made.start()
        yield made
