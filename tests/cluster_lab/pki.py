"""The certificates of one control plane: an authority, and what it signs. For some hours, in a folder that only we read."""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = dt.timedelta(days=2)


class Authority:
    """Writes NAME.crt and NAME.key into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lamplighter-lab")])
        self._name = name
        self._certificate = self._build(name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).sign(self._key, hashes.SHA256())  # fmt: skip
        self._write("ca.crt", self._certificate.public_bytes(serialization.Encoding.PEM))

    def _build(self, subject: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + _LIFE)
        )  # fmt: skip

    def sign(self, file: str, name: str, *groups: str, addresses: tuple[str, ...] = (), hosts: tuple[str, ...] = ()) -> None:
        """A certificate for `name` in `groups`, for clients, and for servers at `addresses` and `hosts`."""
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name(
            [
                *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, one) for one in groups),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if addresses or hosts else [])]
        builder = self._build(subject, key.public_key()).add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if addresses or hosts:
            names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses]
            names += [x509.DNSName(one) for one in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._write(f"{file}.crt", builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self._write(f"{file}.key", _private(key))

    def key_pair(self, file: str) -> None:
        """A key that signs tokens: FILE.key and FILE.pub."""
        key = rsa.generate_private_key(65537, 2048)
        self._write(f"{file}.key", _private(key))
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._write(f"{file}.pub", public)

    def _write(self, name: str, content: bytes) -> None:
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_bytes(content)


def _private(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


__all__ = ["Authority"]
