"""The compiled table against its explanation, and both against rules read one by one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.configuration import (
    ForwardAction,
    HandlerAction,
    HandlerKind,
    MatchProtocol,
    QuicPolicy,
    Route,
    RouteMatch,
    TlsMode,
    Transport,
)
from smartproxy.core.routing.domains import DomainIndex, domain_matches, normalise_domain, normalise_host
from smartproxy.core.routing.explain import RouteQuery, find_best_matching_route, find_matching_routes
from smartproxy.core.routing.paths import PathPattern, normalise_path
from smartproxy.core.routing.table import FirstBytes, PortPlan, RouteTable
from smartproxy.core.security.ip_rules import IpSet, ip_number
from smartproxy.testing.strategies.routes import (
    PORTS,
    address_numbers,
    domain_patterns,
    hosts,
    route_lists,
    routes_with_query,
)

# A matcher that knows nothing of indexes, ranks or compiled paths.


def reference_domain_score(route: Route, host: str | None) -> tuple[int, int] | None:
    if not route.match.domains:
        return (0, 0)
    scores = []
    for pattern in route.match.domains if host is not None else ():
        assert host is not None
        if pattern == "*":
            scores.append((1, 0))
        elif pattern.endswith(".*") and host.startswith(pattern[:-1]):
            scores.append((2, len(pattern)))
        elif pattern.startswith("*.") and host.endswith(pattern[1:]):
            scores.append((3, len(pattern)))
        elif pattern == host:
            scores.append((4, 0))
    return max(scores, default=None)


def reference_path_score(path: str | None) -> tuple[bool, int, bool]:
    if path is None:
        return (False, 0, False)
    is_prefix = path.endswith("*")
    segments = path.removesuffix("*").split("/")[1:]
    has_params = any(segment.startswith(":") for segment in segments)
    literal = sum(1 + (0 if segment.startswith(":") else len(segment)) for segment in segments)
    return (not is_prefix and not has_params, literal, not is_prefix)


def reference_key(route: Route, host: str | None) -> tuple[object, ...]:
    match = route.match
    conditions = [
        match.client_ip,
        match.tls_versions,
        match.methods,
        match.protocol is not None,
        *match.fields,
    ]
    return (
        -route.priority,
        tuple(-part for part in reference_domain_score(route, host) or (0, 0)),
        tuple(-part for part in reference_path_score(match.path)),
        -sum(1 for condition in conditions if condition),
        route.position,
    )


def reference_listens(route: Route, query: RouteQuery) -> bool:
    match = route.match
    return (
        any(low <= query.port <= high for low, high in match.ports)
        and match.transport is not Transport.UDP
        and (not match.client_ip or match.client_ip.contains(ip_number(query.client_ip)))
        and reference_domain_score(route, query.host) is not None
    )


def reference_speaks(route: Route, *, http: bool) -> bool:
    if http:
        return route.match.protocol in (None, MatchProtocol.HTTP)
    action = route.action
    http_only = isinstance(action, HandlerAction) and action.kind not in (HandlerKind.ECHO, HandlerKind.BLOCK)
    return route.match.protocol in (None, MatchProtocol.TCP) and not http_only


def reference_request(routes: list[Route], query: RouteQuery, path: str) -> Route | None:
    version = query.tls_version if query.tls else None
    matching = [
        route
        for route in routes
        if reference_listens(route, query)
        and reference_speaks(route, http=True)
        and (route.action.tls is not None) == query.tls
        and (route.action.tls is None or route.action.tls.mode is not TlsMode.PASSTHROUGH)
        and (route.match.path is None or PathPattern.compile(route.match.path).match(path) is not None)
        and (not route.match.methods or query.method in route.match.methods)
        and (not route.match.tls_versions or version in route.match.tls_versions)
        and all(condition.matches(query.fields) for condition in route.match.fields)
    ]
    return min(matching, key=lambda route: reference_key(route, query.host), default=None)


def reference_raw(routes: list[Route], query: RouteQuery, tls: str) -> Route | None:
    """`tls` is `none`, `unopened` (with those that would open it beside) or `opened`."""

    def admits(route: Route) -> bool:
        mode = route.action.tls.mode if route.action.tls is not None else None
        opens = mode in (TlsMode.TERMINATE, TlsMode.TERMINATE_AND_REENCRYPT)
        if tls == "unopened" and opens:
            return reference_speaks(route, http=True) or reference_speaks(route, http=False)
        if (
            not reference_speaks(route, http=False)
            or route.match.path
            or route.match.fields
            or route.match.methods
        ):
            return False
        versions = route.match.tls_versions
        if tls == "none":
            return mode is None and not versions and not route.match.domains
        return opens == (tls == "opened") and (not versions or query.tls_version in versions)

    matching = [route for route in routes if reference_listens(route, query) and admits(route)]
    return min(matching, key=lambda route: reference_key(route, query.host), default=None)


def request_by_table(plan: PortPlan | None, query: RouteQuery, path: str) -> Route | None:
    if plan is None:
        return None
    hit = plan.match_request(
        ip_number(query.client_ip),
        query.host,
        path,
        query.method,
        query.fields,
        tls_version=query.tls_version if query.tls else None,
        terminated_tls=query.tls,
    )
    return hit.route if hit is not None else None


@given(routes_with_query())
def test_requests_get_the_reference_matchers_route(case: tuple[list[Route], RouteQuery]) -> None:
    routes, query = case
    path = normalise_path(query.path.encode())
    assert path is not None
    plan = RouteTable(routes).port(query.port)
    assert request_by_table(plan, query, path) is reference_request(routes, query, path)


@given(routes_with_query())
def test_connections_get_the_reference_matchers_route(case: tuple[list[Route], RouteQuery]) -> None:
    routes, query = case
    plan = RouteTable(routes).port(query.port)
    if plan is None:
        assert not any(low <= query.port <= high for r in routes if _is_tcp(r) for low, high in r.match.ports)
        return
    number = ip_number(query.client_ip)
    version = query.tls_version
    after_hello = plan.match_connection(number, query.host, FirstBytes.TLS, tls_version=version)
    assert after_hello is reference_raw(routes, query, "unopened")
    for first in (FirstBytes.OTHER, FirstBytes.NOTHING):
        silent = plan.match_connection(number, query.host, first)
        assert silent is reference_raw(routes, query, "none")
        assert plan.match_decrypted(number, query.host, first, version) is reference_raw(
            routes, query, "opened"
        )
    assert plan.server_first_candidate(number) is plan.match_connection(number, None, FirstBytes.NOTHING)


@st.composite
def routes_with_http3_query(draw: st.DrawFn) -> tuple[list[Route], RouteQuery]:
    """Routes of which some serve HTTP/3, and an HTTP/3 request that may be one's."""
    routes, query = draw(routes_with_query())
    transports = st.sampled_from((Transport.ALL, Transport.UDP, Transport.TCP))
    for route in routes:
        if draw(st.integers(0, 3)):
            route.quic = QuicPolicy()
        protocol = draw(st.sampled_from((route.match.protocol, MatchProtocol.HTTP3)))
        route.match = replace(route.match, transport=draw(transports), protocol=protocol)
    return routes, replace(query, transport=Transport.UDP, tls=True, protocol=MatchProtocol.HTTP)


def reference_http3(routes: list[Route], query: RouteQuery, path: str) -> Route | None:
    over_tcp = [
        replace(
            route,
            match=replace(
                route.match,
                transport=Transport.TCP,
                # One condition more or less changes the order, so that there must be as many.
                protocol=None if route.match.protocol is None else MatchProtocol.HTTP,
            ),
        )
        for route in routes
        if route.quic is not None
        and route.match.transport is not Transport.TCP
        and route.match.protocol in (None, MatchProtocol.HTTP, MatchProtocol.HTTP3)
        and not (
            isinstance(route.action, HandlerAction)
            and route.action.kind in (HandlerKind.ECHO, HandlerKind.BLOCK)
        )
    ]
    best = reference_request(over_tcp, query, path)
    return routes[best.position] if best is not None else None


@given(routes_with_http3_query())
def test_http3_requests_get_the_reference_matchers_route(case: tuple[list[Route], RouteQuery]) -> None:
    routes, query = case
    path = normalise_path(query.path.encode())
    assert path is not None
    table = RouteTable(routes)
    plan = table.quic_port(query.port)
    assert (plan is not None) == (query.port in table.udp_listening_ports())
    expected = reference_http3(routes, query, path)
    assert request_by_table(plan, query, path) is expected
    assert table.explain(query).winner is expected
    if expected is not None:
        assert plan is not None
        # Whoever has a request has a connection first.
        number = ip_number(query.client_ip)
        assert plan.match_connection(number, query.host, FirstBytes.TLS, tls_version="TLSv1.3") is not None


def _is_tcp(route: Route) -> bool:
    return route.match.transport is not Transport.UDP


@given(routes_with_query())
def test_the_explanation_names_the_route_that_the_table_chooses(
    case: tuple[list[Route], RouteQuery],
) -> None:
    routes, query = case
    table = RouteTable(routes)
    plan = table.port(query.port)
    explanation = table.explain(query)
    number = ip_number(query.client_ip)
    path = normalise_path(query.path.encode())
    assert path is not None
    expected: Route | None = None
    if plan is not None:
        is_open = not query.tls
        if query.tls:
            expected = plan.match_connection(
                number, query.host, FirstBytes.TLS, tls_version=query.tls_version
            )
            tls = expected.action.tls if expected is not None else None
            is_open = tls is not None and tls.mode is not TlsMode.PASSTHROUGH
        if is_open and query.protocol is MatchProtocol.HTTP:
            expected = request_by_table(plan, query, path)
        elif is_open and query.tls:
            expected = plan.match_decrypted(number, query.host, FirstBytes.OTHER, query.tls_version)
        elif is_open:
            expected = plan.match_connection(number, query.host, FirstBytes.OTHER)
    assert explanation.winner is expected
    assert find_best_matching_route(table, query) is expected
    assert find_matching_routes(table, query)[:1] == ([expected] if expected is not None else [])


@given(routes_with_query())
def test_every_route_stands_in_the_explanation_with_a_reason(case: tuple[list[Route], RouteQuery]) -> None:
    routes, query = case
    explanation = RouteTable(routes).explain(query)
    assert sorted(verdict.route.position for verdict in explanation.verdicts) == [r.position for r in routes]
    assert all(verdict.reason for verdict in explanation.verdicts)
    assert [verdict.route for verdict in explanation.verdicts if verdict.won] == (
        [explanation.winner] if explanation.winner is not None else []
    )
    text = explanation.to_text()
    assert all(f"{route.name} " in text for route in routes)
    assert len(text.splitlines()) >= len(routes) + 1


@given(routes_with_query())
def test_a_hits_parameters_are_those_of_its_path(case: tuple[list[Route], RouteQuery]) -> None:
    routes, query = case
    plan = RouteTable(routes).port(query.port)
    path = normalise_path(query.path.encode())
    assert path is not None
    if plan is None:
        return
    hit = plan.match_request(
        ip_number(query.client_ip), query.host, path, query.method, query.fields,
        tls_version=query.tls_version, terminated_tls=query.tls,
    )  # fmt: skip
    if hit is not None:
        pattern = hit.route.match.path
        assert hit.params == (PathPattern.compile(pattern).match(path) if pattern is not None else {})


@given(routes_with_query())
def test_what_a_plan_needs_to_see_decides_nothing_else(case: tuple[list[Route], RouteQuery]) -> None:
    routes, query = case
    plan = RouteTable(routes).port(query.port)
    if plan is None:
        return
    number = ip_number(query.client_ip)
    silent = plan.server_first_candidate(number)
    after_hello = plan.match_connection(number, query.host, FirstBytes.TLS, tls_version=query.tls_version)
    if not plan.may_need_tls:
        assert after_hello is silent
    path = normalise_path(query.path.encode())
    assert path is not None
    hit = request_by_table(plan, query, path)
    if not (plan.may_need_http_in_tls if query.tls else plan.may_need_http):
        assert hit is None
    if not query.tls and hit is not None:
        assert plan.match_connection(number, None, FirstBytes.HTTP) is not None
    if plan.needs_no_bytes(number):
        assert silent is not None
        assert silent.match.protocol is MatchProtocol.TCP
        assert after_hello is silent
        assert plan.match_connection(number, None, FirstBytes.HTTP) is None


@given(route_lists())
def test_a_table_listens_on_exactly_the_ports_asked_for(routes: list[Route]) -> None:
    table = RouteTable(routes)
    asked = {
        port
        for route in routes
        if _is_tcp(route)
        for low, high in route.match.ports
        for port in range(low, high + 1)
    }
    assert table.listening_ports() == tuple(sorted(asked))
    for port in PORTS:
        plan = table.port(port)
        listening = [
            route
            for route in routes
            if _is_tcp(route) and any(low <= port <= high for low, high in route.match.ports)
        ]
        assert (list(plan.routes) if plan is not None else []) == listening


@given(st.sets(domain_patterns() | st.none(), max_size=12), hosts() | st.none())
def test_the_domain_index_finds_every_pattern_that_matches(
    patterns: set[str | None], host: str | None
) -> None:
    index = DomainIndex({pattern: pattern for pattern in patterns})
    expected = {
        pattern
        for pattern in patterns
        if pattern is None or (host is not None and domain_matches(pattern, host))
    }
    found = index.find(host)
    assert set(found) == expected
    assert len(found) == len(expected)


@given(hosts(), st.booleans(), st.sampled_from(("", ":", ":80", ":65535")))
def test_a_host_and_its_spellings_are_one(host: str, dot: bool, port: str) -> None:
    spelt = host.title() + ("." if dot else "") + port
    name, number = normalise_host(spelt.encode())
    assert name == host == normalise_domain(host.upper() + ("." if dot else ""))
    assert number == (int(port[1:]) if len(port) > 1 else None)


@given(st.binary(max_size=40) | st.text(alphabet="aA1-_.:[]%@/ é", max_size=20).map(str.encode))
def test_a_host_is_normal_or_refused(authority: bytes) -> None:
    try:
        host, port = normalise_host(authority)
    except ValueError:
        return
    again = f"[{host}]" if ":" in host else host
    assert normalise_host(again.encode()) == (host, None)
    assert port is None or 0 <= port <= 65535


@given(address_numbers(), hosts())
def test_a_client_without_an_address_passes_no_address_condition(number: int, host: str) -> None:
    match = RouteMatch(ports=((80, 80),), client_ip=IpSet([(0, number)]))
    plan = RouteTable([Route(0, "only", "", 0, match, ForwardAction(()))]).port(80)
    assert plan is not None
    hit = plan.match_request(-1, host, "/", b"GET", [], tls_version=None, terminated_tls=False)
    assert hit is None
