"""Gatekeeping under measurement: what a proxy checks before it forwards, and a client that passes it."""

from __future__ import annotations

import base64
import http.client
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv4Network

import jwt

USER, PASSWORD = "alice", "correct horse battery staple"
REALM = "bench"
TOKEN_SECRET = "a-secret-of-the-benchmarks-own-0123456789abcdef"
TOKEN_LIFE_S = 24 * 3600

BLOCKED_NETWORKS = 100_000
LISTED_NETWORKS = 300
"""In an allow list, and as many in a block list."""
CLIENTS = "127.0.0.0/8"
NETWORK_BLOCKED_CLIENT = "127.0.0.66"
"""Outside of what may connect at all: one of the 100,000."""
LIST_BLOCKED_CLIENT = "127.0.0.67"
"""On the block list of a route."""
NEVER_REACHED = 1_000_000_000
"""A limit for which everything is counted, and nobody is refused."""
WINDOW_S = 60
"""Over which requests are counted."""

WAIT_S = 1
PASSING_ATTEMPTS = 5
CLIENT_TIMEOUT_S = 10


class Check(Enum):
    """Something that a proxy looks at before it forwards."""

    BLOCKED_NETWORKS = "blocked networks"
    """For every connection, whether the client is in one of 100,000 networks."""
    ADDRESS_LIMITS = "limits by address"
    """How many connections the client's address has, and opens in a minute."""
    ROUTE_LIMIT = "route's limit"
    """How many connections use the route."""
    IP_LISTS = "IP lists"
    """That the client is on an allow list of 300 networks, and not on a block list of as many."""
    RATE_LIMIT = "rate limit"
    """How many requests the client's address has made within a minute."""
    CHALLENGE = "challenge"
    """That the request has the cookie of a browser challenge passed before."""
    PASSWORD = "password"
    """HTTP Basic authentication."""
    TOKEN = "token"
    """A bearer JWT, HS256, that has not expired."""


@dataclass(frozen=True, slots=True)
class Case:
    """A route, and what it checks. Every proxy listens on a port of its own for each of its cases."""

    name: str
    title: str
    checks: frozenset[Check]
    may_lack: frozenset[Check] = field(default_factory=frozenset)
    """Without these, too, a proxy's number is worth showing."""

    def suits(self, possible: frozenset[Check]) -> bool:
        """Whether a proxy that can check what is `possible` is measured with this case."""
        return self.checks - self.may_lack <= possible


BARE = Case("bare", "nothing to check", frozenset())
CONNECTIONS = Case(
    "connections",
    "blocked networks and limits by address",
    frozenset({Check.BLOCKED_NETWORKS, Check.ADDRESS_LIMITS}),
)
SINGLE_CASES = (
    Case("route-limit", "the route's limit of connections", frozenset({Check.ROUTE_LIMIT})),
    Case(
        "ip-lists",
        f"an allow and a block list of {LISTED_NETWORKS} networks each",
        frozenset({Check.IP_LISTS}),
    ),
    Case("rate-limit", "a rate limit by address", frozenset({Check.RATE_LIMIT})),
    Case("challenge", "the cookie of a challenge", frozenset({Check.CHALLENGE})),
    Case("password", "a password", frozenset({Check.PASSWORD})),
    Case("token", "a JSON Web Token", frozenset({Check.TOKEN})),
)
_BEFORE_AUTHENTICATION = frozenset(Check) - {Check.PASSWORD, Check.TOKEN}
_OURS_ALONE = frozenset({Check.CHALLENGE})
ALL_CASES = (
    Case(
        "all-password",
        "all of these checks, the password for authentication",
        _BEFORE_AUTHENTICATION | {Check.PASSWORD},
        _OURS_ALONE,
    ),
    Case(
        "all-token",
        "all of these checks, the token for authentication",
        _BEFORE_AUTHENTICATION | {Check.TOKEN},
        _OURS_ALONE,
    ),
)
CASES = (BARE, CONNECTIONS, *SINGLE_CASES, *ALL_CASES)
REQUEST_CASES = (BARE, *SINGLE_CASES, *ALL_CASES)
"""Those that differ in what a request costs."""


class NotPassed(Exception):
    """A gate let somebody pass, or did not, against what it is configured for."""


def _networks(count: int, seed: int) -> list[str]:
    """Different public-looking networks of mixed sizes, the same for the same seed; loopback is in none."""
    source = random.Random(seed)
    networks: dict[str, None] = {}
    while len(networks) < count:
        first_byte = source.choice((*range(1, 10), *range(11, 127), *range(128, 224)))
        address = (first_byte << 24) | source.getrandbits(24)
        prefix = source.choice((20, 22, 24, 24, 26, 28, 32, 32))
        networks[str(IPv4Network((address, prefix), strict=False))] = None
    return list(networks)


def blocked_networks() -> list[str]:
    """`BLOCKED_NETWORKS` of them, one of which is NETWORK_BLOCKED_CLIENT's."""
    return [*_networks(BLOCKED_NETWORKS - 1, seed=1), f"{NETWORK_BLOCKED_CLIENT}/32"]


def allow_list() -> list[str]:
    """`LISTED_NETWORKS` of them, the last of which is the load's."""
    return [*_networks(LISTED_NETWORKS - 1, seed=2), CLIENTS]


def block_list() -> list[str]:
    """`LISTED_NETWORKS` of them, the last of which is LIST_BLOCKED_CLIENT's."""
    return [*_networks(LISTED_NETWORKS - 1, seed=3), f"{LIST_BLOCKED_CLIENT}/32"]


def authorization(case: Case) -> dict[str, str]:
    """The request field that the case's authentication asks for, if it has any."""
    if Check.PASSWORD in case.checks:
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return {"Authorization": f"Basic {credentials}"}
    if Check.TOKEN in case.checks:
        claims = {"sub": USER, "exp": int(time.time()) + TOKEN_LIFE_S}
        return {"Authorization": f"Bearer {jwt.encode(claims, TOKEN_SECRET, algorithm='HS256')}"}
    return {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GET got; a connection that was closed instead has status 0."""

    status: int
    cookies: Mapping[str, str] = field(default_factory=dict)
    """Name and value of each that was set; one that was removed has an empty value."""
    body: bytes = b""


def get(port: int, headers: Mapping[str, str], client: str = "127.0.0.1") -> Answer:
    """GET / from the address `client`."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=CLIENT_TIMEOUT_S, source_address=(client, 0)
    )
    try:
        connection.request("GET", "/", headers=dict(headers))
        response = connection.getresponse()
        body = response.read()
    except (http.client.RemoteDisconnected, ConnectionError):
        return Answer(0)
    finally:
        connection.close()
    cookies: dict[str, str] = {}
    for line in response.headers.get_all("Set-Cookie", []):
        try:
            parsed = SimpleCookie(line)
        except CookieError as error:
            raise NotPassed(f"a cookie that nobody understands: {line}") from error
        for name, morsel in parsed.items():
            cookies[name] = "" if morsel["max-age"] == "0" else morsel.value
    return Answer(response.status, cookies, body)


class Browser:
    """Somebody who waits as a challenge's page says, and comes back with the cookies it has set."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cookies: dict[str, str] = {}

    def visit(self) -> int:
        """Ask for the page; the answer's status."""
        answer = get(self._port, self.cookie_field())
        self._cookies.update(answer.cookies)
        return answer.status

    def cookie_field(self) -> dict[str, str]:
        """The request field with all cookies there are."""
        kept = "; ".join(f"{name}={value}" for name, value in self._cookies.items() if value)
        return {"Cookie": kept} if kept else {}


def clearances(ports: list[int], wait_s: float = WAIT_S) -> dict[int, dict[str, str]]:
    """The request field that the challenge on each of `ports` is passed with, by port.

    Raises NotPassed where there is no challenge, or none that waiting passes.
    """
    browsers = {port: Browser(port) for port in ports}
    for port, browser in browsers.items():
        status = browser.visit()
        if status != http.client.FORBIDDEN or not browser.cookie_field():
            raise NotPassed(f"port {port}: no challenge, but status {status}")
    waiting = dict(browsers)
    for _ in range(PASSING_ATTEMPTS):
        if not waiting:
            break
        time.sleep(wait_s)
        for port, browser in list(waiting.items()):
            if browser.visit() in (http.client.FOUND, http.client.SEE_OTHER):
                del waiting[port]
    if waiting:
        raise NotPassed(f"ports {sorted(waiting)}: no waiting passes the challenge")
    return {port: browser.cookie_field() for port, browser in browsers.items()}


def request_fields(case_ports: Mapping[str, int], *, challenged: bool) -> dict[str, dict[str, str]]:
    """What a request must have to pass each case of a proxy, by the case's name.

    With `challenged` the proxy has the challenges that cases may lack.
    """
    cases = [case for case in CASES if case.name in case_ports]
    asking = [case for case in cases if challenged and Check.CHALLENGE in case.checks]
    cookies = clearances([case_ports[case.name] for case in asking])
    return {case.name: {**cookies.get(case_ports[case.name], {}), **authorization(case)} for case in cases}


def check_gate(
    name: str, checks: frozenset[Check], port: int, fields: Mapping[str, str], content: bytes
) -> None:
    """Raise NotPassed unless `fields` pass the gate, and nobody who lacks something does."""
    answer = get(port, fields)
    if answer.status != http.client.OK or answer.body != content:
        raise NotPassed(f"{name}: status {answer.status}, {len(answer.body)} bytes")
    intruders = [
        (f"without {missing}", {other: fields[other] for other in fields if other != missing}, "127.0.0.1")
        for missing in fields
    ]
    if Check.IP_LISTS in checks:
        intruders.append(("from a listed address", dict(fields), LIST_BLOCKED_CLIENT))
    if Check.BLOCKED_NETWORKS in checks:
        intruders.append(("from a blocked network", dict(fields), NETWORK_BLOCKED_CLIENT))
    for manner, their_fields, client in intruders:
        if get(port, their_fields, client).body == content:
            raise NotPassed(f"{name}: a request {manner} passes too")
