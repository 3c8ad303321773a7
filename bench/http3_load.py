"""HTTP/3 load from qh3's client, in a process of its own.

Debian's h2load has no QUIC. This client is slower than a compiled one, but what counts is the proxy's CPU
time, and a few requests in flight keep it at work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import select
import socket
import ssl
import time
from multiprocessing.connection import Connection

from bench.load import Load, LoadFailed
from bench.peers import PeerMissing

try:
    from qh3.h3.connection import H3_ALPN, H3Connection
    from qh3.h3.events import DataReceived, H3Event, HeadersReceived
    from qh3.quic.configuration import QuicConfiguration
    from qh3.quic.connection import QuicConnection
    from qh3.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent, StreamReset
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

HOST = "127.0.0.1"
STALLED_S = 3.0
DATAGRAM_BYTES = 2048
RECEIVE_BUFFER_BYTES = 1 << 20


class _Client:
    """One connection with so many GETs in flight, each followed by another until it is time to end."""

    def __init__(self, port: int, server_name: str, in_flight: int, content_bytes: int, end: float) -> None:
        self._address = (HOST, port)
        self._wanted = in_flight
        self._content_bytes = content_bytes
        self._end = end
        self._fields = [
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", server_name.encode()),
            (b":path", b"/"),
            (b"user-agent", b"bench"),
        ]
        #: Bytes of content so far, by stream.
        self._under_way: dict[int, int] = {}
        self._is_ready = False
        self.answered = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.socket.setblocking(False)
        self.socket.connect(self._address)
        configuration = QuicConfiguration(
            alpn_protocols=H3_ALPN, server_name=server_name, verify_mode=ssl.CERT_NONE
        )
        self._quic = QuicConnection(configuration=configuration)
        self._http = H3Connection(self._quic)
        self._quic.connect(self._address, time.monotonic())

    @property
    def is_done(self) -> bool:
        return self._is_ready and not self._under_way

    def timer(self) -> float | None:
        return self._quic.get_timer()

    def receive(self) -> None:
        datagrams = []
        # Nothing listens yet: QUIC's own timer sends again.
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                datagrams.append(self.socket.recv(DATAGRAM_BYTES))
        if datagrams:
            self._quic.receive_many_datagrams(datagrams, self._address, time.monotonic())
            self._take_events()

    def send(self) -> None:
        now = time.monotonic()
        timer = self._quic.get_timer()
        if timer is not None and timer <= now:
            self._quic.handle_timer(now)
            self._take_events()
        for data, _ in self._quic.datagrams_to_send(now):
            with contextlib.suppress(ConnectionRefusedError):
                self.socket.send(data)

    def close(self) -> None:
        self._quic.close()
        self.send()
        self.socket.close()

    def _take_events(self) -> None:
        while (event := self._quic.next_event()) is not None:
            self._take(event)
            for part in self._http.handle_event(event):
                self._take_part(part)

    def _take(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self._is_ready = True
            for _ in range(self._wanted):
                self._request()
        elif isinstance(event, ConnectionTerminated):
            raise LoadFailed(f"the QUIC connection ended: {event.error_code:#x} {event.reason_phrase}")
        elif isinstance(event, StreamReset):
            raise LoadFailed(f"a stream was reset: {event.error_code:#x}")

    def _take_part(self, part: H3Event) -> None:
        if isinstance(part, HeadersReceived):
            status = dict(part.headers)[b":status"]
            if status != b"200":
                raise LoadFailed(f"status {status.decode()}")
        elif isinstance(part, DataReceived):
            self._under_way[part.stream_id] += len(part.data)
        else:
            return
        if part.stream_ended:
            received = self._under_way.pop(part.stream_id)
            if received != self._content_bytes:
                raise LoadFailed(f"{received} bytes of content, not {self._content_bytes}")
            self.answered += 1
            if time.monotonic() < self._end:
                self._request()

    def _request(self) -> None:
        stream_id = self._quic.get_next_available_stream_id()
        self._http.send_headers(stream_id, self._fields, end_stream=True)
        self._under_way[stream_id] = 0


def _drive(clients: list[_Client]) -> None:
    """Return when every client is done; raises LoadFailed when nothing goes on any more."""
    by_descriptor = {client.socket.fileno(): client for client in clients}
    poll = select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    for client in clients:
        client.send()
    answered, last_answer = 0, time.monotonic()
    while not all(client.is_done for client in clients):
        timers = [timer for client in clients if (timer := client.timer()) is not None]
        wait_s = max(0.0, min([*timers, last_answer + STALLED_S]) - time.monotonic())
        for descriptor, _ in poll.poll(wait_s):
            by_descriptor[descriptor].receive()
        for client in clients:
            client.send()
        total = sum(client.answered for client in clients)
        if total != answered:
            answered, last_answer = total, time.monotonic()
        elif time.monotonic() >= last_answer + STALLED_S:
            raise LoadFailed(f"nothing was answered for {STALLED_S:g} s, after {answered} answers")


def _make_load(
    port: int,
    server_name: str,
    connections: int,
    in_flight: int,
    content_bytes: int,
    seconds: float,
    result: Connection,
) -> None:
    started = time.monotonic()
    try:
        clients = [
            _Client(port, server_name, in_flight, content_bytes, started + seconds)
            for _ in range(connections)
        ]
        _drive(clients)
        ended = time.monotonic()
        for client in clients:
            client.close()
        result.send((sum(client.answered for client in clients), ended - started))
    except (LoadFailed, OSError) as error:
        result.send(str(error))


def run_http3(
    server_name: str, port: int, connections: int, in_flight: int, content_bytes: int, seconds: float
) -> Load:
    """GET `/` over so many connections, `in_flight` at a time on each (one round of them in 0 seconds).

    Raises LoadFailed when an answer is not 200 with so many bytes, or a connection fails.
    """
    if not AVAILABLE:
        raise PeerMissing("qh3, the HTTP/3 client, is not installed; to get it: pip install qh3")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (port, server_name, connections, in_flight, content_bytes, seconds, sender)
    worker = context.Process(target=_make_load, args=arguments, daemon=True)
    worker.start()
    sender.close()
    try:
        told: str | tuple[int, float] = receiver.recv()
    except EOFError:
        told = "the HTTP/3 client ended by itself"
    worker.join()
    if isinstance(told, str):
        raise LoadFailed(told)
    return Load(*told)
