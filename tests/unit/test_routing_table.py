"""The route table: what each kind of connection and request may reach, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartproxy.core.configuration import (
    ForwardAction,
    HandlerAction,
    HandlerKind,
    MatchProtocol,
    ProxyProtocolMode,
    ProxyProtocolPolicy,
    QuicPolicy,
    Route,
    RouteMatch,
    RouteTls,
    TlsMode,
    Transport,
)
from smartproxy.core.http.messages import Fields
from smartproxy.core.routing.conditions import FieldCondition
from smartproxy.core.routing.table import FirstBytes, PortPlan, RouteTable
from smartproxy.core.security.ip_rules import IpSet, ip_number

INSIDE = ip_number("10.0.0.1")
OUTSIDE = ip_number("192.0.2.1")
TEN = IpSet.compile(["10.*"])

TERMINATE = ForwardAction((), tls=RouteTls(TlsMode.TERMINATE))
REENCRYPT = ForwardAction((), tls=RouteTls(TlsMode.TERMINATE_AND_REENCRYPT))
PASSTHROUGH = ForwardAction((), tls=RouteTls(TlsMode.PASSTHROUGH))
PLAIN = ForwardAction(())
PORT = ((443, 443),)


def table(*routes: tuple[str, RouteMatch, ForwardAction | HandlerAction]) -> RouteTable:
    """Routes in the order written; a `!` at the end of a name gives priority."""
    return RouteTable(
        [
            Route(position, name, "", 10 if name.endswith("!") else 0, match, action)
            for position, (name, match, action) in enumerate(routes)
        ]
    )


def plan(*routes: tuple[str, RouteMatch, ForwardAction | HandlerAction]) -> PortPlan:
    found = table(*routes).port(443)
    assert found is not None
    return found


def request(
    port: PortPlan,
    host: str | None = "example.com",
    path: str = "/",
    method: bytes = b"GET",
    fields: Fields | None = None,
    client: int = OUTSIDE,
    tls_version: str | None = None,
) -> str | None:
    hit = port.match_request(
        client,
        host,
        path,
        method,
        fields or [],
        tls_version=tls_version,
        terminated_tls=tls_version is not None,
    )
    return hit.route.name if hit is not None else None


def name_of(route: Route | None) -> str | None:
    return route.name if route is not None else None


# Order.


def test_priority_comes_before_everything() -> None:
    port = plan(
        ("exact", RouteMatch(PORT, domains=("example.com",), path="/a"), PLAIN),
        ("any!", RouteMatch(PORT), PLAIN),
    )
    assert request(port, path="/a") == "any!"


def test_the_more_specific_domain_comes_first() -> None:
    port = plan(
        ("none", RouteMatch(PORT), PLAIN),
        ("any", RouteMatch(PORT, domains=("*",)), PLAIN),
        ("prefix", RouteMatch(PORT, domains=("www.*",)), PLAIN),
        ("suffix", RouteMatch(PORT, domains=("*.com",)), PLAIN),
        ("longer", RouteMatch(PORT, domains=("*.example.com",)), PLAIN),
        ("exact", RouteMatch(PORT, domains=("www.example.com",)), PLAIN),
    )
    assert request(port, "www.example.com") == "exact"
    assert request(port, "w.w.example.com") == "longer"
    assert request(port, "www.com") == "suffix"
    assert request(port, "www.net") == "prefix"
    assert request(port, "net") == "any"
    assert request(port, None) == "none"


def test_a_route_is_as_specific_as_the_domain_it_matched_by() -> None:
    port = plan(
        ("both", RouteMatch(PORT, domains=("example.com", "*.example.com"), path="/*"), PLAIN),
        ("exact", RouteMatch(PORT, domains=("a.example.com",)), PLAIN),
    )
    assert request(port, "a.example.com") == "exact"
    assert request(port, "b.example.com") == "both"
    assert request(port, "example.com") == "both"


def test_domain_comes_before_path_and_path_before_conditions() -> None:
    port = plan(
        ("path", RouteMatch(PORT, path="/api/v1/users"), PLAIN),
        ("short", RouteMatch(PORT, domains=("example.com",), path="/*", methods=frozenset([b"GET"])), PLAIN),
        ("long", RouteMatch(PORT, domains=("example.com",), path="/api/*"), PLAIN),
    )
    assert request(port, path="/api/v1/users") == "long"
    assert request(port, path="/") == "short"


def test_more_conditions_come_before_fewer_and_then_the_order_written() -> None:
    port = plan(
        ("first", RouteMatch(PORT), PLAIN),
        ("second", RouteMatch(PORT), PLAIN),
        ("get", RouteMatch(PORT, methods=frozenset([b"GET"])), PLAIN),
        ("ten", RouteMatch(PORT, methods=frozenset([b"GET"]), client_ip=TEN), PLAIN),
    )
    assert request(port, client=INSIDE) == "ten"
    assert request(port) == "get"
    assert request(port, method=b"POST") == "first"


def test_a_route_whose_conditions_fail_gives_way_to_a_less_specific_one() -> None:
    beta = (FieldCondition.compile("x-beta", "1"),)
    port = plan(
        ("any", RouteMatch(PORT), PLAIN),
        ("beta", RouteMatch(PORT, domains=("example.com",), path="/a/:b", fields=beta), PLAIN),
        ("post", RouteMatch(PORT, domains=("*.com",), path="/a/*", methods=frozenset([b"POST"])), PLAIN),
    )
    assert request(port, path="/a/b", fields=[(b"x-beta", b"1")]) == "beta"
    assert request(port, path="/a/b", method=b"POST") == "post"
    assert request(port, path="/a/b") == "any"


def test_paths_are_matched_within_each_domain_and_give_parameters() -> None:
    port = plan(
        ("me", RouteMatch(PORT, path="/users/me"), PLAIN),
        ("user", RouteMatch(PORT, path="/users/:id"), PLAIN),
        ("users", RouteMatch(PORT, path="/users/*"), PLAIN),
    )
    assert request(port, path="/users/me") == "me"
    assert request(port, path="/users/7") == "user"
    assert request(port, path="/users/7/x") == "users"
    assert request(port, path="/users") is None
    hit = port.match_request(OUTSIDE, None, "/users/7", b"GET", [], tls_version=None, terminated_tls=False)
    assert hit is not None
    assert repr(hit) == "<RouteHit user {'id': '7'}>"


def test_empty_conditions_are_none() -> None:
    port = plan(("only", RouteMatch(PORT, client_ip=IpSet.compile([])), PLAIN))
    assert request(port) == "only"


# What TLS and protocols let through.


def test_requests_keep_to_routes_of_their_own_kind_of_tls() -> None:
    port = plan(
        ("plain", RouteMatch(PORT), PLAIN),
        ("terminate", RouteMatch(PORT, path="/t/*"), TERMINATE),
        ("reencrypt", RouteMatch(PORT, path="/r/*"), REENCRYPT),
        ("passthrough!", RouteMatch(PORT), PASSTHROUGH),
    )
    assert request(port, path="/t/") == "plain"
    assert request(port, path="/t/", tls_version="TLSv1.3") == "terminate"
    assert request(port, path="/r/", tls_version="TLSv1.3") == "reencrypt"
    assert request(port, path="/", tls_version="TLSv1.3") is None


def test_a_protocol_admits_its_own_bytes_only() -> None:
    port = plan(
        ("http", RouteMatch(PORT, protocol=MatchProtocol.HTTP), PLAIN),
        ("tcp", RouteMatch(PORT, protocol=MatchProtocol.TCP), PLAIN),
        ("udp", RouteMatch(PORT, protocol=MatchProtocol.UDP), PLAIN),
    )
    assert request(port) == "http"
    assert name_of(port.match_connection(OUTSIDE, None, FirstBytes.OTHER)) == "tcp"
    assert name_of(port.match_connection(OUTSIDE, None, FirstBytes.TLS)) == "tcp"
    assert name_of(port.match_connection(OUTSIDE, None, FirstBytes.NOTHING)) == "tcp"
    assert name_of(port.match_connection(OUTSIDE, None, FirstBytes.HTTP)) == "http"


@pytest.mark.parametrize("kind", list(HandlerKind))
def test_only_raw_handlers_take_raw_bytes(kind: HandlerKind) -> None:
    is_raw = kind in (HandlerKind.ECHO, HandlerKind.BLOCK)
    plain = plan(("handler", RouteMatch(PORT), HandlerAction(kind)))
    assert request(plain) == "handler"
    for first in (FirstBytes.OTHER, FirstBytes.NOTHING, FirstBytes.TLS):
        assert (plain.match_connection(OUTSIDE, None, first) is not None) == is_raw
    over_tls = plan(("handler", RouteMatch(PORT), HandlerAction(kind, tls=RouteTls(TlsMode.TERMINATE))))
    assert over_tls.match_connection(OUTSIDE, None, FirstBytes.TLS) is not None
    assert request(over_tls, tls_version="TLSv1.3") == "handler"
    assert (over_tls.match_decrypted(OUTSIDE, None, FirstBytes.OTHER, "TLSv1.3") is not None) == is_raw


def test_tls_connections_are_routed_by_server_name() -> None:
    port = plan(
        ("app", RouteMatch(PORT, domains=("app.example.com",)), TERMINATE),
        ("wild", RouteMatch(PORT, domains=("*.example.com",)), PASSTHROUGH),
        ("raw", RouteMatch(PORT, domains=("raw.test",)), PLAIN),
    )
    for name, expected in [
        ("app.example.com", "app"),
        ("APP.Example.com.", "app"),
        ("other.example.com", "wild"),
        ("raw.test", "raw"),
        ("example.com", None),
        (None, None),
        ("", None),
    ]:
        assert name_of(port.match_connection(OUTSIDE, name, FirstBytes.TLS)) == expected
    assert port.match_connection(OUTSIDE, "raw.test", FirstBytes.OTHER) is None


def test_what_a_request_will_say_is_left_open_for_routes_that_open_the_tls() -> None:
    http_only = RouteMatch(
        PORT,
        path="/a",
        methods=frozenset([b"GET"]),
        fields=(FieldCondition.compile("x", "1"),),
        tls_versions=frozenset(["TLSv1.2"]),
        protocol=MatchProtocol.HTTP,
    )
    assert plan(("only", http_only, TERMINATE)).match_connection(OUTSIDE, None, FirstBytes.TLS) is not None
    assert plan(("only", http_only, PASSTHROUGH)).match_connection(OUTSIDE, None, FirstBytes.TLS) is None
    assert plan(("only", http_only, PLAIN)).match_connection(OUTSIDE, None, FirstBytes.TLS) is None


def test_tls_versions_are_tested_where_they_are_known() -> None:
    old = RouteMatch(PORT, tls_versions=frozenset(["TLSv1.2"]))
    passthrough = plan(("old", old, PASSTHROUGH))
    assert passthrough.match_connection(OUTSIDE, None, FirstBytes.TLS) is None
    assert passthrough.match_connection(OUTSIDE, None, FirstBytes.TLS, tls_version="TLSv1.3") is None
    assert passthrough.match_connection(OUTSIDE, None, FirstBytes.TLS, tls_version="TLSv1.2") is not None
    opened = plan(("old", old, TERMINATE))
    assert opened.match_connection(OUTSIDE, None, FirstBytes.TLS, tls_version="TLSv1.3") is not None
    assert request(opened, tls_version="TLSv1.3") is None
    assert request(opened, tls_version="TLSv1.2") == "old"
    assert opened.match_decrypted(OUTSIDE, None, FirstBytes.OTHER, "TLSv1.3") is None
    assert opened.match_decrypted(OUTSIDE, None, FirstBytes.OTHER, "TLSv1.2") is not None
    assert request(plan(("old", old, PLAIN))) is None


def test_decrypted_bytes_that_are_not_http_find_raw_routes_by_server_name() -> None:
    port = plan(
        ("web", RouteMatch(PORT, domains=("a.test",), protocol=MatchProtocol.HTTP), TERMINATE),
        ("path", RouteMatch(PORT, domains=("a.test",), path="/a"), TERMINATE),
        ("mail", RouteMatch(PORT, domains=("a.test",), protocol=MatchProtocol.TCP), REENCRYPT),
    )
    assert name_of(port.match_decrypted(OUTSIDE, "a.test", FirstBytes.OTHER, "TLSv1.3")) == "mail"
    assert name_of(port.match_decrypted(OUTSIDE, "a.test", FirstBytes.NOTHING, "TLSv1.3")) == "mail"
    assert port.match_decrypted(OUTSIDE, "b.test", FirstBytes.OTHER, "TLSv1.3") is None
    assert port.match_decrypted(OUTSIDE, "a.test", FirstBytes.HTTP, "TLSv1.3") is None


# What a port needs to see.


def test_a_raw_tcp_port_needs_no_bytes() -> None:
    port = plan(
        ("ten", RouteMatch(PORT, protocol=MatchProtocol.TCP, client_ip=TEN), PLAIN),
        ("all", RouteMatch(PORT, protocol=MatchProtocol.TCP), PLAIN),
    )
    assert port.needs_no_bytes(INSIDE)
    assert name_of(port.server_first_candidate(INSIDE)) == "ten"
    assert port.needs_no_bytes(OUTSIDE)
    assert name_of(port.server_first_candidate(OUTSIDE)) == "all"
    assert not port.may_need_tls
    assert not port.may_need_http


@pytest.mark.parametrize(
    ("match", "action"),
    [
        (RouteMatch(PORT), PLAIN),
        (RouteMatch(PORT, protocol=MatchProtocol.HTTP), PLAIN),
        (RouteMatch(PORT, domains=("a.test",)), TERMINATE),
        (RouteMatch(PORT, domains=("a.test",), protocol=MatchProtocol.TCP), PLAIN),
        (RouteMatch(PORT), PASSTHROUGH),
        (RouteMatch(PORT, protocol=MatchProtocol.TCP, tls_versions=frozenset(["TLSv1.2"])), PLAIN),
    ],
)
def test_bytes_are_needed_where_another_route_may_want_them(match: RouteMatch, action: ForwardAction) -> None:
    tcp = ("tcp!", RouteMatch(PORT, protocol=MatchProtocol.TCP), PLAIN)
    assert not plan(tcp, ("other", match, action)).needs_no_bytes(OUTSIDE)
    assert name_of(plan(tcp, ("other", match, action)).server_first_candidate(OUTSIDE)) == "tcp!"


def test_bytes_are_needed_only_from_clients_that_another_route_admits() -> None:
    port = plan(
        ("tcp", RouteMatch(PORT, protocol=MatchProtocol.TCP), PLAIN),
        ("web", RouteMatch(PORT, client_ip=TEN), TERMINATE),
    )
    assert not port.needs_no_bytes(INSIDE)
    assert port.needs_no_bytes(OUTSIDE)
    assert port.may_need_tls
    assert port.may_need_http_in_tls
    assert not port.may_need_http


def test_a_port_without_raw_routes_has_nothing_for_the_silent() -> None:
    port = plan(("web", RouteMatch(PORT, protocol=MatchProtocol.HTTP), PLAIN))
    assert port.server_first_candidate(OUTSIDE) is None
    assert not port.needs_no_bytes(OUTSIDE)
    assert not port.may_need_tls


# Ports.


def test_ports_come_from_all_ranges_and_share_plans() -> None:
    compiled = table(
        ("a", RouteMatch(((80, 82), (81, 84))), PLAIN),
        ("b", RouteMatch(((84, 85), (0, 0))), PLAIN),
        ("udp", RouteMatch(((53, 53),), transport=Transport.UDP), PLAIN),
        ("all", RouteMatch(((54, 54),), transport=Transport.ALL), PLAIN),
        ("last", RouteMatch(((65535, 65535),)), PLAIN),
    )
    assert compiled.listening_ports() == (0, 54, 80, 81, 82, 83, 84, 85, 65535)
    assert compiled.port(80) is compiled.port(83)
    assert compiled.port(0) is compiled.port(85)
    assert compiled.port(53) is None
    both = compiled.port(84)
    assert both is not None
    assert [route.name for route in both.routes] == ["a", "b"]


def test_no_routes_are_a_table_too() -> None:
    assert RouteTable([]).listening_ports() == ()
    assert RouteTable([]).udp_listening_ports() == ()
    assert RouteTable([]).port(80) is None
    assert RouteTable([]).quic_port(80) is None


# HTTP/3.

BOTH = RouteMatch(PORT, transport=Transport.ALL)
UDP = RouteMatch(PORT, transport=Transport.UDP)


def quic_table(*routes: tuple[str, RouteMatch, ForwardAction | HandlerAction]) -> RouteTable:
    """As `table`, of routes that serve HTTP/3 unless their name begins with `-`."""
    without = table(*routes).routes
    return RouteTable(
        [replace(route, quic=None if route.name.startswith("-") else QuicPolicy()) for route in without]
    )


def test_udp_ports_are_those_where_http3_is_served() -> None:
    compiled = quic_table(
        ("both", RouteMatch(((443, 444),), transport=Transport.ALL), TERMINATE),
        ("udp", RouteMatch(((444, 445),), transport=Transport.UDP), TERMINATE),
        ("tcp", RouteMatch(((446, 446),)), TERMINATE),
        ("-raw", RouteMatch(((447, 447),), transport=Transport.ALL), TERMINATE),
    )
    assert compiled.listening_ports() == (443, 444, 446, 447)
    assert compiled.udp_listening_ports() == (443, 444, 445)
    for port, names in [(443, ["both"]), (444, ["both", "udp"]), (445, ["udp"])]:
        found = compiled.quic_port(port)
        assert found is not None
        assert [route.name for route in found.routes] == names
    assert compiled.port(445) is None
    assert compiled.quic_port(446) is None
    assert compiled.quic_port(447) is None


def quic_plan(*routes: tuple[str, RouteMatch, ForwardAction | HandlerAction]) -> PortPlan:
    found = quic_table(*routes).quic_port(443)
    assert found is not None
    return found


def test_quic_connections_are_matched_by_their_server_name() -> None:
    port = quic_plan(
        ("a", replace(BOTH, domains=("a.example",)), TERMINATE),
        ("b", replace(UDP, domains=("b.example",), client_ip=TEN), REENCRYPT),
    )

    def connection(name: str | None, client: int = OUTSIDE) -> str | None:
        route = port.match_connection(client, name, FirstBytes.TLS, tls_version="TLSv1.3")
        return route.name if route is not None else None

    assert connection("a.example") == "a"
    assert connection("b.example") is None
    assert connection("b.example", INSIDE) == "b"
    assert connection(None) is None
    assert port.may_need_http_in_tls
    assert not port.may_need_http


@pytest.mark.parametrize(
    ("protocol", "over_tcp", "over_quic"),
    [
        (None, True, True),
        (MatchProtocol.HTTP, True, True),
        (MatchProtocol.HTTP3, False, True),
        (MatchProtocol.TCP, False, False),
    ],
)
def test_the_protocol_says_which_http_a_route_takes(
    protocol: MatchProtocol | None, over_tcp: bool, over_quic: bool
) -> None:
    compiled = quic_table(("a", replace(BOTH, protocol=protocol), TERMINATE))
    for port, expected in [(compiled.port(443), over_tcp), (compiled.quic_port(443), over_quic)]:
        assert port is not None
        assert request(port, tls_version="TLSv1.3") == ("a" if expected else None)
        assert port.may_need_http_in_tls is expected


def test_nothing_in_quic_is_plain_or_raw() -> None:
    echo = HandlerAction(HandlerKind.ECHO, tls=RouteTls(TlsMode.TERMINATE))
    port = quic_plan(
        ("web", BOTH, TERMINATE), ("plain", BOTH, PLAIN), ("pass", BOTH, PASSTHROUGH), ("echo!", BOTH, echo)
    )
    assert request(port, tls_version="TLSv1.3") == "web"
    assert request(port) is None
    for first in (FirstBytes.NOTHING, FirstBytes.OTHER, FirstBytes.HTTP):
        assert port.match_connection(OUTSIDE, None, first) is None
        assert port.match_decrypted(OUTSIDE, None, first, "TLSv1.3") is None
    assert port.server_first_candidate(OUTSIDE) is None


def test_quic_requests_are_ranked_as_all_others() -> None:
    port = quic_plan(
        ("any", BOTH, TERMINATE),
        ("api", replace(UDP, path="/api/*"), TERMINATE),
        ("tls12!", replace(BOTH, tls_versions=frozenset({"TLSv1.2"})), TERMINATE),
        ("-tcp!", RouteMatch(PORT), TERMINATE),
    )
    assert request(port, path="/api/x", tls_version="TLSv1.3") == "api"
    assert request(port, tls_version="TLSv1.3") == "any"


def test_udp_ports_have_no_proxy_header() -> None:
    policy = ProxyProtocolPolicy(ProxyProtocolMode.OPTIONAL, TEN)
    port = quic_plan(("a", replace(BOTH, proxy_protocol=policy), TERMINATE))
    assert port.proxy_protocol is None


def test_a_ports_proxy_protocol_is_that_of_a_route_which_has_one() -> None:
    policy = ProxyProtocolPolicy(ProxyProtocolMode.REQUIRED, TEN)
    with_policy = plan(("a", RouteMatch(PORT), PLAIN), ("b", RouteMatch(PORT, proxy_protocol=policy), PLAIN))
    assert with_policy.proxy_protocol is policy
    assert plan(("a", RouteMatch(PORT), PLAIN)).proxy_protocol is None


def test_a_bad_path_is_refused_when_the_table_is_made() -> None:
    with pytest.raises(ValueError, match="only at the end"):
        table(("bad", RouteMatch(PORT, path="/a/*/b"), PLAIN))


# Cost.


class CountingCondition(FieldCondition):
    """Counts how often any condition of its kind is asked."""

    asked = 0

    def matches(self, fields: Fields) -> bool:
        CountingCondition.asked += 1
        return super().matches(fields)


@pytest.mark.parametrize(
    "differ_by", ["exact domain", "wildcard domain", "exact path", "prefix", "parameter"]
)
def test_ten_thousand_other_routes_are_not_looked_at(differ_by: str) -> None:
    condition = CountingCondition(b"x", "1", b"1", None, searches=False)

    def match(number: int) -> RouteMatch:
        domain, path = {
            "exact domain": (f"h{number}.test", "/a"),
            "wildcard domain": (f"*.h{number}.test", "/a"),
            "exact path": ("h.test", f"/p{number}"),
            "prefix": ("h.test", f"/p{number}/*"),
            "parameter": ("h.test", f"/p{number}/:x"),
        }[differ_by]
        return RouteMatch(PORT, domains=(domain,), path=path, fields=(condition,))

    port = plan(*((f"r{number}", match(number), PLAIN) for number in range(10_000)))
    host, path = {
        "exact domain": ("h77.test", "/a"),
        "wildcard domain": ("a.b.h77.test", "/a"),
        "exact path": ("h.test", "/p77"),
        "prefix": ("h.test", "/p77/a"),
        "parameter": ("h.test", "/p77/a"),
    }[differ_by]
    CountingCondition.asked = 0
    assert request(port, host, path, fields=[(b"x", b"1")]) == "r77"
    assert CountingCondition.asked == 1
