"""A stream whose DATA is a tunnel's bytes, as a byte stream (RFC 8441 §5, RFC 9220 §3)."""

from __future__ import annotations

from typing import Any

from smartproxy.core.failure import Failure
from smartproxy.core.http.multiplexed.session import MultiplexedSession
from smartproxy.core.stream import DEAF, StreamHandler


class TunnelStream:
    """A `ByteStream` over one stream of a multiplexed connection.

    An end of our direction is END_STREAM, an abort a reset with CANCEL, as RFC 8441 §5
    maps TCP's FIN and RST.
    """

    __slots__ = (
        "_awaits_writable",
        "_is_reading",
        "_owner",
        "_received",
        "_receives_end",
        "_stream_id",
        "_write_ended",
        "closed",
        "eof_is_clean",
        "handler",
        "peer_ended",
    )

    def __init__(self, owner: MultiplexedSession[Any], stream_id: int) -> None:
        self._owner = owner
        self._stream_id = stream_id
        self.handler: StreamHandler = DEAF
        self._awaits_writable = False
        self.eof_is_clean = True
        self._is_reading = True
        self._received: list[bytes] = []
        self._receives_end = False
        self._write_ended = False
        self.peer_ended = False
        self.closed = False

    # ByteStream, for the tunnel.

    @property
    def notify_writable(self) -> bool:
        return self._awaits_writable

    @notify_writable.setter
    def notify_writable(self, value: bool) -> None:
        self._awaits_writable = value
        if value and not self.closed:
            self._owner.await_writable(self._stream_id)

    @property
    def outgoing_bytes(self) -> int:
        """What waits for the peer's window, and with all other streams' for the transport."""
        owner = self._owner
        return owner.wire.unsent_bytes(self._stream_id) + owner.transport_bytes

    def write(self, data: bytes) -> None:
        if data and not self._write_ended:
            owner = self._owner
            owner.wire.send_data(self._stream_id, data, owner.context.now)
            owner.flush_soon()

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if self._is_reading:
            return
        self._is_reading = True
        self._deliver()

    def shut_down_writing(self) -> None:
        if not self._write_ended:
            self._write_ended = True
            owner = self._owner
            owner.wire.send_data(self._stream_id, b"", owner.context.now, end_stream=True)
            owner.flush_soon()

    def close(self) -> None:
        if self.closed:
            return
        self.handler = DEAF
        self.shut_down_writing()
        self.closed = True
        held_bytes = sum(map(len, self._received))
        self._received.clear()
        self._acknowledge(held_bytes)
        self._close_if_sent()

    def _close_if_sent(self) -> None:
        """Nobody listens any more: end the peer's direction too, once everything has been sent."""
        owner = self._owner
        if not self.peer_ended:
            if not owner.may_refuse_rest(self._stream_id):
                owner.await_writable(self._stream_id)
                return
            owner.reset(self._stream_id, owner.codes.no_error)
        owner.stream_over(self._stream_id)

    def abort(self) -> None:
        if self.closed:
            return
        self.closed = self._write_ended = True
        self.handler = DEAF
        self._received.clear()
        owner = self._owner
        owner.reset(self._stream_id, owner.codes.cancelled)
        owner.stream_over(self._stream_id)

    # From the session.

    def take_over(self, received: list[bytes], *, peer_ended: bool) -> bytes:
        """Go on where a message's stream has been; returns the content that nobody has consumed yet."""
        data = b"".join(received)
        self._acknowledge(len(data))
        if peer_ended:
            self.peer_ended = True
        return data

    def receive_data(self, data: bytes) -> None:
        if self.closed:
            # The tunnel is over here; the peer may not have heard yet.
            self._acknowledge(len(data))
        elif self._is_reading and not self._received:
            self.handler.receive_data(data)
            self._acknowledge(len(data))
        else:
            self._received.append(data)

    def receive_end(self) -> None:
        self.peer_ended = True
        if self.closed:
            self._owner.stream_over(self._stream_id)
        elif self._received:
            self._receives_end = True
        else:
            self.handler.receive_eof()

    def lost(self, failure: Failure) -> None:
        """The stream was reset, or its connection is gone."""
        if not self.closed:
            self.closed = self._write_ended = True
            self._received.clear()
            handler, self.handler = self.handler, DEAF
            handler.stream_lost(failure)

    def writable(self) -> None:
        """There is room again."""
        if self.closed:
            self._close_if_sent()
        elif self._awaits_writable:
            self.handler.stream_writable()

    def _deliver(self) -> None:
        received = self._received
        while received and self._is_reading:
            data = received.pop(0)
            self.handler.receive_data(data)
            self._acknowledge(len(data))
        if self._receives_end and not received:
            self._receives_end = False
            self.handler.receive_eof()

    def _acknowledge(self, byte_count: int) -> None:
        if byte_count:
            self._owner.wire.acknowledge_received_data(self._stream_id, byte_count)
            self._owner.flush_soon()
