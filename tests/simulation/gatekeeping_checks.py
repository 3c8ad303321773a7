"""What must hold of a gate, told by who has come, from where and with what, and not by the gate's word."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from math import inf
from typing import Any

from gatekeeping_outside import Outside
from gatekeeping_policies import (
    CREDENTIALS,
    GOOD_PASSWORDS,
    GOOD_TOKENS,
    RAW_ROUTE,
    SCRIPTED,
    USER_FIELD,
    USERS,
    Drawn,
)

from smartproxy.core.downstream.connection import ClientConnection
from smartproxy.core.http.gated_answer import GATE_DEADLINE_S
from smartproxy.core.records import AccessRecord
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.drivers.simulation import HttpRequest, HttpResponse, Simulation
from smartproxy.drivers.simulation.proxy import SimulatedProxy

LATENESS_S = 0.2
"""Of the timers, and of what a thread needs."""
BUILT_IN = "smartproxy"


def plain(ip: str) -> str:
    address = ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def counted(ip: str) -> str:
    """Whom an address counts for: itself, or its /64."""
    address = ip_address(plain(ip))
    return str(ip_network(f"{address}/64", strict=False)) if address.version == 6 else str(address)


def is_in(ip: str, rules: Iterable[str]) -> bool:
    address = ip_address(plain(ip))
    return any(address in ip_network(plain(rule) if "/" not in rule else rule) for rule in rules)


def has_challenges(drawn: Drawn) -> bool:
    return any(
        "challenge" in each or "on_exceeded" in each.get("rate_limit", ()) for each in drawn.security.values()
    )


@dataclass(frozen=True, slots=True)
class Cleared:
    """What a clearance that the gate has given says."""

    provider_id: str
    kind: str
    over_rate_limit: bool
    route_name: str | None
    host: str | None
    address: str | None
    issued_at: float
    expires_at: float
    ip: str
    """Who got it."""

    @classmethod
    def read(cls, token: bytes, ip: str) -> Cleared:
        text = token.partition(b".")[0]
        row = json.loads(base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4)))
        provider_id, kind, _, is_over, route_name, host, address, issued_at, expires_at = row
        return cls(provider_id, kind, is_over, route_name, host, address, issued_at, expires_at, ip)


@dataclass(slots=True)
class Asked:
    """A request that somebody has sent, or is about to."""

    tag: str
    ip: str
    route_name: str
    path: str
    host: str
    method: str
    credentials: str
    api_key: str
    cookies: tuple[bytes, ...]
    sent_at: float
    wall_clock: float
    configurations: range | None
    """Those that its connection may have begun with; None where that is unknown."""
    answered_at: float = inf


class Judge:
    """Keeps account of everything that happens on both sides of the gate."""

    def __init__(self, sim: Simulation, outside: Outside, proxy: SimulatedProxy, first: Drawn) -> None:
        self.sim = sim
        self.outside = outside
        self.proxy = proxy
        self.drawn = [first]
        self.asked: dict[str, Asked] = {}
        self.clearances: dict[bytes, Cleared] = {}
        self.solved: Counter[str] = Counter()
        self.blocked: list[str] = first.config["security_policy"]["blocked_ips"]
        self.has_steady_clock = False
        self.arrived: set[str] = set()
        self._counted: dict[tuple[str, int, str], list[Asked]] = defaultdict(list)
        self._of_address: Counter[str] = Counter()
        self._on_route: Counter[str] = Counter()
        self._known: set[int] = set()
        self._began: dict[str, list[float]] = defaultdict(list)

    def configure(self, drawn: Drawn) -> None:
        """The next configuration is about to be in force."""
        option = "connection_rate_limit_per_minute"
        if drawn.config[option] != self.drawn[-1].config[option]:
            self._began.clear()
        self.drawn.append(drawn)
        self.blocked = drawn.config["security_policy"]["blocked_ips"]

    # At every step.

    def look(self) -> None:
        """Count the connections there are."""
        engine, config = self.proxy.engine, self.drawn[-1].config
        limits = engine.connection_limits
        alive = [each for each in engine._connections.values() if each.admission is not None]
        assert limits.total == len(alive), f"{limits.total} counted, and there are {len(alive)}"
        of_address: Counter[str] = Counter()
        for each in alive:
            of_address[counted(each.client_ip)] += 1
            if each.link.id not in self._known:
                self._known.add(each.link.id)
                self._look_at_new(each, config["connection_rate_limit_per_minute"])
        for each in alive:
            number = of_address[counted(each.client_ip)]
            assert limits.connections_of(ip_number(each.client_ip)) == number, each.client_ip
        most = config["max_connections_per_ip"]
        for address, number in of_address.items():
            assert number <= max(most, self._of_address[address]), f"{number} connections from {address}"
        self._of_address = of_address
        for name in self.drawn[-1].security:
            number = limits.connections_on(name)
            most_ever = max(each.security[name].get("max_connections", inf) for each in self.drawn)
            assert number <= max(most_ever, self._on_route[name]), f"{number} connections on {name}"
            self._on_route[name] = number

    def _look_at_new(self, connection: ClientConnection, most: int) -> None:
        ip = connection.client_ip
        assert not is_in(ip, self.blocked), f"{ip} is blocked"
        now = self.sim.now
        began = self._began[counted(ip)]
        began.append(now)
        recent = sum(time > now - 60.0 for time in began)
        assert recent <= most, f"{recent} new connections from {ip} within a minute"

    def look_at_blocked(self) -> None:
        """A block policy has just been put in force."""
        for each in self.proxy.engine._connections.values():
            assert not is_in(each.client_ip, self.blocked), f"{each.client_ip} is blocked, and connected"

    # At a backend.

    def request_arrived(self, request: HttpRequest) -> Asked:
        """A request has passed."""
        tag = (request.field(b"x-tag") or b"").decode()
        asked = self.asked[tag]
        drawn = self.drawn[int(request.field(b"x-configuration") or b"-1")]
        assert asked.configurations is None or drawn.number in asked.configurations, tag
        assert request.target.decode() == asked.path, "an answer to a challenge, or another's request"
        security = drawn.security[asked.route_name]
        what = f"{asked} has passed {security}"
        self._check_lists(security, asked.ip, what)
        if tag not in self.arrived:
            self.arrived.add(tag)
            self._check_rate(drawn, asked, what)
        self._check_challenge(security, asked, what)
        self._check_credentials(security, asked, request, what)
        if has_challenges(drawn):
            assert b"__smartproxy" not in (request.field(b"cookie") or b""), "a cookie of the gate's own"
        return asked

    def raw_arrived(self, tag: str, number: int) -> None:
        """A raw connection has passed, by configuration `number`."""
        asked = self.asked[tag]
        assert asked.configurations is None or number in asked.configurations, tag
        security = self.drawn[number].security[RAW_ROUTE]
        what = f"{asked} has passed {security}"
        assert tag not in self.arrived
        self.arrived.add(tag)
        self._check_lists(security, asked.ip, what)
        self._check_rate(self.drawn[number], asked, what)

    def _check_lists(self, security: dict[str, Any], ip: str, what: str) -> None:
        assert not is_in(ip, security.get("ip_block_list", ())), what
        assert is_in(ip, security.get("ip_allow_list", ["0.0.0.0/0", "::/0"])), what

    def _check_rate(self, drawn: Drawn, asked: Asked, what: str) -> None:
        limit = drawn.security[asked.route_name].get("rate_limit")
        if limit is None or self._is_beyond_limits(limit, asked):
            return
        key = self._key(limit, asked)
        counted_together = self._counted[asked.route_name, drawn.limiters[asked.route_name], key]
        counted_together.append(asked)
        # Each was counted between when it was sent and now.
        recent = sum(each.sent_at > self.sim.now - limit["window"] for each in counted_together)
        assert recent <= limit["max_requests"], f"number {recent} of {key}: {what}"

    @staticmethod
    def _key(limit: dict[str, Any], asked: Asked) -> str:
        kind = limit.get("key_by", "ip")
        if kind == "path":
            return asked.path
        return asked.api_key if kind == "header" and asked.api_key else counted(asked.ip)

    def _is_beyond_limits(self, limit: dict[str, Any], asked: Asked) -> bool:
        """Whether the request has a clearance that lifts the limit."""
        exceeded = limit.get("on_exceeded")
        if exceeded is None or exceeded["clearance_effect"] != "bypass-rate-limit":
            return False
        return any(self._covers(each, exceeded["challenge"], asked, is_over=True) for each in asked.cookies)

    def _covers(
        self,
        token: bytes,
        challenge: dict[str, Any],
        asked: Asked,
        *,
        is_over: bool,
        wall_clock: float | None = None,
    ) -> bool:
        """Whether a clearance counts for a request, by the clock of when it was sent or by `wall_clock`."""
        cleared = self.clearances.get(token)
        if cleared is None:
            return False
        bounds = challenge["clearance"]
        ends_at = min(cleared.expires_at, cleared.issued_at + bounds["ttl"])
        has_ended = (asked.wall_clock if wall_clock is None else wall_clock) >= ends_at
        return (
            cleared.over_rate_limit == is_over
            and cleared.provider_id == challenge.get("provider_id", BUILT_IN)
            and cleared.kind == challenge["challenge_type"]
            and cleared.route_name == (asked.route_name if bounds["bind_to_route"] else None)
            and cleared.host == (asked.host if bounds["bind_to_host"] else None)
            and (cleared.address is not None) == bounds["bind_to_ip"]
            and (not bounds["bind_to_ip"] or counted(cleared.ip) == counted(asked.ip))
            and not (has_ended and self.has_steady_clock)
        )

    def _check_challenge(self, security: dict[str, Any], asked: Asked, what: str) -> None:
        challenge = security.get("challenge")
        if challenge is None or ("apply_to" in challenge and asked.method != "GET"):
            return
        is_passed = challenge.get("provider_id") == SCRIPTED and asked.tag in self.outside.passed_tags
        is_cleared = any(self._covers(each, challenge, asked, is_over=False) for each in asked.cookies)
        assert is_passed or is_cleared, f"uncleared: {what}"

    def _check_credentials(
        self, security: dict[str, Any], asked: Asked, request: HttpRequest, what: str
    ) -> None:
        good: set[str] = set()
        if "basic_auth" in security:
            good |= set(GOOD_PASSWORDS)
        if "jwt_auth" in security:
            good |= set(GOOD_TOKENS)
        if not good:
            return
        assert asked.credentials in good, f"unauthenticated: {what}"
        users = [value for name, value in request.fields if name == USER_FIELD]
        has_user_field = "user_header" in security.get("basic_auth", ()) or asked.credentials in GOOD_TOKENS
        assert users == ([USERS[asked.credentials]] if has_user_field else []), what
        policy = security["basic_auth" if asked.credentials in GOOD_PASSWORDS else "jwt_auth"]
        is_stripped = policy.get("strip_credentials", policy.get("strip_token"))
        shown = None if is_stripped else CREDENTIALS[asked.credentials]
        assert request.field(b"authorization") == shown, what

    # At a client.

    def answered(self, asked: Asked, response: HttpResponse, *, is_challenge: bool) -> None:
        """A client has got an answer."""
        asked.answered_at = self.sim.now
        status, names = response.status, {name for name, _ in response.fields}
        drawn = self.drawn if asked.configurations is None else [self.drawn[n] for n in asked.configurations]
        securities = [each.security[asked.route_name] for each in drawn]
        what = f"{status} was the answer to {asked}, by one of {securities}"
        # Where no route has a challenge, the path for answers is one like any other.
        is_lost = status == 404 and asked.path.startswith("/.") and not all(map(has_challenges, drawn))
        assert is_lost or status in (200, 303, 401, 403, 408, 429, 502, 503, 504), what
        assert status != 200 or asked.tag in self.arrived, what
        if status == 401:
            assert b"www-authenticate" in names, what
            good = all("basic_auth" in each for each in securities) and asked.credentials in GOOD_PASSWORDS
            assert not good, what
            assert any("basic_auth" in each or "jwt_auth" in each for each in securities), what
        if status == 429:
            assert any("rate_limit" in each for each in securities), what
            assert b"retry-after" in names or is_challenge, what

    def check_calm_answer(self, asked: Asked, status: int, *, is_challenge: bool) -> None:
        """Nothing fails and nothing changes: who may pass does."""
        security = self.drawn[0].security[asked.route_name]
        what = f"{status} was the answer to {asked}, by {security}"
        challenge, limit = security.get("challenge"), security.get("rate_limit")
        if status == 403 and is_challenge:
            assert challenge is not None, what
            now = self.sim.clock.wall_clock()
            assert not any(
                self._covers(each, challenge, asked, is_over=False, wall_clock=now) for each in asked.cookies
            ), f"cleared: {what}"
        if status == 401 and "jwt_auth" in security:
            # The second key is not served from the beginning.
            assert asked.credentials != "first key", what
        if status == 429:
            assert limit is not None, what
            key = self._key(limit, asked)
            since = asked.sent_at - limit["window"] * (1.0 + 1.1 / 32.0)
            others = sum(
                each.route_name == asked.route_name
                and self._key(limit, each) == key
                and each.answered_at > since
                and each is not asked
                for each in self.asked.values()
            )
            assert others >= limit["max_requests"], f"there was room: {what}"

    def solved_once(self, challenge_id: str) -> None:
        """A clearance was given for this challenge."""
        self.solved[challenge_id] += 1
        # Whose end has passed by a clock that then was set back is not remembered.
        assert self.solved[challenge_id] == 1 or not self.has_steady_clock, "one challenge, two clearances"

    # At the end.

    def check_waits(self) -> None:
        """Nobody waited for longer than the deadlines are."""
        relay_timeout_s = max(each.config["challenge"]["relay_timeout"] for each in self.drawn)
        for record in self.proxy.driver.records:
            if not isinstance(record, AccessRecord) or record.backend or not record.method:
                continue
            if "challenge" in record.failure_detail and record.method == "GET":
                assert record.duration_s <= relay_timeout_s + LATENESS_S, record
            elif record.failure in ("authentication_failed", "proxy_internal_error", "rate_limited"):
                assert record.duration_s <= GATE_DEADLINE_S + LATENESS_S, record

    def check_settled(self) -> None:
        """Nothing counts for anybody any more."""
        gatekeeper = self.proxy.engine._gatekeeper
        limits = gatekeeper.connection_limits
        assert limits.total == 0
        assert not limits._of_address
        assert not limits._on_route
        for gate in gatekeeper._gates.values():
            if gate.authentication is not None and gate.authentication._basic is not None:
                assert not gate.authentication._basic._verifications
