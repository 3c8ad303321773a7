"""The stage that reads a PROXY header before anything else (SPEC: PROXY protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure, FailureCode
from smartproxy.core.stream import Link
from smartproxy.core.wire.proxy_protocol import NotProxyProtocol, ProxyHeaderDecoder, ProxyProtocolError

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection


class ProxyHeaderStage:
    """Demands or allows a PROXY header.

    One that is malformed, missing where it is required, or from a stranger ends the connection.
    """

    __slots__ = ("_connection", "_decoder", "_link", "_required", "_trusted")

    def __init__(self, connection: ClientConnection, link: Link, *, required: bool, trusted: bool) -> None:
        self._connection = connection
        self._link = link
        self._required = required
        self._trusted = trusted
        self._decoder = ProxyHeaderDecoder()

    def receive_data(self, data: bytes) -> None:
        connection = self._connection
        try:
            header = self._decoder.receive_data(data)
        except NotProxyProtocol as error:
            if self._required:
                connection.refuse(FailureCode.PROXY_PROTOCOL_ERROR, f"PROXY header required: {error}")
            else:
                connection.proxy_header_done(None, self._decoder.buffered)
            return
        except ProxyProtocolError as error:
            connection.refuse(FailureCode.PROXY_PROTOCOL_ERROR, str(error))
            return
        if header is None:
            return
        if not self._trusted:
            # Passed on, it would speak to the backend in a stranger's name.
            connection.refuse(FailureCode.PROXY_PROTOCOL_ERROR, "PROXY header from an untrusted peer")
            return
        connection.proxy_header_done(header, self._decoder.remainder)

    def receive_eof(self) -> None:
        self._connection.client_left()

    def stream_writable(self) -> None: ...

    def stream_lost(self, failure: Failure) -> None:
        self._connection.lost(failure)
