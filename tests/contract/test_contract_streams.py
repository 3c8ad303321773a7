"""Raw streams through a proxy: relay, half-close, resets, back-pressure."""

from __future__ import annotations

import pytest
from harness import Connection, Listener, Network, ProxyHandle, forward_raw, on_every_network

from smartproxy.core.stream import HIGH_WATER_BYTES

ENDLESS_BYTES = 64 * 1024 * 1024
"""More than any kernel buffers between two of our sockets and their peers."""
PIECE = bytes(range(256)) * 256
READS_UNDER_WAY_BYTES = 512 * 1024


async def join(net: Network, backend: Listener, proxy: ProxyHandle) -> tuple[Connection, Connection]:
    """A client and a backend connection with the proxy between, both ways known to work."""
    client = await net.connect(proxy.port)
    await client.send(b"hello")
    server = await backend.accept()
    assert await server.receive_exactly(5) == b"hello"
    await server.send(b"welcome")
    assert await client.receive_exactly(7) == b"welcome"
    return client, server


@on_every_network
async def test_bytes_cross_both_ways(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    for number in range(5):
        await client.send(b"question %d" % number)
        assert await server.receive_exactly(10) == b"question %d" % number
        await server.send(b"answer %d" % number)
        assert await client.receive_exactly(8) == b"answer %d" % number


@on_every_network
async def test_bulk_crosses_both_ways_at_once(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    up, down = PIECE * 64, PIECE[::-1] * 64

    async def send(connection: Connection, data: bytes) -> None:
        await connection.send(data)
        await connection.send_eof()

    async def receive(connection: Connection, data: bytes) -> None:
        assert await connection.receive_all() == data

    await net.gather(send(client, up), receive(server, up), send(server, down), receive(client, down))


@on_every_network
async def test_a_client_that_ends_first_still_gets_its_answer(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    await client.send(b"last question")
    await client.send_eof()
    assert await server.receive_all() == b"last question"
    await server.send(b"last answer")
    server.close()
    assert await client.receive_all() == b"last answer"


@on_every_network
async def test_a_backend_that_ends_first_still_hears_the_client(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    await server.send(b"no more from me")
    await server.send_eof()
    assert await client.receive_all() == b"no more from me"
    await client.send(b"but from me")
    client.close()
    assert await server.receive_all() == b"but from me"


@on_every_network
async def test_a_half_close_behind_bulk_stays_a_half_close(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    data = PIECE * 32

    async def upload() -> None:
        await client.send(data)
        await client.send_eof()

    async def download() -> None:
        assert await server.receive_all() == data
        await server.send(b"got it all")
        server.close()

    await net.gather(upload(), download())
    assert await client.receive_all() == b"got it all"


@on_every_network
async def test_a_clients_reset_reaches_the_backend(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    client.reset()
    with pytest.raises(ConnectionResetError):
        await server.receive_all()


@on_every_network
async def test_a_backends_reset_reaches_the_client(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    server.reset()
    with pytest.raises(ConnectionResetError):
        await client.receive_all()


@on_every_network
async def test_a_reset_amid_bulk_reaches_the_other_side(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)

    async def upload() -> None:
        await client.send(PIECE * 64)
        client.reset()

    async def download() -> None:
        with pytest.raises(ConnectionResetError):
            await server.receive_all()

    await net.gather(upload(), download())


@on_every_network
async def test_a_backend_that_refuses_closes_the_client(net: Network) -> None:
    backend = await net.listen()
    backend.port = net.refused_port()
    proxy = await net.start_proxy([forward_raw(backend)])
    client = await net.connect(proxy.port)
    await client.send(b"anybody there?")
    assert await client.receive_all() == b""
    assert proxy.access_records[-1].failure == "connection_refused"


async def send_until_it_stops(net: Network, proxy: ProxyHandle, backend: Listener, sink: Connection) -> int:
    """Send into `sink` until nothing more is taken, however often the proxy has had its turn meanwhile."""
    sent = quiet_rounds = 0
    while quiet_rounds < 5:
        taken = sink.send_some(PIECE[sent % len(PIECE) :])
        sent += taken
        if taken:
            quiet_rounds = 0
            assert sent < ENDLESS_BYTES, "nothing holds the sender back"
        else:
            # A connection of its own that gets through shows that the proxy has seen to all that was ready.
            quiet_rounds += 1
            other_client, other_server = await join(net, backend, proxy)
            other_client.close()
            other_server.close()
    return sent


@on_every_network
async def test_a_backend_that_does_not_read_stops_its_client_and_nobody_else(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    sent = await send_until_it_stops(net, proxy, backend, client)
    assert proxy.buffered_bytes() <= HIGH_WATER_BYTES + READS_UNDER_WAY_BYTES
    received = bytearray()

    async def finish() -> None:
        await client.send(b"and on")
        await client.send_eof()

    async def receive() -> None:
        received.extend(await server.receive_all())

    await net.gather(finish(), receive())
    whole, rest = divmod(sent, len(PIECE))
    assert bytes(received) == PIECE * whole + PIECE[:rest] + b"and on"


@on_every_network
async def test_a_client_that_does_not_read_stops_its_backend_and_nobody_else(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    client, server = await join(net, backend, proxy)
    sent = await send_until_it_stops(net, proxy, backend, server)
    assert proxy.buffered_bytes() <= HIGH_WATER_BYTES + READS_UNDER_WAY_BYTES
    await client.send(b"the other direction goes on")
    assert await server.receive_exactly(27) == b"the other direction goes on"
    server.close()
    whole, rest = divmod(sent, len(PIECE))
    assert await client.receive_all() == PIECE * whole + PIECE[:rest]


@on_every_network
async def test_many_clients_at_once_keep_apart(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)])
    count = 60

    async def echo() -> None:
        for _ in range(count):
            server = await backend.accept()
            await server.send(await server.receive_all())
            server.close()

    async def ask(number: int) -> None:
        client = await net.connect(proxy.port)
        words = b"client %d " % number * 500
        await client.send(words)
        await client.send_eof()
        assert await client.receive_all() == words

    await net.gather(echo(), *(ask(number) for number in range(count)))


@on_every_network
async def test_a_backend_may_speak_first(net: Network) -> None:
    backend = await net.listen()
    proxy = await net.start_proxy([forward_raw(backend)], server_first_delay=0.05)
    client = await net.connect(proxy.port)
    server = await backend.accept()
    await server.send(b"220 ready\r\n")
    assert await client.receive_until(b"\r\n") == b"220 ready\r\n"
    await client.send(b"EHLO\r\n")
    assert await server.receive_until(b"\r\n") == b"EHLO\r\n"
