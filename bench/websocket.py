"""WebSocket messages there and back: an HTTP/1.1 echo server, and the clients (RFC 6455).

Clients mask with a key of zeros, so that neither end spends time on masking. A proxy has no part in it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import socket
import struct
import sys
import threading
import time

from bench.load import Load, LoadFailed

HOST = "127.0.0.1"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MASKING_KEY = bytes(4)
IS_MASKED = 0x80
FINAL_BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A
SOCKET_TIMEOUT_S = 10.0
READ_BYTES = 1 << 20


def encode_frame(first_byte: int, payload: bytes, *, masked: bool) -> bytes:
    """One frame (RFC 6455 section 5.2)."""
    mask_bit = IS_MASKED if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((first_byte, mask_bit | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", first_byte, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first_byte, mask_bit | 127, size)
    return head + (MASKING_KEY if masked else b"") + payload


def accept_value(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


class _EchoConnection:
    """The server's side of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = bytearray()
        self._is_upgraded = False

    def take(self, data: bytes) -> bool:
        """Answer what has come; False once the connection is over."""
        buffer = self._buffer
        buffer += data
        if not self._is_upgraded:
            head, end, rest = buffer.partition(b"\r\n\r\n")
            if not end:
                return True
            self._upgrade(head)
            self._buffer = buffer = rest
        while (frame := self._next_frame()) is not None:
            first_byte, payload = frame
            if first_byte == PING:
                first_byte = PONG
            elif first_byte == PONG:
                continue
            self.socket.sendall(encode_frame(first_byte, payload, masked=False))
            if first_byte == CLOSE:
                return False
        return True

    def _upgrade(self, head: bytearray) -> None:
        fields = {}
        for line in head.split(b"\r\n")[1:]:
            name, _, value = bytes(line).partition(b":")
            fields[name.lower()] = value.strip()
        self.socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_value(fields[b"sec-websocket-key"]) + b"\r\n\r\n"
        )
        self._is_upgraded = True

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & ~IS_MASKED, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        start += len(MASKING_KEY)
        if len(buffer) < start + size:
            return None
        first_byte = buffer[0]
        payload = bytes(buffer[start : start + size])
        del buffer[: start + size]
        return first_byte, payload


def serve(port: int) -> None:
    """Echo for ever. Sending blocks: a client takes its message back before it sends the next."""
    connections: dict[int, _EchoConnection] = {}
    with socket.create_server((HOST, port), backlog=4096) as listener, select.epoll() as poll:
        poll.register(listener, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == listener.fileno():
                    accepted, _ = listener.accept()
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connections[accepted.fileno()] = _EchoConnection(accepted)
                    poll.register(accepted, select.EPOLLIN)
                    continue
                connection = connections[descriptor]
                goes_on = False
                with contextlib.suppress(ConnectionError):
                    data = connection.socket.recv(READ_BYTES)
                    goes_on = bool(data) and connection.take(data)
                if not goes_on:
                    del connections[descriptor]
                    connection.socket.close()


def connect(port: int, server_name: str) -> socket.socket:
    """A WebSocket connection through the proxy on `port`; raises LoadFailed when it is refused."""
    connection = socket.create_connection((HOST, port), timeout=SOCKET_TIMEOUT_S)
    try:
        _shake_hands(connection, server_name)
    except BaseException:
        connection.close()
        raise
    return connection


def _shake_hands(connection: socket.socket, server_name: str) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16))
    connection.sendall(
        f"GET / HTTP/1.1\r\nHost: {server_name}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        data = connection.recv(READ_BYTES)
        if not data:
            break
        answer += data
    if not answer.startswith(b"HTTP/1.1 101 ") or accept_value(key) not in answer:
        raise LoadFailed(f"no WebSocket: {answer!r}")


def _receive_echo(connection: socket.socket, expected: bytes) -> None:
    """Take back one message; its bytes are compared."""
    received = bytearray()
    while len(received) < len(expected):
        data = connection.recv(len(expected) - len(received))
        if not data:
            raise LoadFailed(f"{len(received)} of {len(expected)} bytes came back")
        received += data
    if received != expected:
        raise LoadFailed("another message came back than was sent")


def echo_once(port: int, server_name: str, payload_bytes: int) -> None:
    """One message there and back, compared; raises LoadFailed when it is not the same."""
    payload = os.urandom(payload_bytes)
    with connect(port, server_name) as connection:
        connection.sendall(encode_frame(FINAL_BINARY, payload, masked=True))
        _receive_echo(connection, encode_frame(FINAL_BINARY, payload, masked=False))


def run_small_echoes(
    port: int, server_name: str, connections: int, payload_bytes: int, seconds: float
) -> Load:
    """Small messages there and back, one under way on each connection."""
    payload = bytes(payload_bytes)
    message = encode_frame(FINAL_BINARY, payload, masked=True)
    expected = encode_frame(FINAL_BINARY, payload, masked=False)
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        clients: dict[int, socket.socket] = {}
        for _ in range(connections):
            client = stack.enter_context(connect(port, server_name))
            poll.register(client, select.EPOLLIN)
            clients[client.fileno()] = client
        started = time.monotonic()
        for client in clients.values():
            client.sendall(message)
        count, under_way = 0, len(clients)
        while under_way:
            ready = poll.poll(SOCKET_TIMEOUT_S)
            if not ready:
                raise LoadFailed(f"no echo for {SOCKET_TIMEOUT_S:g} s, after {count}")
            goes_on = time.monotonic() < started + seconds
            for descriptor, _ in ready:
                client = clients[descriptor]
                _receive_echo(client, expected)
                count += 1
                if goes_on:
                    client.sendall(message)
                else:
                    under_way -= 1
        return Load(count, time.monotonic() - started)


def _echo_large(connection: socket.socket, payload_bytes: int, count: int) -> None:
    payload = bytes(payload_bytes)
    message = encode_frame(FINAL_BINARY, payload, masked=True)
    head = encode_frame(FINAL_BINARY, payload, masked=False)[:-payload_bytes]
    buffer = bytearray(READ_BYTES)
    for _ in range(count):
        connection.sendall(message)
        _receive_echo(connection, head)
        left = payload_bytes
        while left:
            received = connection.recv_into(buffer, min(left, READ_BYTES), socket.MSG_TRUNC)
            if not received:
                raise LoadFailed(f"{left} of {payload_bytes} bytes did not come back")
            left -= received


def run_large_echoes(port: int, server_name: str, connections: int, payload_bytes: int, count: int) -> Load:
    """`count` large messages there and back on each connection; the payload is thrown away unread."""
    failures: list[Exception] = []

    def echo(connection: socket.socket) -> None:
        try:
            _echo_large(connection, payload_bytes, count)
        except (OSError, LoadFailed) as error:
            failures.append(error)

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port, server_name)) for _ in range(connections)]
        started = time.monotonic()
        threads = [threading.Thread(target=echo, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
    if failures:
        raise LoadFailed(f"large messages: {failures[0]!r}")
    return Load(connections * count, seconds)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
