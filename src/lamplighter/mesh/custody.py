"""Takes an authority's key off this machine, proven to be whole elsewhere, and brings it back; takes over authorities of others.

Not responsible for where the exported file is kept.
"""

from ipaddress import IPv4Interface

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import keys, pem
from lamplighter.mesh.administration import check_passphrase
from lamplighter.mesh.authority import read_key
from lamplighter.mesh.certificates import Certificate, parse_bundle, public_bytes
from lamplighter.mesh.errors import MeshError
from lamplighter.mesh.issuing import ONLINE_GROUPS
from lamplighter.mesh.storage import AuthorityRecord, Index, MeshFolder, Role


def exported(folder: MeshFolder, authority: AuthorityRecord) -> str:
    """Key (encrypted, as it lies here) and certificate of an authority in one text. Raises MeshError."""
    return read_key(folder, authority.role, authority.fingerprint) + authority.certificate


def remove_key(folder: MeshFolder, authority: AuthorityRecord, copy: str) -> None:
    """Take the key off this machine, after checking that `copy` (what the export's file holds) is whole. Raises MeshError."""
    if copy != exported(folder, authority):
        raise MeshError(
            "the exported file is not what was written; the key stays here", code="export_failed", next_step="Export it again."
        )
    folder.key_file(authority.role, authority.fingerprint).unlink(missing_ok=True)


def imported_role(folder: MeshFolder, text: str) -> Role:
    """Whose passphrase an imported file needs, by the certificate in it; without one it is taken for the offline authority's."""
    index = folder.read()
    for fingerprint, certificate in _certificates(text).items():
        known = index.authorities.get(fingerprint)
        return known.role if known is not None else _role(certificate)
    return "offline"


def import_authority(
    folder: MeshFolder, config: MeshConfig, text: str, passphrase: str, now: float
) -> tuple[AuthorityRecord, bool]:
    """Bring a key back, or take over an authority that nebula-cert or another installation made; the authority, and whether it is new here.

    `text`: the key, encrypted or plain, and for an unknown authority its certificate too. It is stored encrypted with `passphrase`, which
    must also open it. Raises MeshError, WrongPassphrase.
    """
    key = keys.parse_authority_key(text, passphrase)
    public = public_bytes(key)
    with folder.change() as index:
        for known in index.authorities.values():
            if known.parsed().public_key == public:
                _store_key(folder, known, text, key, passphrase)
                return known, False
        certificates = [one for one in _certificates(text).values() if one.public_key == public]
        if not certificates:
            raise MeshError(
                "the key belongs to no authority that is known here, and the file holds no certificate of it",
                code="unknown_authority",
                next_step="Put the authority's certificate (ca.crt) behind the key in the same file.",
            )
        certificate = certificates[0]
        role = _role(certificate)
        _check_imported(index, config, certificate, role, now)
        record = AuthorityRecord(certificate.fingerprint, role, "active", certificate.to_pem(), now)
        _store_key(folder, record, text, key, passphrase)
        index.authorities[record.fingerprint] = record
        return record, True


def _role(certificate: Certificate) -> Role:
    return "online" if certificate.groups == ONLINE_GROUPS else "offline"


def _check_imported(index: Index, config: MeshConfig, certificate: Certificate, role: Role, now: float) -> None:
    if any(one.role == role and one.state == "active" for one in index.authorities.values()):
        raise MeshError(
            f"there is another {role} authority already",
            code="authority_exists",
            next_step="Use another data folder, or rotate: `lamplighter mesh rotate start`.",
        )
    if not certificate.valid_at(now):
        raise MeshError(
            "the authority is expired or not yet valid",
            code="authority_expired",
            next_step="`lamplighter mesh init` makes a new one.",
        )
    mesh = IPv4Interface(str(config.network))
    allowed = certificate.networks
    if allowed and not any(one.version == 4 and mesh.network.subnet_of(one.network) for one in allowed):
        raise MeshError(
            f"the authority may certify {', '.join(str(one.network) for one in allowed)}, not the mesh's network {config.network}",
            next_step="Set mesh.network in lamplighter.yaml to a network of the authority.",
        )


def _store_key(folder: MeshFolder, authority: AuthorityRecord, text: str, key: Ed25519PrivateKey, passphrase: str) -> None:
    if keys.is_encrypted(text):
        kept = _encrypted_block(text)
    else:
        check_passphrase(passphrase, authority.role)
        kept = keys.encrypt(key, passphrase)
    folder.write(folder.key_file(authority.role, authority.fingerprint), kept)


def _encrypted_block(text: str) -> str:
    return pem.encode(*pem.only(text, pem.AUTHORITY_KEY_ENCRYPTED, what="encrypted Nebula authority's key"))


def _certificates(text: str) -> dict[str, Certificate]:
    only = [pem.encode(label, content) for label, content in pem.blocks(text) if label in (pem.CERTIFICATE, pem.CERTIFICATE_V2)]
    return parse_bundle("".join(only))
