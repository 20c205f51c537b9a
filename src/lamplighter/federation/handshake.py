"""The consumer's certificate request, made with the key that Liqo keeps in the cluster: what `liqoctl` does on its side of a peering. Pure.

Not responsible for the nonce's signature: that is made by Liqo inside of the cluster.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509.oid import NameOID

from lamplighter.core.errors import ProviderError

KEYS = "authentication-keys"
"""The secret in Liqo's namespace that holds the cluster's pair of keys, PEM."""
_ORGANIZATION = "liqo.io"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Base64 of PEM, as a Tenant carries them."""

    public_key: str
    request: str


def credentials(secret: Mapping[str, str], cluster_id: str) -> Credentials:
    """From the data of Liqo's secret (base64). The request says who asks: CN the cluster's id, O `liqo.io`. Raises ProviderError."""
    try:
        private = serialization.load_pem_private_key(base64.b64decode(secret["privateKey"], validate=True), password=None)
    except (KeyError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProviderError(
            f"Liqo's key of cluster {cluster_id!r} cannot be read: {error}.",
            next_step=f"Look at the secret {KEYS} in Liqo's namespace; Liqo makes it anew when it is deleted and its controller restarted.",
        ) from error
    if not isinstance(private, Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey):
        raise ProviderError(
            f"Liqo's key of cluster {cluster_id!r} is of a kind that is not known here ({type(private).__name__}).",
            next_step="Liqo makes Ed25519 keys, or RSA with authentication.tlsCompatibilityMode.",
        )
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION), x509.NameAttribute(NameOID.COMMON_NAME, cluster_id)]
    )
    algorithm = None if isinstance(private, Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(private, algorithm)
    public = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Credentials(
        public_key=base64.b64encode(public).decode(),
        request=base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode(),
    )


def asks_as(request: str, public_key: str, cluster_id: str) -> bool:
    """Whether a Tenant's request (base64) is of this key and this cluster: then it need not be made again."""
    try:
        parsed = x509.load_pem_x509_csr(base64.b64decode(request, validate=True))
        key = serialization.load_pem_public_key(base64.b64decode(public_key, validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    encoding = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    named = [str(one.value) for one in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return named == [cluster_id] and parsed.public_key().public_bytes(*encoding) == key.public_bytes(*encoding)
