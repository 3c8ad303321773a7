"""The order of the checks for what is not HTTP: who is refused is closed on, and no backend hears of it."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
from gate_checks import Check, refusing_access, refusing_options
from harness import (
    NETWORKS,
    Connection,
    Listener,
    Network,
    ProxyHandle,
    forward,
    forward_raw,
    on_every_network,
    run_on,
)
from http_talk import receive_message, request, response

from smartproxy.core.engine import Engine
from smartproxy.core.records import Record
from smartproxy.drivers.simulation import CLIENT_IP

ROUTE_NAME = "raw"
NAME = "app.example.com"
ACCESS_DENIED_ALERT = b"\x15\x03\x03\x00\x02\x02\x31"
RATE_LIMIT = {"max_requests": 1, "window": 3600}
BASIC_AUTH = {"users": {"alice": "in wonderland"}}
CREDENTIALS = "Authorization: Basic " + base64.b64encode(b"alice:in wonderland").decode()
_PAUSE_S = 0.001


REFUSALS = {
    Check.BLOCK_POLICY: ("access_denied", "block policy"),
    Check.CONNECTIONS_PER_IP: ("connection_limit_reached", "too many connections from this address"),
    Check.CONNECTION_RATE: ("connection_limit_reached", "too many new connections from this address"),
    Check.ROUTE_CONNECTIONS: ("connection_limit_reached", "route raw"),
    Check.IP_BLOCK_LIST: ("access_denied", "route raw"),
    Check.IP_ALLOW_LIST: ("access_denied", "route raw"),
    Check.RATE_LIMIT: ("rate_limited", "route raw"),
}


def client_hello(name: str = NAME) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class Kind:
    """A route that forwards bytes as they are, and how its clients begin."""

    def __init__(self, name: str, first_bytes: Callable[[], bytes], route_farewell: bytes) -> None:
        self.name = name
        self.first_bytes = first_bytes
        self.route_farewell = route_farewell
        """The last a client hears that its route refuses."""

    def route(self, backend: Listener, security: dict[str, Any]) -> dict[str, Any]:
        one = forward_raw(backend) if self is RAW else forward(backend)
        if self is PASSTHROUGH:
            one["match"]["domains"] = NAME
            one["action"]["tls"] = {"mode": "passthrough"}
        return {"name": ROUTE_NAME, "security": security, **one}


RAW = Kind("raw", lambda: b"\x01 not HTTP", b"")
PASSTHROUGH = Kind("passthrough", client_hello, ACCESS_DENIED_ALERT)
SILENT = Kind("silent", lambda: b"", b"")
"""Of clients that wait for the backend's first word, on a port that takes anything."""
KINDS = [RAW, PASSTHROUGH, SILENT]
SERVER_FIRST_DELAY_S = 0.005


def engine_of(proxy: ProxyHandle) -> Engine:
    handle: Any = proxy
    engine: Engine = handle.engine if hasattr(handle, "engine") else handle.proxy.engine
    return engine


async def start(net: Network, route: dict[str, Any], **options: Any) -> ProxyHandle:
    return await net.start_proxy([route], server_first_delay=SERVER_FIRST_DELAY_S, **options)


async def reconfigure(proxy: ProxyHandle, route: dict[str, Any], **options: Any) -> None:
    handle: Any = proxy
    handle._options = {"listen": ["127.0.0.1"], "server_first_delay": SERVER_FIRST_DELAY_S, **options}
    await proxy.update_routes([route])


def client_ip(net: Network) -> str:
    return CLIENT_IP if net.name == "simulation" else "127.0.0.1"


def refusing_security(first: Check, ip: str) -> dict[str, Any]:
    """The route's keys to the same end."""
    security = refusing_access(first, ip)
    if first <= Check.RATE_LIMIT:
        security["rate_limit"] = RATE_LIMIT
    return security


def refusals(proxy: ProxyHandle) -> list[tuple[object, object]]:
    return [
        (record.fields["error"], record.fields["detail"])
        for record in proxy.records
        if isinstance(record, Record) and record.event == "connection_refused"
    ]


async def last_words(connection: Connection) -> bytes:
    """What still comes before the end, however the end comes."""
    try:
        return await connection.receive_all()
    except ConnectionResetError:
        return b""


async def be_refused(net: Network, proxy: ProxyHandle, kind: Kind, check: Check) -> None:
    before = len(refusals(proxy))
    client = await net.connect(proxy.port)
    try:
        await client.send(kind.first_bytes())
    except ConnectionError:
        assert check < Check.ROUTE_CONNECTIONS
    words = await last_words(client)
    assert words == (b"" if check < Check.ROUTE_CONNECTIONS else kind.route_farewell)
    assert refusals(proxy)[before:] == [REFUSALS[check]]


async def join(
    net: Network, proxy: ProxyHandle, backend: Listener, first_bytes: bytes
) -> tuple[Connection, Connection]:
    """A client that is let in, and its backend connection."""
    client = await net.connect(proxy.port)
    await client.send(first_bytes)
    server = await backend.accept()
    assert await server.receive_exactly(len(first_bytes)) == first_bytes
    await server.send(b"welcome")
    assert await client.receive_exactly(7) == b"welcome"
    return client, server


async def until(net: Network, condition: Callable[[], bool]) -> None:
    """Until the proxy has got so far, of which no peer can tell."""
    simulation: Any = net
    while not condition():
        if net.name == "asyncio":
            await asyncio.sleep(_PAUSE_S)
        elif net.name == "trio":
            await trio.sleep(_PAUSE_S)
        else:
            await simulation._sim.sleep(_PAUSE_S)


async def leave(net: Network, proxy: ProxyHandle, *pairs: tuple[Connection, Connection]) -> None:
    """All leave, and then none of them counts for anything."""
    for client, server in pairs:
        client.close()
        assert await server.receive_all() == b""
        server.close()
    limits = engine_of(proxy).connection_limits
    await until(net, lambda: limits.total == 0)
    assert limits.connections_on(ROUTE_NAME) == 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("first", REFUSALS, ids=lambda check: check.name.lower())
def test_the_first_check_that_refuses_is_the_one_that_closes(network: str, kind: Kind, first: Check) -> None:
    """Every later check would refuse too, and none of them is asked; nor is a backend dialled."""

    async def body(net: Network) -> None:
        ip = client_ip(net)
        backend = await net.listen()
        options = refusing_options(first, ip)
        options.pop("security_policy", None)
        proxy = await start(net, kind.route(backend, {"rate_limit": RATE_LIMIT}), **options)
        holder = await join(net, proxy, backend, kind.first_bytes())
        await reconfigure(
            proxy, kind.route(backend, refusing_security(first, ip)), **refusing_options(first, ip)
        )
        for _ in range(2):
            await be_refused(net, proxy, kind, first)
        limits = engine_of(proxy).connection_limits
        assert (limits.total, limits.connections_on(ROUTE_NAME)) == (1, 1)
        await reconfigure(proxy, kind.route(backend, {}))
        # Connections are accepted in the order in which they were made: no refusal has made one.
        later = await join(net, proxy, backend, kind.first_bytes() + b"\x01 later")
        await leave(net, proxy, holder, later)

    run_on(network, body)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_list_refuses_is_not_counted_by_the_rate_limit(network: str, kind: Kind) -> None:
    async def body(net: Network) -> None:
        ip = client_ip(net)
        backend = await net.listen()
        security = {"rate_limit": RATE_LIMIT, "max_connections": 1}
        proxy = await start(net, kind.route(backend, {**security, "ip_block_list": [ip]}))
        for _ in range(3):
            await be_refused(net, proxy, kind, Check.IP_BLOCK_LIST)
        limits = engine_of(proxy).connection_limits
        assert (limits.total, limits.connections_on(ROUTE_NAME)) == (0, 0)
        await reconfigure(proxy, kind.route(backend, security))
        first = await join(net, proxy, backend, kind.first_bytes())
        assert (limits.total, limits.connections_on(ROUTE_NAME)) == (1, 1)
        await be_refused(net, proxy, kind, Check.ROUTE_CONNECTIONS)
        await leave(net, proxy, first)
        await be_refused(net, proxy, kind, Check.RATE_LIMIT)
        await leave(net, proxy)

    run_on(network, body)


# On a port that takes anything, a route that asks for what only HTTP can show.


def guarded(backend: Listener) -> dict[str, Any]:
    return {"name": ROUTE_NAME, "security": {"basic_auth": BASIC_AUTH}, **forward(backend)}


async def show_credentials(client: Connection, backend: Listener) -> None:
    """A request without them and one with them: only the latter makes a backend connection."""
    await client.send(request("GET", "/page"))
    assert (await receive_message(client)).status == 401
    await client.send(request("GET", "/page", b"", CREDENTIALS))
    server = await backend.accept()
    assert (await receive_message(server)).first == "GET /page HTTP/1.1"
    await server.send(response(200, b"come in"))
    assert (await receive_message(client)).body == b"come in"


@on_every_network
async def test_what_is_not_http_cannot_show_credentials(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([guarded(backend)])
    client = await net.connect(proxy.port)
    await client.send(RAW.first_bytes())
    assert await last_words(client) == b""
    assert refusals(proxy) == [REFUSALS[Check.IP_BLOCK_LIST]]
    await show_credentials(await net.connect(proxy.port), backend)


@on_every_network
async def test_a_client_that_takes_its_time_may_still_show_credentials(net: Network) -> None:
    """Silence is no attempt to get by: browsers connect ahead of what they ask."""
    backend, greeting = await net.listen(), await net.listen()
    proxy = await start(net, guarded(backend))
    other = await start(net, forward(greeting))
    client = await net.connect(proxy.port)
    for _ in range(2):
        # The delay is over once the backend of who came later has been connected.
        await net.connect(other.port)
        await greeting.accept()
    assert refusals(proxy) == []
    await show_credentials(client, backend)


# Given back once, and once only.


async def says_goodbye(net: Network, proxy: ProxyHandle, backend: Listener) -> None:
    client, server = await join(net, proxy, backend, RAW.first_bytes())
    await client.send_eof()
    assert await server.receive_all() == b""
    server.close()
    assert await client.receive_all() == b""
    client.close()


async def resets(net: Network, proxy: ProxyHandle, backend: Listener) -> None:
    client, server = await join(net, proxy, backend, RAW.first_bytes())
    client.reset()
    with pytest.raises(ConnectionResetError):
        await server.receive_all()
    server.close()


async def is_reset_by_the_backend(net: Network, proxy: ProxyHandle, backend: Listener) -> None:
    client, server = await join(net, proxy, backend, RAW.first_bytes())
    server.reset()
    with pytest.raises(ConnectionResetError):
        await client.receive_all()
    client.close()


async def says_nothing(net: Network, proxy: ProxyHandle, backend: Listener) -> None:
    (await net.connect(proxy.port)).close()


async def breaks_off_a_client_hello(net: Network, proxy: ProxyHandle, backend: Listener) -> None:
    client = await net.connect(proxy.port)
    await client.send(client_hello()[:50])
    client.close()


async def sends_a_broken_client_hello(net: Network, proxy: ProxyHandle, backend: Listener) -> None:
    client = await net.connect(proxy.port)
    await client.send(b"\x16\x03\x01\x00\x05" + b"\xff" * 5)
    assert (await last_words(client))[:1] in (b"", b"\x15")
    client.close()


async def finds_no_room(net: Network, proxy: ProxyHandle, backend: Listener) -> None:
    there = await join(net, proxy, backend, RAW.first_bytes())
    client = await net.connect(proxy.port)
    assert await last_words(client) == b""
    client.close()
    there[0].reset()
    with pytest.raises(ConnectionResetError):
        await there[1].receive_all()


Life = Callable[[Network, ProxyHandle, Listener], Coroutine[Any, Any, None]]
LIVES: list[Life] = [
    says_goodbye,
    resets,
    is_reset_by_the_backend,
    says_nothing,
    breaks_off_a_client_hello,
    sends_a_broken_client_hello,
    finds_no_room,
]


def _name(life: Life) -> str:
    return getattr(life, "__name__", "life")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("life", LIVES, ids=_name)
def test_a_connection_is_given_back_exactly_once(network: str, life: Life) -> None:
    """Another that stays is counted before and after; one given back twice would take its place."""

    async def body(net: Network) -> None:
        backend = await net.listen()
        named = PASSTHROUGH.route(backend, {})
        del named["name"]
        taking = {"name": ROUTE_NAME, "security": {"max_connections": 2}, **forward(backend)}
        proxy = await net.start_proxy([taking, named], max_connections_per_ip=2)
        limits = engine_of(proxy).connection_limits
        steady = await join(net, proxy, backend, RAW.first_bytes())
        for _ in range(2):
            await life(net, proxy, backend)
            await until(net, lambda: limits.total == 1)
            assert limits.connections_on(ROUTE_NAME) == 1
        await leave(net, proxy, steady)

    run_on(network, body)


@on_every_network
async def test_a_name_that_is_not_served_costs_a_connection_no_longer_than_it_lasts(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([PASSTHROUGH.route(backend, {})], max_connections_per_ip=1)
    for _ in range(3):
        client = await net.connect(proxy.port)
        await client.send(client_hello("other.example.com"))
        assert (await last_words(client))[:1] == b"\x15"
        client.close()
        await leave(net, proxy)
    assert [code for code, _ in refusals(proxy)] == ["no_route"] * 3


@on_every_network
async def test_a_request_that_comes_late_is_counted_once(net: Network) -> None:
    """Its connection has been taken for one that is to be greeted, and a backend has been dialled."""
    backend = await net.listen()
    route = {"name": ROUTE_NAME, "security": {"rate_limit": RATE_LIMIT}, **forward(backend)}
    proxy = await start(net, route)
    client = await net.connect(proxy.port)
    early = await backend.accept()
    await client.send(request("GET", "/page"))
    assert await last_words(early) == b""
    await net.gather(answer(backend), be_answered(client))


async def answer(backend: Listener) -> None:
    server = await backend.accept()
    assert (await receive_message(server)).first == "GET /page HTTP/1.1"
    await server.send(response(200, b"come in"))


async def be_answered(client: Connection) -> None:
    assert (await receive_message(client)).status == 200
