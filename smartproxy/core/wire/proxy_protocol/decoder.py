"""The incremental decoder of both versions."""

from __future__ import annotations

from smartproxy.core.wire.proxy_protocol.errors import NotProxyProtocol
from smartproxy.core.wire.proxy_protocol.header import ProxyHeader
from smartproxy.core.wire.proxy_protocol.v1 import decode_v1
from smartproxy.core.wire.proxy_protocol.v2 import SIGNATURE, decode_v2, header_length

DEFAULT_MAX_HEADER_BYTES = 4096

_V1_START = b"PROXY"


class ProxyHeaderDecoder:
    """Takes a connection's first bytes until they make a PROXY header.

    `max_header_bytes` (default 4096) bounds a version 2 header, its fixed 16 bytes
    included; a version 1 line is bounded by its grammar. While no header is complete,
    the decoder holds less than that.
    """

    __slots__ = ("_buffer", "_finished", "_needed_bytes", "max_header_bytes", "remainder")

    def __init__(self, max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES) -> None:
        self.max_header_bytes = max_header_bytes
        self.remainder = b""
        """The bytes after the header, once it is complete."""
        self._buffer = bytearray()
        self._needed_bytes = 0
        self._finished = False

    @property
    def buffered(self) -> bytes:
        """Every byte received so far, until a header is complete: what to replay after `NotProxyProtocol`."""
        return bytes(self._buffer)

    def receive_data(self, data: bytes) -> ProxyHeader | None:
        """Take more of the connection; the header once it is complete, else None.

        Raises NotProxyProtocol as soon as the bytes begin no header, ProxyProtocolError
        as soon as the header they begin cannot be valid, and RuntimeError when called
        again after the header or one of these errors.
        """
        if self._finished:
            raise RuntimeError("the PROXY header is over: take `remainder`")
        self._buffer += data
        if len(self._buffer) < self._needed_bytes or not self._buffer:
            return None
        self._finished = True
        head = bytes(self._buffer)
        if head.startswith(SIGNATURE):
            header = self._decode_v2(head)
        elif head.startswith(_V1_START):
            header = self._decode_v1(head)
        elif SIGNATURE.startswith(head) or _V1_START.startswith(head):
            header = None
        else:
            raise NotProxyProtocol(f"no PROXY header begins with {head[: len(SIGNATURE)]!r}")
        self._finished = header is not None
        return header

    def _decode_v1(self, head: bytes) -> ProxyHeader | None:
        decoded = decode_v1(head)
        if decoded is None:
            return None
        header, length = decoded
        self._split(head, length)
        return header

    def _decode_v2(self, head: bytes) -> ProxyHeader | None:
        length = header_length(head, self.max_header_bytes)
        if length == 0 or len(head) < length:
            self._needed_bytes = length
            return None
        header = decode_v2(head, length)
        self._split(head, length)
        return header

    def _split(self, head: bytes, length: int) -> None:
        self.remainder = head[length:]
        self._buffer.clear()
