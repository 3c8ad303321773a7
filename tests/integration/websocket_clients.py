"""WebSocket clients with blocking sockets: over HTTP/1.1, and over a stream of HTTP/2 (RFC 8441)."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from types import TracebackType
from typing import Self

import h2.connection
import h2.errors
import h2.events
import h2.settings
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, CloseConnection, Event, Message, Request

_TIMEOUT_S = 20.0
_ENABLE_CONNECT_PROTOCOL = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL


class WebSocketClosed(Exception):
    """The connection or the stream ended; says how."""


def connect_tls(port: int, name: str, ca_file: Path, alpn: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols([alpn])
    connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    # Frames go out as they come: an echo must not wait for an acknowledgement.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wrapped = context.wrap_socket(connection, server_hostname=name)
    assert wrapped.selected_alpn_protocol() == alpn
    return wrapped


class WebSocketClient:
    """An open WebSocket; `subprotocol` is what the server chose."""

    subprotocol: str | None = None

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._events: list[Event] = []

    def send(self, event: Event) -> None:
        raise NotImplementedError

    def _receive_more(self) -> None:
        """Wait for bytes; append the events they make, or raise WebSocketClosed."""
        raise NotImplementedError

    def receive(self) -> Event:
        while not self._events:
            self._receive_more()
        return self._events.pop(0)

    def receive_message(self) -> str | bytes:
        pieces: list[str | bytes] = []
        while True:
            event = self.receive()
            assert isinstance(event, Message), event
            pieces.append(event.data)
            if event.message_finished:
                return type(pieces[0])().join(pieces)  # type: ignore[arg-type]  # all of one kind

    def close(self, code: int, reason: str) -> CloseConnection:
        """Begin the closing handshake; the server's part of it."""
        self.send(CloseConnection(code, reason))
        answer = self.receive()
        assert isinstance(answer, CloseConnection), answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()


class Http1WebSocket(WebSocketClient):
    """Opened by an Upgrade request; a refusal raises wsproto's error."""

    def __init__(self, port: int, name: str, ca_file: Path, path: str, subprotocols: list[str]) -> None:
        super().__init__(connect_tls(port, name, ca_file, "http/1.1"))
        self._websocket = WSConnection(ConnectionType.CLIENT)
        self.send(Request(host=f"{name}:{port}", target=path, subprotocols=subprotocols))
        accepted = self.receive()
        assert isinstance(accepted, AcceptConnection), accepted
        self.subprotocol = accepted.subprotocol

    def send(self, event: Event) -> None:
        self._connection.sendall(self._websocket.send(event))

    def _receive_more(self) -> None:
        data = self._connection.recv(65536)
        if not data:
            raise WebSocketClosed("end of stream")
        self._websocket.receive_data(data)
        self._events += self._websocket.events()


class Http2WebSocket(WebSocketClient):
    """Opened by an extended CONNECT on a connection of its own."""

    def __init__(self, port: int, name: str, ca_file: Path, path: str, subprotocols: list[str]) -> None:
        super().__init__(connect_tls(port, name, ca_file, "h2"))
        self._http2 = h2.connection.H2Connection()
        self._websocket = Connection(ConnectionType.CLIENT)
        self._status = ""
        self._http2.initiate_connection()
        self._flush()
        while not self._http2.remote_settings.get(_ENABLE_CONNECT_PROTOCOL):
            self._receive_more()
        self._stream_id = self._http2.get_next_available_stream_id()
        fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", f"{name}:{port}"),
            (":path", path),
            ("sec-websocket-version", "13"),
        ]
        if subprotocols:
            fields.append(("sec-websocket-protocol", ", ".join(subprotocols)))
        self._http2.send_headers(self._stream_id, fields)
        self._flush()
        while not self._status:
            self._receive_more()
        assert self._status == "200", self._status

    def _flush(self) -> None:
        self._connection.sendall(self._http2.data_to_send())

    def send(self, event: Event) -> None:
        self._send(event, end_stream=False)

    def send_last(self, event: Event) -> None:
        """Send `event`, and with it the end of the stream, as browsers do with a Close frame."""
        self._send(event, end_stream=True)

    def _send(self, event: Event, *, end_stream: bool) -> None:
        data = memoryview(self._websocket.send(event))
        while data:
            window = self._http2.local_flow_control_window(self._stream_id)
            room = min(window, self._http2.max_outbound_frame_size, len(data))
            if not room:
                self._receive_more()
                continue
            is_last = end_stream and room == len(data)
            self._http2.send_data(self._stream_id, bytes(data[:room]), end_stream=is_last)
            data = data[room:]
            self._flush()

    def _receive_more(self) -> None:
        data = self._connection.recv(65536)
        if not data:
            raise WebSocketClosed("end of connection")
        for event in self._http2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                fields = dict(event.headers)
                self._status = fields[b":status"].decode()
                subprotocol = fields.get(b"sec-websocket-protocol")
                self.subprotocol = None if subprotocol is None else subprotocol.decode()
            elif isinstance(event, h2.events.DataReceived):
                self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.data:
                    # An empty frame may only end the stream, behind the Close.
                    self._websocket.receive_data(event.data)
                self._events += self._websocket.events()
            elif isinstance(event, h2.events.StreamEnded) and not self._events:
                self._flush()
                raise WebSocketClosed("end of stream")
            elif isinstance(event, h2.events.StreamReset):
                raise WebSocketClosed(f"stream reset, {event.error_code!r}")
        self._flush()
