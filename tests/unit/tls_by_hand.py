"""One side of a TLS connection on memory buffers, for either end of an engine driven by hand."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import cache

import trustme
from engine_by_hand import End


@cache
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@cache
def server_context(*names: str, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.set_alpn_protocols(["http/1.1"])
    certificate(*names).configure_cert(context)
    return context


@cache
def certificate(*names: str) -> trustme.LeafCert:
    return authority().issue_cert(*names, key_type=trustme.KeyType.ECDSA)


def client_context(*, alpn: str | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    if alpn:
        context.set_alpn_protocols([alpn])
    if version is not None:
        context.maximum_version = context.minimum_version = version
    return context


class TlsEnd:
    """Speaks TLS over one end."""

    def __init__(self, end: End, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        self.end = end
        #: Whether close_notify has been seen.
        self.has_ended = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )

    def flush(self) -> None:
        if self._outgoing.pending:
            self.end.send(self._outgoing.read())

    def handshake(self) -> None:
        """Shake hands until it is done. Raises `ssl.SSLError` when one side refuses."""
        for _ in range(10):
            self._incoming.write(self.end.take())
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                if self.end.is_reset:
                    raise ssl.SSLError("reset") from None
                self.flush()
                continue
            except ssl.SSLError:
                if self.end.is_open:
                    self.flush()
                raise
            self.flush()
            return
        raise AssertionError("the handshake does not end")

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()

    def take(self) -> bytes:
        """What has come; ends at close_notify."""
        self._incoming.write(self.end.take())
        received = b""
        while True:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                return received
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self.has_ended = True
                return received
            received += data

    def close_notify(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()
