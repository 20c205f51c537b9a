"""What can go wrong with authorities and certificates, as sentences for a person."""

from lamplighter.core.errors import LamplighterError


class MeshError(LamplighterError):
    """The mesh's authorities, certificates or published files: something is missing, wrong, or was refused."""

    code = "mesh_error"


class BadCertificate(MeshError):
    """What was given is no Nebula certificate, key or PEM that we can read."""

    code = "bad_certificate"


class NotTrusted(MeshError):
    """A certificate was read and is refused: unknown authority, forged, expired, blocked, or beyond what its authority may certify."""

    code = "not_trusted"


class BeyondAuthority(MeshError):
    """An authority was asked to certify what it may not: nothing was signed."""

    code = "beyond_authority"


class WrongPassphrase(MeshError):
    """The passphrase does not open the key."""

    code = "wrong_passphrase"
