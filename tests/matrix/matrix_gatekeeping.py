"""A site behind every check there is, which refuses from any one of them on."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gate_checks import Check, refusing_access, refusing_options
from harness import Network, ProxyHandle
from matrix_carriers import NETWORK_ERRORS
from matrix_ends import Backend, Client, start_backend
from matrix_pairs import route
from matrix_peers import FieldLines, Head, Stream, StreamAborted, Version
from matrix_websocket import ask
from matrix_world import World, world_on

from smartproxy.core.engine import Engine
from smartproxy.core.records import Record
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)
from smartproxy.core.security.connection_limits import ConnectionLimits
from smartproxy.core.security.ip_rules import IpSet, ip_number

ROUTE_NAME = "app"
PROVIDER_ID = "puzzle"
PENDING_COOKIE = "__smartproxy_challenge_pending"
CLEARANCE_COOKIE = "__smartproxy_clearance"
SPENT_PATH = "/spent"
"""The one request that may be made for it has been made."""
CREDENTIALS = ("authorization", "Basic " + base64.b64encode(b"alice:in wonderland").decode())
SOLUTION = "42"
_PAUSE_S = 0.001


class Puzzle:
    """A challenge provider that keeps account of what it is asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def assess(self, request: ChallengeRequest) -> Assessment:
        self.calls.append("assess")
        return Assessment(Decision.CHALLENGE)

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        self.calls.append("render")
        return ChallengePage(pending.verify_path)

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        self.calls.append("verify")
        return Verification(payload.get("solution") == SOLUTION)


CHALLENGE = {"provider_id": PROVIDER_ID, "challenge_type": "arithmetic"}
BASIC_AUTH = {"users": {"alice": "in wonderland"}, "realm": "Site"}
RATE_LIMIT = {"max_requests": 1, "window": 3600, "key_by": "path"}


class Site:
    """A proxy before a backend, and whoever visits."""

    def __init__(self, world: World, front: Version, backend: Backend) -> None:
        self.world = world
        self.front = front
        self.backend = backend
        self.puzzle = Puzzle()
        self.tls = front == "3" or (front == "2" and not world.is_simulated)
        self.client_ip = world.client_host
        self.visitors: list[Client] = []
        self.held: list[tuple[Stream, Stream]] = []
        """Requests under way, with their counterparts at the backend."""
        self.proxy: ProxyHandle

    async def start(self, security: Mapping[str, Any], **options: Any) -> None:
        self.proxy = await self.world.net.start_proxy([self._route(security)], **options)
        self.engine.register_challenge_provider(PROVIDER_ID, self.puzzle)

    async def reconfigure(self, security: Mapping[str, Any], **options: Any) -> None:
        """Put another configuration in force."""
        proxy: Any = self.proxy
        proxy._options = {"listen": ["127.0.0.1"], **options}
        await self.proxy.update_routes([self._route(security)])

    async def refuse_from(self, first: Check) -> None:
        """Have `first` refuse, and all that come after it, but none before."""
        security = {"rate_limit": RATE_LIMIT, "challenge": CHALLENGE, "basic_auth": BASIC_AUTH}
        security.update(refusing_access(first, self.client_ip))
        await self.reconfigure(security, **refusing_options(first, self.client_ip))

    async def block_at_once(self, addresses: list[str]) -> None:
        """Put a block policy in force, and nothing else."""
        handle: Any = self.proxy
        driver = handle.proxy.driver if self.world.is_simulated else handle.driver
        driver.apply(lambda now: self.engine.handle_blocked_addresses(IpSet.compile(addresses), now))

    def _route(self, security: Mapping[str, Any]) -> dict[str, Any]:
        one = route(self.backend, self.front, tls=self.tls)
        one["match"]["protocol"] = "http"
        return {"name": ROUTE_NAME, "security": dict(security), **one}

    @property
    def engine(self) -> Engine:
        handle: Any = self.proxy
        engine: Engine = handle.proxy.engine if self.world.is_simulated else handle.engine
        return engine

    @property
    def limits(self) -> ConnectionLimits:
        return self.engine.connection_limits

    def refusals(self) -> list[tuple[object, object]]:
        """The connections refused so far: code and detail."""
        return [
            (record.fields["error"], record.fields.get("detail"))
            for record in self.proxy.records
            if isinstance(record, Record) and record.event == "connection_refused"
        ]

    # Visitors.

    async def visitor(self) -> Client:
        """A client with a connection of its own. Raises when it gets none that it can tell of."""
        client = Client(self.world, self.front, "127.0.0.1", self.proxy.port, tls=self.tls)
        self.visitors.append(client)
        await client.connect()
        return client

    async def hold(self, path: str) -> None:
        """Have a visitor wait for its response."""
        stream = await (await self.visitor()).request("GET", path)
        self.held.append((stream, await self.backend.request(path)))

    async def answer_held(self) -> None:
        """The visitors who wait get their responses."""
        for stream, request in self.held:
            await request.respond(200, body=b"at last")
            assert (await stream.response()).status == 200
            assert await stream.read_all() == b"at last"
        self.held.clear()

    async def visit(
        self, path: str, fields: FieldLines = (), *, websocket: bool = False
    ) -> tuple[Head, bytes] | None:
        """What a new visitor gets without the backend; None for a connection that is ended."""
        try:
            client = await self.visitor()
            return await self.own_answer(client, path, fields, websocket=websocket)
        except (*NETWORK_ERRORS, ssl.SSLError, StreamAborted):
            return None

    async def own_answer(
        self, client: Client, path: str, fields: FieldLines = (), *, websocket: bool = False
    ) -> tuple[Head, bytes]:
        """What a visitor gets that the proxy itself answers."""
        if not websocket:
            return await client.fetch("GET", path, fields)
        stream = await ask(client, path, fields)
        head = await stream.response()
        return head, await stream.read_all()

    async def solve(self, client: Client, path: str, status: int = 403) -> tuple[str, str]:
        """Meet the challenge at `path` and solve it; the field that shows the clearance."""
        head, page = await client.fetch("GET", path)
        assert head.status == status
        pending = cookie(head, PENDING_COOKIE)
        head, _ = await client.fetch("GET", f"{page.decode()}?solution={SOLUTION}", [("cookie", pending)])
        assert head.status == 303
        assert head.get("location") == path
        return "cookie", cookie(head, CLEARANCE_COOKIE)

    async def fetch_from_backend(self, client: Client, path: str, fields: FieldLines = ()) -> Stream:
        """A request that goes through, as the backend got it."""
        stream = await client.request("GET", path, fields)
        request = await self.backend.request(path)
        await request.respond(200, body=b"come in")
        assert (await stream.response()).status == 200
        assert await stream.read_all() == b"come in"
        return request

    # Ends.

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the proxy has got so far, of which no peer can tell."""
        while not condition():
            await self.world.sleep(_PAUSE_S)

    async def leave(self, *clients: Client) -> None:
        for client in clients:
            for wire in client.wires:
                if not wire.lost:
                    wire.leave()

    async def close(self) -> None:
        """All leave, and then none of them counts for anything."""
        await self.answer_held()
        await self.leave(*self.visitors)
        await self.until(lambda: self.limits.total == 0)
        self.check_nothing_counts()

    def check_nothing_counts(self) -> None:
        assert self.limits.total == 0
        assert self.limits.connections_on(ROUTE_NAME) == 0
        assert self.limits.connections_of(ip_number(self.client_ip)) == 0


def cookie(head: Head, name: str) -> str:
    """The cookie that a response sets, as a request shows it."""
    lines = [value.partition(";")[0] for key, value in head.fields if key == "set-cookie"]
    (found,) = [line for line in lines if name in line.partition("=")[0] and line.partition("=")[2]]
    return found


def names_of(head: Head) -> set[str]:
    return {name for name, _ in head.fields}


@asynccontextmanager
async def site_on(
    net: Network, front: Version, security: Mapping[str, Any], **options: Any
) -> AsyncIterator[Site]:
    """A site on a network; at its end, everything it counted must have been given back."""
    async with world_on(net) as world:
        site = Site(world, front, await start_backend(world, "1.1"))
        await site.start(security, **options)
        yield site


@asynccontextmanager
async def busy_site(net: Network, front: Version, first: Check) -> AsyncIterator[Site]:
    """A site with a visitor, who has used up what the checks from `first` on leave to others."""
    options = refusing_options(first, "")
    options.pop("security_policy", None)
    security = {"rate_limit": RATE_LIMIT, "max_connections": 100}
    async with site_on(net, front, security, **options) as site:
        await site.hold(SPENT_PATH)
        yield site
