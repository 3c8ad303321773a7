"""HTTP/2: no cut changes a meaning, no byte is lost, no window overrun, and nothing else ever raised."""

from __future__ import annotations

import random
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from smartproxy.core.http.messages import UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http2 import (
    AVAILABLE_ENGINES,
    DataReceived,
    GoAwayReceived,
    Http2Connection,
    Http2EngineName,
    Http2Event,
    Http2Limits,
    RemoteProtocolError,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SettingsChanged,
    StreamEnded,
    StreamReset,
    StreamWritable,
    frames,
)
from smartproxy.testing.strategies.http2 import (
    ExchangeExample,
    damaged_frame_sequences,
    exchanges,
    frame_sequences,
)
from smartproxy.testing.strategies.segmentation import segmentations

NOW = 5.0
SMALL_LIMITS = Http2Limits(
    concurrent_streams=3, header_bytes=600, header_count=8, target_bytes=24, resets=3, pings=3, settings=3,
    empty_data=3, window_updates=5, priorities=3, ignored_frames=3, queued_reply_bytes=120, continuations=2,
)  # fmt: skip
GREETING = frames.encode_settings({})

engine_names = st.sampled_from(AVAILABLE_ENGINES)
limits_of_all_sizes = st.sampled_from((Http2Limits(), SMALL_LIMITS))
Fact = tuple[object, ...]


def attributes(head: RequestHead | ResponseHead) -> Fact:
    return tuple(getattr(head, name) for name in type(head).__slots__)


def fact(event: Http2Event) -> Fact:
    values = [getattr(event, name) for name in type(event).__slots__]
    return (
        type(event).__name__,
        *[attributes(value) if isinstance(value, RequestHead | ResponseHead) else value for value in values],
    )


def watch(connection: Http2Connection, pieces: list[bytes]) -> tuple[list[Fact], str, bytes]:
    """What a connection makes of a segmented input: events, how it failed, what it wrote."""
    facts: list[Fact] = []
    for piece in pieces:
        try:
            facts += map(fact, connection.receive_data(piece, NOW))
        except RemoteProtocolError as error:
            facts += map(fact, error.events)
            assert connection.ended
            return facts, str(error), connection.data_to_send()
    return facts, "", connection.data_to_send()


def new_connection(client_side: bool, limits: Http2Limits, engine: Http2EngineName) -> Http2Connection:
    connection = Http2Connection(client_side=client_side, limits=limits, engine=engine)
    connection.initiate(NOW)
    if client_side:
        for path in (b"/", b"/two"):
            head = RequestHead(b"GET", path, b"a.example", [], scheme=b"https")
            connection.send_request(head, end_stream=path == b"/")
    return connection


@st.composite
def peer_inputs(draw: st.DrawFn, client_side: bool) -> bytes:
    """What a strange peer may send: mostly frames, behind what must come first."""
    start = (b"" if client_side else frames.PREFACE) + GREETING
    wire = start + draw(frame_sequences())
    return draw(st.sampled_from((wire, wire, wire, wire[:-1], wire[9:], draw(st.binary(max_size=60)))))


@given(st.data(), st.booleans(), engine_names, limits_of_all_sizes)
def test_no_cut_changes_what_is_received_or_answered(
    data: st.DataObject, client_side: bool, engine: Http2EngineName, limits: Http2Limits
) -> None:
    wire = data.draw(peer_inputs(client_side))
    whole = watch(new_connection(client_side, limits, engine), [wire])
    pieces = data.draw(segmentations(wire))
    assert watch(new_connection(client_side, limits, engine), pieces) == whole


@given(st.data(), st.booleans(), engine_names, limits_of_all_sizes)
def test_strange_peers_meet_nothing_but_protocol_errors_and_bounded_buffers(
    data: st.DataObject, client_side: bool, engine: Http2EngineName, limits: Http2Limits
) -> None:
    connection = new_connection(client_side, limits, engine)
    bound = 2 * limits.header_bytes + 16384 + 9 + limits.queued_reply_bytes + 1000
    for wire in data.draw(st.lists(peer_inputs(client_side), min_size=1, max_size=3)):
        try:
            events = connection.receive_data(wire, NOW)
        except RemoteProtocolError:
            assert connection.ended
            assert connection.receive_data(wire, NOW) == []
            break
        assert connection.buffered_bytes <= bound
        for event in events:
            if isinstance(event, RequestReceived):
                connection.send_response(event.stream_id, ResponseHead(200, []), end_stream=False)
                connection.send_data(event.stream_id, b"hello", NOW, end_stream=True)
            elif isinstance(event, DataReceived):
                connection.acknowledge_received_data(event.stream_id, len(event.data))
    connection.data_to_send()
    assert connection.next_timeout() > NOW


@given(st.data(), st.booleans(), limits_of_all_sizes)
def test_engines_agree(data: st.DataObject, client_side: bool, limits: Http2Limits) -> None:
    wire = data.draw(peer_inputs(client_side))
    outcomes = [
        watch(new_connection(client_side, limits, engine), [wire])[:2] for engine in AVAILABLE_ENGINES
    ]
    assert all(outcome == outcomes[0] for outcome in outcomes)


def frames_of(data: bytes, decoder: hpack.Decoder) -> list[Fact]:
    """What was written, header blocks decoded. Credit and GOAWAY are the engines' own affairs."""
    written: list[Fact] = []
    position = 0
    if data.startswith(frames.PREFACE):
        position = len(frames.PREFACE)
    while position < len(data):
        high, low, frame_type, flags, stream_id = frames.FRAME_HEADER.unpack_from(data, position)
        position += frames.FRAME_HEADER_BYTES
        payload = data[position : position + (high << 8 | low)]
        position += len(payload)
        if frame_type == frames.HEADERS:
            lines = [(bytes(name), bytes(value)) for name, value in decoder.decode(payload, raw=True)]
            written.append((frame_type, flags, stream_id, lines))
        elif frame_type not in (frames.WINDOW_UPDATE, frames.GOAWAY) and (
            frame_type != frames.SETTINGS or flags & frames.ACK
        ):
            written.append((frame_type, flags, stream_id, payload))
    assert position == len(data)
    return written


def converse(connection: Http2Connection, pieces: list[bytes], answer_bytes: int) -> tuple[object, ...]:
    """Answer whatever is asked, consume whatever comes; the events, the frames written, whether it failed."""
    facts: list[Fact] = []
    decoder = hpack.Decoder()
    written: list[Fact] = []
    failed = False
    for piece in pieces:
        try:
            events = connection.receive_data(piece, NOW)
        except RemoteProtocolError as error:
            events = error.events
            failed = True
        facts += map(fact, events)
        for event in events:
            if isinstance(event, RequestReceived) and event.head.method != b"CONNECT":
                head = ResponseHead(200, [(b"date", b"today"), (b"x-path", event.head.target)])
                connection.send_response(event.stream_id, head, end_stream=not answer_bytes)
                if answer_bytes:
                    connection.send_data(event.stream_id, bytes(answer_bytes), NOW)
                    connection.send_trailers(event.stream_id, [(b"x-sum", b"0")])
            elif isinstance(event, DataReceived):
                connection.acknowledge_received_data(event.stream_id, len(event.data))
        written += frames_of(connection.data_to_send(), decoder)
        if failed:
            break
    return facts, written, failed


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.booleans(), limits_of_all_sizes, st.sampled_from((0, 10, 20_000, 100_000)))
def test_engines_agree_while_they_answer(
    data: st.DataObject, client_side: bool, limits: Http2Limits, answer_bytes: int
) -> None:
    start = (b"" if client_side else frames.PREFACE) + GREETING
    pieces = [
        start,
        *data.draw(st.lists(st.one_of(frame_sequences(4), damaged_frame_sequences()), max_size=4)),
    ]
    outcomes = [
        converse(new_connection(client_side, limits, engine), pieces, answer_bytes)
        for engine in AVAILABLE_ENGINES
    ]
    for outcome in outcomes:
        assert outcome == outcomes[0]


@given(st.data(), st.booleans(), engine_names)
def test_noise_ends_a_connection_at_worst(
    data: st.DataObject, client_side: bool, engine: Http2EngineName
) -> None:
    connection = new_connection(client_side, SMALL_LIMITS, engine)
    wire = (b"" if client_side else frames.PREFACE) + GREETING
    wire += data.draw(st.one_of(st.binary(max_size=200), damaged_frame_sequences()))
    facts, failure, written = watch(connection, data.draw(segmentations(wire)))
    assert connection.ended or not failure
    assert connection.buffered_bytes <= len(wire)
    # No frame brings more than two events, and none is answered with more than a few small ones.
    assert len(facts) <= 2 * len(wire) / frames.FRAME_HEADER_BYTES
    assert len(written) <= 200 + 3 * len(wire)


class End:
    """One end of a connection that goes through its part of several exchanges."""

    def __init__(self, client_side: bool, engine: Http2EngineName, limits: Http2Limits) -> None:
        self.connection = Http2Connection(client_side=client_side, limits=limits, engine=engine)
        self.connection.initiate(NOW)
        self.outgoing = b""
        self.steps: list[Iterator[None]] = []
        self.heads: dict[int, RequestHead | ResponseHead] = {}
        self.interim: dict[int, list[int]] = {}
        self.bodies: dict[int, bytes] = {}
        self.trailers: dict[int, Fields] = {}
        self.unconsumed: list[tuple[int, int]] = []

    def send_content(self, stream_id: int, chunks: list[bytes], trailers: Fields) -> Iterator[None]:
        for index, chunk in enumerate(chunks):
            last = index == len(chunks) - 1 and not trailers
            unsent = self.connection.send_data(stream_id, chunk, NOW, end_stream=last)
            assert unsent == self.connection.unsent_bytes(stream_id)
            yield
        if trailers:
            self.connection.send_trailers(stream_id, trailers)
            yield

    def request(self, example: ExchangeExample, ids: dict[int, ExchangeExample]) -> Iterator[None]:
        while self.connection.open_streams >= self.connection.max_outbound_streams:
            yield
        head = RequestHead(
            example.method, example.target, example.authority, example.request_fields, scheme=b"https"
        )
        stream_id = self.connection.send_request(head, end_stream=not example.request_chunks)
        ids[stream_id] = example
        yield
        yield from self.send_content(stream_id, example.request_chunks, example.request_trailers)

    def respond(self, stream_id: int, example: ExchangeExample) -> Iterator[None]:
        for status in example.interim_statuses:
            self.connection.send_response(stream_id, ResponseHead(status, []), end_stream=False)
            yield
        head = ResponseHead(example.status, example.response_fields)
        self.connection.send_response(stream_id, head, end_stream=not example.response_chunks)
        yield
        yield from self.send_content(stream_id, example.response_chunks, example.response_trailers)

    def receive(self, data: bytes, ids: dict[int, ExchangeExample]) -> None:
        for event in self.connection.receive_data(data, NOW):
            assert not isinstance(event, StreamReset | RequestRefused | GoAwayReceived), event
            if isinstance(event, SettingsChanged | StreamWritable):
                continue
            stream_id = event.stream_id
            if isinstance(event, DataReceived):
                assert stream_id not in self.trailers
                self.bodies[stream_id] = self.bodies.get(stream_id, b"") + event.data
                self.unconsumed.append((stream_id, len(event.data)))
            elif isinstance(event, StreamEnded):
                self.trailers[stream_id] = event.trailers
            elif isinstance(event, ResponseReceived) and event.head.status < 200:
                self.interim.setdefault(stream_id, []).append(event.head.status)
            else:
                self.heads[stream_id] = event.head
                if event.end_stream:
                    self.trailers[stream_id] = []
                if isinstance(event, RequestReceived):
                    self.steps.append(self.respond(stream_id, ids[stream_id]))

    def step(self, choice: random.Random) -> bool:
        """One step of some exchange, or the consumption of some content. False: nothing is left to do."""
        if self.unconsumed and (not self.steps or choice.random() < 0.5):
            stream_id, count = self.unconsumed.pop(choice.randrange(len(self.unconsumed)))
            part = choice.randint(1, count)
            self.connection.acknowledge_received_data(stream_id, part)
            if part < count:
                self.unconsumed.append((stream_id, count - part))
        elif self.steps:
            steps = self.steps.pop(choice.randrange(len(self.steps)))
            if next(steps, self) is None:
                self.steps.append(steps)
        else:
            return False
        return True


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.lists(exchanges(), min_size=1, max_size=5),
    st.tuples(engine_names, engine_names),
    st.sampled_from((Http2Limits(), Http2Limits(concurrent_streams=2, stream_window_bytes=65535))),
    st.integers(0, 2**32).map(random.Random),
)
def test_nothing_is_lost_between_a_client_and_a_server(
    examples: list[ExchangeExample],
    engines: tuple[Http2EngineName, Http2EngineName],
    limits: Http2Limits,
    choice: random.Random,
) -> None:
    client, server = End(True, engines[0], limits), End(False, engines[1], limits)
    ids: dict[int, ExchangeExample] = {}
    client.steps = [client.request(example, ids) for example in examples]
    idle_rounds = 0
    while idle_rounds < 2:
        idle = True
        for end, other in ((client, server), (server, client)):
            if choice.random() < 0.8 and end.step(choice):
                idle = False
            end.outgoing += end.connection.data_to_send()
            if end.outgoing:
                idle = False
                size = choice.choice((1, 9, 100, 20_000, len(end.outgoing)))
                data, end.outgoing = end.outgoing[:size], end.outgoing[size:]
                other.receive(data, ids)
        at_work = client.steps or server.steps or client.unconsumed or server.unconsumed
        idle_rounds = idle_rounds + 1 if idle and not at_work else 0
    assert len(ids) == len(examples)
    for stream_id, example in ids.items():
        request, response = server.heads[stream_id], client.heads[stream_id]
        assert isinstance(request, RequestHead)
        assert isinstance(response, ResponseHead)
        assert (request.method, request.target, request.authority, request.fields) == (
            example.method, example.target, example.authority, example.request_fields,
        )  # fmt: skip
        assert (response.status, response.fields) == (example.status, example.response_fields)
        assert client.interim.get(stream_id, []) == example.interim_statuses
        assert server.bodies.get(stream_id, b"") == b"".join(example.request_chunks)
        assert client.bodies.get(stream_id, b"") == b"".join(example.response_chunks)
        assert server.trailers[stream_id] == example.request_trailers
        assert client.trailers[stream_id] == example.response_trailers
    for end in (client, server):
        assert (end.connection.open_streams, end.connection.buffered_bytes) == (0, 0)


def strict_peer(client_side: bool, window_bytes: int) -> h2.connection.H2Connection:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client_side))
    peer.local_settings = h2.settings.Settings(
        client=client_side, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes}
    )
    peer.initiate_connection()
    return peer


def settle(ours: Http2Connection, theirs: h2.connection.H2Connection) -> list[h2.events.Event]:
    """Exchange what both have to say until neither has more. h2 raises for any window overrun."""
    events: list[h2.events.Event] = []
    while True:
        to_them, to_us = ours.data_to_send(), theirs.data_to_send()
        if not to_them and not to_us:
            return events
        events += theirs.receive_data(to_them)
        ours.receive_data(to_us, NOW)


REQUEST_LINES = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a.example")]


@settings(max_examples=60)
@given(
    engine_names,
    st.integers(0, 70_000),
    st.lists(st.integers(1, 90_000), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 50_000)), max_size=12),
)
def test_the_windows_of_a_strict_peer_are_never_overrun(
    engine: Http2EngineName, window_bytes: int, sizes: list[int], actions: list[tuple[int, int]]
) -> None:
    ours = Http2Connection(client_side=False, engine=engine)
    ours.initiate(NOW)
    theirs = strict_peer(True, window_bytes)
    settle(ours, theirs)
    ids = [1 + 2 * index for index in range(len(sizes))]
    for stream_id in ids:
        theirs.send_headers(stream_id, REQUEST_LINES, end_stream=True)
    settle(ours, theirs)
    received = dict.fromkeys(ids, 0)
    ended = set()

    def note() -> None:
        for event in settle(ours, theirs):
            if isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                received[event.stream_id] += len(event.data or b"")
            elif isinstance(event, h2.events.StreamEnded):
                ended.add(event.stream_id)

    for stream_id, size in zip(ids, sizes, strict=True):
        ours.send_response(stream_id, ResponseHead(200, []), end_stream=False)
        ours.send_data(stream_id, bytes(size // 2), NOW)
        ours.send_data(stream_id, bytes(size - size // 2), NOW, end_stream=True)
        note()
    for which, amount in actions:
        if which == 0:
            theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: amount})
        elif which % 2:
            theirs.increment_flow_control_window(amount)
        elif (stream_id := ids[which % len(ids)]) not in ended:
            theirs.increment_flow_control_window(amount, stream_id)
        note()
        assert ours.buffered_bytes == sum(map(ours.unsent_bytes, ids))
    theirs.increment_flow_control_window(1_000_000)
    for stream_id in ids:
        if stream_id not in ended:
            theirs.increment_flow_control_window(1_000_000, stream_id)
    note()
    assert list(received.values()) == sizes
    assert ended == set(ids)
    assert (ours.open_streams, ours.buffered_bytes) == (0, 0)


@settings(max_examples=40)
@given(
    engine_names,
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30_000), st.integers(0, 255)), max_size=30),
    st.integers(0, 2**32).map(random.Random),
)
def test_whoever_consumes_is_sent_more(
    engine: Http2EngineName, uploads: list[tuple[int, int, int]], choice: random.Random
) -> None:
    """A strict peer sends as much as it may; all of it arrives once what arrived has been consumed."""
    ours = Http2Connection(client_side=False, engine=engine)
    ours.initiate(NOW)
    theirs = strict_peer(True, 65535)
    settle(ours, theirs)
    for stream_id in (1, 3, 5):
        theirs.send_headers(stream_id, [*REQUEST_LINES[1:], (":method", "POST")])
    held: list[tuple[int, int]] = []
    consumed = dict.fromkeys((1, 3, 5), 0)

    def exchange() -> None:
        while to_us := theirs.data_to_send():
            for event in ours.receive_data(to_us, NOW):
                if isinstance(event, DataReceived):
                    held.append((event.stream_id, len(event.data)))
            theirs.receive_data(ours.data_to_send())

    def consume() -> None:
        stream_id, count = held.pop(choice.randrange(len(held)))
        ours.acknowledge_received_data(stream_id, count)
        consumed[stream_id] += count
        theirs.receive_data(ours.data_to_send())

    expected = dict.fromkeys((1, 3, 5), 0)
    for index, size, padding in uploads:
        stream_id = 1 + 2 * index
        expected[stream_id] += size
        while size:
            pad = padding if size > padding else 0
            allowed = min(theirs.local_flow_control_window(stream_id) - pad - 1, 16384 - pad - 1, size)
            if allowed > 0:
                theirs.send_data(stream_id, b"x" * allowed, pad_length=pad)
                size -= allowed
                exchange()
            else:
                exchange()
                consume()
    exchange()
    while held:
        consume()
    assert consumed == expected


@given(engine_names, exchanges())
def test_what_our_client_asks_a_strict_server_understands(
    engine: Http2EngineName, example: ExchangeExample
) -> None:
    assume(not any(name == b"set-cookie" for name, _ in example.request_fields))
    ours = Http2Connection(client_side=True, engine=engine)
    ours.initiate(NOW)
    theirs = strict_peer(False, 65535)
    head = RequestHead(
        example.method, example.target, example.authority, example.request_fields, scheme=b"https"
    )
    ours.send_request(head, end_stream=True)
    [request] = [event for event in settle(ours, theirs) if isinstance(event, h2.events.RequestReceived)]
    assert [tuple(line) for line in request.headers or []] == [
        (b":method", example.method),
        (b":scheme", b"https"),
        (b":path", example.target),
        (b":authority", example.authority),
        *example.request_fields,
    ]


@given(st.data(), engine_names)
def test_content_is_measured_against_its_length(data: st.DataObject, engine: Http2EngineName) -> None:
    announced = data.draw(st.integers(0, 30))
    chunks = data.draw(st.lists(st.binary(max_size=12), max_size=4))
    theirs = strict_peer(True, 65535)
    ours = Http2Connection(client_side=False, engine=engine)
    ours.initiate(NOW)
    lines = [*REQUEST_LINES[1:], (":method", "PUT"), ("content-length", str(announced))]
    theirs.send_headers(1, lines)
    for chunk in chunks:
        theirs.send_data(1, chunk)
    theirs.end_stream(1)
    events = ours.receive_data(theirs.data_to_send(), NOW)
    sent = sum(map(len, chunks))
    head = next(event for event in events if isinstance(event, RequestReceived)).head
    assert head.body_length_bytes == announced != UNKNOWN_LENGTH
    outcome = [event for event in events if isinstance(event, StreamEnded | StreamReset)]
    assert len(outcome) == 1
    assert isinstance(outcome[0], StreamEnded) is (sent == announced)
    arrived = b"".join(event.data for event in events if isinstance(event, DataReceived))
    assert len(arrived) <= announced
    assert b"".join(chunks).startswith(arrived)


def test_every_engine_that_is_installed_is_tried() -> None:
    assert {"h2", "native", "native-hpack"} <= set(AVAILABLE_ENGINES)
