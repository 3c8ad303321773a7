"""TLS towards backends: whom to trust, and a context for each offer of HTTP versions."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from smartproxy.config.certificates import CertificateReader, Place
from smartproxy.config.models import OriginTlsConfig
from smartproxy.config.tls_contexts import trust_authorities
from smartproxy.core.configuration import OriginTls

_BEGIN = b"-----BEGIN CERTIFICATE-----"


class OriginContexts:
    """TLS towards backends, one for each way of verifying and server name."""

    def __init__(self, reader: CertificateReader) -> None:
        self._reader = reader
        self._trusts: dict[tuple[bytes | None, bool], _Trust] = {}
        self._origins: dict[str, OriginTls] = {}

    def origin(self, tls: OriginTlsConfig, place: Place) -> OriginTls:
        """What `tls`, which stands at `place`, comes to. Raises `Rejected`."""
        ca_pem = (
            self._reader.authorities(tls.ca, (*place, "ca"), tls.shown("ca")) if tls.ca is not None else None
        )
        # A pinned certificate is compared once the handshake is done, by whoever made the connection.
        verifies = tls.verify and tls.fingerprint is None
        trust = self._trusts.get((ca_pem, verifies))
        if trust is None:
            trust = self._trusts[ca_pem, verifies] = _Trust(ca_pem, verifies, (*place, "ca"))
        # The first one made tells whether the authorities can be used at all.
        context = trust.context(())
        facts = (verifies, ca_pem, tls.fingerprint, tls.server_name)
        identity = hashlib.sha256(repr(facts).encode()).hexdigest()
        origin = self._origins.get(identity)
        if origin is None:
            fingerprint = bytes.fromhex(tls.fingerprint) if tls.fingerprint is not None else None
            origin = self._origins[identity] = OriginTls(
                context,
                tls.server_name,
                fingerprint,
                identity,
                verifies=verifies,
                make_context=trust.context,
                read_ca_pem=trust.ca_pem,
            )
        return origin


class _Trust:
    """One way of verifying, with the contexts that verify so.

    They are made when they are first wanted, for most backends never see most offers
    and the system's store takes its time to load.
    """

    __slots__ = ("_ca_pem", "_contexts", "_place", "_system_pem", "_verifies")

    def __init__(self, ca_pem: bytes | None, verifies: bool, place: Place) -> None:
        """`ca_pem` None: the system's store."""
        self._ca_pem = ca_pem
        self._verifies = verifies
        self._place = place
        self._system_pem: bytes | None = None
        self._contexts: dict[tuple[bytes, ...], ssl.SSLContext] = {}

    def context(self, alpn: tuple[bytes, ...]) -> ssl.SSLContext:
        """The context that offers `alpn`, best first. Raises `Rejected` for authorities that are none."""
        context = self._contexts.get(alpn)
        if context is None:
            context = self._contexts[alpn] = self._make(alpn)
        return context

    def _make(self, alpn: tuple[bytes, ...]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if alpn:
            context.set_alpn_protocols([name.decode("ascii") for name in alpn])
        if not self._verifies:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self._ca_pem is not None:
            trust_authorities(context, self._ca_pem, self._place)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context

    def ca_pem(self) -> bytes:
        """The trusted roots; empty where none are asked."""
        if not self._verifies:
            return b""
        if self._ca_pem is not None:
            return self._ca_pem
        if self._system_pem is None:
            self._system_pem = system_authorities()
        return self._system_pem


def system_authorities() -> bytes:
    """The roots of the system's store as PEM; empty where it has none to read.

    They stand in one file, or else each in a file of a directory (see `ssl.get_default_verify_paths`).
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        pem = _readable(Path(paths.cafile))
        if _BEGIN in pem:
            return pem
    if not paths.capath:
        return b""
    try:
        files = sorted(Path(paths.capath).iterdir())
    except OSError:
        return b""
    # A root stands there more than once: under its name, under its hashes, and maybe in a file of all.
    roots: dict[bytes, None] = {}
    for file in files:
        for part in _readable(file).split(_BEGIN)[1:]:
            body, end, _ = part.partition(b"-----END CERTIFICATE-----")
            if end:
                roots[b"".join((_BEGIN, body, end, b"\n"))] = None
    return b"".join(roots)


def _readable(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
