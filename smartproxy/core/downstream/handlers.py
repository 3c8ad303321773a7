"""The built-in handlers of raw connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure
from smartproxy.core.stream import DEAF, HIGH_WATER_BYTES, ByteStream

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection


class EchoSession:
    """Returns everything it is sent, no faster than the client reads it."""

    __slots__ = ("_connection", "_moved_bytes", "_stream")

    def __init__(self, connection: ClientConnection, stream: ByteStream) -> None:
        self._connection = connection
        self._stream = stream
        self._moved_bytes = 0

    def begin(self, received: bytes) -> None:
        self._stream.handler = self
        self._connection.timer.callback = self._idle
        self._arm()
        if received:
            self.receive_data(received)

    def _arm(self) -> None:
        self._connection.context.set_timer(self._connection.timer, self._connection.inactivity_s)

    def _idle(self) -> None:
        self._end(None)

    def receive_data(self, data: bytes) -> None:
        self._moved_bytes += len(data)
        self._arm()
        self._stream.write(data)
        if self._stream.outgoing_bytes > HIGH_WATER_BYTES:
            self._stream.pause_reading()
            self._stream.notify_writable = True

    def receive_eof(self) -> None:
        self._end(None)

    def stream_writable(self) -> None:
        self._stream.notify_writable = False
        self._stream.resume_reading()

    def stream_lost(self, failure: Failure) -> None:
        self._end(failure)

    def _end(self, failure: Failure | None) -> None:
        self._connection.log_raw("echo", self._moved_bytes, self._moved_bytes, failure, "")
        self._stream.close()
        self._connection.ended()


class BlockSession:
    """Says its message, if it has one, and closes."""

    __slots__ = ()

    def __init__(self, connection: ClientConnection, stream: ByteStream, message: str) -> None:
        stream.handler = DEAF
        data = message.encode()
        stream.write(data)
        connection.log_raw("block", 0, len(data), None, "")
        stream.close()
        connection.ended()
