"""Who gets a connection at all: block policy, counts by address and by route, through the whole engine."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from engine_by_hand import CLIENT_IP, EngineByHand, configuration, request, response, route, target

from smartproxy.core.configuration import (
    AccessRules,
    ForwardAction,
    Limits,
    MatchProtocol,
    ProxyProtocolMode,
    ProxyProtocolPolicy,
    Route,
    RouteTls,
    TlsMode,
)
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.security.policies import RateLimitPolicy, RequestPolicy
from smartproxy.core.wire.proxy_protocol import encode_proxy_v1, encode_proxy_v2

OTHER_IP = "198.51.100.8"


def http_route(name: str = "app", **options: Any) -> Route:
    return route(name, target(), protocol=MatchProtocol.HTTP, route_options=options)


def raw_route(**options: Any) -> Route:
    return route("raw", target(), protocol=MatchProtocol.TCP, route_options=options)


def refusals(hand: EngineByHand) -> list[tuple[object, object]]:
    return [
        (record.fields["error"], record.fields["detail"])
        for record in hand.records
        if record.event == "connection_refused"
    ]


def test_a_blocked_address_gets_no_connection_and_no_backend() -> None:
    for one in (http_route(), raw_route()):
        hand = EngineByHand(configuration(one, blocked=["198.51.100.0/24"]))
        client = hand.connect()
        assert not client.is_open
        assert client.take() == b""
        assert not hand.pending
        assert refusals(hand) == [("access_denied", "block policy")]
        assert hand.connect(ip="203.0.113.77").is_open
        hand.settle()


def test_a_blocked_address_is_told_of_once_a_minute() -> None:
    hand = EngineByHand(configuration(raw_route(), blocked=[CLIENT_IP]))
    for _ in range(5):
        hand.connect()
    levels = [record.level.name for record in hand.records if record.event == "connection_refused"]
    assert levels == ["INFO", "DEBUG", "DEBUG", "DEBUG", "DEBUG"]
    hand.settle()


def test_the_block_policy_is_replaced_at_runtime() -> None:
    hand = EngineByHand(configuration(http_route()))
    client, other = hand.connect(), hand.connect(ip=OTHER_IP)
    hand.engine.handle_blocked_addresses(IpSet.compile([CLIENT_IP]), hand.now)
    hand.drain()
    assert client.is_reset
    assert other.is_open
    assert not hand.connect().is_open
    # A reload with another policy takes its place again.
    hand.configure(configuration(http_route(), blocked=[OTHER_IP]))
    assert hand.connect().is_open
    assert not hand.connect(ip=OTHER_IP).is_open
    hand.settle()


def test_an_address_has_so_many_connections() -> None:
    hand = EngineByHand(configuration(http_route(), limits=Limits(max_connections_per_ip=2)))
    clients = [hand.connect() for _ in range(3)]
    assert [client.is_open for client in clients] == [True, True, False]
    assert refusals(hand)[0][0] == "connection_limit_reached"
    assert hand.connect(ip=OTHER_IP).is_open
    clients[0].reset()
    assert hand.connect().is_open
    assert not hand.connect().is_open
    hand.settle()


def test_an_ipv6_network_is_one_client() -> None:
    hand = EngineByHand(configuration(http_route(), limits=Limits(max_connections_per_ip=1)))
    assert hand.connect(ip="2001:db8:1:2::1").is_open
    assert not hand.connect(ip="2001:db8:1:2:ffff::9").is_open
    assert hand.connect(ip="2001:db8:1:3::1").is_open
    assert hand.connect(ip="::ffff:192.0.2.1").is_open
    assert not hand.connect(ip="192.0.2.1").is_open
    hand.settle()


def test_an_address_opens_so_many_connections_a_minute() -> None:
    hand = EngineByHand(configuration(http_route(), limits=Limits(connection_rate_limit_per_minute=3)))
    for _ in range(3):
        client = hand.connect()
        assert client.is_open
        client.reset()
    assert not hand.connect().is_open
    hand.advance(61.0)
    assert hand.connect().is_open
    hand.settle()


def proxied(**limits: Any) -> EngineByHand:
    policy = ProxyProtocolPolicy(ProxyProtocolMode.REQUIRED, IpSet.compile(["10.1.0.0/16"]))
    one = route("app", target(), proxy_protocol=policy, protocol=MatchProtocol.HTTP)
    return EngineByHand(configuration(one, limits=Limits(**limits), blocked=["192.0.2.66", "10.1.6.6"]))


def test_behind_a_proxy_the_client_it_names_is_counted() -> None:
    hand = proxied(max_connections_per_ip=1)
    destination = ("203.0.113.9", 80)
    first = hand.connect(ip="10.1.0.1", data=encode_proxy_v2(("192.0.2.1", 1), destination))
    second = hand.connect(ip="10.1.0.1", data=encode_proxy_v1(("192.0.2.2", 1), destination))
    assert first.is_open
    assert second.is_open
    limits = hand.engine.connection_limits
    assert limits.total == 2
    assert not hand.connect(ip="10.1.0.1", data=encode_proxy_v2(("192.0.2.1", 2), destination)).is_open
    assert not hand.connect(ip="10.1.0.1", data=encode_proxy_v2(("192.0.2.66", 2), destination)).is_open
    # A proxy that is blocked itself is not listened to at all.
    assert not hand.connect(ip="10.1.6.6").is_open
    first.reset()
    assert limits.total == 1
    hand.settle()


def test_a_route_has_so_many_connections() -> None:
    hand = EngineByHand(configuration(http_route(max_connections=1)))
    first = hand.connect(data=request())
    hand.open().send(response())
    assert first.take().startswith(b"HTTP/1.1 200 ")
    second = hand.connect(ip=OTHER_IP, data=request())
    refusal = second.take()
    assert refusal.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 5\r\n" in refusal
    # The same connection counts once, whatever it asks for.
    first.send(request())
    assert hand.engine.connection_limits.connections_on("app") == 1
    first.reset()
    assert hand.engine.connection_limits.connections_on("app") == 0
    second.send(request())
    assert hand.engine.connection_limits.connections_on("app") == 1
    hand.settle()


def test_a_blocked_client_takes_no_place_on_a_route() -> None:
    access = AccessRules(blocked=IpSet.compile([CLIENT_IP]))
    hand = EngineByHand(configuration(http_route(max_connections=1, access=access)))
    client = hand.connect(data=request())
    assert client.take().startswith(b"HTTP/1.1 403 ")
    assert hand.engine.connection_limits.connections_on("app") == 0
    hand.settle()


def test_a_raw_route_has_so_many_connections() -> None:
    hand = EngineByHand(configuration(raw_route(max_connections=1)))
    first = hand.connect()
    hand.operation()
    second = hand.connect(ip=OTHER_IP)
    assert not second.is_open
    assert len(hand.pending) == 1, "no byte of the backend is spent"
    first.reset()
    assert hand.connect(ip=OTHER_IP).is_open
    hand.settle()


def test_a_raw_route_counts_connections_against_its_rate_limit() -> None:
    policy = RequestPolicy(rate_limit=RateLimitPolicy(2, 10.0))
    hand = EngineByHand(configuration(raw_route(request_policy=policy)))
    assert [hand.connect().is_open for _ in range(3)] == [True, True, False]
    assert refusals(hand) == [("rate_limited", "route raw")]
    assert hand.connect(ip=OTHER_IP).is_open
    hand.advance(10.0)
    assert hand.connect().is_open
    hand.settle()


@pytest.mark.parametrize("silent", [False, True])
def test_a_silent_client_is_counted_once_by_a_route_whose_backend_may_greet(silent: bool) -> None:
    policy = RequestPolicy(rate_limit=RateLimitPolicy(1, 10.0))
    routes = [
        route("raw", target(), route_options={"request_policy": policy, "max_connections": 1}),
        http_route("web"),
    ]
    hand = EngineByHand(configuration(*routes))
    client = hand.connect()
    if silent:
        hand.advance(0.3)
        hand.open().send(b"220 ready\r\n")
        assert client.take() == b"220 ready\r\n"
    else:
        client.send(b"\x00\x01raw")
        hand.operation()
    other = hand.connect()
    if silent:
        hand.advance(0.3)
    else:
        other.send(b"\x00\x01raw")
    assert not other.is_open
    assert not hand.pending or not silent
    hand.settle()


def test_a_passthrough_client_that_is_refused_gets_an_alert() -> None:
    action = ForwardAction((target(port=443),), tls=RouteTls(TlsMode.PASSTHROUGH))
    one = route("tls", action, route_options={"max_connections": 1})
    hand = EngineByHand(configuration(one))
    hello = _client_hello("app.example.com")
    assert hand.connect(data=hello).is_open
    hand.operation()
    second = hand.connect(data=hello)
    assert second.take() == b"\x15\x03\x03\x00\x02\x02\x31"
    assert second.is_closed
    assert len(hand.pending) == 1
    hand.settle()


def _client_hello(name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
