"""Every silence has its end, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_by_hand import EngineByHand, configuration, plain_forward, request, response, route, target

from smartproxy.core.configuration import (
    ForwardAction,
    HandlerAction,
    HandlerKind,
    Limits,
    MatchProtocol,
    ProxyProtocolMode,
    ProxyProtocolPolicy,
    RouteTls,
    TlsMode,
)
from smartproxy.core.ops import ResolveHost
from smartproxy.core.security.ip_rules import IpSet

CHUNKED = "Transfer-Encoding: chunked"
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    by_hand = EngineByHand(configuration(route("app", target(), protocol=MatchProtocol.HTTP)))
    yield by_hand
    by_hand.settle()


def test_a_silent_connection_is_closed(hand: EngineByHand) -> None:
    client = hand.connect()
    hand.advance(59.9)
    assert client.is_open
    hand.advance(0.1)
    assert client.is_closed
    assert not client.take()


def test_a_head_has_one_deadline_from_its_first_byte(hand: EngineByHand) -> None:
    client = hand.connect()
    hand.advance(30.0)
    for byte in request("GET", "/" + "a" * 100)[:60]:
        client.send(bytes((byte,)))
        hand.advance(1.0)
    assert client.take().startswith(b"HTTP/1.1 408 ")
    assert client.is_half_closed
    hand.advance(5.0)
    assert client.is_closed
    assert hand.access[0].status == 408
    assert "request_refused" in hand.events("http")
    assert not hand.pending


def test_a_head_that_could_still_be_raw_has_the_same_deadline() -> None:
    hand = EngineByHand(plain_forward())
    client = hand.connect()
    for byte in b"GET /" + b"a" * 55:
        client.send(bytes((byte,)))
        hand.advance(1.0)
    assert client.is_closed
    client = hand.connect(data=b"GET /" + b"a" * 100)
    hand.advance(50.0)
    client.send(b" HTTP/1.1\r\nHost: a")
    hand.advance(10.0)
    assert client.take().startswith(b"HTTP/1.1 408 ")
    assert not hand.pending
    hand.settle()


def test_the_next_head_has_its_own_deadline(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    hand.open().send(response())
    client.take()
    hand.advance(70.0)
    client.send(b"GET")
    hand.advance(59.0)
    assert client.is_open
    hand.advance(1.0)
    assert client.take().startswith(b"HTTP/1.1 408 ")


def test_idle_keep_alive_is_closed(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    backend.send(response())
    hand.advance(59.9)
    assert backend.is_open
    hand.advance(0.1)
    assert backend.is_closed
    hand.advance(14.9)
    assert client.is_open
    hand.advance(0.1)
    assert client.is_closed


def test_content_below_the_least_rate_is_refused(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", CHUNKED))
    backend = hand.open()
    for _ in range(60):
        client.send(b"%x\r\n" % 99 + b"x" * 99 + b"\r\n")
        hand.advance(1.0)
    assert client.take().startswith(b"HTTP/1.1 408 ")
    assert backend.is_reset
    assert hand.access[0].failure == "connection_read_timeout"


def test_content_at_the_least_rate_goes_on() -> None:
    hand = EngineByHand(
        configuration(
            route("app", target(), protocol=MatchProtocol.HTTP), limits=Limits(body_rate_bytes_per_s=100)
        )
    )
    client = hand.connect(data=request("POST", "/", "Content-Length: 30000"))
    backend = hand.open()
    for _ in range(300):
        client.send(b"x" * 100)
        hand.advance(1.0)
    backend.send(response())
    assert client.take().endswith(b"hello")
    hand.settle()


def test_an_upload_may_go_on_behind_the_response_head(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", CHUNKED))
    backend = hand.open()
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(300):
        hand.advance(1.0)
        client.send(b"100\r\n" + b"x" * 256 + b"\r\n")
    client.send(b"0\r\n\r\n")
    backend.send(b"2\r\nok\r\n0\r\n\r\n")
    assert client.take().endswith(b"\r\nok\r\n0\r\n\r\n")
    assert client.is_open


def test_who_is_not_read_is_not_blamed_for_its_pace(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", CHUNKED))
    backend = hand.open()
    backend.takes_bytes = False
    while client.is_read():
        client.send(CHUNK)
    hand.advance(59.0)
    backend.take_bytes_again()
    hand.advance(58.0)
    assert client.is_open
    client.send(CHUNK)
    hand.advance(50.0)
    assert client.is_open
    client.reset()


def test_a_backend_that_takes_no_content_is_a_504(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", CHUNKED))
    backend = hand.open()
    backend.takes_bytes = False
    while client.is_read():
        client.send(CHUNK)
    hand.advance(60.0)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    assert backend.is_reset


def test_a_silent_backend_is_a_504(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    hand.advance(3.0)
    backend = hand.open()
    hand.advance(59.999)
    assert not client.take()
    hand.advance(0.001)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"error=http_response_timeout" in answer
    assert backend.is_reset
    assert client.is_open


def test_the_backend_has_its_time_from_the_requests_end(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", "Content-Length: 10000"))
    hand.open()
    hand.advance(40.0)
    client.send(b"x" * 10000)
    hand.advance(59.9)
    assert not client.take()
    hand.advance(0.1)
    assert client.take().startswith(b"HTTP/1.1 504 ")


def test_a_response_that_stalls_is_cut(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    hand.advance(30.0)
    backend.send(b"d")
    hand.advance(59.9)
    assert client.is_open
    hand.advance(0.1)
    assert client.is_reset
    assert backend.is_reset
    assert hand.access[0].failure == "http_response_timeout"


def test_a_client_that_reads_nothing_is_cut(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    client.takes_bytes = False
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while backend.is_read():
        backend.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    hand.advance(60.0)
    assert client.is_reset
    assert backend.is_reset
    assert hand.access[0].failure == "connection_write_timeout"
    assert not hand.events("upstream").count("host_ejected")


def test_a_client_that_reads_slowly_is_not_cut(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    client.takes_bytes = False
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while backend.is_read():
        backend.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    for _ in range(2):
        hand.advance(50.0)
        assert client.link.pull()
    assert client.is_open
    client.take_bytes_again()
    backend.send(b"0\r\n\r\n")
    assert client.is_open
    client.reset()


def test_a_connect_has_its_time(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    hand.advance(59.9)
    assert not client.take()
    hand.advance(0.1)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"error=connection_timeout" in answer
    assert len(hand.cancelled) == 1
    assert client.is_open


def test_a_look_up_has_its_time() -> None:
    hand = EngineByHand(plain_forward("backend.test"))
    client = hand.connect(data=request())
    assert hand.operation(ResolveHost).host == "backend.test"
    hand.advance(60.0)
    assert b"error=dns_timeout" in client.take()
    assert not hand.pending
    hand.settle()


def test_a_place_in_the_queue_has_its_time() -> None:
    hand = EngineByHand(
        configuration(
            route("app", target(), protocol=MatchProtocol.HTTP), limits=Limits(pool_connections_per_host=1)
        )
    )
    hand.connect(data=request())
    backend = hand.open()
    waiting = hand.connect(data=request())
    for _ in range(61):
        hand.advance(1.0)
        if backend.is_read() and backend.is_open:
            backend.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert waiting.take().startswith(b"HTTP/1.1 504 ")
    hand.settle()


def test_a_slow_proxy_header_is_not_waited_for() -> None:
    policy = ProxyProtocolPolicy(ProxyProtocolMode.REQUIRED, IpSet.compile(["0.0.0.0/0"]))
    hand = EngineByHand(configuration(route("app", target(), proxy_protocol=policy)))
    client = hand.connect()
    for byte in b"PROXY TCP4 198.51.100.7 203.0.113.9 50211 443\r\n"[:40]:
        client.send(bytes((byte,)))
        hand.advance(1.5)
    assert client.is_closed
    assert hand.records[-1].fields["error"] == "initial_data_timeout"
    hand.settle()


def test_a_slow_client_hello_is_not_waited_for() -> None:
    tls = ForwardAction((target(),), tls=RouteTls(TlsMode.PASSTHROUGH))
    hand = EngineByHand(configuration(route("tls", tls, domains=("a.test",))))
    client = hand.connect()
    for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(49):
        client.send(bytes((byte,)))
        hand.advance(1.0)
    assert client.is_closed
    assert not hand.pending
    hand.settle()


def raw_hand() -> EngineByHand:
    return EngineByHand(configuration(route("raw", target(), protocol=MatchProtocol.TCP)))


def test_an_idle_tunnel_is_reset_for_neither_side_has_finished() -> None:
    hand = raw_hand()
    client = hand.connect()
    backend = hand.open()
    hand.advance(50.0)
    backend.send(b"x")
    hand.advance(74.9)
    assert client.is_open
    hand.advance(0.1)
    assert client.is_reset
    assert backend.is_reset
    assert hand.access[0].failure == "idle_timeout"
    hand.settle()


def test_a_tunnel_has_a_greatest_age() -> None:
    hand = raw_hand()
    client = hand.connect()
    backend = hand.open()
    for _ in range(72):
        client.send(b"x")
        hand.advance(50.0)
    assert client.is_reset
    assert backend.is_reset
    assert hand.access[0].failure == "lifetime_reached"
    hand.settle()


def test_a_request_on_an_aged_http_connection_is_its_last(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    for _ in range(60):
        backend.send(response())
        hand.advance(59.0)
        client.send(request())
    backend.send(response())
    client.take()
    hand.advance(59.9)
    client.send(request("GET", "/last"))
    hand.advance(0.2)
    backend.send(response(b"x")) if backend.is_open else hand.open().send(response(b"x"))
    assert client.take().endswith(b"x")
    assert client.is_closed


def test_silent_echo_is_closed() -> None:
    hand = EngineByHand(configuration(route("echo", HandlerAction(HandlerKind.ECHO))))
    client = hand.connect(data=b"x")
    hand.advance(75.0)
    assert client.is_closed
    hand.settle()


def test_a_raw_connection_does_not_wait_for_a_function_for_ever() -> None:
    hand = EngineByHand(
        configuration(route("raw", target(host_function=lambda _: "x"), protocol=MatchProtocol.TCP))
    )
    client = hand.connect()
    assert len(hand.pending) == 1
    hand.advance(61.0)
    assert client.is_closed
    assert not hand.pending
    hand.settle()
