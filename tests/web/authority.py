"""Certificate authorities for tests, as a cluster has them: with all that RFC 5280 asks for, or with parts left out."""

import base64
import ipaddress
import textwrap
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER_AND_CLIENT = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
NOW = (-1, 2)  # from yesterday until the day after tomorrow
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_NAMES = {
    "DNS": x509.DNSName,
    "IP": lambda text: x509.IPAddress(ipaddress.ip_address(text)),
    "email": x509.RFC822Name,
    "URI": x509.UniformResourceIdentifier,
}
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Authority:
    """An authority in a folder: `ca` is the file of its certificate, `issue` makes a certificate and its key.

    `common_name` is its name if not that of its files, `parent` another authority that signs it, `days` since when
    and until when it is valid, `version` 1 a certificate without extensions. `ca` and `path_length` are its
    basicConstraints (`ca` None: none), `critical` or not, `usage` its key usages (empty: none); `identifiers` says
    whether key identifiers are in its certificate and in those that it signs. `sans` are names of its own.
    Keys are of P-256 if not of RSA.
    """

    def __init__(
        self,
        folder,
        name="authority",
        *,
        common_name=None,
        parent=None,
        days=NOW,
        version=3,
        ca=True,
        path_length=None,
        critical=True,
        usage=("key_cert_sign", "crl_sign"),
        identifiers=True,
        sans=(),
        rsa_bits=None,
    ):
        self.folder = folder
        self.subject = _subject(common_name or name)
        self.key = _new_key(rsa_bits)
        self.identifiers = identifiers
        extensions = [] if ca is None else [(x509.BasicConstraints(ca, path_length), critical)]
        if usage:
            extensions.append((_key_usage(usage), True))
        if identifiers:
            extensions.append((x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False))
        if sans:
            extensions.append((_alternative_names(sans), False))
        signed = (parent or self).sign(self.subject, self.key, days, extensions if version == 3 else [])
        self.ca = folder / f"{name}.pem"
        self.ca.write_text(_version_1(signed, self.key) if version == 1 else _pem(signed))
        _write_key(self.key, folder / f"{name}.key")

    def issue(self, name, *sans, days=NOW, use=SERVER_AND_CLIENT, rsa_bits=None):
        """`name`.pem and `name`.key, for subject alternative names such as `DNS:localhost` and `IP:127.0.0.1`."""
        own = _new_key(rsa_bits)
        extensions = [(x509.BasicConstraints(ca=False, path_length=None), True)]
        extensions.append((_key_usage(["digital_signature"]), True))
        if use:
            extensions.append((x509.ExtendedKeyUsage(use), False))
        if sans:
            extensions.append((_alternative_names(sans), False))
        pem, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        pem.write_text(_pem(self.sign(_subject(name), own, days, extensions)))
        _write_key(own, secret)
        return pem, secret

    def sign(self, subject, key, days, extensions):
        """A certificate of this authority for the owner of `key`, from one day to another, counted from now."""
        starts, ends = (datetime.now(UTC) + timedelta(days=count) for count in days)
        builder = x509.CertificateBuilder(self.subject, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(starts).not_valid_after(ends)
        if self.identifiers and key is not self.key:
            own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            extensions = [*extensions, (own, False)]
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, SHA256())


def _new_key(rsa_bits):
    return rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())


def _subject(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


# A DNS name that is no text in UTF-8.
_ODD_NAME = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex("3006 8204 61ff fe62"))


def _alternative_names(sans):
    if "raw:dns" in sans:
        return _ODD_NAME
    names = (san.partition(":") for san in sans)
    return x509.SubjectAlternativeName([_NAMES[kind](value) for kind, _, value in names])


def _key_usage(named):
    return x509.KeyUsage(**{usage: usage in named for usage in _USAGES})


def _pem(certificate):
    return certificate.public_bytes(Encoding.PEM).decode()


def _write_key(key, path):
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _version_1(certificate, key):
    """The PEM of a certificate without extensions in X.509's first version, which the library does not write."""
    content = certificate.tbs_certificate_bytes
    content = content[2 + (content[1] & 0x7F) * (content[1] >> 7) :]  # without its tag and length,
    signed = _der(0x30, content[5:])  # and without its first field, the version
    signature = _der(0x03, b"\0" + key.sign(signed, ec.ECDSA(SHA256())))
    encoded = base64.b64encode(_der(0x30, signed + _ECDSA_WITH_SHA256 + signature)).decode()
    return f"-----BEGIN CERTIFICATE-----\n{textwrap.fill(encoded, 64)}\n-----END CERTIFICATE-----\n"


def _der(tag, content):
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
