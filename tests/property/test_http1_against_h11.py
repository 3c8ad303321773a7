"""Whatever our codec accepts, h11 accepts, and means the same by it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from smartproxy.core.http.messages import EndOfMessage, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http1 import RemoteProtocolError, RequestDecoder, ResponseDecoder
from smartproxy.core.wire.http1.fields import DROPPED_TRAILERS
from smartproxy.testing.strategies.http1 import HOSTILE_FRAGMENTS, mutations, requests, responses

PLENTY_BYTES = 1 << 20


@dataclass
class Reading:
    """One message as a parser reads it."""

    heads: list[tuple[object, ...]] = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    after: bytes = b""
    is_complete: bool = False


def comparable(lines: Fields) -> Fields:
    """h11 writes the transfer coding in lower case."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in lines]


def our_reading_of_a_request(wire: bytes) -> Reading | None:
    """None if it is refused or not all there."""
    decoder = RequestDecoder()
    decoder.receive_data(wire)
    reading = Reading()
    try:
        while (event := decoder.next_event()) is not None:
            if isinstance(event, RequestHead):
                location = event.target or event.authority
                if event.scheme:
                    location = event.scheme + b"://" + event.authority.lower() + event.target
                host = event.authority.lower() if event.version == 11 and event.target else b""
                head = (event.method, location, host, event.version, comparable(event.fields))
                reading.heads.append(head)
            elif isinstance(event, EndOfMessage):
                reading.trailers = event.trailers
                reading.is_complete = True
            else:
                reading.body += event
    except RemoteProtocolError:
        return None
    reading.after = decoder.take_buffered()
    return reading if reading.is_complete else None


def normal_location(method: bytes, target: bytes) -> bytes:
    """An absolute-form target with its path, scheme and authority in lower case (RFC 9110 §4.2.3)."""
    if target.startswith(b"/") or b"://" not in target:
        return target
    scheme, _, rest = target.partition(b"://")
    authority = re.split(rb"[/?]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    if not path.startswith(b"/"):
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    return scheme.lower() + b"://" + authority.lower() + path


def read_by_h11(connection: h11.Connection, reading: Reading) -> Reading:
    """The rest of a message whose bytes `connection` has been given."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            location = normal_location(event.method, event.target)
            version = 11 if event.http_version == b"1.1" else 10
            hosts = [value.lower() for name, value in event.headers if name == b"host"]
            host = hosts[0] if version == 11 and event.method != b"CONNECT" else b""
            others = [(bytes(name), bytes(value)) for name, value in event.headers if name != b"host"]
            reading.heads.append((event.method, location, host, version, others))
        elif isinstance(event, h11.Response | h11.InformationalResponse):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            reading.heads.append((event.status_code, bytes(event.reason), fields))
        elif isinstance(event, h11.Data):
            reading.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            reading.trailers = [
                (name, value) for name, value in event.headers if name not in DROPPED_TRAILERS
            ]
            reading.is_complete = True
            reading.after = connection.trailing_data[0]
            return reading
        else:
            reading.after = connection.trailing_data[0]
            return reading


def without_empty_lines(wire: bytes) -> bytes:
    """RFC 9112 §2.2 lets a server skip them; h11 does not."""
    for _ in range(2):
        wire = wire.removeprefix(b"\r\n")
    return wire


request_wires = requests().map(lambda request: request.wire)
response_wires = st.one_of(
    responses().map(lambda response: response.wire),
    st.tuples(
        st.sampled_from(
            (
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n",
                b"HTTP/1.1 101\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
                b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            )
        ),
        responses(),
    ).map(lambda parts: parts[0] + parts[1].wire),
)
junk = st.lists(st.one_of(st.sampled_from(HOSTILE_FRAGMENTS), st.binary(max_size=8))).map(b"".join)


@given(
    st.one_of(request_wires, request_wires.flatmap(mutations), st.tuples(request_wires, junk).map(b"".join))
)
@example(b"GET http://a?x=/y HTTP/1.1\r\nHost: a\r\n\r\n")
@example(b"OPTIONS http://a HTTP/1.1\r\nHost: A\r\n\r\n")
@example(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
def test_an_accepted_request_means_the_same_to_h11(wire: bytes) -> None:
    ours = our_reading_of_a_request(wire)
    if ours is None:
        return
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=PLENTY_BYTES)
    connection.receive_data(without_empty_lines(wire))
    assert read_by_h11(connection, Reading()) == ours


@given(request_wires)
def test_a_well_formed_request_is_accepted_by_both(wire: bytes) -> None:
    assert our_reading_of_a_request(wire) is not None


def our_reading_of_a_response(wire: bytes, method: bytes, *, ends: bool) -> Reading | None:
    decoder = ResponseDecoder()
    decoder.expect_response_to(method)
    decoder.receive_data(wire)
    if ends:
        decoder.receive_eof()
    reading = Reading()
    try:
        while (event := decoder.next_event()) is not None:
            if isinstance(event, ResponseHead):
                reading.heads.append((event.status, event.reason, comparable(event.fields)))
            elif isinstance(event, EndOfMessage):
                reading.trailers = event.trailers
                reading.is_complete = True
            else:
                reading.body += event
    except RemoteProtocolError:
        return None
    reading.after = decoder.take_buffered()
    has_switched = bool(reading.heads) and (reading.heads[-1][0] == 101 or method == b"CONNECT")
    return reading if reading.is_complete or has_switched else None


@given(
    st.one_of(response_wires, response_wires.flatmap(mutations)),
    st.sampled_from((b"GET", b"GET", b"HEAD", b"CONNECT")),
    st.booleans(),
)
@example(b"HTTP/1.1 101\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nleft over", b"GET", False)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nleft over", b"CONNECT", False)
def test_an_accepted_response_means_the_same_to_h11(wire: bytes, method: bytes, ends: bool) -> None:
    ours = our_reading_of_a_response(wire, method, ends=ends)
    if ours is None:
        return
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=PLENTY_BYTES)
    offer = [(b"host", b"a"), (b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    connection.send(h11.Request(method=method, target=b"/", headers=offer))
    connection.send(h11.EndOfMessage())
    connection.receive_data(wire)
    if ends:
        connection.receive_data(b"")
    assert read_by_h11(connection, Reading()) == ours
