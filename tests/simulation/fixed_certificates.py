"""Certificates made of constants alone, so that every run and every process has the same, byte by byte."""

from __future__ import annotations

import datetime
import ssl
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER = datetime.datetime(2049, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, as PEM text."""

    certificate: str
    key: str

    def server_context(self) -> ssl.SSLContext:
        """For a backend script. Sends no session tickets: the length of one is not always the same."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        # The standard library loads keys from files only.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "identity.pem")
            path.write_text(self.certificate + self.key)
            context.load_cert_chain(path)
        return context


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _build(name: str, issuer: str, serial: int) -> Identity:
    key = _key(name)
    is_authority = name == issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_key(issuer).public_key()), critical=False
        )
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.sign(_key(issuer), None)
    return Identity(
        certificate.public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


AUTHORITY_NAME = "Simulated Authority"


@cache
def authority() -> Identity:
    """Who signs all the others."""
    return _build(AUTHORITY_NAME, AUTHORITY_NAME, 1000)


@cache
def identity(name: str) -> Identity:
    """A certificate for a host name, signed by the authority."""
    return _build(name, AUTHORITY_NAME, 2000 + sum(name.encode()))


@cache
def client_context() -> ssl.SSLContext:
    """Trusts the authority, and speaks TLS 1.3 only."""
    context = ssl.create_default_context(cadata=authority().certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


@cache
def raw_client_context() -> ssl.SSLContext:
    """The same, for what is not HTTP: it names no protocol."""
    context = ssl.create_default_context(cadata=authority().certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
