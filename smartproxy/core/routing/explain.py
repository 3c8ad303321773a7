"""Why a connection or request gets the route it gets.

This walks through all routes and their conditions one by one, apart from the
indexes of the table, so that the two can be held against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smartproxy.core.configuration import MatchProtocol, Route, TlsMode, Transport
from smartproxy.core.http.messages import Fields
from smartproxy.core.routing.domains import (
    domain_matches,
    domain_specificity,
    normalise_domain,
    normalise_host,
)
from smartproxy.core.routing.paths import PathPattern, normalise_path
from smartproxy.core.routing.table import (
    OrderKey,
    asks_for_http,
    carries_http,
    carries_http3,
    carries_raw,
    order_key,
    passes_tls,
    terminates_tls,
)
from smartproxy.core.security.ip_rules import ip_number

if TYPE_CHECKING:
    from smartproxy.core.routing.table import RouteTable


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """A connection, and the request on it, to be explained.

    `protocol` is `HTTP`, or `TCP` for bytes that are not HTTP; with `transport` UDP also
    `UDP`, `QUIC` or `HTTP3`, which `HTTP` then means too. With `tls` the host is also the server name of the
    TLS connection. `path` is the target of the request, as a client sends it.
    """

    port: int
    client_ip: str = "127.0.0.1"
    tls: bool = False
    host: str | None = None
    path: str = "/"
    method: bytes = b"GET"
    fields: Fields = field(default_factory=list)
    tls_version: str | None = None
    """None with `tls`: TLSv1.3."""
    transport: Transport = Transport.TCP
    protocol: MatchProtocol = MatchProtocol.HTTP


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one route, and why, as a phrase."""

    route: Route
    won: bool
    matched: bool
    """Every condition held; a route that matched and lost was outranked."""
    reason: str


@dataclass(slots=True)
class Explanation:
    """Which route wins, and why each other one lost."""

    query: RouteQuery
    winner: Route | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    """The winner, then the other routes that matched from best to worst, then the rest as written."""
    params: dict[str, str] = field(default_factory=dict)
    """The parameters of the winner's path."""
    problem: str | None = None
    """Why no route was looked for: the query itself would be refused."""
    refusal: str | None = None
    """Why the winner does not let this client in, although it matches."""

    @property
    def matching(self) -> list[Route]:
        """The routes whose conditions all hold, best first."""
        return [verdict.route for verdict in self.verdicts if verdict.matched]

    def to_text(self) -> str:
        """For people: one line for the query, then one for each route."""
        lines = [_describe(self.query)]
        if self.problem is not None:
            lines.append(f"  refused: {self.problem}")
        elif self.winner is None:
            lines.append("  no route matches")
        width = max((len(verdict.route.name) for verdict in self.verdicts), default=0)
        for verdict in self.verdicts:
            outcome = "won " if verdict.won else "lost"
            lines.append(f"  {outcome}  {verdict.route.name:<{width}}  {verdict.reason}")
        if self.refusal is not None:
            lines.append(f"  refused: {self.refusal}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """For programs: JSON types only."""
        return {
            "query": _describe(self.query),
            "winner": self.winner.name if self.winner is not None else None,
            "params": dict(self.params),
            "problem": self.problem,
            "refusal": self.refusal,
            "routes": [
                {
                    "name": verdict.route.name,
                    "id": verdict.route.id,
                    "position": verdict.route.position,
                    "outcome": "won" if verdict.won else "lost",
                    "matched": verdict.matched,
                    "reason": verdict.reason,
                }
                for verdict in self.verdicts
            ],
        }


def _describe(query: RouteQuery) -> str:
    host = query.host or ""
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    where = f"port {query.port}, client {query.client_ip}"
    if query.protocol is MatchProtocol.HTTP or query.protocol is MatchProtocol.HTTP3:
        over_quic = _is_http3(query)
        scheme = "https" if query.tls or over_quic else "http"
        method = query.method.decode("ascii", "replace")
        where += ", HTTP/3" if over_quic else ""
        return f"{method} {scheme}://{name or '(no host)'}{query.path} ({where})"
    tls = " inside TLS" if query.tls else ""
    return f"{query.protocol.value}{tls} to {name or '(no name)'} ({where})"


@dataclass(slots=True)
class _Facts:
    """A query in the spelling that conditions are matched on."""

    query: RouteQuery
    client_number: int
    host: str | None
    path: str
    tls_version: str | None


def explain(table: RouteTable, query: RouteQuery) -> Explanation:
    """Hold `query` against every route of `table`. Raises ValueError when `client_ip` is no address."""
    try:
        facts = _normalise(query)
    except _RefusedError as refused:
        return Explanation(query, problem=str(refused))
    if query.transport is Transport.UDP:
        return _decide(table, facts, _datagram_failure)
    if not query.tls:
        is_http = query.protocol is MatchProtocol.HTTP
        return _decide(table, facts, _plain_request_failure if is_http else _plain_raw_failure)
    connection = _decide(table, facts, _tls_connection_failure)
    if connection.winner is None or not terminates_tls(connection.winner):
        return connection
    is_http = query.protocol is MatchProtocol.HTTP
    return _decide(table, facts, _tls_request_failure if is_http else _tls_raw_failure)


def find_matching_routes(table: RouteTable, query: RouteQuery) -> list[Route]:
    """Every route whose conditions all hold for `query`, best first."""
    return explain(table, query).matching


def find_best_matching_route(table: RouteTable, query: RouteQuery) -> Route | None:
    """The route that wins `query`, or None."""
    return explain(table, query).winner


class _RefusedError(Exception):
    """The query would be refused before routes are looked at."""


def _normalise(query: RouteQuery) -> _Facts:
    host: str | None = None
    if query.host:
        try:
            if query.host.isascii():
                text = f"[{query.host}]" if query.host.count(":") > 1 and query.host[0] != "[" else query.host
                host = normalise_host(text.encode("ascii"))[0]
            else:
                host = normalise_domain(query.host)
        except ValueError:
            raise _RefusedError(f"400, {query.host!r} is not a host") from None
    path = normalise_path(query.path.encode("utf-8", "surrogateescape"))
    if path is None:
        raise _RefusedError(f"400, the path {query.path!r} can be read in more than one way")
    has_tls = query.tls or _is_http3(query)
    tls_version = (query.tls_version or "TLSv1.3") if has_tls else None
    return _Facts(query, ip_number(query.client_ip), host, path, tls_version)


def _is_http3(query: RouteQuery) -> bool:
    is_http = query.protocol is MatchProtocol.HTTP or query.protocol is MatchProtocol.HTTP3
    return is_http and query.transport is Transport.UDP


def _decide(
    table: RouteTable, facts: _Facts, find_failure: Callable[[Route, PathPattern | None, _Facts], str | None]
) -> Explanation:
    explanation = Explanation(facts.query)
    matched: list[tuple[OrderKey, Route, PathPattern | None]] = []
    failed: list[Verdict] = []
    for route in table.routes:
        pattern = PathPattern.compile(route.match.path) if route.match.path is not None else None
        reason = _listener_failure(route, facts.query) or find_failure(route, pattern, facts)
        if reason is None:
            matched.append((order_key(route, _best_domain(route, facts.host), pattern), route, pattern))
        else:
            failed.append(Verdict(route, won=False, matched=False, reason=reason))
    matched.sort(key=lambda match: match[0], reverse=True)
    if matched:
        best_key, best, best_pattern = matched[0]
        explanation.winner = best
        if best_pattern is not None:
            explanation.params = dict(best_pattern.match(facts.path) or {})
        explanation.refusal = _access_failure(best, facts)
        explanation.verdicts.append(
            Verdict(best, won=True, matched=True, reason=_describe_conditions(best, facts))
        )
        for key, route, _ in matched[1:]:
            reason = _why_outranked(best, best_key, route, key, facts)
            explanation.verdicts.append(Verdict(route, won=False, matched=True, reason=reason))
    explanation.verdicts += failed
    return explanation


def _best_domain(route: Route, host: str | None) -> str | None:
    matching = [domain for domain in route.match.domains if host is not None and domain_matches(domain, host)]
    return max(matching, key=domain_specificity, default=None)


# Conditions: each function returns why one does not hold, or None.


def _listener_failure(route: Route, query: RouteQuery) -> str | None:
    match = route.match
    if not any(low <= query.port <= high for low, high in match.ports):
        ports = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in match.ports)
        return f"port {query.port} is not {ports}"
    if match.transport is not query.transport and match.transport is not Transport.ALL:
        return f"its transport is {match.transport.value}, not {query.transport.value}"
    return None


def _client_and_domain_failure(route: Route, facts: _Facts) -> str | None:
    match = route.match
    if match.client_ip and not match.client_ip.contains(facts.client_number):
        return f"client {facts.query.client_ip} is not in its client_ip"
    if match.domains:
        domains = ", ".join(match.domains)
        if facts.host is None:
            return f"no host is named, and it asks for {domains}"
        if _best_domain(route, facts.host) is None:
            return f"domain {domains} does not match {facts.host}"
    return None


def _tls_version_failure(route: Route, facts: _Facts) -> str | None:
    versions = route.match.tls_versions
    if not versions or facts.tls_version in versions:
        return None
    return f"TLS version {facts.tls_version or '(none)'} is not {', '.join(sorted(versions))}"


def _request_failure(route: Route, pattern: PathPattern | None, facts: _Facts) -> str | None:
    reason = _client_and_domain_failure(route, facts)
    if reason is not None:
        return reason
    match = route.match
    if pattern is not None and pattern.match(facts.path) is None:
        return f"path {pattern.text} does not match {facts.path}"
    if match.methods and facts.query.method not in match.methods:
        methods = ", ".join(sorted(method.decode("ascii", "replace") for method in match.methods))
        return f"method {facts.query.method.decode('ascii', 'replace')} is not {methods}"
    for condition in match.fields:
        if not condition.matches(facts.query.fields):
            name = condition.name.decode("ascii")
            value = condition.value(facts.query.fields)
            if value is None:
                return f"header {name} is missing"
            return f"header {name} is {value.decode('utf-8', 'replace')!r}, not {condition.spec!r}"
    return _tls_version_failure(route, facts)


def _raw_failure(route: Route, facts: _Facts) -> str | None:
    if asks_for_http(route):
        return "it asks for a path, method or header, and there is no HTTP request"
    return _client_and_domain_failure(route, facts) or _tls_version_failure(route, facts)


def _protocol_failure(route: Route, given: str) -> str:
    if route.match.protocol is not None:
        return f"its protocol is {route.match.protocol.value}, and this is {given}"
    return "its handler answers HTTP requests only"


def _plain_request_failure(route: Route, pattern: PathPattern | None, facts: _Facts) -> str | None:
    if route.action.tls is not None:
        return "it takes TLS, and this request came without"
    if not carries_http(route):
        return _protocol_failure(route, "http")
    return _request_failure(route, pattern, facts)


def _plain_raw_failure(route: Route, pattern: PathPattern | None, facts: _Facts) -> str | None:
    if route.action.tls is not None:
        return "it takes TLS, and this connection came without"
    if not carries_raw(route):
        return _protocol_failure(route, "not http")
    if route.match.domains:
        return "it asks for a domain, and without TLS or HTTP none is named"
    return _raw_failure(route, facts)


def _tls_connection_failure(route: Route, pattern: PathPattern | None, facts: _Facts) -> str | None:
    if terminates_tls(route):
        if not carries_http(route) and not carries_raw(route):
            return _protocol_failure(route, "a TLS connection")
        return _client_and_domain_failure(route, facts)
    if not passes_tls(route):
        if route.action.tls is not None:
            return f"{_protocol_failure(route, 'not opened')} (passthrough)"
        return "it takes no TLS"
    return _raw_failure(route, facts)


def _tls_request_failure(route: Route, pattern: PathPattern | None, facts: _Facts) -> str | None:
    return _terminated_failure(route) or (
        _request_failure(route, pattern, facts) if carries_http(route) else _protocol_failure(route, "http")
    )


def _tls_raw_failure(route: Route, pattern: PathPattern | None, facts: _Facts) -> str | None:
    return _terminated_failure(route) or (
        _raw_failure(route, facts) if carries_raw(route) else _protocol_failure(route, "not http")
    )


def _terminated_failure(route: Route) -> str | None:
    tls = route.action.tls
    if tls is None:
        return "it takes no TLS"
    if tls.mode is TlsMode.PASSTHROUGH:
        return "its TLS is passed through, and this connection's was terminated for another route"
    return None


def _datagram_failure(route: Route, pattern: PathPattern | None, facts: _Facts) -> str | None:
    if _is_http3(facts.query):
        if route.quic is None:
            return "it serves no HTTP/3"
        if not terminates_tls(route):
            return "it does not terminate the TLS of HTTP/3"
        if not carries_http3(route):
            knows_http = route.match.protocol in (None, MatchProtocol.HTTP, MatchProtocol.HTTP3)
            return "its handler knows no HTTP" if knows_http else _protocol_failure(route, "http3")
        return _request_failure(route, pattern, facts)
    if route.quic is not None:
        return "its UDP is for HTTP/3"
    given = facts.query.protocol
    if route.match.protocol is not None and route.match.protocol is not given:
        return _protocol_failure(route, given.value)
    return _raw_failure(route, facts)


def _access_failure(route: Route, facts: _Facts) -> str | None:
    refused_by = route.access.refused_by(facts.client_number)
    if refused_by == "ip_block_list":
        return f"client {facts.query.client_ip} is on the block list of {route.name!r}"
    if refused_by == "ip_allow_list":
        return f"client {facts.query.client_ip} is not on the allow list of {route.name!r}"
    return None


# Phrases.


def _describe_conditions(route: Route, facts: _Facts) -> str:
    match = route.match
    parts = [f"priority {route.priority}"]
    domain = _best_domain(route, facts.host)
    parts.append(f"domain {domain}" if domain is not None else "any domain")
    parts.append(f"path {match.path}" if match.path is not None else "any path")
    return ", ".join(parts)


def _why_outranked(best: Route, best_key: OrderKey, route: Route, key: OrderKey, facts: _Facts) -> str:
    if key[0] != best_key[0]:
        return f"lower priority than {best.name!r} ({route.priority} < {best.priority})"
    if key[1] != best_key[1]:
        domains = [_best_domain(each, facts.host) or "any" for each in (route, best)]
        return f"less specific domain than {best.name!r} ({domains[0]}, not {domains[1]})"
    if key[2] != best_key[2]:
        return f"less specific path than {best.name!r} ({route.match.path or 'any'}, not {best.match.path})"
    if key[3] != best_key[3]:
        return f"fewer conditions than {best.name!r}"
    return f"written after {best.name!r}"
