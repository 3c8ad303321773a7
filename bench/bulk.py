"""Bulk bytes over one TCP connection, cheap enough at both ends that the proxy between them is the work.

The server sends from a file in memory (`sendfile`), the receiver throws bytes away inside the
kernel (`MSG_TRUNC`), so neither end copies them. A connection may begin with a real ClientHello,
which is all that a proxy sees of TLS when it passes it through; what follows is opaque to it.

A connection: an optional ClientHello, then a command of 16 bytes (`\\0UP` or `\\0DOWN`, padded, and
the number of bytes). The server sends that many bytes, or takes them and answers `\\0`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import sys
import threading

COMMAND = struct.Struct("!8sQ")
DOWNLOAD = b"\0DOWN"
UPLOAD = b"\0UP"
CHUNK_BYTES = 1 << 20
SOURCE_BYTES = 64 << 20
TLS_HANDSHAKE_RECORD = 0x16
SOCKET_TIMEOUT_S = 60.0


class Broken(Exception):
    """The other end closed before everything was through."""


def client_hello(server_name: str) -> bytes:
    """The first flight of a TLS client that asks for `server_name`."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def make_source() -> int:
    """A file in memory to send from; returns its descriptor."""
    source = os.memfd_create("source")
    block = os.urandom(CHUNK_BYTES)
    for _ in range(SOURCE_BYTES // CHUNK_BYTES):
        os.write(source, block)
    return source


def send_bulk(connection: socket.socket, source: int, total: int) -> None:
    """Send `total` bytes of the source, over and over."""
    left = total
    while left:
        offset = 0
        while left and offset < SOURCE_BYTES:
            sent = os.sendfile(connection.fileno(), source, offset, min(left, SOURCE_BYTES - offset))
            offset += sent
            left -= sent


def receive_bulk(connection: socket.socket, total: int) -> None:
    """Take `total` bytes and throw them away; raises Broken when fewer come."""
    buffer = bytearray(CHUNK_BYTES)
    left = total
    while left:
        count = connection.recv_into(buffer, min(left, CHUNK_BYTES), socket.MSG_TRUNC)
        if not count:
            raise Broken(f"{left} of {total} bytes did not arrive")
        left -= count


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    data = connection.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise Broken(f"{len(data)} of {count} bytes arrived")
    return data


def transfer(port: int, direction: bytes, total: int, preface: bytes, source: int) -> None:
    """The client's part: move `total` bytes through the proxy on `port`."""
    with socket.create_connection(("127.0.0.1", port), timeout=SOCKET_TIMEOUT_S) as connection:
        connection.settimeout(None)
        connection.sendall(preface + COMMAND.pack(direction, total))
        if direction == DOWNLOAD:
            receive_bulk(connection, total)
        else:
            send_bulk(connection, source, total)
            receive_exactly(connection, 1)


def _answer(connection: socket.socket, source: int) -> None:
    # A client that only tries whether the port answers closes at once.
    with connection, contextlib.suppress(Broken, ConnectionError):
        head = receive_exactly(connection, 5)
        if head[0] == TLS_HANDSHAKE_RECORD:
            receive_exactly(connection, int.from_bytes(head[3:5], "big"))
            head = receive_exactly(connection, 5)
        direction, total = COMMAND.unpack(head + receive_exactly(connection, COMMAND.size - 5))
        if direction.rstrip(b"\0") == DOWNLOAD:
            send_bulk(connection, source, total)
        else:
            receive_bulk(connection, total)
            connection.sendall(b"\0")


def serve(port: int) -> None:
    """The backend's part, for ever."""
    source = make_source()
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, source), daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
