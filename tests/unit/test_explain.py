"""Explanations: a reason for every route, readable by people and by programs."""

from __future__ import annotations

import json

import pytest

from smartproxy.core.configuration import (
    AccessRules,
    ForwardAction,
    HandlerAction,
    HandlerKind,
    MatchProtocol,
    QuicPolicy,
    Route,
    RouteMatch,
    RouteTls,
    TlsMode,
    Transport,
)
from smartproxy.core.routing.conditions import FieldCondition
from smartproxy.core.routing.explain import Explanation, RouteQuery
from smartproxy.core.routing.table import RouteTable
from smartproxy.core.security.ip_rules import IpSet

TERMINATE = ForwardAction((), tls=RouteTls(TlsMode.TERMINATE))
PASSTHROUGH = ForwardAction((), tls=RouteTls(TlsMode.PASSTHROUGH))
PLAIN = ForwardAction(())
PORT = ((443, 443),)
QUERY = RouteQuery(443, client_ip="192.0.2.1", host="app.example.com", path="/v2/x")


def route(
    name: str,
    match: RouteMatch,
    action: ForwardAction | HandlerAction = PLAIN,
    priority: int = 0,
    quic: QuicPolicy | None = None,
) -> Route:
    return Route(0, name, f"id-{name}", priority, match, action, quic=quic)


def explain(query: RouteQuery, *routes: Route) -> Explanation:
    for position, written in enumerate(routes):
        written.position = position
    return RouteTable(routes).explain(query)


def reason(
    query: RouteQuery,
    match: RouteMatch,
    action: ForwardAction | HandlerAction = PLAIN,
    quic: QuicPolicy | None = None,
) -> str:
    explanation = explain(query, route("only", match, action, quic=quic))
    assert explanation.winner is None
    return explanation.verdicts[0].reason


@pytest.mark.parametrize(
    ("match", "action", "expected"),
    [
        (RouteMatch(((80, 80), (8000, 8100))), PLAIN, "port 443 is not 80, 8000-8100"),
        (RouteMatch(PORT, transport=Transport.UDP), PLAIN, "its transport is udp, not tcp"),
        (RouteMatch(PORT), TERMINATE, "it takes TLS, and this request came without"),
        (RouteMatch(PORT, protocol=MatchProtocol.TCP), PLAIN, "its protocol is tcp, and this is http"),
        (
            RouteMatch(PORT, client_ip=IpSet.compile(["10.*"])),
            PLAIN,
            "client 192.0.2.1 is not in its client_ip",
        ),
        (
            RouteMatch(PORT, domains=("a.test", "*.b.test")),
            PLAIN,
            "domain a.test, *.b.test does not match app.example.com",
        ),
        (RouteMatch(PORT, path="/v1/*"), PLAIN, "path /v1/* does not match /v2/x"),
        (RouteMatch(PORT, methods=frozenset([b"PUT", b"POST"])), PLAIN, "method GET is not POST, PUT"),
        (RouteMatch(PORT, fields=(FieldCondition.compile("X-A", "1"),)), PLAIN, "header x-a is missing"),
        (
            RouteMatch(PORT, fields=(FieldCondition.compile("X-B", "2*"),)),
            PLAIN,
            "header x-b is '1', not '2*'",
        ),
        (RouteMatch(PORT, tls_versions=frozenset(["TLSv1.3"])), PLAIN, "TLS version (none) is not TLSv1.3"),
    ],
)
def test_a_request_is_told_the_first_condition_that_fails(
    match: RouteMatch, action: ForwardAction, expected: str
) -> None:
    query = RouteQuery(
        443, client_ip="192.0.2.1", host="app.example.com", path="/v2/x", fields=[(b"x-b", b"1")]
    )
    assert reason(query, match, action) == expected


@pytest.mark.parametrize(
    ("tls", "match", "action", "expected"),
    [
        (False, RouteMatch(PORT), TERMINATE, "it takes TLS, and this connection came without"),
        (False, RouteMatch(PORT, domains=("*",)), PLAIN, "it asks for a domain"),
        (False, RouteMatch(PORT, path="/*"), PLAIN, "it asks for a path, method or header"),
        (
            False,
            RouteMatch(PORT, protocol=MatchProtocol.HTTP),
            PLAIN,
            "its protocol is http, and this is not",
        ),
        (
            False,
            RouteMatch(PORT),
            HandlerAction(HandlerKind.HTTP_REDIRECT),
            "its handler answers HTTP requests",
        ),
        (True, RouteMatch(PORT), HandlerAction(HandlerKind.HTTP_REDIRECT), "it takes no TLS"),
        (
            True,
            RouteMatch(PORT, protocol=MatchProtocol.HTTP),
            PASSTHROUGH,
            "its protocol is http, and this is not",
        ),
        (
            True,
            RouteMatch(PORT, protocol=MatchProtocol.HTTP),
            TERMINATE,
            "its protocol is http, and this is not",
        ),
        (
            True,
            RouteMatch(PORT, protocol=MatchProtocol.UDP),
            TERMINATE,
            "its protocol is udp, and this is a TLS",
        ),
        (True, RouteMatch(PORT, domains=("b.test",)), TERMINATE, "no host is named, and it asks for b.test"),
        (
            True,
            RouteMatch(PORT, tls_versions=frozenset(["TLSv1.2"])),
            PASSTHROUGH,
            "TLS version TLSv1.3 is not",
        ),
    ],
)
def test_bytes_that_are_not_http_are_told_too(
    tls: bool, match: RouteMatch, action: ForwardAction | HandlerAction, expected: str
) -> None:
    assert reason(RouteQuery(443, tls=tls, protocol=MatchProtocol.TCP), match, action).startswith(expected)


def test_a_route_that_matched_is_told_what_outranked_it() -> None:
    explanation = explain(
        QUERY,
        route("low", RouteMatch(PORT, domains=("app.example.com",)), priority=-1),
        route("wide", RouteMatch(PORT, domains=("*.example.com",))),
        route("any", RouteMatch(PORT)),
        route("short", RouteMatch(PORT, domains=("app.example.com",), path="/*")),
        route("no-path", RouteMatch(PORT, domains=("app.example.com",))),
        route("bare", RouteMatch(PORT, domains=("app.example.com",), path="/v2/*")),
        route(
            "app", RouteMatch(PORT, domains=("app.example.com",), path="/v2/*", methods=frozenset([b"GET"]))
        ),
        route(
            "late", RouteMatch(PORT, domains=("app.example.com",), path="/v2/*", methods=frozenset([b"GET"]))
        ),
        route("other", RouteMatch(PORT, domains=("b.test",))),
    )
    assert explanation.winner is not None
    assert explanation.winner.name == "app"
    assert {verdict.route.name: verdict.reason for verdict in explanation.verdicts} == {
        "app": "priority 0, domain app.example.com, path /v2/*",
        "late": "written after 'app'",
        "bare": "fewer conditions than 'app'",
        "short": "less specific path than 'app' (/*, not /v2/*)",
        "no-path": "less specific path than 'app' (any, not /v2/*)",
        "wide": "less specific domain than 'app' (*.example.com, not app.example.com)",
        "any": "less specific domain than 'app' (any, not app.example.com)",
        "low": "lower priority than 'app' (-1 < 0)",
        "other": "domain b.test does not match app.example.com",
    }
    assert [verdict.route.name for verdict in explanation.verdicts] == [
        *("app", "late", "bare", "short", "no-path", "wide", "any", "low", "other")
    ]
    assert [matching.name for matching in explanation.matching][-1] == "low"


def test_passthrough_takes_the_connection_before_any_request() -> None:
    routes = [
        route("web", RouteMatch(PORT, path="/v2/x"), TERMINATE),
        route("pass", RouteMatch(PORT, domains=("app.example.com",)), PASSTHROUGH),
    ]
    query = RouteQuery(443, tls=True, host="app.example.com", path="/v2/x")
    explanation = explain(query, *routes)
    assert explanation.winner is routes[1]
    assert explanation.verdicts[1].reason.startswith("less specific domain than 'pass'")
    routes[0].priority = 1
    terminated = explain(query, *routes)
    assert terminated.winner is routes[0]
    assert terminated.verdicts[1].reason.startswith("its TLS is passed through")


def test_a_hit_names_its_parameters_and_who_may_not_use_it() -> None:
    blocked = route("app", RouteMatch(PORT, path="/users/:id"))
    blocked.access = AccessRules(blocked=IpSet.compile(["192.0.2.*"]))
    query = RouteQuery(443, client_ip="192.0.2.1", path="/users/7?x=y")
    explanation = explain(query, blocked)
    assert explanation.winner is blocked
    assert explanation.params == {"id": "7"}
    assert explanation.refusal == "client 192.0.2.1 is on the block list of 'app'"
    blocked.access = AccessRules(allowed=IpSet.compile(["10.*"]))
    assert explain(query, blocked).refusal == "client 192.0.2.1 is not on the allow list of 'app'"
    blocked.access = AccessRules(allowed=IpSet.compile(["192.0.2.1"]))
    assert explain(query, blocked).refusal is None


@pytest.mark.parametrize(
    ("host", "path", "problem"),
    [
        ("a b", "/", "400, 'a b' is not a host"),
        ("a..b", "/", "400, 'a..b' is not a host"),
        ("☃", "/", "400, '☃' is not a host"),
        ("a", "/..", "400, the path '/..' can be read in more than one way"),
        ("a", "/%2561", "400, the path '/%2561' can be read in more than one way"),
        ("a", "/\udcff", "can be read in more than one way"),
    ],
)
def test_a_query_that_would_be_refused_says_so(host: str, path: str, problem: str) -> None:
    explanation = explain(RouteQuery(443, host=host, path=path), route("any", RouteMatch(PORT)))
    assert explanation.winner is None
    assert explanation.problem is not None
    assert explanation.problem.endswith(problem)
    assert "refused: " in explanation.to_text()


def test_a_client_must_have_an_address() -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        explain(RouteQuery(443, client_ip="localhost"), route("any", RouteMatch(PORT)))


@pytest.mark.parametrize("host", ["BÜCHER.example", "xn--bcher-kva.example", "Bücher.example."])
def test_hosts_are_normalised(host: str) -> None:
    books = route("books", RouteMatch(PORT, domains=("xn--bcher-kva.example",)))
    assert explain(RouteQuery(443, host=host), books).winner is books


@pytest.mark.parametrize("host", ["2001:db8::1", "[2001:DB8:0::1]"])
def test_addresses_are_hosts(host: str) -> None:
    only = route("only", RouteMatch(PORT, domains=("2001:db8::1",)))
    explanation = explain(RouteQuery(443, host=host), only)
    assert explanation.winner is only
    assert "http://[2001:" in explanation.to_text()


def test_datagrams_are_matched_by_what_they_show() -> None:
    udp = RouteMatch(PORT, transport=Transport.UDP)
    query = RouteQuery(443, transport=Transport.UDP, protocol=MatchProtocol.QUIC, host="a.test")
    assert explain(query, route("any", udp)).winner is not None
    http3 = RouteMatch(PORT, transport=Transport.ALL, protocol=MatchProtocol.HTTP3, path="/v1/*")
    assert reason(query, http3) == "its protocol is http3, and this is quic"
    by_path = RouteMatch(PORT, transport=Transport.UDP, path="/v1/*")
    assert reason(query, by_path).startswith("it asks for a path")
    assert reason(query, RouteMatch(PORT)) == "its transport is tcp, not udp"


def test_http3_requests_get_the_routes_that_serve_http3() -> None:
    query = RouteQuery(443, transport=Transport.UDP, host="a.test", path="/v2/x")
    everything = RouteMatch(PORT, transport=Transport.ALL)
    for protocol in (None, MatchProtocol.HTTP, MatchProtocol.HTTP3):
        match = RouteMatch(PORT, transport=Transport.ALL, protocol=protocol)
        explanation = explain(query, route("h3", match, TERMINATE, quic=QuicPolicy()))
        assert explanation.winner is not None
        assert explanation.to_text().startswith(
            "GET https://a.test/v2/x (port 443, client 127.0.0.1, HTTP/3)"
        )
    assert reason(query, everything, TERMINATE) == "it serves no HTTP/3"
    assert reason(query, everything, PLAIN, QuicPolicy()) == "it does not terminate the TLS of HTTP/3"
    tcp = RouteMatch(PORT, transport=Transport.ALL, protocol=MatchProtocol.TCP)
    assert reason(query, tcp, TERMINATE, QuicPolicy()) == "its protocol is tcp, and this is http3"
    echo = HandlerAction(HandlerKind.ECHO, tls=RouteTls(TlsMode.TERMINATE))
    assert reason(query, everything, echo, QuicPolicy()) == "its handler knows no HTTP"
    by_path = RouteMatch(PORT, transport=Transport.UDP, path="/v1/*")
    assert reason(query, by_path, TERMINATE, QuicPolicy()) == "path /v1/* does not match /v2/x"
    old_tls = RouteMatch(PORT, transport=Transport.UDP, tls_versions=frozenset({"TLSv1.2"}))
    assert reason(query, old_tls, TERMINATE, QuicPolicy()) == "TLS version TLSv1.3 is not TLSv1.2"
    raw = RouteQuery(443, transport=Transport.UDP, protocol=MatchProtocol.QUIC)
    assert reason(raw, everything, TERMINATE, QuicPolicy()) == "its UDP is for HTTP/3"


def test_requests_over_tcp_never_get_a_route_for_http3_alone() -> None:
    match = RouteMatch(PORT, transport=Transport.ALL, protocol=MatchProtocol.HTTP3)
    query = RouteQuery(443, tls=True, host="a.test")
    assert reason(query, match, TERMINATE, QuicPolicy()).startswith("its protocol is http3")


def test_the_text_is_a_table_for_people() -> None:
    explanation = explain(
        QUERY,
        route("app", RouteMatch(PORT, domains=("app.example.com",))),
        route("fallback", RouteMatch(PORT)),
        route("v1", RouteMatch(PORT, path="/v1/*")),
    )
    assert explanation.to_text().splitlines() == [
        "GET http://app.example.com/v2/x (port 443, client 192.0.2.1)",
        "  won   app       priority 0, domain app.example.com, any path",
        "  lost  fallback  less specific domain than 'app' (any, not app.example.com)",
        "  lost  v1        path /v1/* does not match /v2/x",
    ]
    nothing = explain(
        RouteQuery(443, tls=True, protocol=MatchProtocol.TCP), route("v1", RouteMatch(PORT, path="/v1/*"))
    )
    assert nothing.to_text().splitlines()[:2] == [
        "tcp inside TLS to (no name) (port 443, client 127.0.0.1)",
        "  no route matches",
    ]


def test_the_dict_is_json() -> None:
    explanation = explain(
        QUERY, route("app", RouteMatch(PORT, path="/v2/:thing")), route("v1", RouteMatch(PORT, path="/v1/*"))
    )
    assert json.loads(json.dumps(explanation.to_dict())) == {
        "query": "GET http://app.example.com/v2/x (port 443, client 192.0.2.1)",
        "winner": "app",
        "params": {"thing": "x"},
        "problem": None,
        "refusal": None,
        "routes": [
            {
                "name": "app",
                "id": "id-app",
                "position": 0,
                "outcome": "won",
                "matched": True,
                "reason": "priority 0, any domain, path /v2/:thing",
            },
            {
                "name": "v1",
                "id": "id-v1",
                "position": 1,
                "outcome": "lost",
                "matched": False,
                "reason": "path /v1/* does not match /v2/x",
            },
        ],
    }
