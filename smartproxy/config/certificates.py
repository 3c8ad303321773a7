"""Certificates and keys: read, checked, or made when there is none."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smartproxy.config.certificate_files import CertificateFiles
from smartproxy.config.models import CertificateConfig
from smartproxy.config.models.scalars import is_pem
from smartproxy.config.problems import Problem, Severity, place_text
from smartproxy.config.references import UnreadableFile

Place = tuple[str | int, ...]

_BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_SELF_SIGNED_DAYS = 3650


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate with its chain and its key, checked to belong together."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    names: tuple[str, ...]
    """The DNS names it is good for, lower case, wildcards as `*.parent`."""
    identity: bytes
    """Equal for the same chain."""

    def covers(self, domain: str) -> bool:
        """Whether it is good for a name, or for every name one label below a `*.parent`."""
        return domain in self.names or "*." + domain.partition(".")[2] in self.names


class Rejected(Exception):
    """A certificate, a key or an authority that cannot be used; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class CertificateReader:
    """Reads the certificates of one configuration. `warnings` collects what is odd about them."""

    def __init__(self, files: CertificateFiles, now: datetime.datetime) -> None:
        self.warnings: list[Problem] = []
        self._files = files
        self._now = now
        self._known: dict[tuple[str | None, ...], ServerCertificate] = {}
        self._authorities: dict[str, bytes] = {}

    def read(self, config: CertificateConfig, place: Place) -> ServerCertificate:
        """The certificate of `config`, which stands at `place`. Raises `Rejected`."""
        source = (
            config.cert,
            config.cert_file,
            config.key.get_secret_value() if config.key is not None else None,
            config.key_file,
            config.ca,
        )
        known = self._known.get(source)
        if known is None:
            known = self._known[source] = self._read(config, place)
        return known

    def _read(self, config: CertificateConfig, place: Place) -> ServerCertificate:
        cert_option = "cert" if config.cert is not None else "cert_file"
        key_option = "key" if config.key is not None else "key_file"
        if config.cert is not None:
            chain_pem = config.cert.encode()
        else:
            chain_pem = self._content(str(config.cert_file), (*place, cert_option), config.shown("cert_file"))
        if config.key is not None:
            key_pem = config.key.get_secret_value().encode()
        else:
            key_pem = self._content(str(config.key_file), (*place, key_option), config.shown("key_file"))
        chain = _parse_certificates(chain_pem, (*place, cert_option))
        _check_key(key_pem, chain, place, key_option)
        if config.ca is not None:
            further_pem = self.authorities(config.ca, (*place, "ca"), config.shown("ca"))
            chain += _parse_certificates(further_pem, (*place, "ca"))
        self._warn_of_dates(chain[:1], (*place, cert_option))
        for issued, issuer in pairwise(chain):
            if issued.issuer != issuer.subject:
                self._warn(
                    (*place, cert_option), "has a chain in which one certificate is not issued by the next"
                )
                break
        identity = hashlib.sha256(b"".join(map(_der, chain))).digest()
        return ServerCertificate(_pem(chain), key_pem, _dns_names(chain[0]), identity)

    def authorities(self, pem_or_file: str, place: Place, given: str = "") -> bytes:
        """Trusted certificates as PEM. Raises `Rejected` when there is none, and for any bad one."""
        known = self._authorities.get(pem_or_file)
        if known is None:
            pem = self.pem(pem_or_file, place, given)
            certificates = _parse_certificates(pem, place)
            self._warn_of_dates(certificates, place)
            known = self._authorities[pem_or_file] = _pem(certificates)
        return known

    def pem(self, pem_or_file: str, place: Place, given: str = "") -> bytes:
        """The text itself, or the content of the file of that name. Raises `Rejected`."""
        return pem_or_file.encode() if is_pem(pem_or_file) else self._content(pem_or_file, place, given)

    def _content(self, path: str, place: Place, given: str) -> bytes:
        try:
            return self._files.read(path)
        except UnreadableFile as error:
            raise Rejected(
                Problem(place_text(place), f"names a file that cannot be read ({error})", given)
            ) from None

    def _warn(self, place: Place, message: str) -> None:
        self.warnings.append(Problem(place_text(place), message, severity=Severity.WARNING))

    def _warn_of_dates(self, certificates: Sequence[x509.Certificate], place: Place) -> None:
        for certificate in certificates:
            end = certificate.not_valid_after_utc
            if end <= self._now:
                self._warn(place, f"has expired on {end:%Y-%m-%d}")
            elif certificate.not_valid_before_utc > self._now:
                self._warn(place, f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}")


def _parse_certificates(pem: bytes, place: Place) -> list[x509.Certificate]:
    """All certificates in `pem`. Raises `Rejected` when there is none or any of them is damaged."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Rejected(Problem(place_text(place), "is not a PEM certificate")) from None
    if len(certificates) != pem.count(_BEGIN_CERTIFICATE):
        raise Rejected(Problem(place_text(place), "holds a damaged PEM certificate"))
    return certificates


def _check_key(key_pem: bytes, chain: Sequence[x509.Certificate], place: Place, key_option: str) -> None:
    where = place_text((*place, key_option))
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        raise Rejected(Problem(where, "is encrypted: give the key without a password")) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Rejected(Problem(where, "is not a PEM private key")) from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    public_key = key.public_key().public_bytes(*form)
    fitting = [certificate.public_key().public_bytes(*form) == public_key for certificate in chain]
    if not fitting[0]:
        hint = ": the server's own certificate comes first" if any(fitting) else ""
        raise Rejected(Problem(where, f"is not the key of the certificate{hint}"))


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Just these certificates, without the comments and keys that PEM files may hold beside them."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        # Clients look nowhere else (RFC 9525 §6.3), so there is no name to choose it by.
        names = []
    return tuple(dict.fromkeys(name.lower().removesuffix(".") for name in names))


@cache
def self_signed_certificate() -> ServerCertificate:
    """A self-signed certificate (ECDSA P-256), the same one for as long as the process lives."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "smartproxy self-signed")])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain_pem = certificate.public_bytes(serialization.Encoding.PEM)
    return ServerCertificate(chain_pem, key_pem, ("localhost",), hashlib.sha256(_der(certificate)).digest())
