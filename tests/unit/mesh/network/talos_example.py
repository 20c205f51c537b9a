"""The example under deploy/talos, as it is rendered. `python -m tests.unit.mesh.network.talos_example` writes it anew; a test holds it equal."""

from ipaddress import IPv4Network
from pathlib import Path

from lamplighter.mesh import nodes, talos
from lamplighter.mesh.nodes import Node
from tests.unit.mesh.network.files import CONFIG, TWO

FOLDER = Path(__file__).resolve().parents[4] / "deploy" / "talos"
_YOURS = "(`lamplighter mesh talos` puts yours here)"
_LABELS = {"ca.crt": "NEBULA CERTIFICATE", "node.crt": "NEBULA CERTIFICATE", "node.key": "NEBULA X25519 PRIVATE KEY"}


def rendered() -> dict[str, str]:
    """The files by name, with placeholders for what is secret or one house's own."""
    files = {name: f"-----BEGIN {label}-----\n{_YOURS}\n-----END {label}-----\n" for name, label in _LABELS.items()}
    files["config.yml"] = nodes.render(Node("home"), CONFIG, lighthouse_addresses=TWO, folder=talos.FOLDER)
    node = talos.TalosNode("house-1", IPv4Network("192.168.1.0/24"), control_plane=True)
    return talos.render(node, files, CONFIG)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
