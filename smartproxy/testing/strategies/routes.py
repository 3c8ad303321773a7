"""Strategies for address rules, domains, paths, routes, and the requests that look for them.

Names, segments, ports and addresses come from small pools, so that what is drawn
apart meets now and then. `routes_with_query` makes it meet most of the time.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st

from smartproxy.core.configuration import (
    ForwardAction,
    HandlerAction,
    HandlerKind,
    MatchProtocol,
    Route,
    RouteMatch,
    RouteTls,
    TlsMode,
    Transport,
)
from smartproxy.core.routing.conditions import FieldCondition
from smartproxy.core.routing.explain import RouteQuery
from smartproxy.core.security.ip_rules import IPV4_BASE, IPV4_LAST, MAX_NUMBER, IpSet, ip_text

T = TypeVar("T")

PORTS = (80, 443, 8000, 8001)
LABELS = ("a", "b", "www", "example")
SEGMENTS = ("a", "b", "users", "x y", "ü")
METHODS = (b"GET", b"POST")
FIELD_NAMES = (b"x-version", b"cookie")
FIELD_VALUES = ("", "1", "2", "12")
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")


# Addresses.


def address_numbers() -> st.SearchStrategy[int]:
    """Addresses as numbers: any IPv4, any IPv6, and those around the borders of the IPv4 space."""
    borders = [0, IPV4_BASE - 1, IPV4_BASE, IPV4_LAST, IPV4_LAST + 1, MAX_NUMBER]
    near_each_other = st.integers(0, 0x3FF).map(lambda low: IPV4_BASE | 10 << 24 | low)
    return st.one_of(
        near_each_other,
        st.integers(IPV4_BASE, IPV4_LAST),
        st.integers(0, MAX_NUMBER),
        st.sampled_from(borders),
    )


def client_addresses() -> st.SearchStrategy[str]:
    """Addresses as text; some IPv4 ones are mapped into IPv6, and some IPv6 ones have a scope."""
    mapped = st.ip_addresses(v=4).map(lambda address: f"::ffff:{address}")
    scoped = st.ip_addresses(v=6, network="fe80::/10").map(lambda address: f"{address}%eth0")
    return st.one_of(address_numbers().map(ip_text), mapped, scoped)


def _block(number_and_length: tuple[int, int]) -> str:
    number, length = number_and_length
    if IPV4_BASE <= number <= IPV4_LAST:
        return str(ipaddress.ip_network((number - IPV4_BASE, length % 33), strict=False))
    return str(ipaddress.IPv6Network((number, length), strict=False))


def _range(ends: tuple[int, int]) -> str:
    low, high = sorted(ends)
    if (low >> 32 == 0xFFFF) != (high >> 32 == 0xFFFF):
        high = low
    return f"{ip_text(low)}-{ip_text(high)}"


def ip_rules() -> st.SearchStrategy[str]:
    """Valid address rules of every kind."""
    octet = st.integers(0, 255).map(str)
    wildcards = st.lists(octet, min_size=1, max_size=3).flatmap(
        lambda octets: st.sampled_from([[*octets, "*"], [*octets, *["*"] * (4 - len(octets))]])
    )
    return st.one_of(
        client_addresses(),
        st.tuples(address_numbers(), st.integers(0, 128)).map(_block),
        st.tuples(address_numbers(), address_numbers()).map(_range),
        wildcards.map(".".join),
        st.just("*"),
    )


# Domains and paths.


def hosts() -> st.SearchStrategy[str]:
    """Normalised host names of one to four labels."""
    return st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join)


def domain_patterns() -> st.SearchStrategy[str]:
    """Normalised patterns: exact, `*.x`, `x.*` and `*`."""
    return st.one_of(
        hosts(), hosts().map(lambda host: f"*.{host}"), hosts().map(lambda host: f"{host}.*"), st.just("*")
    )


def path_patterns() -> st.SearchStrategy[str]:
    """Valid path patterns: exact, with parameters, with a last star, with both."""

    def pattern(parts: tuple[list[str], str]) -> str:
        segments, ending = parts
        named = [f":p{position}" if segment == ":" else segment for position, segment in enumerate(segments)]
        if ending == "*" and named[-1].startswith(":"):
            ending = "/*"
        return "/" + "/".join(named) + ending

    segments = st.lists(st.sampled_from((*SEGMENTS, ":")), min_size=1, max_size=4)
    endings = st.sampled_from(("", "", "/", "*", "/*"))
    return st.one_of(st.tuples(segments, endings).map(pattern), st.sampled_from(("/", "/*")))


def hosts_of(pattern: str) -> st.SearchStrategy[str]:
    """Host names that a domain pattern names."""
    if pattern == "*":
        return hosts()
    if pattern.startswith("*."):
        return hosts().map(lambda host: host + pattern[1:])
    if pattern.endswith(".*"):
        return hosts().map(lambda host: pattern[:-1] + host)
    return st.just(pattern)


def paths_of(pattern: str) -> st.SearchStrategy[str]:
    """Normalised paths that a path pattern matches."""
    pieces: list[st.SearchStrategy[str]] = []
    for segment in pattern.removesuffix("*")[1:].split("/"):
        pieces.append(st.sampled_from(SEGMENTS) if segment.startswith(":") else st.just(segment))
    below = st.sampled_from(("", "x", "a", "a/b", "users/")) if pattern.endswith("*") else st.just("")
    return st.tuples(st.tuples(*pieces).map("/".join), below).map(lambda parts: "/" + "".join(parts))


def request_paths() -> st.SearchStrategy[str]:
    """Normalised paths."""
    segments = st.lists(st.sampled_from((*SEGMENTS, "ax")), min_size=0, max_size=5)
    return st.tuples(segments, st.booleans()).map(
        lambda parts: "/" + "/".join([*parts[0], *([""] if parts[1] and parts[0] else [])])
    )


def spelt_targets(path: str) -> st.SearchStrategy[bytes]:
    """Request targets that all mean the normalised `path`, spelt in more or less odd ways."""

    def spell(character: str) -> st.SearchStrategy[str]:
        escaped = "".join(f"%{byte:02x}" for byte in character.encode())
        is_plain = character.isascii() and (character.isalnum() or character in "-_.~")
        return st.sampled_from((character if is_plain else escaped, escaped, escaped.upper()))

    def spell_all(separators: tuple[str, ...]) -> st.SearchStrategy[str]:
        spelt = [
            st.sampled_from(separators) if character == "/" else spell(character) for character in path[1:]
        ]
        return st.tuples(*spelt).map("".join)

    # Dot segments are refused beside encoded slashes, and `..` beside empty segments.
    dotted = ("/", "/./", "/zz/../", "/zz/%2e%2E/", ";v=1/")
    doubled = ("/", "//", "%2F", "%2f", ";v=1/")
    queries = st.sampled_from(("", "?", "?a=/../%00"))
    return st.tuples(spell_all(dotted) | spell_all(doubled), queries).map(
        lambda parts: ("/" + "".join(parts)).encode("ascii")
    )


def odd_targets() -> st.SearchStrategy[bytes]:
    """Bytes in place of a request target: escapes, dots, separators and noise in any order."""
    pieces = st.sampled_from(
        (
            *(b"/", b"/", b"a", b".", b"..", b"/../", b"/./", b";", b"?", b"#", b"\\", b"*", b" ", b":"),
            *(
                b"%2F",
                b"%2e",
                b"%5c",
                b"%00",
                b"%25",
                b"%252e",
                b"%3B",
                b"%c0%af",
                b"%C3%BC",
                b"\xff",
                b"%",
                b"%4",
            ),
        )
    )
    return st.lists(pieces, max_size=10).map(lambda parts: b"/" + b"".join(parts)) | st.binary(max_size=20)


# Routes and requests.


def field_conditions() -> st.SearchStrategy[FieldCondition]:
    """Conditions on a header: exact, glob and expression."""
    specs = ("1", "*", "1*", "?", "/^[12]$/", "/2/")
    return st.builds(FieldCondition.compile, st.sampled_from(FIELD_NAMES), st.sampled_from(specs))


def _route_tls() -> st.SearchStrategy[RouteTls | None]:
    modes = st.sampled_from((None, None, *TlsMode))
    return modes.map(lambda mode: RouteTls(mode, ssl.TLSVersion.TLSv1_2) if mode is not None else None)


def route_actions() -> st.SearchStrategy[ForwardAction | HandlerAction]:
    """Forward actions and built-in handlers, with every kind of TLS."""
    forwards = st.builds(ForwardAction, targets=st.just(()), tls=_route_tls())
    return (
        forwards
        | forwards
        | forwards
        | st.builds(HandlerAction, kind=st.sampled_from(HandlerKind), tls=_route_tls())
    )


def route_matches() -> st.SearchStrategy[RouteMatch]:
    """Conditions of every kind; each but ports, domains and path is absent most of the time."""
    ranges = st.sampled_from(((80, 80), (443, 443), (80, 443), (80, 8001)))
    transports = st.sampled_from((*[Transport.TCP] * 9, Transport.ALL, Transport.UDP))
    protocols = st.sampled_from(
        (*[None] * 8, *[MatchProtocol.HTTP] * 3, MatchProtocol.TCP, MatchProtocol.UDP)
    )
    addresses = st.lists(ip_rules(), min_size=1, max_size=3).map(IpSet.compile)
    no_versions: frozenset[str] = frozenset()
    no_methods: frozenset[bytes] = frozenset()
    return st.builds(
        RouteMatch,
        ports=st.lists(ranges, min_size=1, max_size=2).map(tuple),
        transport=transports,
        domains=st.just(()) | st.lists(domain_patterns(), min_size=1, max_size=3).map(tuple),
        path=st.none() | path_patterns(),
        client_ip=_seldom(None, addresses),
        tls_versions=_seldom(no_versions, st.frozensets(st.sampled_from(TLS_VERSIONS))),
        fields=_seldom((), st.lists(field_conditions(), min_size=1, max_size=2).map(tuple)),
        methods=_seldom(no_methods, st.frozensets(st.sampled_from(METHODS))),
        protocol=protocols,
    )


def _seldom(usual: T, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    return st.one_of(*[st.just(usual)] * 4, other)


def routes(position: int = 0) -> st.SearchStrategy[Route]:
    """One compiled route, as the one written at `position`."""
    return st.builds(
        Route,
        position=st.just(position),
        name=st.just(f"route{position}"),
        id=st.just(""),
        priority=st.sampled_from((0, 0, 0, 1, -1)),
        match=route_matches(),
        action=route_actions(),
    )


def route_lists(max_size: int = 8) -> st.SearchStrategy[list[Route]]:
    """Routes in the order written, with positions and names to match."""

    def number(written: list[Route]) -> list[Route]:
        for position, route in enumerate(written):
            route.position = position
            route.name = f"route{position}"
        return written

    return st.lists(routes(), min_size=1, max_size=max_size).map(number)


def request_fields() -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Field lines, now and then two of one name."""
    values = st.sampled_from(FIELD_VALUES).map(str.encode)
    return st.lists(st.tuples(st.sampled_from(FIELD_NAMES), values), max_size=3)


def route_queries() -> st.SearchStrategy[RouteQuery]:
    """Connections with requests, or with bytes that are not HTTP, over TCP."""
    return st.builds(
        RouteQuery,
        port=st.sampled_from(PORTS),
        client_ip=client_addresses(),
        tls=st.booleans(),
        host=st.none() | hosts(),
        path=request_paths().map(_as_target),
        method=st.sampled_from(METHODS),
        fields=request_fields(),
        tls_version=st.sampled_from(TLS_VERSIONS),
        protocol=st.sampled_from((MatchProtocol.HTTP, MatchProtocol.HTTP, MatchProtocol.TCP)),
    )


def _as_target(path: str) -> str:
    return path.replace(" ", "%20").replace("ü", "%C3%BC")


@st.composite
def routes_with_query(draw: st.DrawFn, max_size: int = 8) -> tuple[list[Route], RouteQuery]:
    """Routes that compete with each other, and a query that one of them takes, or misses by a little."""
    written = draw(route_lists(max_size))
    aimed_at = draw(st.sampled_from(written))
    if draw(st.integers(0, 7)) == 7:
        for route in written:
            route.match = replace(
                route.match, domains=(), path=None, fields=(), methods=frozenset(), protocol=MatchProtocol.TCP
            )
            route.action = ForwardAction(())
    else:
        for route in written:
            if route is not aimed_at and draw(st.integers(0, 3)):
                _compete(draw, route, aimed_at)
    return written, draw(_queries_for(aimed_at))


def _compete(draw: st.DrawFn, route: Route, rival: Route) -> None:
    own, other = route.match, rival.match
    route.action = rival.action
    route.match = replace(
        own,
        ports=other.ports,
        transport=other.transport,
        domains=draw(st.sampled_from((own.domains, other.domains, ("*",), ()))),
        path=draw(st.sampled_from((own.path, other.path, "/*", None))),
        protocol=draw(st.sampled_from((other.protocol, None))),
    )


@st.composite
def _queries_for(draw: st.DrawFn, route: Route) -> RouteQuery:
    match = route.match
    query = draw(route_queries())
    missed = draw(
        st.sampled_from(
            (*[None] * 8, "port", "host", "path", "tls", "client", "protocol", "method", "fields")
        )
    )
    if missed != "port":
        query = replace(query, port=draw(st.sampled_from(match.ports))[0])
    if missed != "tls":
        query = replace(query, tls=route.action.tls is not None)
    if missed != "host" and match.domains:
        query = replace(query, host=draw(hosts_of(draw(st.sampled_from(match.domains)))))
    if missed != "path" and match.path is not None:
        query = replace(query, path=_as_target(draw(paths_of(match.path))))
    if missed != "client" and match.client_ip:
        query = replace(query, client_ip=ip_text(draw(st.sampled_from([*match.client_ip.intervals()]))[0]))
    if missed != "protocol":
        is_tcp = match.protocol is MatchProtocol.TCP
        query = replace(query, protocol=MatchProtocol.TCP if is_tcp else MatchProtocol.HTTP)
    if missed != "method" and match.methods:
        query = replace(query, method=draw(st.sampled_from(sorted(match.methods))))
    if missed != "fields" and match.fields:
        query = replace(query, fields=[(match.fields[0].name, b"1"), *query.fields])
    return query
