"""HTTP/1.1 on h11."""

from __future__ import annotations

from collections.abc import Callable

import h11
from matrix_peers import (
    AUTHORITY,
    UNREAD_BYTES,
    UNSENT_BYTES,
    Fields,
    Head,
    Stream,
    Version,
    Wire,
    decoded,
    encoded,
)
from matrix_world import Bell

MAX_HEAD_BYTES = 128 * 1024


class Http1Wire(Wire):
    """One connection; its streams come one after another."""

    version: Version = "1.1"

    def __init__(self, bell: Bell, on_stream: Callable[[Stream], None] | None) -> None:
        super().__init__(bell, on_stream)
        role = h11.CLIENT if self.is_client else h11.SERVER
        self._connection = h11.Connection(role, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._outgoing = bytearray()
        self._current: Stream | None = None
        self._count = 0
        self._is_tunnel = False
        self._has_eof = False
        self.wants_reset = False

    # The carrier's side.

    def data_to_send(self) -> bytes:
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def wants_data(self) -> bool:
        return self._current is None or self._current.unread_bytes < UNREAD_BYTES

    def receive_data(self, data: bytes) -> None:
        if self._is_tunnel:
            assert self._current is not None
            self._current.data_came(data)
        else:
            self._connection.receive_data(data)
            self._take_events()

    def receive_eof(self) -> None:
        self._has_eof = True
        stream = self._current
        if self._is_tunnel:
            assert stream is not None
            stream.end_came([])
            return
        try:
            self._connection.receive_data(b"")
            self._take_events()
        except h11.RemoteProtocolError:
            if self._current is not None:
                self._current.abort_received("end-of-file within the message")
        if self._current is not None and not self.is_client:
            self._current.abort_received(self._current.aborted or "the client closed the connection")
        if self._current is None or self.is_client:
            self.wants_close = True

    def _take_events(self) -> None:
        connection = self._connection
        while True:
            if connection.our_state is h11.SWITCHED_PROTOCOL:
                self._is_tunnel = True
                trailing, _ = connection.trailing_data
                assert self._current is not None
                self._current.data_came(trailing)
                return
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                if not self._start_next_cycle():
                    return
            elif isinstance(event, h11.ConnectionClosed):
                return
            else:
                self._take_event(event)
                if isinstance(event, h11.EndOfMessage):
                    self._start_next_cycle()

    def _take_event(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._current = self._new_stream()
            head = Head(
                decoded(event.headers),
                method=event.method.decode(),
                path=event.target.decode("latin-1"),
                scheme="http",
            )
            head.authority = head.get("host") or ""
            if (head.get("upgrade") or "").lower() == "websocket":
                head.protocol = "websocket"
            self._current.request = head
            self._current.head_came(head)
            assert self.on_stream is not None
            self.on_stream(self._current)
            return
        assert self._current is not None, event
        if isinstance(event, h11.InformationalResponse | h11.Response):
            self._current.head_came(Head(decoded(event.headers), event.status_code))
        elif isinstance(event, h11.Data):
            self._current.data_came(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._current.end_came(decoded(event.headers))

    def _start_next_cycle(self) -> bool:
        connection = self._connection
        states = {connection.our_state, connection.their_state}
        if states == {h11.DONE}:
            connection.start_next_cycle()
            self._forget_current()
            return connection.trailing_data[0] != b""
        if states <= {h11.DONE, h11.MUST_CLOSE, h11.CLOSED} and connection.our_state is h11.MUST_CLOSE:
            self._forget_current()
            self.wants_close = True
        return False

    def _forget_current(self) -> None:
        if self._current is not None:
            self.streams.pop(self._current.stream_id, None)
            self._current = None

    def _new_stream(self) -> Stream:
        self._count += 1
        stream = self.streams[self._count] = Stream(self, self._count)
        return stream

    # The peers' side.

    @property
    def takes_requests(self) -> bool:
        return not (self._current or self.lost or self.wants_close) and (
            self._connection.our_state is h11.IDLE and self._connection.their_state is h11.IDLE
        )

    def _send(self, event: h11.Event) -> None:
        self._outgoing += self._connection.send(event) or b""

    def open_stream(self, head: Head, *, is_end: bool) -> Stream:
        stream = self._current = self._new_stream()
        stream.request = head
        self.send_head(stream, head, is_end=is_end)
        return stream

    def send_head(self, stream: Stream, head: Head, *, is_end: bool) -> None:
        fields = list(head.fields)
        if head.is_request:
            self._send_request_head(head, fields, is_end=is_end)
        elif head.is_interim or head.status == 101:
            self._send(h11.InformationalResponse(status_code=head.status, headers=encoded(fields)))
            if head.status == 101:
                # The request has ended; what the tunnel carries has not.
                stream.has_ended = False
                self._take_events()
            return
        else:
            has_no_content = head.status in (204, 304) or stream.request.method == "HEAD"
            if head.get("content-length") is None and not has_no_content:
                fields.append(("content-length", "0") if is_end else ("transfer-encoding", "chunked"))
            self._send(h11.Response(status_code=head.status, headers=encoded(fields)))
        if is_end:
            self.send_end(stream, [])

    def _send_request_head(self, head: Head, fields: Fields, *, is_end: bool) -> None:
        fields.insert(0, ("host", head.authority or AUTHORITY))
        if head.protocol is not None:
            fields += [("connection", "Upgrade"), ("upgrade", head.protocol)]
        elif head.get("content-length") is None:
            if not is_end:
                fields.append(("transfer-encoding", "chunked"))
            elif head.method not in ("GET", "HEAD"):
                fields.append(("content-length", "0"))
        self._send(
            h11.Request(
                method=head.method.encode(), target=head.path.encode("latin-1"), headers=encoded(fields)
            )
        )

    def send_data(self, stream: Stream, data: memoryview) -> int:
        room = UNSENT_BYTES - len(self._outgoing)
        if room <= 0:
            return 0
        piece = bytes(data[:room])
        if self._is_tunnel:
            self._outgoing += piece
        else:
            self._send(h11.Data(data=piece))
        return len(piece)

    def send_end(self, stream: Stream, trailers: Fields) -> None:
        if self._is_tunnel:
            self.wants_close = True
            return
        self._send(h11.EndOfMessage(headers=encoded(trailers)))
        if not self.is_client and self._start_next_cycle():
            self._take_events()

    def break_off(self, stream: Stream) -> None:
        self.wants_close = True

    def reset(self, stream: Stream) -> None:
        if stream is self._current:
            self.wants_reset = True

    def consumed(self, stream: Stream, byte_count: int) -> None:
        """The carrier reads on while there is room."""

    def announce_shutdown(self) -> None:
        """Nothing: a close between messages says it."""

    def connection_lost(self, reason: str) -> None:
        super().connection_lost(reason)
        self._current = None
