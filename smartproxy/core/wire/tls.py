"""TLS over any byte stream, on `ssl.MemoryBIO`: no socket, so every driver and the simulation share it."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.stream import DEAF, ByteStream, StreamHandler

_RECORD_BYTES = 16 * 1024


class TlsStream:
    """One side of a TLS connection, itself a `ByteStream` and the handler of the stream below.

    `on_established()` is called once the handshake is done (in the input that
    completes it). Before that the stream takes no writes. A handshake that fails,
    or a broken record later, sends the alert OpenSSL made and ends in
    `handler.stream_lost(failure)`; the stream below is then closed.

    `eof_is_clean` tells, at `receive_eof`, whether the peer sent close_notify
    (RFC 8446 §6.1) or just closed its connection.
    """

    __slots__ = (
        "_incoming",
        "_on_established",
        "_outgoing",
        "_peer_closed",
        "_ssl",
        "_ssl_side",
        "below",
        "eof_is_clean",
        "established",
        "handler",
    )

    def __init__(
        self,
        below: ByteStream,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        on_established: Callable[[], None],
        handler: StreamHandler = DEAF,
    ) -> None:
        self.below = below
        self.handler = handler
        self.established = False
        self.eof_is_clean = True
        self._peer_closed = False
        self._on_established = on_established
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl_side = FailureSource.CLIENT if server_side else FailureSource.BACKEND
        self._ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_name,
        )

    def start_handshake(self) -> None:
        """Take the stream below and send the first flight, or wait for the peer's."""
        self.below.handler = self
        self._advance_handshake()

    # What the finished handshake agreed on.

    def version(self) -> str:
        """`TLSv1.3` or `TLSv1.2`; empty before the handshake is done."""
        return self._ssl.version() or ""

    def alpn_protocol(self) -> str | None:
        """The protocol ALPN chose (RFC 7301), if any."""
        return self._ssl.selected_alpn_protocol()

    def peer_certificate_sha256(self) -> bytes:
        """SHA-256 of the peer's certificate in DER; empty when it sent none."""
        certificate = self._ssl.getpeercert(binary_form=True)
        return hashlib.sha256(certificate).digest() if certificate else b""

    # ByteStream, for the session above.

    @property
    def notify_writable(self) -> bool:
        return self.below.notify_writable

    @notify_writable.setter
    def notify_writable(self, value: bool) -> None:
        self.below.notify_writable = value

    @property
    def outgoing_bytes(self) -> int:
        return self.below.outgoing_bytes

    def write(self, data: bytes) -> None:
        if not data:
            return
        try:
            self._ssl.write(data)
        except ssl.SSLError:
            # Only after our own close_notify, or once the peer broke the connection, which
            # its next input reports; there is nobody to send to.
            return
        self.below.write(self._outgoing.read())

    def pause_reading(self) -> None:
        self.below.pause_reading()

    def resume_reading(self) -> None:
        self.below.resume_reading()

    def shut_down_writing(self) -> None:
        self._send_close_notify()
        self.below.shut_down_writing()

    def close(self) -> None:
        self._send_close_notify()
        self.handler = DEAF
        self.below.close()

    def abort(self) -> None:
        self.handler = DEAF
        self.below.abort()

    def _send_close_notify(self) -> None:
        if self.established:
            try:
                self._ssl.unwrap()
            except ssl.SSLError:
                # WANT_READ: ours is written, the peer's has not come (RFC 8446 §6.1 does not ask to wait).
                pass
            self._flush()

    # StreamHandler, for the stream below.

    def receive_data(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self.established:
            self._advance_handshake()
            if not self.established:
                return
        self._read()

    def receive_eof(self) -> None:
        if not self.established:
            self._fail(FailureCode.CONNECTION_TERMINATED, "closed during the TLS handshake")
            return
        if not self._peer_closed:
            self._peer_closed = True
            self.eof_is_clean = False
            self.handler.receive_eof()

    def stream_writable(self) -> None:
        self.handler.stream_writable()

    def stream_lost(self, failure: Failure) -> None:
        handler, self.handler = self.handler, DEAF
        handler.stream_lost(failure)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.below.write(self._outgoing.read())

    def _advance_handshake(self) -> None:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLCertVerificationError as error:
            self._fail(FailureCode.TLS_CERTIFICATE_ERROR, error.verify_message)
            return
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            code = FailureCode.TLS_ALERT_RECEIVED if "ALERT" in reason else FailureCode.TLS_PROTOCOL_ERROR
            self._fail(code, reason)
            return
        self.established = True
        self._flush()
        self._on_established()

    def _read(self) -> None:
        chunks: list[bytes] = []
        read = self._ssl.read
        incoming = self._incoming
        ended = False
        error_reason = ""
        try:
            while True:
                chunk = read(_RECORD_BYTES)
                if not chunk:
                    ended = True
                    break
                chunks.append(chunk)
                if not incoming.pending and not self._ssl.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            error_reason = error.reason or str(error)
        self._flush()
        if chunks:
            self.handler.receive_data(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if error_reason:
            self._fail(FailureCode.TLS_PROTOCOL_ERROR, error_reason)
        elif ended and not self._peer_closed:
            self._peer_closed = True
            self.handler.receive_eof()

    def _fail(self, code: FailureCode, detail: str) -> None:
        self._flush()
        handler, self.handler = self.handler, DEAF
        self.below.close()
        handler.stream_lost(Failure(self._ssl_side, code, detail))
