"""The Nebula that a node's first script installs is the one that the mesh installs elsewhere."""

from pathlib import Path

from lamplighter.mesh import releases

SCRIPT = Path(__file__).parents[3] / "deploy" / "terraform" / "aws" / "files" / "bootstrap.sh"


def test_node_and_lighthouse_install_the_same_nebula() -> None:
    """Two places to raise a version in are one place that is forgotten, with a checksum that nobody looked at."""
    script = SCRIPT.read_text()
    assert f"version={releases.VERSION} sum={releases.SHA256['amd64']}" in script
