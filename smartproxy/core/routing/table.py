"""The compiled routes: which one takes a connection, and which one each request on it.

Every (route, domain) pair gets one rank beforehand, the lower the better: higher
priority, then the more specific domain, the more specific path, more conditions,
and the order written. A look-up finds by domain and path the few candidates there
can be, and takes the lowest rank whose other conditions hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from smartproxy.core.configuration import (
    HandlerAction,
    HandlerKind,
    MatchProtocol,
    ProxyProtocolPolicy,
    Route,
    TlsMode,
    Transport,
)
from smartproxy.core.http.messages import Fields
from smartproxy.core.routing.domains import DomainIndex, domain_specificity
from smartproxy.core.routing.paths import NO_PARAMETERS, PathIndex, PathPattern
from smartproxy.core.security.ip_rules import IpSet

if TYPE_CHECKING:
    from smartproxy.core.routing.explain import Explanation, RouteQuery

_NO_RANK = 1 << 62
_RAW_HANDLERS = (HandlerKind.ECHO, HandlerKind.BLOCK)


class FirstBytes(Enum):
    """What a client has shown of its protocol so far."""

    NOTHING = "nothing"
    """Not looked at, or silent: the server may speak first."""
    TLS = "tls"
    HTTP = "http"
    OTHER = "other"


class RouteHit:
    """The route of one request, with its path's parameters (not to be changed: they may be shared)."""

    __slots__ = ("params", "route")

    def __init__(self, route: Route, params: dict[str, str]) -> None:
        self.route = route
        self.params = params

    def __repr__(self) -> str:
        return f"<RouteHit {self.route.name} {self.params}>"


# What a route can carry, from its action and protocol alone.


def terminates_tls(route: Route) -> bool:
    """Whether the route decrypts its clients' TLS."""
    tls = route.action.tls
    return tls is not None and tls.mode is not TlsMode.PASSTHROUGH


def passes_tls(route: Route) -> bool:
    """Whether the route carries its clients' TLS without opening it: passthrough, or raw TCP."""
    tls = route.action.tls
    return carries_raw(route) and (tls is None or tls.mode is TlsMode.PASSTHROUGH)


def carries_http(route: Route) -> bool:
    """Whether HTTP/1.1 and HTTP/2 requests are the route's, once any TLS is off."""
    return route.match.protocol in (None, MatchProtocol.HTTP)


def carries_http3(route: Route) -> bool:
    """Whether HTTP/3 requests are the route's."""
    if route.quic is None or (isinstance(route.action, HandlerAction) and route.action.kind in _RAW_HANDLERS):
        return False
    return route.match.protocol in (None, MatchProtocol.HTTP, MatchProtocol.HTTP3)


def carries_raw(route: Route) -> bool:
    """Whether bytes that are not HTTP are the route's, once any TLS is off."""
    action = route.action
    if isinstance(action, HandlerAction) and action.kind not in _RAW_HANDLERS:
        return False
    return route.match.protocol in (None, MatchProtocol.TCP)


def asks_for_http(route: Route) -> bool:
    """Whether a condition can only be met by a request: a path, a method, a header."""
    match = route.match
    return match.path is not None or bool(match.methods) or bool(match.fields)


def condition_count(route: Route) -> int:
    """How many conditions a route has besides ports, domains and path."""
    match = route.match
    return (
        bool(match.client_ip)
        + bool(match.tls_versions)
        + bool(match.methods)
        + len(match.fields)
        + (match.protocol is not None)
    )


OrderKey = tuple[int, tuple[int, int], tuple[bool, int, bool], int, int]


def order_key(route: Route, domain: str | None, pattern: PathPattern | None) -> OrderKey:
    """Greater for the route that goes first when both match; `domain` is the pattern it matched by."""
    path_specificity = pattern.specificity if pattern is not None else (False, 0, False)
    return (
        route.priority,
        domain_specificity(domain),
        path_specificity,
        condition_count(route),
        -route.position,
    )


class _Entry:
    """A route as found by one of its domains."""

    __slots__ = (
        "client_ip",
        "domain",
        "fields",
        "hit",
        "is_conditional",
        "methods",
        "pattern",
        "rank",
        "route",
        "terminates_tls",
        "tls_versions",
    )

    def __init__(self, route: Route, domain: str | None, pattern: PathPattern | None) -> None:
        match = route.match
        self.route = route
        self.domain = domain
        self.pattern = pattern
        self.hit = RouteHit(route, NO_PARAMETERS)
        self.rank = 0
        self.terminates_tls = terminates_tls(route)
        self.client_ip: IpSet | None = match.client_ip or None
        self.methods = match.methods
        self.fields = match.fields
        self.tls_versions = match.tls_versions
        self.is_conditional = bool(self.client_ip or self.methods or self.fields or self.tls_versions)

    def admits(self, client_number: int, method: bytes, fields: Fields, tls_version: str | None) -> bool:
        """Whether every condition holds but the domain and the path."""
        if self.client_ip is not None and not self.client_ip.contains(client_number):
            return False
        if self.methods and method not in self.methods:
            return False
        if self.tls_versions and tls_version not in self.tls_versions:
            return False
        return not self.fields or all(condition.matches(fields) for condition in self.fields)

    def admits_connection(self, client_number: int, tls_version: str | None, *, tls_is_decided: bool) -> bool:
        """Whether the conditions hold that a connection can meet."""
        if self.client_ip is not None and not self.client_ip.contains(client_number):
            return False
        if self.tls_versions and tls_is_decided:
            return tls_version in self.tls_versions
        return True


class _Bucket:
    """The entries of one domain pattern, each list by ascending rank."""

    __slots__ = ("anywhere", "best_rank", "paths")

    def __init__(self) -> None:
        self.anywhere: list[_Entry] = []
        self.paths: PathIndex[_Entry] | None = None
        self.best_rank = _NO_RANK

    def add(self, entry: _Entry, *, by_path: bool) -> None:
        self.best_rank = min(self.best_rank, entry.rank)
        if entry.pattern is None or not by_path:
            self.anywhere.append(entry)
            return
        if self.paths is None:
            self.paths = PathIndex()
        self.paths.add(entry.pattern, entry)


def _index(entries: Iterable[_Entry], *, by_path: bool) -> DomainIndex[_Bucket]:
    buckets: dict[str | None, _Bucket] = {}
    for entry in entries:
        buckets.setdefault(entry.domain, _Bucket()).add(entry, by_path=by_path)
    return DomainIndex(buckets)


def _find_for_connection(
    index: DomainIndex[_Bucket],
    client_number: int,
    server_name: str | None,
    tls_version: str | None,
    *,
    tls_is_decided: bool,
) -> Route | None:
    name = server_name.lower().removesuffix(".") if server_name else None
    best: _Entry | None = None
    best_rank = _NO_RANK
    for bucket in index.find(name):
        for entry in bucket.anywhere:
            if entry.rank >= best_rank:
                break
            is_decided = tls_is_decided or not entry.terminates_tls
            if entry.admits_connection(client_number, tls_version, tls_is_decided=is_decided):
                best = entry
                best_rank = entry.rank
                break
    return best.route if best is not None else None


def _first(entries: Sequence[_Entry], client_number: int) -> Route | None:
    for entry in entries:
        if entry.client_ip is None or entry.client_ip.contains(client_number):
            return entry.route
    return None


class PortPlan:
    """The routes of one listening port. Ports with the same routes share one plan.

    Server names and hosts are `normalise_host`'s; an address is `ip_number`'s, or -1 for a
    client without one, which no address condition lets in.
    """

    __slots__ = (
        "_by_name",
        "_bytes_matter_to",
        "_bytes_matter_to_all",
        "_decrypted",
        "_http_first",
        "_plain_http",
        "_silent",
        "_tls_first",
        "_tls_http",
        "may_need_http",
        "may_need_http_in_tls",
        "may_need_tls",
        "proxy_protocol",
        "routes",
    )

    def __init__(self, entries: Sequence[_Entry], *, is_quic: bool = False) -> None:
        """From the entries of the port's routes, by ascending rank.

        With `is_quic` it is a UDP port's plan: connections have TLS and carry HTTP/3 only.
        """
        #: In the order written.
        self.routes = tuple(sorted({entry.route for entry in entries}, key=lambda route: route.position))
        #: What the port's connections begin with; None for no PROXY header.
        self._by_name = {route.name: route for route in self.routes}
        policies = [] if is_quic else [route.match.proxy_protocol for route in self.routes]
        self.proxy_protocol: ProxyProtocolPolicy | None = next(
            (policy for policy in policies if policy is not None), None
        )
        plain_http: list[_Entry] = []
        raw: list[_Entry] = []
        decrypted: list[_Entry] = []
        if is_quic:
            tls_http = tls_first = [e for e in entries if e.terminates_tls and carries_http3(e.route)]
        else:
            plain_http = [e for e in entries if e.route.action.tls is None and carries_http(e.route)]
            tls_http = [e for e in entries if e.terminates_tls and carries_http(e.route)]
            raw = [e for e in entries if passes_tls(e.route) and not asks_for_http(e.route)]
            decrypted = [
                e for e in entries if e.terminates_tls and carries_raw(e.route) and not asks_for_http(e.route)
            ]
            tls_first = [
                e for e in entries if e.terminates_tls and (carries_http(e.route) or carries_raw(e.route))
            ]
            tls_first = sorted(tls_first + raw, key=lambda entry: entry.rank)
        self._plain_http = _index(plain_http, by_path=True)
        self._tls_http = _index(tls_http, by_path=True)
        self._tls_first = _index(tls_first, by_path=False)
        self._decrypted = _index(decrypted, by_path=False)
        self._http_first = [e for e in plain_http if not e.tls_versions]
        self._silent = [
            e for e in raw if e.route.action.tls is None and e.domain is None and not e.tls_versions
        ]
        #: Whether a ClientHello can lead elsewhere than other bytes do.
        self.may_need_tls = len(tls_first) > len(self._silent)
        #: Whether a plaintext HTTP request may have a route here.
        self.may_need_http = bool(plain_http)
        #: Whether an HTTP request inside terminated TLS may have a route here.
        self.may_need_http_in_tls = bool(tls_http)
        tcp_only = {e for e in self._silent if e.route.match.protocol is MatchProtocol.TCP}
        particular = [e for e in [*plain_http, *tls_first] if e not in tcp_only]
        self._bytes_matter_to_all = any(entry.client_ip is None for entry in particular)
        self._bytes_matter_to = IpSet(
            interval
            for entry in particular
            if entry.client_ip is not None
            for interval in entry.client_ip.intervals()
        )

    def route_named(self, name: str) -> Route | None:
        """The route of this port with that name."""
        return self._by_name.get(name)

    def match_connection(
        self,
        client_number: int,
        server_name: str | None,
        first: FirstBytes,
        *,
        tls_version: str | None = None,
    ) -> Route | None:
        """The route that decides what happens to a connection; None when it has none.

        After `TLS` these are the routes that terminate it, whatever they ask of the
        requests to come, and those that carry it unopened; a route with domains
        needs a `server_name` to match. `tls_version` is tested on the latter only: the
        others have theirs once the handshake is done. After `OTHER`, and as long as
        there is `NOTHING`, these are the raw routes that ask for no name. `HTTP` says
        only which route could be a request's, whatever its head turns out to say.
        """
        if first is FirstBytes.TLS:
            return _find_for_connection(
                self._tls_first, client_number, server_name, tls_version, tls_is_decided=False
            )
        if first is FirstBytes.HTTP:
            return _first(self._http_first, client_number)
        return _first(self._silent, client_number)

    def match_request(
        self,
        client_number: int,
        host: str | None,
        path: str,
        method: bytes,
        fields: Fields,
        *,
        tls_version: str | None,
        terminated_tls: bool,
    ) -> RouteHit | None:
        """The route of one HTTP request; `path` is `normalise_path`'s.

        A plaintext request matches only routes without TLS, one inside terminated
        TLS only routes that terminate it.
        """
        index = self._tls_http if terminated_tls else self._plain_http
        best: _Entry | None = None
        best_rank = _NO_RANK
        for bucket in index.find(host):
            if bucket.best_rank >= best_rank:
                continue
            for entry in bucket.anywhere:
                if entry.rank >= best_rank:
                    break
                if not entry.is_conditional or entry.admits(client_number, method, fields, tls_version):
                    best = entry
                    best_rank = entry.rank
                    break
            if bucket.paths is None:
                continue
            for entries in bucket.paths.find(path):
                for entry in entries:
                    if entry.rank >= best_rank:
                        break
                    if not entry.is_conditional or entry.admits(client_number, method, fields, tls_version):
                        best = entry
                        best_rank = entry.rank
                        break
        if best is None:
            return None
        pattern = best.pattern
        if pattern is None or not pattern.parameter_names:
            return best.hit
        return RouteHit(best.route, pattern.match(path) or NO_PARAMETERS)

    def match_decrypted(
        self, client_number: int, server_name: str | None, first: FirstBytes, tls_version: str | None
    ) -> Route | None:
        """The route of bytes inside terminated TLS that are not HTTP, or of the silence there."""
        if first is FirstBytes.HTTP:
            return None
        return _find_for_connection(
            self._decrypted, client_number, server_name, tls_version, tls_is_decided=True
        )

    def server_first_candidate(self, client_number: int) -> Route | None:
        """The route of a client that stays silent: the best raw one that asks for nothing to be said."""
        return _first(self._silent, client_number)

    def needs_no_bytes(self, client_number: int) -> bool:
        """Whether this client gets its `server_first_candidate` whatever it says, so that waiting is idle."""
        return not (
            self._bytes_matter_to_all
            or self._bytes_matter_to.contains(client_number)
            or _first(self._silent, client_number) is None
        )


class RouteTable:
    """All routes, compiled. Raises ValueError for a path pattern that is malformed."""

    __slots__ = ("_plans", "_quic_plans", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        #: In the order written.
        self.routes = tuple(routes)
        keyed: list[tuple[OrderKey, _Entry]] = []
        by_tcp: dict[Route, list[_Entry]] = {}
        by_quic: dict[Route, list[_Entry]] = {}
        for route in self.routes:
            pattern = PathPattern.compile(route.match.path) if route.match.path is not None else None
            domains: Iterable[str | None] = dict.fromkeys(route.match.domains) or (None,)
            for domain in domains:
                keyed.append((order_key(route, domain, pattern), _Entry(route, domain, pattern)))
        keyed.sort(key=lambda pair: pair[0], reverse=True)
        for rank, (_, entry) in enumerate(keyed):
            entry.rank = rank
            transport = entry.route.match.transport
            if transport is not Transport.UDP:
                by_tcp.setdefault(entry.route, []).append(entry)
            if transport is not Transport.TCP and entry.route.quic is not None:
                by_quic.setdefault(entry.route, []).append(entry)
        self._plans = _plans(by_tcp, is_quic=False)
        self._quic_plans = _plans(by_quic, is_quic=True)

    def listening_ports(self) -> tuple[int, ...]:
        """Every TCP port that a route asks for, ascending."""
        return tuple(sorted(self._plans))

    def port(self, listening_port: int) -> PortPlan | None:
        """The routes of a TCP port as it was configured (0 stays 0); None when no route asks for it."""
        return self._plans.get(listening_port)

    def udp_listening_ports(self) -> tuple[int, ...]:
        """Every UDP port that a route asks for, ascending: those where HTTP/3 is served."""
        return tuple(sorted(self._quic_plans))

    def quic_port(self, listening_port: int) -> PortPlan | None:
        """The routes that serve HTTP/3 on a UDP port as it was configured; None when none does.

        Of its plan `match_connection` with `FirstBytes.TLS` and `match_request` with
        `terminated_tls` find routes; nothing in QUIC is plain or raw.
        """
        return self._quic_plans.get(listening_port)

    def explain(self, query: RouteQuery) -> Explanation:
        """Which route wins, and why each other one lost."""
        from smartproxy.core.routing.explain import explain

        return explain(self, query)


def _plans(entries: dict[Route, list[_Entry]], *, is_quic: bool) -> dict[int, PortPlan]:
    """One plan for each set of routes that some port has; the ports between two range ends have the same."""
    begins: dict[int, list[Route]] = {}
    ends: dict[int, list[Route]] = {}
    for route in entries:
        for low, high in route.match.ports:
            begins.setdefault(low, []).append(route)
            ends.setdefault(high + 1, []).append(route)
    plans: dict[int, PortPlan] = {}
    by_routes: dict[frozenset[Route], PortPlan] = {}
    covers: dict[Route, int] = {}
    edges = sorted(begins.keys() | ends.keys())
    for edge, next_edge in pairwise(edges):
        for route in begins.get(edge, ()):
            covers[route] = covers.get(route, 0) + 1
        for route in ends.get(edge, ()):
            covers[route] -= 1
            if not covers[route]:
                del covers[route]
        if not covers:
            continue
        key = frozenset(covers)
        plan = by_routes.get(key)
        if plan is None:
            ranked = sorted((entry for route in covers for entry in entries[route]), key=lambda e: e.rank)
            plan = by_routes[key] = PortPlan(ranked, is_quic=is_quic)
        plans.update(dict.fromkeys(range(edge, next_edge), plan))
    return plans
