"""A proxy's own life: deadlines in order, changes while it runs, stopping."""

from __future__ import annotations

import pytest
from harness import Connection, Listener, Network, ProxyHandle, forward, forward_raw, on_every_network
from http_talk import receive_head, receive_message, request, response

from smartproxy.config import ConfigError


async def answered(net: Network, proxy: ProxyHandle, backend: Listener) -> tuple[Connection, Connection]:
    """A client with one exchange behind it, and its backend connection."""
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/before"))
    server = await backend.accept()
    await receive_message(server)
    await server.send(response(200, b"before"))
    assert (await receive_message(client)).body == b"before"
    return client, server


@on_every_network
async def test_an_earlier_deadline_set_later_comes_first(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward(backend)], inactivity_timeout=0.6, initial_data_timeout=0.2)
    idle, _ = await answered(net, proxy, backend)
    slow = await net.connect(proxy.port)
    await slow.send(b"GET / HT")
    ended: list[str] = []

    async def wait(name: str, connection: Connection) -> None:
        await connection.receive_all()
        ended.append(name)

    await net.gather(wait("idle for long", idle), wait("slow for a moment", slow))
    assert ended == ["slow for a moment", "idle for long"]


@on_every_network
async def test_traffic_puts_an_idle_deadline_off(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)], inactivity_timeout=0.4)
    busy, idle = await net.connect(proxy.port), await net.connect(proxy.port)
    await busy.send(b"busy")
    busy_server = await backend.accept()
    assert await busy_server.receive_exactly(4) == b"busy"
    await idle.send(b"idle")
    idle_server = await backend.accept()
    assert await idle_server.receive_exactly(4) == b"idle"
    ended: list[str] = []

    async def keep_busy() -> None:
        while not ended:
            await busy.send(b"ping")
            assert await busy_server.receive_exactly(4) == b"ping"

    async def wait() -> None:
        # By reset, for a clean end would say that the other side had finished.
        with pytest.raises(ConnectionResetError):
            await idle.receive_all()
        ended.append("idle")

    await net.gather(keep_busy(), wait())
    await busy.send(b"still here")
    assert await busy_server.receive_exactly(10) == b"still here"


@on_every_network
async def test_stopping_finishes_what_is_under_way_and_refuses_the_rest(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward(backend)], graceful_shutdown_timeout=10)
    port = proxy.port
    idle, idle_server = await answered(net, proxy, backend)
    client = await net.connect(port)
    await client.send(request("GET", "/in-flight"))
    # The idle backend connection serves it.
    assert (await receive_head(idle_server)).first == "GET /in-flight HTTP/1.1"

    async def finish() -> None:
        assert await idle.receive_all() == b"", "an idle connection is closed as soon as stopping begins"
        with pytest.raises(ConnectionRefusedError):
            await net.connect(port)
        await idle_server.send(response(200, b"finished"))
        answer = await receive_message(client)
        assert answer.body == b"finished"
        assert answer.get("connection") == "close"
        assert await client.receive_all() == b""

    await net.gather(proxy.stop(), finish())
    assert await idle_server.receive_all() == b""


@on_every_network
async def test_stopping_gives_up_when_its_time_is_over(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward(backend)], graceful_shutdown_timeout=0.1)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/never-answered"))
    server = await backend.accept()
    await receive_message(server)
    await proxy.stop()
    with pytest.raises((ConnectionResetError, EOFError)):
        await receive_message(client)
    with pytest.raises((ConnectionResetError, EOFError)):
        await server.receive_exactly(1)


@on_every_network
async def test_new_routes_serve_new_connections_and_old_requests_finish(net: Network) -> None:
    old, new = await net.listen(), await net.listen()
    proxy = await net.start_proxy([forward(old)])
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/begun-before"))
    server = await old.accept()
    await receive_message(server)
    await proxy.update_routes([forward(new)])
    other = await net.connect(proxy.port)
    await other.send(request("GET", "/begun-after"))
    new_server = await new.accept()
    assert (await receive_message(new_server)).first == "GET /begun-after HTTP/1.1"
    await server.send(response(200, b"by the old routes"))
    assert (await receive_message(client)).body == b"by the old routes"
    await new_server.send(response(200, b"by the new routes"))
    assert (await receive_message(other)).body == b"by the new routes"


@on_every_network
async def test_routes_that_do_not_hold_change_nothing(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward(backend)])
    with pytest.raises(ConfigError):
        await proxy.update_routes([forward(backend), {"match": {"ports": 0}, "action": {"type": "teleport"}}])
    client, _ = await answered(net, proxy, backend)
    client.close()


@on_every_network
async def test_raw_connections_outlive_new_routes(net: Network) -> None:
    old, new = await net.listen(), await net.listen()
    proxy = await net.start_proxy([forward_raw(old)])
    client = await net.connect(proxy.port)
    await client.send(b"before")
    server = await old.accept()
    assert await server.receive_exactly(6) == b"before"
    await proxy.update_routes([forward_raw(new)])
    await client.send(b"after")
    assert await server.receive_exactly(5) == b"after"
    await server.send(b"still joined")
    assert await client.receive_exactly(12) == b"still joined"
