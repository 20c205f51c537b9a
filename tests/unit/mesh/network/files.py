"""What the tests of the network's files share: a configuration with two lighthouses, one of which only the stack knows the address of."""

from lamplighter.config.mesh import MeshConfig

NOW = 1_790_000_000.0

CONFIG = MeshConfig.model_validate(
    {
        "lighthouses": [
            {"name": "one", "overlay": "10.77.0.1", "addresses": ["203.0.113.1:4242"]},
            {"name": "two", "overlay": "10.77.0.2"},
        ]
    }
)
TWO = {"two": ["198.51.100.2:4242"]}
