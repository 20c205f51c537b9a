"""Nebula as a container on a machine with Docker or Podman. Not responsible for Kubernetes: that is `kubernetes`."""

import yaml

from lamplighter.mesh.releases import IMAGE

FILE = "compose.yaml"
FILES = "nebula"
"""The folder of the node's files beside it."""
CONFIG = "/config"
"""Where the image expects its files; the node's configuration is rendered for it."""


_HEAD = """\
# Made by `lamplighter mesh render --container`. After a change: docker compose kill -s HUP nebula
# The root in the container may read its own files only: chown -R 0:0 nebula
"""


def compose(image: str = IMAGE) -> str:
    """A `compose.yaml` that lies beside the node's files."""
    return (
        "# Made by `lamplighter mesh render --container`. After a change: docker compose kill -s HUP nebula\n"
        + yaml.safe_dump(
            {
                "services": {
                    "nebula": {
                        "image": image,
                        "command": ["-config", CONFIG],
                        # The interface must be the machine's own.
                        "network_mode": "host",
                        "devices": ["/dev/net/tun:/dev/net/tun"],
                        "cap_drop": ["ALL"],
                        "cap_add": ["NET_ADMIN"],
                        "security_opt": ["no-new-privileges:true"],
                        "read_only": True,
                        "volumes": [f"./{FILES}:{CONFIG}:ro"],
                        "restart": "unless-stopped",
                    }
                }
            },
            sort_keys=False,
        )
    )


def command(folder: str, image: str = IMAGE, program: str = "podman") -> str:
    """The same as one command line."""
    return (
        f"{program} run --detach --name nebula --restart unless-stopped --network host --device /dev/net/tun "
        f"--cap-drop ALL --cap-add NET_ADMIN --security-opt no-new-privileges --read-only --volume {folder}:{CONFIG}:ro {image} -config {CONFIG}"
    )


__all__ = ["CONFIG", "FILE", "FILES", "command", "compose"]
