"""What a route's gate asks of a request, as far as the request alone tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smartproxy.core.configuration import Configuration, MatchProtocol, Route
from smartproxy.core.routing.explain import RouteQuery
from smartproxy.core.routing.paths import normalise_path
from smartproxy.core.security.challenge.scope import applies
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.core.security.policies import ChallengePolicy, RateLimitKey, RateLimitPolicy


@dataclass(frozen=True, slots=True)
class GateStep:
    """One check, in the order in which they are made."""

    check: str
    """Its name: block policy, connections, addresses, rate limit, challenge or authentication."""
    outcome: str
    """`refuses`, `passes`, or `asks`: that depends on what the client has done, or will show."""
    detail: str

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"check": self.check, "outcome": self.outcome, "detail": self.detail}


def explain_gate(configuration: Configuration, route: Route, query: RouteQuery) -> list[GateStep]:
    """What stands between `query` and `route`; the steps end with the first that refuses for certain.

    Raises ValueError for a client address that is none.
    """
    steps: list[GateStep] = []
    for step in _steps(configuration, route, query):
        steps.append(step)
        if step.outcome == "refuses":
            break
    return steps


def _steps(configuration: Configuration, route: Route, query: RouteQuery) -> Iterator[GateStep]:
    number = ip_number(query.client_ip)
    if configuration.blocked_addresses.contains(number):
        yield GateStep("block policy", "refuses", f"{query.client_ip} gets no connection")
    elif configuration.blocked_addresses:
        yield GateStep("block policy", "passes", f"{query.client_ip} is not blocked")
    yield from _connections(configuration, route)
    access = route.access
    refused_by = access.refused_by(number)
    if refused_by is not None:
        where = "in" if refused_by == "ip_block_list" else "not in"
        yield GateStep("addresses", "refuses", f"{query.client_ip} is {where} {refused_by}")
    elif access.blocked is not None or access.allowed is not None:
        yield GateStep("addresses", "passes", f"{query.client_ip} is let in by the lists")
    yield from _requests(route, query)


def _connections(configuration: Configuration, route: Route) -> Iterator[GateStep]:
    limits = configuration.limits
    parts = []
    if limits.max_connections_per_ip is not None:
        parts.append(f"{limits.max_connections_per_ip} at a time of one address")
    if limits.connection_rate_limit_per_minute is not None:
        parts.append(f"{limits.connection_rate_limit_per_minute} new ones a minute of one address")
    if route.max_connections is not None:
        parts.append(f"{route.max_connections} at a time on the route")
    if parts:
        yield GateStep("connections", "asks", "at most " + ", ".join(parts))


def _requests(route: Route, query: RouteQuery) -> Iterator[GateStep]:
    policy = route.request_policy
    if policy is None:
        return
    if policy.rate_limit is not None:
        yield GateStep("rate limit", "asks", _rate_limit(policy.rate_limit, query))
    challenge = policy.challenge
    if challenge is not None:
        kind = f"the challenge {challenge.challenge_type}"
        if _applies(challenge, query):
            yield GateStep("challenge", "asks", f"{kind}, or a clearance of it")
        else:
            yield GateStep("challenge", "passes", f"{kind} is not for such requests")
    ways = (("a user name and password", policy.basic_auth), ("a token", policy.jwt_auth))
    methods = [name for name, part in ways if part is not None]
    if methods:
        yield GateStep("authentication", "asks", " or ".join(methods))


def _rate_limit(rule: RateLimitPolicy, query: RouteQuery) -> str:
    key = {
        RateLimitKey.IP: "one address",
        RateLimitKey.PATH: "one path",
        RateLimitKey.HEADER: f"one value of {rule.header_name.decode('latin-1')}",
    }[rule.key_by]
    text = f"at most {rule.max_requests} requests of {key} in any {rule.window_s:g} s"
    challenge = rule.over_limit_challenge
    if challenge is not None and _applies(challenge, query):
        text += f", and over it the challenge {challenge.challenge_type}"
    return text


def _applies(policy: ChallengePolicy, query: RouteQuery) -> bool:
    if query.protocol is not MatchProtocol.HTTP:
        return False
    path = normalise_path(query.path.encode("utf-8"))
    return applies(policy, query.method, path or "/", query.fields)
