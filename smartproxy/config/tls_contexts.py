"""What clients are shown in TLS: one context for each certificate and kind of settings.

CPython turns `SSL_MODE_RELEASE_BUFFERS` on in every context, so that an idle
connection keeps no record buffers (34 KiB less for each).
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smartproxy.config.certificates import CertificateReader, Place, Rejected, ServerCertificate
from smartproxy.config.models import RouteTlsConfig
from smartproxy.config.problems import Problem, place_text
from smartproxy.core.certificates import ServedTls

if TYPE_CHECKING:
    from smartproxy.core.wire.http3.credentials import ServerIdentity

HTTP1_ALPN = "http/1.1"
HTTP2_ALPN = "h2"

TLS_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What makes two contexts for one certificate different."""

    versions: frozenset[str] = frozenset(TLS_VERSIONS)
    ciphers: str | None = None
    honor_cipher_order: bool = False
    client_ca_pem: bytes | None = None
    alpn_protocols: tuple[str, ...] = (HTTP2_ALPN, HTTP1_ALPN)

    @property
    def min_version(self) -> ssl.TLSVersion:
        """The lowest version a client may use."""
        return min(TLS_VERSIONS[version] for version in self.versions)

    @property
    def fits_quic(self) -> bool:
        """Whether QUIC can keep them: it is TLS 1.3 only, and its clients are asked for no certificate."""
        return "TLSv1.3" in self.versions and self.client_ca_pem is None


class ServerContexts:
    """Contexts for clients, one for each pair of certificate and settings.

    With `serves_quic` they come with what QUIC shows, where the settings are such that it can.
    """

    def __init__(self, reader: CertificateReader, *, serves_quic: bool = False) -> None:
        self._reader = reader
        self._serves_quic = serves_quic
        self._quic_identities: dict[bytes, ServerIdentity] = {}
        self._served: dict[tuple[bytes, ServerSettings], ServedTls] = {}

    def settings(self, tls: RouteTlsConfig, place: Place, *, serves_http: bool) -> ServerSettings:
        """The settings of a route's `tls`, which stands at `place`. Raises `Rejected`."""
        client_ca_pem = None
        if tls.client_auth is not None:
            ca_place = (*place, "client_auth", "ca")
            client_ca_pem = self._reader.authorities(
                tls.client_auth.ca, ca_place, tls.client_auth.shown("ca")
            )
        settings = ServerSettings(
            frozenset(tls.versions),
            tls.ciphers,
            tls.honor_cipher_order,
            client_ca_pem,
            _alpn_protocols(tls) if serves_http else (),
        )
        if tls.ciphers is not None:
            _check_ciphers(tls.ciphers, (*place, "ciphers"), tls.shown("ciphers"))
        return settings

    def served(self, certificate: ServerCertificate, settings: ServerSettings, place: Place) -> ServedTls:
        """What shows `certificate`; `place` is where that is given. Raises `Rejected`."""
        key = (certificate.identity, settings)
        served = self._served.get(key)
        if served is None:
            context = _make_server_context(certificate, settings, place)
            served = self._served[key] = ServedTls(context, self._quic_identity(certificate, settings))
        return served

    def _quic_identity(
        self, certificate: ServerCertificate, settings: ServerSettings
    ) -> ServerIdentity | None:
        """One for each certificate, since parsing it is dear."""
        if not self._serves_quic or not settings.fits_quic:
            return None
        identity = self._quic_identities.get(certificate.identity)
        if identity is None:
            # Not at the top: who serves no HTTP/3 does not load it.
            from smartproxy.core.wire.http3.credentials import ServerIdentity

            identity = ServerIdentity(certificate.chain_pem, certificate.key_pem)
            self._quic_identities[certificate.identity] = identity
        return identity


def _alpn_protocols(tls: RouteTlsConfig) -> tuple[str, ...]:
    return (HTTP2_ALPN, HTTP1_ALPN) if tls.http2 else (HTTP1_ALPN,)


def _check_ciphers(ciphers: str, place: Place, given: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(ciphers)
    except (ssl.SSLError, ValueError):
        raise Rejected(
            Problem(place_text(place), "is no OpenSSL cipher list that selects any cipher", given)
        ) from None


def _make_server_context(
    certificate: ServerCertificate, settings: ServerSettings, place: Place
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = settings.min_version
    context.maximum_version = max(TLS_VERSIONS[version] for version in settings.versions)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if settings.ciphers is not None:
        context.set_ciphers(settings.ciphers)
    # The standard library sets this option in every context for servers.
    if not settings.honor_cipher_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if settings.alpn_protocols:
        context.set_alpn_protocols(list(settings.alpn_protocols))
    if settings.client_ca_pem is not None:
        trust_authorities(context, settings.client_ca_pem, place)
        context.verify_mode = ssl.CERT_REQUIRED
    try:
        with (
            _private_file(certificate.chain_pem) as chain_file,
            _private_file(certificate.key_pem) as key_file,
        ):
            context.load_cert_chain(chain_file, key_file)
    except ssl.SSLError as error:
        raise Rejected(
            Problem(
                place_text(place),
                f"is not a certificate that TLS can use ({error.reason or 'rejected by OpenSSL'})",
            )
        ) from None
    return context


@contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """A file of `content` for as long as the context lasts, since OpenSSL's loader takes file names only.

    It lives in memory where the system has such files, and is readable by this process alone.
    """
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with os.fdopen(os.memfd_create("pem", os.MFD_CLOEXEC), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile(prefix="smartproxy-") as file:
        file.write(content)
        file.flush()
        yield file.name


def trust_authorities(context: ssl.SSLContext, ca_pem: bytes, place: Place) -> None:
    """Have `context` verify with the authorities that stand at `place`. Raises `Rejected`."""
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise Rejected(Problem(place_text(place), "is not a list of authorities that TLS can use")) from None
