"""A model of the engine's outside world, driven rule by rule: links, operations and relays by hand."""

from __future__ import annotations

import struct
from json import dumps, loads
from math import inf
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smartproxy.config import compile_configuration, parse_config
from smartproxy.core.configuration import Configuration
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    CancelOperation,
    Opened,
    OpenStream,
    OperationFailed,
    RelayOutcome,
    Resolved,
    ResolveHost,
    Result,
    StartRelay,
)
from smartproxy.core.records import Record
from smartproxy.core.stream import HIGH_WATER_BYTES, Ending, Link

RAW_PORT = 1
HTTP_PORT = 2
MIXED_PORT = 3
MOST_CLIENTS = 4
LONGEST_READ = 300_000
START_S = 500.0

_ROUTES = [
    {
        "match": {"ports": RAW_PORT, "protocol": "tcp"},
        "action": {"type": "forward", "targets": [{"host": ["raw.internal", "10.0.0.9"], "port": 9}]},
    },
    {
        "match": {"ports": HTTP_PORT, "protocol": "http"},
        "action": {"type": "forward", "targets": [{"host": ["web.internal", "10.0.0.8"], "port": 8}]},
    },
    {
        "match": {"ports": MIXED_PORT},
        "action": {"type": "forward", "targets": [{"host": "any.internal", "port": 7}]},
    },
]


def compile_routes(routes: list[dict[str, Any]]) -> Configuration:
    return compile_configuration(parse_config(loads(dumps({"routes": routes})))).configuration


CONFIGURATIONS = [compile_routes(_ROUTES), compile_routes(_ROUTES[::-1]), compile_routes(_ROUTES[:1])]

HTTP_PIECES = [
    b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /e HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0123456789",
    b"\r\n",
    b"GE",
    b"\x00\x01\x02",
    b"zz\r\n",
    b"x" * 70_000,
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 502 Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
]

HTTP_RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(1000),
    b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more than was asked for",
]


class Stream:
    """One link and everything that has passed it. What a raw peer sends numbers every eight bytes."""

    def __init__(self, link: Link, number: int, port: int, *, is_client: bool) -> None:
        self.link = link
        self.number = number
        self.port = port
        self.is_client = is_client
        self.sent_bytes = 0
        self.sent_eof = False
        self.received = bytearray()
        self.gone = False
        """Lost, closed or aborted: nothing more is said of it."""
        self.late_reads = 0
        self.shut_down = False
        self.relay_out: StartRelay | None = None
        self.relay_in: StartRelay | None = None

    def content(self, start: int, end: int) -> bytes:
        """What this raw peer sends from one position to another."""
        blocks = range(start // 8, (end + 7) // 8)
        text = b"".join(struct.pack(">II", self.number, block) for block in blocks)
        return text[start - blocks.start * 8 : end - blocks.start * 8]

    @property
    def may_speak(self) -> bool:
        is_read = self.link.reading or self.late_reads > 0
        return not self.gone and not self.sent_eof and self.relay_out is None and is_read

    def __repr__(self) -> str:
        return f"<{'c' if self.is_client else 'u'}{self.number} {'gone' if self.gone else 'there'}>"


class EngineMachine(RuleBasedStateMachine):
    """Drives one engine as a driver may, never gentler and never worse than the contract of `Link`."""

    @initialize()
    def begin(self, started_at: float = START_S) -> None:
        self.now = started_at
        env = Env(Random(1).randbytes, lambda: 1_700_000_000.0 + self.now)
        self.engine = Engine(CONFIGURATIONS[0], env)
        self.engine.handle_started(self.now)
        self.streams: list[Stream] = []
        self.by_link: dict[int, Stream] = {}
        self.operations: dict[int, ResolveHost | OpenStream] = {}
        self.cancelled: list[int] = []
        self.relays: dict[int, StartRelay] = {}
        self.reading: dict[int, bool] = {}
        self.drain_outputs()

    # The driver's half.

    def drain_outputs(self) -> None:
        """Take every output of the last input; inputs that follow from them come after."""
        engine = self.engine
        for operation in engine.poll_operations():
            if isinstance(operation, CancelOperation):
                self.operations.pop(operation.id, None)
                relay = self.relays.pop(operation.id, None)
                if relay is not None:
                    self.detach(relay)
                self.cancelled.append(operation.id)
            elif isinstance(operation, StartRelay):
                self.start_relay(operation)
            else:
                assert isinstance(operation, ResolveHost | OpenStream)
                self.operations[operation.id] = operation
        for link in engine.poll_dirty_links():
            stream = self.by_link.get(link.id)
            if stream is not None and not stream.gone:
                self.visit(stream)
        for record in engine.poll_records():
            assert not isinstance(record, Record) or record.event != "internal_error", record
        assert engine.poll_timeout() >= 0.0

    def start_relay(self, operation: StartRelay) -> None:
        source, sink = self.by_link[operation.source.id], self.by_link[operation.sink.id]
        assert source.relay_out is None
        assert sink.relay_in is None
        self.relays[operation.id] = operation
        source.relay_out = sink.relay_in = operation

    def visit(self, stream: Stream) -> None:
        link = stream.link
        if link.ending is Ending.ABORT:
            self.forget(stream)
            return
        was_reading = self.reading.get(link.id, True)
        self.reading[link.id] = link.reading
        if was_reading and not link.reading:
            # The read that was under way.
            stream.late_reads = 1
        elif link.reading:
            stream.late_reads = 0
        self.finish_if_sent(stream)

    def finish_if_sent(self, stream: Stream) -> None:
        link = stream.link
        if link.outgoing_bytes == 0 and link.ending is Ending.SHUT_DOWN_WRITING and not stream.shut_down:
            stream.shut_down = True
            self.check_complete(stream)
        elif link.outgoing_bytes == 0 and link.ending is Ending.CLOSE:
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        stream.gone = True
        for relay in (stream.relay_in, stream.relay_out):
            if relay is not None and relay.id in self.relays:
                del self.relays[relay.id]
                self.detach(relay)

    def detach(self, relay: StartRelay) -> None:
        self.by_link[relay.source.id].relay_out = None
        self.by_link[relay.sink.id].relay_in = None

    def pull(self, stream: Stream) -> None:
        """The socket takes one pull; once all is sent the engine hears so, if it asked."""
        link = stream.link
        self.receive(stream, link.pull())
        self.finish_if_sent(stream)
        if link.outgoing_bytes == 0 and link.notify_writable and not stream.gone:
            self.engine.handle_writable(link, self.now)
            self.drain_outputs()

    def receive(self, stream: Stream, data: bytes) -> None:
        start = len(stream.received)
        stream.received += data
        if stream.port == RAW_PORT and data:
            peer = self.raw_peer(stream)
            assert peer is not None, "bytes that nobody sent"
            assert bytes(data) == peer.content(start, start + len(data)), "bytes lost, doubled or mixed up"
            assert len(stream.received) <= peer.sent_bytes

    def raw_peer(self, stream: Stream) -> Stream | None:
        """Whose bytes a raw stream receives, by the number they begin with."""
        if len(stream.received) < 4:
            (candidates,) = [
                [s for s in self.streams if s.content(0, len(stream.received)) == stream.received]
            ]
            return candidates[0] if candidates else None
        (number,) = struct.unpack(">I", stream.received[:4])
        return next((s for s in self.streams if s.number == number), None)

    def check_complete(self, stream: Stream) -> None:
        """A raw stream whose end was passed on has got every byte before it."""
        if stream.port == RAW_PORT and stream.received:
            peer = self.raw_peer(stream)
            assert peer is not None
            assert peer.sent_eof
            assert len(stream.received) == peer.sent_bytes, "an end before the last byte"

    def lose(self, stream: Stream, reason: LostReason) -> None:
        relays = [
            (relay, outcome)
            for relay, outcome in (
                (stream.relay_in, RelayOutcome.SINK_LOST),
                (stream.relay_out, RelayOutcome.SOURCE_LOST),
            )
            if relay is not None
        ]
        stream.gone = True
        # A relay's outcome is the news of the loss already.
        for relay, outcome in relays:
            self.end_relay(relay, outcome)
        if not relays:
            self.engine.handle_lost(stream.link, reason, self.now)
            self.drain_outputs()

    def end_relay(self, relay: StartRelay, outcome: RelayOutcome) -> None:
        if self.relays.pop(relay.id, None) is not None:
            self.detach(relay)
            self.engine.handle_relay_ended(relay, outcome, self.now)
            self.drain_outputs()

    def answer(self, operation: ResolveHost | OpenStream, result: Result) -> None:
        del self.operations[operation.id]
        if isinstance(operation, OpenStream) and isinstance(result, Opened):
            port = {9: RAW_PORT, 8: HTTP_PORT, 7: MIXED_PORT}[operation.address[1]]
            self.adopt(operation.link, port, is_client=False)
        self.engine.handle_result(operation.id, result, self.now)
        self.drain_outputs()
        if isinstance(result, Opened):
            assert isinstance(operation, OpenStream)
            stream = self.by_link[operation.link.id]
            if not stream.gone:
                self.visit(stream)

    def adopt(self, link: Link, port: int, *, is_client: bool) -> Stream:
        # Its first bytes tell a raw stream from every other.
        stream = Stream(link, (len(self.streams) + 1) * 0x01010101 & 0xFFFFFFFF, port, is_client=is_client)
        self.streams.append(stream)
        self.by_link[link.id] = stream
        return stream

    def feed(self, stream: Stream, data: bytes) -> None:
        stream.late_reads = 0
        stream.sent_bytes += len(data)
        self.engine.handle_data(stream.link, data, self.now)
        self.drain_outputs()

    # The rules.

    def some(self, data: st.DataObject, streams: list[Stream]) -> Stream:
        return streams[data.draw(st.integers(0, len(streams) - 1))]

    @property
    def there(self) -> list[Stream]:
        return [stream for stream in self.streams if not stream.gone]

    @property
    def speakers(self) -> list[Stream]:
        return [stream for stream in self.there if stream.may_speak]

    @precondition(lambda self: sum(s.is_client for s in self.there) < MOST_CLIENTS)
    @rule(port=st.sampled_from([RAW_PORT, RAW_PORT, HTTP_PORT, MIXED_PORT]))
    def accept(self, port: int) -> None:
        number = len(self.streams)
        link = self.engine.handle_accepted(
            port, ("198.51.100.1", 1024 + number), ("192.0.2.1", port), self.now
        )
        self.adopt(link, port, is_client=True)
        self.drain_outputs()

    @precondition(lambda self: bool(self.speakers))
    @rule(data=st.data(), length=st.one_of(st.integers(1, 20), st.integers(1, LONGEST_READ)))
    def receive_bytes(self, data: st.DataObject, length: int) -> None:
        stream = self.some(data, self.speakers)
        if stream.port == RAW_PORT:
            self.feed(stream, stream.content(stream.sent_bytes, stream.sent_bytes + length))
        else:
            pieces = data.draw(st.lists(st.sampled_from(HTTP_PIECES), min_size=1, max_size=4))
            self.feed(stream, b"".join(pieces)[: max(length, 200)])

    @precondition(lambda self: bool(self.speakers))
    @rule(data=st.data())
    def receive_eof(self, data: st.DataObject) -> None:
        stream = self.some(data, self.speakers)
        stream.sent_eof = True
        self.engine.handle_eof(stream.link, self.now)
        self.drain_outputs()

    @precondition(lambda self: any(s.link.ending < Ending.CLOSE for s in self.there))
    @rule(data=st.data(), reason=st.sampled_from([LostReason.RESET, LostReason.TIMED_OUT]))
    def lose_stream(self, data: st.DataObject, reason: LostReason) -> None:
        self.lose(self.some(data, [s for s in self.there if s.link.ending < Ending.CLOSE]), reason)

    @precondition(lambda self: any(s.link.outgoing_bytes for s in self.there))
    @rule(data=st.data())
    def send_bytes(self, data: st.DataObject) -> None:
        self.pull(self.some(data, [s for s in self.there if s.link.outgoing_bytes]))

    @precondition(lambda self: bool(self.operations))
    @rule(data=st.data(), succeeds=st.integers(0, 3), reason=st.sampled_from(list(LostReason)))
    def answer_operation(self, data: st.DataObject, succeeds: int, reason: LostReason) -> None:
        operation = self.operations[data.draw(st.sampled_from(sorted(self.operations)))]
        if not succeeds:
            self.answer(operation, OperationFailed(reason))
        elif isinstance(operation, ResolveHost):
            self.answer(operation, Resolved(("10.0.0.1", "2001:db8::1", "10.0.0.2")[:succeeds]))
        else:
            self.answer(operation, Opened(("192.0.2.1", 40_000 + operation.id)))

    @precondition(lambda self: bool(self.operations))
    @rule()
    def answer_everything(self) -> None:
        """Look-ups and connects all succeed, those they lead to included."""
        while self.operations:
            operation = next(iter(self.operations.values()))
            if isinstance(operation, ResolveHost):
                self.answer(operation, Resolved(("10.0.0.1",)))
            else:
                self.answer(operation, Opened(("192.0.2.1", 40_000 + operation.id)))

    @precondition(lambda self: any(s.port == RAW_PORT for s in self.speakers))
    @rule(data=st.data(), megabytes=st.integers(1, 2))
    def move_bulk(self, data: st.DataObject, megabytes: int) -> None:
        """One side sends as fast as it is read, and the other takes it: this is what relays are for."""
        stream = self.some(data, [s for s in self.speakers if s.port == RAW_PORT])
        end = stream.sent_bytes + megabytes * 1_000_000
        while stream.may_speak and stream.sent_bytes < end:
            self.feed(stream, stream.content(stream.sent_bytes, stream.sent_bytes + 65_536))
            for sink in self.there:
                while sink.link.outgoing_bytes and not sink.gone and sink.relay_in is None:
                    self.pull(sink)

    @precondition(lambda self: any(s.port != RAW_PORT and s.is_client for s in self.speakers))
    @rule(
        data=st.data(),
        requests=st.lists(st.sampled_from(HTTP_PIECES[:6]), min_size=1, max_size=3),
        number=st.integers(0, len(HTTP_RESPONSES) - 1),
        cut=st.integers(0, 3),
    )
    def exchange(self, data: st.DataObject, requests: list[bytes], number: int, cut: int) -> None:
        """Requests that a backend answers, wholly or in part."""
        client = self.some(data, [s for s in self.speakers if s.port != RAW_PORT and s.is_client])
        response = HTTP_RESPONSES[number]
        self.feed(client, b"".join(requests))
        self.answer_everything()
        for backend in self.speakers:
            if backend.port != RAW_PORT and not backend.is_client:
                while backend.link.outgoing_bytes and not backend.gone:
                    self.pull(backend)
                if backend.may_speak:
                    self.feed(backend, response[: len(response) // 2 + 1] if not cut else response)

    @precondition(lambda self: bool(self.cancelled))
    @rule(data=st.data())
    def answer_too_late(self, data: st.DataObject) -> None:
        operation_id = self.cancelled.pop(data.draw(st.integers(0, len(self.cancelled) - 1)))
        self.engine.handle_result(operation_id, OperationFailed(LostReason.ERROR), self.now)
        self.drain_outputs()

    @precondition(lambda self: bool(self.relays))
    @rule(data=st.data(), length=st.integers(1, LONGEST_READ), end=st.integers(0, 3))
    def move_relay(self, data: st.DataObject, length: int, end: int) -> None:
        relay = self.relays[data.draw(st.sampled_from(sorted(self.relays)))]
        source, sink = self.by_link[relay.source.id], self.by_link[relay.sink.id]
        while sink.link.outgoing_bytes and not sink.gone:
            self.pull(sink)
        if relay.id not in self.relays:
            return
        if relay.length_bytes >= 0:
            length = min(length, relay.length_bytes - relay.moved_bytes)
        if source.port == RAW_PORT:
            moved = source.content(source.sent_bytes, source.sent_bytes + length)
        else:
            moved = bytes(length)
        source.sent_bytes += length
        relay.moved_bytes += length
        source.link.bytes_received += length
        sink.link.bytes_sent += length
        self.receive(sink, moved)
        if relay.moved_bytes == relay.length_bytes:
            self.end_relay(relay, RelayOutcome.COMPLETE)
        elif not end:
            source.sent_eof = True
            self.end_relay(relay, RelayOutcome.SOURCE_EOF)

    @rule(seconds=st.one_of(st.none(), st.floats(0.0, 0.5), st.floats(0.0, 100.0)))
    def let_time_pass(self, seconds: float | None) -> None:
        """Until the next deadline, or for a while; never early, sometimes late."""
        if seconds is not None:
            self.now += seconds
        elif self.engine.poll_timeout() < inf:
            self.now = max(self.now, self.engine.poll_timeout())
        if self.engine.poll_timeout() <= self.now:
            self.engine.handle_timeout(self.now)
            self.drain_outputs()

    @rule(what=st.integers(0, 19))
    def operate(self, what: int) -> None:
        """Seldom enough that there is something to disturb."""
        if what == len(CONFIGURATIONS):
            self.engine.handle_drain(self.now)
        elif what < len(CONFIGURATIONS):
            self.engine.handle_configuration(CONFIGURATIONS[what], self.now)
        self.drain_outputs()

    # What always holds.

    @invariant()
    def buffers_are_bounded(self) -> None:
        for stream in self.streams:
            outgoing_bytes = stream.link.outgoing_bytes
            # Above the mark one read more may come, and one that was under way.
            assert outgoing_bytes <= HIGH_WATER_BYTES + 2 * LONGEST_READ + 64 * 1024, (stream, outgoing_bytes)

    @invariant()
    def connections_are_counted(self) -> None:
        clients = [s for s in self.there if s.is_client and s.link.ending < Ending.CLOSE]
        assert self.engine.connection_count <= len(clients)

    @invariant()
    def operations_are_known(self) -> None:
        assert set(self.operations) == set(self.engine.context.pending_operations)
        assert set(self.relays) == set(self.engine.context.pending_relays)

    # The end: everybody leaves, every deadline comes, and nothing is left.

    def teardown(self) -> None:
        for _ in range(50):
            for stream in self.there:
                if stream.link.ending < Ending.CLOSE and not stream.gone and stream.is_client:
                    self.lose(stream, LostReason.RESET)
            for operation in list(self.operations.values()):
                if operation.id in self.operations:
                    self.answer(operation, OperationFailed(LostReason.REFUSED))
            for stream in self.there:
                while stream.link.outgoing_bytes and not stream.gone:
                    self.pull(stream)
            self.let_time_pass(None)
        engine = self.engine
        assert engine.connection_count == 0, "client connections left"
        assert engine.backend_connection_count == 0, "pooled connections left"
        assert not self.operations, f"operations left: {self.operations}"
        assert not self.relays, f"relays left: {self.relays}"
        assert not self.there, f"links left: {self.there}"
        assert engine.poll_timeout() == inf, "a deadline left"
        for generation_state in engine._generation.targets.values():
            for host in generation_state.group.hosts:
                assert host.in_flight == 0, f"{host.name} is thought to be busy"
