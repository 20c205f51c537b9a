"""The Nebula that we install where we install one: version, checksums, container image, what each Talos carries.

Not responsible for machines that have a Nebula already: Debian 12's 1.6.1 is enough for everything that we render.
"""

VERSION = "1.11.2"
DOWNLOAD = "https://github.com/slackhq/nebula/releases/download/v{version}/nebula-linux-{machine}.tar.gz"
SHA256 = {
    "amd64": "6140d33f2ec21ce7f6b655b5bc820e93a684d97e51d0ddcf907324b5b28aac1e",
    "arm64": "85d10e7bc2d121193c1392a1a919172ded7c413f46e602138281cfa9fa1b0231",
}
"""Of the release's archives, by the name that Go gives the machine."""

IMAGE = "docker.io/nebulaoss/nebula:1.11.0"
"""The official image: programs /nebula and /nebula-cert, no shell; reads /config/config.yml unless told otherwise."""

FIRST_WITH_V2 = (1, 10)
"""The first Nebula that reads certificates of version 2."""

TALOS = (((1, 11, 6), "1.9.6"), ((1, 12, 0), "1.10.0"), ((1, 13, 9), "1.11.0"))
"""From which Talos on the extension `siderolabs/nebula` is which Nebula, as read in the extensions' releases; ascending."""


def parsed(version: str) -> tuple[int, ...]:
    """`v1.12.0` as numbers, to compare. Raises ValueError."""
    return tuple(int(part) for part in version.strip().removeprefix("v").partition("-")[0].partition("+")[0].split("."))


def nebula_of_talos(version: str) -> str | None:
    """The oldest Nebula that this Talos may carry; None where it is older than what we know. Raises ValueError."""
    wanted = parsed(version)
    known = [nebula for talos, nebula in TALOS if talos <= wanted]
    return known[-1] if known else None


__all__ = ["DOWNLOAD", "FIRST_WITH_V2", "IMAGE", "SHA256", "TALOS", "VERSION", "nebula_of_talos", "parsed"]
