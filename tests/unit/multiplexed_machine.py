"""A model of HTTP/2 clients and HTTP/2 backends around one engine, driven rule by rule.

Content is recognised: every byte of a request and of its response is the request's
number, so that nothing can be lost, doubled or swapped without being noticed.
"""

from __future__ import annotations

from math import inf

from engine_by_hand import EngineByHand, configuration, route, target
from engine_http2_by_hand import Http2End, data_frames
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smartproxy.core.configuration import BackendProtocol, Configuration, ForwardAction, Limits
from smartproxy.core.failure import LostReason
from smartproxy.core.http.messages import Fields
from smartproxy.core.http.multiplexed.session import STREAM_HIGH_WATER_BYTES
from smartproxy.core.ops import OpenStream
from smartproxy.core.stream import HIGH_WATER_BYTES
from smartproxy.core.wire.http2 import DEFAULT_LIMITS, ErrorCode, frames

WINDOW_BYTES = DEFAULT_LIMITS.stream_window_bytes
MOST_CLIENTS = 3
MOST_STREAMS = 12
MOST_AT_ONCE = 20_000
SIZES = st.one_of(st.integers(0, 10), st.integers(0, MOST_AT_ONCE))


def to_hosts(*hosts: str) -> Configuration:
    action = ForwardAction((target(*hosts),), backend_protocol=BackendProtocol.HTTP2)
    # Few connections, so that requests wait for one another.
    return configuration(route("app", action), limits=Limits(pool_connections_per_host=2))


CONFIGURATIONS = [to_hosts("10.0.0.1", "10.0.0.2"), to_hosts("10.0.0.2"), to_hosts("10.0.0.1", "10.0.0.3")]


class Request:
    """One request: what its client has sent, and what each try at a backend has sent back."""

    def __init__(self, number: int, client: Http2End, stream_id: int, *, ended: bool) -> None:
        self.number = number
        self.client = client
        self.stream_id = stream_id
        self.sent_bytes = 0
        self.ended = ended
        self.was_reset = False

    @property
    def byte(self) -> bytes:
        return bytes([self.number % 256])

    @property
    def is_open(self) -> bool:
        seen = self.client.streams[self.stream_id]
        return self.client.is_open and not self.was_reset and seen.reset is None

    @property
    def credit_bytes(self) -> int:
        return WINDOW_BYTES + self.client.streams[self.stream_id].credit_bytes - self.sent_bytes


class Response:
    """A backend's half of one try."""

    def __init__(self, request: Request, backend: Http2End, stream_id: int) -> None:
        self.request = request
        self.backend = backend
        self.stream_id = stream_id
        self.has_head = False
        self.sent_bytes = 0
        self.ended = False
        self.was_reset = False

    @property
    def is_open(self) -> bool:
        seen = self.backend.streams[self.stream_id]
        return self.backend.is_open and not self.ended and not self.was_reset and seen.reset is None

    @property
    def credit_bytes(self) -> int:
        return WINDOW_BYTES + self.backend.streams[self.stream_id].credit_bytes - self.sent_bytes


class MultiplexedMachine(RuleBasedStateMachine):
    """Nothing raises, every exchange ends exactly once, and nothing is left at the end."""

    @initialize()
    def begin(self) -> None:
        self.hand = EngineByHand(CONFIGURATIONS[0])
        self.clients: list[Http2End] = []
        self.backends: list[Http2End] = []
        self.requests: list[Request] = []
        self.responses: list[Response] = []
        self.begun = 0
        self.is_draining = False
        self.new_client(65535, gives_credit=True)

    # Who may do something.

    def able(self, ends: list[Http2End]) -> list[Http2End]:
        return [end for end in ends if end.is_open and end.is_read]

    @property
    def askers(self) -> list[Http2End]:
        """A client that has not heard a GOAWAY yet would ask in vain."""
        clients = [c for c in self.able(self.clients) if not c.goaways and c.end.takes_bytes]
        return [c for c in clients if c.next_id < 2 * MOST_STREAMS]

    @property
    def uploads(self) -> list[Request]:
        return [r for r in self.requests if r.is_open and not r.ended and r.client.is_read]

    @property
    def unanswered(self) -> list[Request]:
        return [r for r in self.requests if r.is_open and r.client.is_read]

    @property
    def answers(self) -> list[Response]:
        return [r for r in self.responses if r.is_open and r.backend.is_read]

    def look(self) -> None:
        """Everybody takes what has come; a request is known by its path."""
        for end in self.clients + self.backends:
            end.look()
            end.send_replies()
        for backend in self.backends:
            for stream_id in backend.new_streams():
                number = int(backend.streams[stream_id].head[b":path"][1:])
                self.responses.append(Response(self.requests[number], backend, stream_id))
        self.check_content()

    # Clients.

    @precondition(lambda self: sum(client.is_open for client in self.clients) < MOST_CLIENTS)
    @rule(window=st.sampled_from([0, 100, 65535, 1_000_000]), gives_credit=st.booleans())
    def connect(self, window: int, gives_credit: bool) -> None:
        if not self.is_draining:
            self.new_client(window, gives_credit=gives_credit)

    def new_client(self, window: int, *, gives_credit: bool) -> None:
        settings = {frames.SETTING_INITIAL_WINDOW_SIZE: window}
        client = Http2End(self.hand.connect(), client=True, settings=settings, gives_credit=gives_credit)
        self.clients.append(client)
        self.look()

    @precondition(lambda self: bool(self.askers))
    @rule(data=st.data(), size=SIZES, ends=st.booleans(), kind=st.integers(0, 5))
    def ask(self, data: st.DataObject, size: int, ends: bool, kind: int) -> None:
        self.begin_request(data.draw(st.sampled_from(self.askers)), size, kind, ends=ends)

    def begin_request(self, client: Http2End, size: int, kind: int, *, ends: bool) -> None:
        number = len(self.requests)
        request = Request(number, client, client.next_id, ended=ends)
        self.requests.append(request)
        self.begun += 1
        body = request.byte * size if kind else None
        request.sent_bytes = size if kind else 0
        method = b"POST" if kind else b"GET"
        fields: Fields = [(b"content-length", b"%d" % size)] if kind == 1 and ends else []
        if kind == 2:
            method, body, request.sent_bytes, request.ended, ends = b"CONNECT", None, 0, False, False
            fields = [(b":protocol", b"websocket"), (b"sec-websocket-version", b"13")]
        client.request(method, b"/%d" % number, *fields, body=body, ends=ends)
        self.look()

    @precondition(lambda self: bool(self.uploads))
    @rule(data=st.data(), size=SIZES, end=st.booleans(), trailers=st.booleans())
    def go_on_asking(self, data: st.DataObject, size: int, end: bool, trailers: bool) -> None:
        request = data.draw(st.sampled_from(self.uploads))
        size = min(size, max(request.credit_bytes, 0))
        request.sent_bytes += size
        request.ended = end
        sent = data_frames(request.stream_id, request.byte * size, end=end and not trailers)
        if end and trailers:
            sent += request.client.headers(request.stream_id, [(b"x-sum", b"1")], end=True)
        request.client.feed(sent)
        self.look()

    @precondition(lambda self: bool(self.unanswered))
    @rule(data=st.data(), code=st.sampled_from([ErrorCode.CANCEL, ErrorCode.NO_ERROR]))
    def give_up(self, data: st.DataObject, code: ErrorCode) -> None:
        request = data.draw(st.sampled_from(self.unanswered))
        request.was_reset = True
        request.client.reset(request.stream_id, code)
        self.look()

    # Backends.

    @precondition(lambda self: bool(self.hand.pending))
    @rule(
        data=st.data(),
        succeeds=st.integers(0, 4),
        streams=st.sampled_from([None, 1, 2, 100]),
        window=st.sampled_from([0, 1000, 65535, 1_000_000]),
        gives_credit=st.booleans(),
    )
    def answer_dial(
        self, data: st.DataObject, succeeds: int, streams: int | None, window: int, gives_credit: bool
    ) -> None:
        operation = data.draw(st.sampled_from(sorted(self.hand.pending.values(), key=lambda o: o.id)))
        assert isinstance(operation, OpenStream)
        if not succeeds:
            self.hand.fail(LostReason.REFUSED, operation)
        else:
            self.new_backend(operation, streams, window, gives_credit=gives_credit)
        self.look()

    def new_backend(
        self, operation: OpenStream, streams: int | None, window: int, *, gives_credit: bool
    ) -> None:
        settings = {
            frames.SETTING_INITIAL_WINDOW_SIZE: window,
            frames.SETTING_ENABLE_CONNECT_PROTOCOL: 1,
        }
        if streams is not None:
            settings[frames.SETTING_MAX_CONCURRENT_STREAMS] = streams
        end = self.hand.open(operation)
        if end.is_open:
            self.backends.append(Http2End(end, client=False, settings=settings, gives_credit=gives_credit))

    @precondition(lambda self: bool(self.askers))
    @rule(
        data=st.data(),
        kinds=st.lists(st.integers(0, 5), min_size=1, max_size=5),
        size=SIZES,
        answers=st.integers(0, 5),
        ends=st.integers(0, 3),
        limit=st.sampled_from([None, 2, 100]),
    )
    def exchange(
        self, data: st.DataObject, kinds: list[int], size: int, answers: int, ends: int, limit: int | None
    ) -> None:
        """Requests that reach their backend, which begins on some of them, and mostly finishes."""
        client = data.draw(st.sampled_from(self.askers))
        for kind in kinds:
            if client in self.askers:
                self.begin_request(client, size, kind, ends=bool(ends))
        for operation in list(self.hand.pending.values()):
            if isinstance(operation, OpenStream) and operation.id in self.hand.pending:
                self.new_backend(operation, limit, 65535, gives_credit=True)
        self.look()
        for response in self.answers[-answers:] if answers else []:
            if response.is_open and response.backend.is_read:
                self.go_on_answering(response, 200, size, end=bool(ends))

    @precondition(lambda self: bool(self.answers))
    @rule(data=st.data(), status=st.sampled_from([103, 200, 200, 204, 500]), size=SIZES, end=st.booleans())
    def answer(self, data: st.DataObject, status: int, size: int, end: bool) -> None:
        self.go_on_answering(data.draw(st.sampled_from(self.answers)), status, size, end=end)

    def go_on_answering(self, response: Response, status: int, size: int, *, end: bool) -> None:
        sent = b""
        if not response.has_head:
            response.has_head = status != 103
            without = status == 204
            lines: Fields = [(b":status", b"%d" % status)]
            if end and size and status == 200:
                lines.append((b"content-length", b"%d" % min(size, response.credit_bytes)))
            sent = response.backend.headers(response.stream_id, lines, end=without)
            response.ended = without
        if response.has_head and not response.ended:
            size = min(size, max(response.credit_bytes, 0))
            response.sent_bytes += size
            response.ended = end
            sent += data_frames(response.stream_id, response.request.byte * size, end=end)
        response.backend.feed(sent)
        self.look()

    @precondition(lambda self: bool(self.answers))
    @rule(
        data=st.data(),
        code=st.sampled_from(
            [
                ErrorCode.CANCEL,
                ErrorCode.REFUSED_STREAM,
                ErrorCode.NO_ERROR,
                ErrorCode.INTERNAL_ERROR,
                ErrorCode.HTTP_1_1_REQUIRED,
            ]
        ),
    )
    def reset_response(self, data: st.DataObject, code: ErrorCode) -> None:
        response = data.draw(st.sampled_from(self.answers))
        response.was_reset = True
        response.backend.reset(response.stream_id, code)
        self.look()

    @precondition(lambda self: bool(self.answers))
    @rule(
        data=st.data(), lines=st.sampled_from([[(b"a", b"b")], [(b":status", b"101")], [(b":status", b"x")]])
    )
    def answer_badly(self, data: st.DataObject, lines: Fields) -> None:
        response = data.draw(st.sampled_from(self.answers))
        response.was_reset = True
        response.backend.feed(response.backend.headers(response.stream_id, lines))
        self.look()

    # Either side.

    @property
    def ends(self) -> list[Http2End]:
        return self.able(self.clients + self.backends)

    @precondition(lambda self: bool(self.ends))
    @rule(data=st.data(), size=st.one_of(st.integers(1, 100), st.integers(1, 500_000)))
    def give_credit(self, data: st.DataObject, size: int) -> None:
        end = data.draw(st.sampled_from(self.ends))
        live = [i for i, seen in end.streams.items() if seen.reset is None and not seen.ended]
        update = frames.encode_window_update(0, size)
        if live:
            update += frames.encode_window_update(data.draw(st.sampled_from(live)), size)
        end.feed(update)
        self.look()

    @precondition(lambda self: any(end.is_open for end in self.clients + self.backends))
    @rule(data=st.data(), takes=st.booleans())
    def stop_or_go_on_taking(self, data: st.DataObject, takes: bool) -> None:
        end = data.draw(st.sampled_from([e for e in self.clients + self.backends if e.is_open]))
        if takes:
            end.end.take_bytes_again()
        else:
            end.end.takes_bytes = False
        self.look()

    @precondition(lambda self: any(end.is_open for end in self.clients + self.backends))
    @rule(data=st.data(), how=st.integers(0, 29))
    def leave(self, data: st.DataObject, how: int) -> None:
        """Seldom enough that there is somebody to leave."""
        end = data.draw(st.sampled_from([e for e in self.clients + self.backends if e.is_open]))
        if how == 0:
            end.end.reset()
        elif how == 1 and end.is_read:
            end.end.finish()
        elif how == 2 and end.is_read:
            highest = max([i for i, seen in end.streams.items() if seen.heads], default=0)
            end.go_away(data.draw(st.integers(0, highest)) if not end.is_client else 0)
        elif how == 3 and end.is_read:
            end.feed(data.draw(st.sampled_from([b"\xff" * 9, frames.encode_window_update(0, 0), bytes(9)])))
        elif how == 4 and end.is_read:
            end.feed(frames.encode_frame(frames.PING, 0, 0, bytes(8)))
        self.look()

    @rule(seconds=st.one_of(st.none(), st.floats(0.0, 2.0), st.floats(0.0, 100.0)))
    def let_time_pass(self, seconds: float | None) -> None:
        if seconds is None:
            deadline = self.hand.engine.poll_timeout()
            seconds = max(deadline - self.hand.now, 0.0) if deadline < inf else 0.0
        self.hand.advance(seconds)
        self.look()

    @rule(what=st.integers(0, 59))
    def operate(self, what: int) -> None:
        if what < len(CONFIGURATIONS):
            self.hand.configure(CONFIGURATIONS[what])
        elif what == len(CONFIGURATIONS):
            self.is_draining = True
            self.hand.engine.handle_drain(self.hand.now)
            self.hand.drain()
        self.look()

    # What always holds.

    def check_content(self) -> None:
        for request in self.requests:
            seen = request.client.streams[request.stream_id]
            if not seen.heads or seen.head_or_none is None:
                continue
            tries = [each for each in self.responses if each.request is request and each.has_head]
            if b"proxy-status" in seen.head or not tries:
                continue
            assert len(tries) == 1, "one response of two backends"
            assert seen.data == request.byte * len(seen.data), "bytes of somebody else's"
            assert len(seen.data) <= tries[0].sent_bytes
            if seen.ended:
                assert tries[0].ended, "an end that the backend has not sent"
                assert len(seen.data) == tries[0].sent_bytes, "an end before the last byte"
        for response in self.responses:
            seen = response.backend.streams[response.stream_id]
            request = response.request
            assert seen.data == request.byte * len(seen.data), "bytes of somebody else's"
            assert len(seen.data) <= request.sent_bytes
            if seen.ended and not seen.head.get(b":protocol"):
                assert request.ended
                assert len(seen.data) == request.sent_bytes, "an end before the last byte"

    @invariant()
    def buffers_are_bounded(self) -> None:
        per_stream = STREAM_HIGH_WATER_BYTES + WINDOW_BYTES + MOST_AT_ONCE
        for end in self.hand.ends.values():
            assert end.link.outgoing_bytes <= HIGH_WATER_BYTES + MOST_CLIENTS * MOST_STREAMS * per_stream

    @invariant()
    def exchanges_end_once(self) -> None:
        assert len(self.hand.access) <= self.begun

    @invariant()
    def connections_are_counted(self) -> None:
        assert self.hand.engine.connection_count <= sum(client.is_open for client in self.clients)
        assert set(self.hand.pending) == set(self.hand.engine.context.pending_operations)

    # The end: everybody leaves, every deadline comes, and nothing is left.

    def teardown(self) -> None:
        hand = self.hand
        for end in self.clients:
            if end.is_open:
                end.end.reset()
        for operation in list(hand.pending.values()):
            if operation.id in hand.pending:
                assert isinstance(operation, OpenStream)
                hand.fail(LostReason.REFUSED, operation)
        assert hand.engine.connection_count == 0
        assert len(hand.access) == self.begun, "an exchange without an end"
        for state in hand.engine._generation.targets.values():
            for host in state.group.hosts:
                assert host.in_flight == 0, f"{host.name} is thought to be busy"
        hand.settle()
