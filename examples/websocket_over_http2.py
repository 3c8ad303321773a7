"""A WebSocket over HTTP/2 (RFC 8441), both ends by hand: two connections pass each other bytes in memory."""

import os

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http2 import DataReceived, Http2Connection, RequestReceived, ResponseReceived
from smartproxy.core.wire.websocket import (
    FrameScanner,
    HandshakeError,
    Opcode,
    apply_mask,
    check_websocket_response,
    connect_request,
    encode_close,
    encode_frame,
    parse_websocket_request,
)


class EchoServer:
    """WebSockets on one connection: each gets back what it sends."""

    def __init__(self) -> None:
        self.connection = Http2Connection(client_side=False)
        self.connection.initiate(0.0)
        self.scanners: dict[int, FrameScanner] = {}
        self.unread: dict[int, bytes] = {}

    def receive_data(self, data: bytes) -> None:
        for event in self.connection.receive_data(data, 0.0):
            if isinstance(event, RequestReceived):
                self.answer(event.stream_id, event.head)
            elif isinstance(event, DataReceived):
                self.connection.acknowledge_received_data(event.stream_id, len(event.data))
                self.echo(event.stream_id, event.data)

    def answer(self, stream_id: int, head: RequestHead) -> None:
        try:
            offered = parse_websocket_request(head).subprotocols
        except HandshakeError as error:
            self.connection.send_response(stream_id, ResponseHead(error.status, []), end_stream=True)
            return
        chosen = [(b"sec-websocket-protocol", offered[0])] if offered else []
        self.connection.send_response(stream_id, ResponseHead(200, chosen), end_stream=False)
        self.scanners[stream_id] = FrameScanner(from_client=True, max_payload_bytes=125)
        self.unread[stream_id] = b""

    def echo(self, stream_id: int, data: bytes) -> None:
        # What is no frame of a client's, or over 125 bytes, is refused here: RemoteProtocolError.
        unread = self.unread[stream_id] + self.scanners[stream_id].receive_data(data)
        while len(unread) >= 6 and len(unread) >= (size := 6 + unread[1] % 128):
            opcode, is_last = Opcode(unread[0] % 16), unread[0] >= 128
            frame = encode_frame(opcode, apply_mask(unread[6:size], unread[2:6]), fin=is_last)
            self.connection.send_data(stream_id, frame, 0.0, end_stream=opcode is Opcode.CLOSE)
            unread = unread[size:]
        self.unread[stream_id] = unread


def main() -> None:
    client, server = Http2Connection(client_side=True), EchoServer()
    client.initiate(0.0)
    server.receive_data(client.data_to_send())
    client.receive_data(server.connection.data_to_send(), 0.0)
    chat = RequestHead(b"GET", b"/chat", b"ws.example", [(b"sec-websocket-protocol", b"v2, v1")])
    request = connect_request(chat, 20, b"https")
    stream_id = client.send_request(request, end_stream=False)
    hello = encode_frame(Opcode.TEXT, b"hello", mask_key=os.urandom(4))
    for sent in (b"", hello, encode_close(1000, "bye", os.urandom(4))):
        client.send_data(stream_id, sent, 0.0)
        server.receive_data(client.data_to_send())
        for event in client.receive_data(server.connection.data_to_send(), 0.0):
            if isinstance(event, ResponseReceived):
                print(check_websocket_response(event.head, parse_websocket_request(request)))
            elif isinstance(event, DataReceived):
                print(event.data)


if __name__ == "__main__":
    main()
