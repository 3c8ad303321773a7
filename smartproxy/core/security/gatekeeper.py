"""What gatekeeping knows of everybody at once; it outlives configurations."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from smartproxy.core.configuration import Configuration, Route
from smartproxy.core.context import Context
from smartproxy.core.records import Level
from smartproxy.core.security.authentication.authentication import Authentication
from smartproxy.core.security.challenge.challenges import Challenges
from smartproxy.core.security.connection_limits import ConnectionLimits
from smartproxy.core.security.counted_address import counted_address
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.security.policies import RateLimitPolicy, RequestPolicy
from smartproxy.core.security.rate_limit import RateLimiter, RateLimitStore

_REPORTED_ADDRESSES = 10_000
_REPORT_EVERY_S = 60.0


class RouteGate:
    """The running state of one route's request policy."""

    __slots__ = ("authentication", "limiter", "policy")

    def __init__(
        self, policy: RequestPolicy, limiter: RateLimitStore | None, authentication: Authentication | None
    ) -> None:
        self.policy = policy
        self.limiter = limiter
        self.authentication = authentication


class Gatekeeper:
    """Block policy, connection counts, rate limiters, credentials and challenges of one engine."""

    __slots__ = (
        "_context",
        "_gates",
        "_reported",
        "blocked_addresses",
        "challenges",
        "connection_limits",
        "gates",
    )

    def __init__(self, context: Context) -> None:
        self._context = context
        self.blocked_addresses = IpSet()
        self.connection_limits = ConnectionLimits()
        self.challenges = Challenges(context)
        #: By route name, of the configuration in force.
        self._gates: dict[str, RouteGate] = {}
        #: Whose refusal an operator has been told of lately.
        self._reported = RateLimiter(1, _REPORT_EVERY_S, _REPORTED_ADDRESSES)

    def configure(self, configuration: Configuration) -> dict[Route, RouteGate]:
        """Obey `configuration`; returns the gates of its routes. Counts go on where the policy has stayed."""
        self.blocked_addresses = configuration.blocked_addresses
        self.connection_limits.configure(configuration.limits)
        self.challenges.configure(configuration.challenges)
        older = self._gates
        self._gates = {}
        gates: dict[Route, RouteGate] = {}
        for route in configuration.table.routes:
            if route.request_policy is not None:
                gate = self._gate(route.request_policy, older.get(route.name))
                gates[route] = self._gates[route.name] = gate
        return gates

    def _gate(self, policy: RequestPolicy, older: RouteGate | None) -> RouteGate:
        limiter: RateLimitStore | None = None
        authentication: Authentication | None = None
        if policy.rate_limit is not None:
            rule = policy.rate_limit
            if older is not None and _counts_alike(older.policy.rate_limit, rule):
                limiter = older.limiter
            else:
                limiter = RateLimiter(rule.max_requests, rule.window_s, rule.max_keys)
        if policy.basic_auth is not None or policy.jwt_auth is not None:
            if older is not None and _same(
                (older.policy.basic_auth, older.policy.jwt_auth), (policy.basic_auth, policy.jwt_auth)
            ):
                authentication = older.authentication
            else:
                authentication = Authentication(self._context, policy.basic_auth, policy.jwt_auth)
        return RouteGate(policy, limiter, authentication)

    def is_blocked(self, client_number: int) -> bool:
        """Whether the block policy keeps this address out of everything."""
        return self.blocked_addresses.contains(client_number)

    def report_level(self, client_number: int) -> Level:
        """How loudly to tell of a refused connection: an address that floods is told of once a minute."""
        told = self._reported.take(counted_address(client_number), self._context.now)
        return Level.INFO if told.allowed else Level.DEBUG


def _counts_alike(one: RateLimitPolicy | None, other: RateLimitPolicy) -> bool:
    """Whether the counts made for one policy hold for the other."""
    return one is not None and all(
        getattr(one, name) == getattr(other, name)
        for name in ("max_requests", "window_s", "key_by", "header_name", "max_keys")
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two policies say the same; functions are made anew for each, and are left out."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if is_dataclass(one) and type(one) is type(other):
        return all(_same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return bool(one == other) or (callable(one) and callable(other))
