"""How a backend is found and reached: look-ups, races, pools, hosts, functions, probes."""

from __future__ import annotations

import pytest
from engine_by_hand import (
    CLIENT_IP,
    End,
    EngineByHand,
    configuration,
    plain_forward,
    request,
    response,
    route,
    target,
)

from smartproxy.core.configuration import Balancing, BalancingAlgorithm, HealthCheck, Limits, MatchProtocol
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    UNIX_PORT,
    CallFunction,
    OpenStream,
    OperationFailed,
    Resolved,
    ResolveHost,
    Returned,
)
from smartproxy.core.upstream.dial import interleave_families
from smartproxy.core.wire.proxy_protocol import ProxyHeaderDecoder


def resolving(*addresses: str) -> tuple[EngineByHand, End]:
    hand = EngineByHand(plain_forward("backend.test"))
    client = hand.connect(data=request())
    hand.answer(hand.operation(ResolveHost), Resolved(addresses))
    return hand, client


def dials(hand: EngineByHand) -> list[OpenStream]:
    return [operation for operation in hand.pending.values() if isinstance(operation, OpenStream)]


# Addresses.


def test_families_alternate() -> None:
    assert interleave_families(("2001:db8::1", "2001:db8::2", "10.0.0.1")) == [
        "2001:db8::1",
        "10.0.0.1",
        "2001:db8::2",
    ]


def test_the_second_address_starts_when_the_first_is_slow() -> None:
    hand, _ = resolving("2001:db8::1", "10.0.0.1")
    assert [dial.address[0] for dial in dials(hand)] == ["2001:db8::1"]
    hand.advance(0.249)
    assert len(dials(hand)) == 1
    hand.advance(0.001)
    assert [dial.address[0] for dial in dials(hand)] == ["2001:db8::1", "10.0.0.1"]
    loser, winner = dials(hand)
    backend = hand.open(winner)
    assert hand.cancelled == [loser]
    assert backend.take().startswith(b"GET / ")
    backend.send(response())
    hand.settle()


def test_the_second_address_starts_at_once_when_the_first_fails() -> None:
    hand, _ = resolving("10.0.0.1", "10.0.0.2")
    hand.fail()
    [second] = dials(hand)
    assert second.address == ("10.0.0.2", 8080)
    hand.open(second).send(response())
    hand.settle()


def test_all_addresses_failing_is_a_502() -> None:
    hand, client = resolving("10.0.0.1", "10.0.0.2")
    hand.advance(0.25)
    first, second = dials(hand)
    hand.fail(LostReason.UNREACHABLE, second)
    hand.fail(LostReason.REFUSED, first)
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert "dial_failed" in hand.events("upstream")
    hand.settle()


def test_a_client_that_leaves_during_a_race_cancels_all_of_it() -> None:
    hand, client = resolving("10.0.0.1", "10.0.0.2")
    hand.advance(0.25)
    client.reset()
    assert len(hand.cancelled) == 2
    hand.settle()


# Look-ups.


def test_look_ups_are_shared_and_kept_for_a_moment() -> None:
    hand = EngineByHand(plain_forward("backend.test"))
    clients = [hand.connect(data=request()) for _ in range(3)]
    hand.answer(hand.operation(ResolveHost), Resolved(("10.0.0.1",)))
    assert len(dials(hand)) == 3
    clients.append(hand.connect(data=request()))
    assert len(dials(hand)) == 4
    hand.advance(5.1)
    clients.append(hand.connect(data=request()))
    assert hand.operation(ResolveHost).host == "backend.test"
    for client in clients:
        client.reset()
    assert not hand.pending
    hand.settle()


def test_one_waiter_leaving_does_not_end_the_look_up_of_the_others() -> None:
    hand = EngineByHand(plain_forward("backend.test"))
    first = hand.connect(data=request())
    second = hand.connect(data=request())
    first.reset()
    hand.answer(hand.operation(ResolveHost), Resolved(("10.0.0.1",)))
    hand.open().send(response())
    assert second.take().endswith(b"hello")
    hand.settle()


def test_a_look_up_that_hangs_does_not_hold_those_who_come_later() -> None:
    hand = EngineByHand(plain_forward("backend.test"))
    hand.connect(data=request())
    first = hand.operation(ResolveHost)
    hand.advance(60.0)
    assert hand.cancelled == [first]
    later = hand.connect(data=request())
    hand.answer(hand.operation(ResolveHost), Resolved(("10.0.0.1",)))
    hand.open().send(response())
    assert later.take().endswith(b"hello")
    hand.settle()


@pytest.mark.parametrize(
    ("reason", "status", "error"),
    [
        (LostReason.NAME_NOT_FOUND, 502, b"dns_error"),
        (LostReason.NAME_LOOKUP_FAILED, 502, b"dns_error"),
        (LostReason.TIMED_OUT, 504, b"dns_timeout"),
    ],
)
def test_a_failed_look_up(reason: LostReason, status: int, error: bytes) -> None:
    hand = EngineByHand(plain_forward("backend.test"))
    client = hand.connect(data=request())
    hand.fail(reason, hand.operation(ResolveHost))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"error=" + error in answer
    assert b"backend.test" not in answer
    hand.settle()


@pytest.mark.parametrize(
    ("reason", "status", "error"),
    [
        (LostReason.REFUSED, 502, b"connection_refused"),
        (LostReason.UNREACHABLE, 502, b"destination_ip_unroutable"),
        (LostReason.TIMED_OUT, 504, b"connection_timeout"),
        (LostReason.RESOURCE_EXHAUSTED, 503, b"connection_limit_reached"),
        (LostReason.ERROR, 503, b"destination_unavailable"),
    ],
)
def test_a_failed_connect(reason: LostReason, status: int, error: bytes) -> None:
    hand = EngineByHand(plain_forward())
    client = hand.connect(data=request())
    hand.fail(reason)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"error=" + error in answer
    assert client.is_open
    hand.settle()


# Pools.


def test_a_full_pool_makes_requests_wait_their_turn() -> None:
    limits = Limits(pool_connections_per_host=1, pending_per_host=1)
    hand = EngineByHand(configuration(route("app", target()), limits=limits))
    first = hand.connect(data=request("GET", "/1"))
    backend = hand.open()
    second = hand.connect(data=request("GET", "/2"))
    third = hand.connect(data=request("GET", "/3"))
    answer = third.take()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"error=connection_limit_reached" in answer
    backend.take()
    backend.send(response(b"1"))
    assert backend.take().startswith(b"GET /2 ")
    backend.send(response(b"2"))
    assert (first.take()[-1:], second.take()[-1:]) == (b"1", b"2")
    assert not hand.pending
    third.send(request("GET", "/4"))
    backend.send(response(b"4"))
    assert third.take()[-1:] == b"4"
    hand.settle()


def test_a_place_comes_free_when_a_connection_ends() -> None:
    hand = EngineByHand(configuration(route("app", target()), limits=Limits(pool_connections_per_host=1)))
    hand.connect(data=request("GET", "/1"))
    backend = hand.open()
    waiting = hand.connect(data=request("GET", "/2"))
    leaving = hand.connect(data=request("GET", "/3"))
    leaving.reset()
    backend.reset()
    hand.open().send(response())
    assert waiting.take().endswith(b"hello")
    assert not hand.pending
    hand.settle()


# Hosts.


def test_a_refused_host_is_passed_over() -> None:
    hand = EngineByHand(plain_forward("10.0.0.1", "10.0.0.2"))
    client = hand.connect(data=request("POST", "/", "Content-Length: 3") + b"abc")
    assert hand.operation().address[0] == "10.0.0.1"
    hand.fail()
    assert hand.operation().address[0] == "10.0.0.2"
    backend = hand.open()
    assert backend.take().endswith(b"abc")
    backend.send(response())
    assert client.take().endswith(b"hello")
    assert hand.access[0].backend == "10.0.0.2:8080"
    hand.settle()


def test_when_every_host_refuses_the_last_failure_is_told() -> None:
    hand = EngineByHand(plain_forward("10.0.0.1", "10.0.0.2"))
    client = hand.connect(data=request())
    hand.fail()
    hand.fail()
    assert client.take().startswith(b"HTTP/1.1 502 ")
    hand.settle()


def test_no_host_is_blamed_for_what_the_proxy_has_run_out_of() -> None:
    hand = EngineByHand(plain_forward("10.0.0.1", "10.0.0.2"))
    client = hand.connect()
    for _ in range(4):
        client.send(request())
        tried = {hand.operation().address[0]}
        hand.fail(LostReason.RESOURCE_EXHAUSTED)
        tried.add(hand.operation().address[0])
        hand.fail(LostReason.RESOURCE_EXHAUSTED)
        assert tried == {"10.0.0.1", "10.0.0.2"}
        assert client.take().startswith(b"HTTP/1.1 503 ")
    assert "host_ejected" not in hand.events("upstream")
    client.send(request())
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    hand.settle()


def test_no_healthy_host_is_a_503() -> None:
    hand = EngineByHand(plain_forward())
    client = hand.connect()
    for _ in range(3):
        client.send(request())
        hand.fail()
    client.take()
    client.send(request())
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer
    assert hand.events("upstream").count("host_ejected") == 1
    assert not hand.pending
    hand.advance(1.0)
    client.send(request())
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    assert "host_returned" in hand.events("upstream")
    hand.settle()


def test_raw_connections_eject_and_return_hosts_too() -> None:
    hand = EngineByHand(configuration(route("raw", target(), protocol=MatchProtocol.TCP)))
    for _ in range(3):
        hand.connect()
        hand.fail()
    assert hand.connect().is_closed
    assert not hand.pending
    hand.advance(1.0)
    client = hand.connect()
    hand.open()
    assert "host_returned" in hand.events("upstream")
    client.reset()
    hand.settle()


def test_silence_counts_against_a_host() -> None:
    hand = EngineByHand(plain_forward("10.0.0.1", "10.0.0.2"))
    for _ in range(12):
        client = hand.connect(data=request())
        backend = hand.open()
        if backend.link.peer[0] == "10.0.0.1":
            backend.send(response(b"", status="504 Gateway Timeout"))
        else:
            backend.send(response())
        backend.reset()
        client.reset()
    assert "host_ejected" in hand.events("upstream")
    hand.settle()


def test_connections_in_flight_are_counted_down() -> None:
    balancing = Balancing(BalancingAlgorithm.LEAST_CONNECTIONS)
    hand = EngineByHand(plain_forward("10.0.0.1", "10.0.0.2", balancing=balancing))
    busy = hand.connect(data=request())
    first = hand.open()
    for _ in range(3):
        client = hand.connect(data=request())
        if hand.pending:
            other = hand.open()
        assert other.link.peer != first.link.peer
        other.send(response())
        client.reset()
    busy.reset()
    assert first.is_reset
    hand.settle()


def test_unix_sockets() -> None:
    hand = EngineByHand(plain_forward(unix_path="/run/app.sock"))
    client = hand.connect(data=request())
    assert hand.operation().address == ("/run/app.sock", UNIX_PORT)
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    assert hand.access[0].backend == "unix:/run/app.sock"
    hand.settle()


def test_a_port_may_be_preserved() -> None:
    hand = EngineByHand(plain_forward(port="preserve"))
    client = hand.connect(data=request(), local=("203.0.113.9", 8443))
    assert hand.operation().address == ("10.0.0.1", 8443)
    client.reset()
    hand.settle()


# Functions of the user's.


def functional(which: str) -> EngineByHand:
    options = {"host_function": max} if which == "host" else {"port_function": max}
    return EngineByHand(configuration(route("app", target(**options), path="/:user/*")))


def test_a_host_function_gets_the_request() -> None:
    hand = functional("host")
    client = hand.connect(data=request("GET", "/ann/x?q=1", "X-A: b"))
    call = hand.operation(CallFunction)
    [context] = call.arguments
    assert (context.client_ip, context.domain, context.path) == (CLIENT_IP, "app.example.com", "/ann/x")
    assert (context.query, context.headers, context.params["user"]) == ("q=1", {"x-a": "b"}, "ann")
    hand.answer(call, Returned(["10.0.0.8", "10.0.0.9"]))
    hand.fail()
    assert hand.operation().address == ("10.0.0.9", 8080)
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    hand.settle()


def test_a_port_function() -> None:
    hand = functional("port")
    client = hand.connect(data=request("GET", "/a/b"))
    hand.answer(hand.operation(CallFunction), Returned(9000))
    assert hand.operation().address == ("10.0.0.1", 9000)
    client.reset()
    hand.settle()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("which", "value"),
    [
        ("host", None),
        ("host", ""),
        ("host", []),
        ("host", [None]),
        ("host", 7),
        ("host", "a b"),
        ("host", "a\r\nb"),
        ("host", "x" * 1000),
        ("host", Unprintable()),
        ("host", OperationFailed(LostReason.ERROR, "ValueError: boom")),
        ("port", None),
        ("port", "80"),
        ("port", 0),
        ("port", 70000),
        ("port", True),
        ("port", OperationFailed(LostReason.ERROR, "ValueError: boom")),
    ],
)
def test_functions_that_fail_are_a_500_and_logged(which: str, value: object) -> None:
    hand = functional(which)
    client = hand.connect(data=request("GET", "/a/b"))
    result = value if isinstance(value, OperationFailed) else Returned(value)
    hand.answer(hand.operation(CallFunction), result)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"boom" not in answer
    assert "function_failed" in hand.events("upstream")
    assert client.is_open
    hand.settle()


def test_a_function_that_does_not_answer_is_a_504() -> None:
    hand = functional("host")
    client = hand.connect(data=request("GET", "/a/b"))
    call = hand.operation(CallFunction)
    hand.advance(61.0)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    assert hand.cancelled == [call]
    hand.settle()


def test_a_client_that_leaves_cancels_the_call() -> None:
    hand = functional("host")
    client = hand.connect(data=request("GET", "/a/b"))
    client.reset()
    assert len(hand.cancelled) == 1
    hand.settle()


# Probes.

CHECK = HealthCheck("/health", interval_s=10.0, timeout_s=2.0, unhealthy_threshold=2, healthy_threshold=2)


def probing(*hosts: str, **options: object) -> EngineByHand:
    hand = EngineByHand(
        plain_forward(*(hosts or ("10.0.0.1",)), balancing=Balancing(health_check=CHECK), **options)
    )
    hand.engine.handle_started(hand.now)
    hand.drain()
    return hand


def stop(hand: EngineByHand) -> None:
    hand.engine.handle_drain(hand.now)
    hand.drain()
    hand.settle()


def test_probes_close_and_open_a_host() -> None:
    hand = probing()
    hand.fail()
    hand.advance(10.0)
    end = hand.open()
    assert end.take().startswith(b"GET /health HTTP/1.1\r\nhost: 10.0.0.1:8080\r\n")
    hand.advance(2.0)
    assert hand.events("upstream").count("host_became_unhealthy") == 1
    assert end.is_reset
    client = hand.connect(data=request())
    assert client.take().startswith(b"HTTP/1.1 503 ")
    for _ in range(2):
        hand.advance(8.0)
        assert not client.take()
        hand.open().send(response(b"fine"))
        hand.advance(2.0)
    assert "host_became_healthy" in hand.events("upstream")
    client.send(request())
    if hand.pending:
        hand.open()
    assert not client.take()
    client.reset()
    stop(hand)


def test_a_host_that_fails_its_probes_is_passed_over() -> None:
    hand = probing("10.0.0.1", "10.0.0.2")
    for _ in range(4):
        for dial in dials(hand):
            if dial.address[0] == "10.0.0.1":
                hand.open(dial).send(response(status="500 Oops"))
            else:
                hand.open(dial).send(response())
        hand.advance(5.0)
    for dial in dials(hand):
        hand.fail(operation=dial)
    before = set(hand.ends)
    clients = [hand.connect(data=request()) for _ in range(3)]
    for dial in dials(hand):
        assert dial.address[0] == "10.0.0.2"
        hand.open(dial)
    peers = {end.link.peer[0] for number, end in hand.ends.items() if number not in before}
    assert peers <= {"10.0.0.2", CLIENT_IP}
    for client in clients:
        client.reset()
    stop(hand)


def test_a_full_pool_does_not_make_a_host_look_dead() -> None:
    hand = EngineByHand(
        configuration(
            route("app", target(balancing=Balancing(health_check=CHECK))),
            limits=Limits(pool_connections_per_host=1),
        )
    )
    hand.connect(data=request())
    hand.open()
    hand.engine.handle_started(hand.now)
    hand.drain()
    hand.open().send(response())
    assert not hand.events("upstream").count("host_became_unhealthy")
    stop(hand)


@pytest.mark.parametrize("version", [1, 2])
def test_probes_of_hosts_that_want_a_proxy_header(version: int) -> None:
    hand = probing(send_proxy_protocol=version)
    decoder = ProxyHeaderDecoder()
    header = decoder.receive_data(hand.open().take())
    assert header is not None
    assert header.source is None
    assert decoder.remainder.startswith(b"GET /health ")
    stop(hand)


def test_hosts_that_are_not_known_are_not_probed() -> None:
    for options in ({"port": "preserve"}, {"port_function": max}, {"host_function": max}):
        hand = probing(**options)
        assert not hand.pending
        stop(hand)


@pytest.mark.parametrize("when", ["dialling", "asking"])
def test_probes_stop_with_a_drain(when: str) -> None:
    hand = probing()
    if when == "asking":
        hand.open()
    hand.engine.handle_drain(hand.now)
    hand.drain()
    assert not hand.pending
    hand.settle()


def test_probes_stop_with_their_configuration() -> None:
    hand = probing()
    hand.configure(plain_forward())
    assert not hand.pending
    hand.settle()
