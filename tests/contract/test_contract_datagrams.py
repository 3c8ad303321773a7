"""UDP through every driver: an engine that echoes datagrams, or opens sockets of its own to send them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import CarryingDriver, Network, UdpSocket, on_every_network

from smartproxy.config import compile_configuration, parse_config
from smartproxy.core.datagrams import Datagram, DatagramLink
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.ops import Address, OpenDatagrams, Opened, Result

NOTHING_CONFIGURED = {
    "match": {"ports": 0},
    "action": {"type": "forward", "targets": [{"host": "h", "port": 1}]},
}
FAREWELL = b"farewell"


class Session:
    """What one link hears, and how it answers."""

    def __init__(self, link: DatagramLink, answer: Callable[[list[Datagram]], list[Datagram]]) -> None:
        self.link = link
        self.received: list[Datagram] = []
        self.failures: list[Failure] = []
        self.times_writable = 0
        self.peers: dict[Address, None] = {}
        self._answer = answer
        link.handler = self

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        assert datagrams
        self.received += datagrams
        self.peers.update((address, None) for _, address in datagrams)
        self.link.send(self._answer(datagrams))

    def datagrams_writable(self) -> None:
        assert self.link.outgoing_count == 0
        self.times_writable += 1

    def datagrams_lost(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.link.send([(FAREWELL, peer) for peer in self.peers])


class DatagramProgram(Engine):
    """The engine, with an echo where HTTP/3 would listen."""

    def __init__(self, env: Env) -> None:
        configuration = compile_configuration(parse_config({"routes": [NOTHING_CONFIGURED]})).configuration
        super().__init__(configuration, env)
        self.listeners: list[Session] = []
        self.results: list[Result] = []
        self.wants_udp = True

    def _begin_listening_datagrams(self, link: DatagramLink, listening_port: int) -> bool:
        if self.wants_udp:
            self.listeners.append(Session(link, list))
        return self.wants_udp

    def open(self, address: Address, datagrams: list[Datagram]) -> Session:
        """Open a connected socket and send `datagrams` on it, all within one input."""
        context = self.context
        session = Session(self._new_datagram_link(address, ("", 0)), lambda received: [])
        operation = OpenDatagrams(context.next_operation_id(), session.link, address)
        context.start(operation, self.results.append)
        session.link.send(datagrams)
        return session


async def carried(net: Network) -> tuple[DatagramProgram, CarryingDriver]:
    programs: list[DatagramProgram] = []

    def make(env: Env) -> Engine:
        programs.append(DatagramProgram(env))
        return programs[0]

    driver = await net.carry(make)
    return programs[0], driver


async def ask(udp: UdpSocket, data: bytes, address: Address) -> tuple[bytes, Address]:
    await udp.send_to(data, address)
    return await udp.receive_from()


def mixed(count: int, address: Address) -> list[Datagram]:
    """Datagrams of many lengths, in runs such as segmentation likes and in others."""
    sizes = [1200, 1200, 1200, 300, 0, 2, 2, 9000, 1350, 1350, 1348, 1352]
    return [(index.to_bytes(2) * (sizes[index % len(sizes)] // 2), address) for index in range(count)]


@on_every_network
async def test_datagrams_are_echoed(net: Network) -> None:
    program, driver = await carried(net)
    port = driver.listen_udp(0, ["127.0.0.1"])
    assert driver.listening_udp_ports() == {0: port}
    [listener] = program.listeners
    assert listener.link.peer is None
    assert listener.link.local == ("127.0.0.1", port)
    first, second = await net.udp_socket(), await net.udp_socket()
    assert await ask(first, b"first", ("127.0.0.1", port)) == (b"first", ("127.0.0.1", port))
    assert await ask(second, b"", ("127.0.0.1", port)) == (b"", ("127.0.0.1", port))
    assert listener.received == [(b"first", first.address), (b"", second.address)]
    assert listener.link.bytes_received == listener.link.bytes_sent == 5


@on_every_network
async def test_udp_takes_the_port_that_tcp_got(net: Network) -> None:
    _, driver = await carried(net)
    port = driver.listen(0, ["127.0.0.1", "::1"])
    assert driver.listen_udp(0, ["127.0.0.1", "::1"], bind_port=port) == port
    for host in ("127.0.0.1", "::1"):
        udp = await net.udp_socket(host)
        assert await ask(udp, b"hello", (host, port)) == (b"hello", (host, port))


@on_every_network
async def test_a_udp_port_in_use_is_an_error(net: Network) -> None:
    _, driver = await carried(net)
    other = await net.udp_socket()
    with pytest.raises(OSError, match="UDP"):
        driver.listen_udp(other.address[1], ["127.0.0.2", "127.0.0.1"])
    assert driver.listening_udp_ports() == {}
    await net.udp_socket("127.0.0.2", other.address[1])


@on_every_network
async def test_a_listener_that_nobody_wants_is_closed(net: Network) -> None:
    program, driver = await carried(net)
    program.wants_udp = False
    port = driver.listen_udp(0, ["127.0.0.1"])
    assert driver.listening_udp_ports() == {}
    await net.udp_socket("127.0.0.1", port)


@on_every_network
async def test_replies_come_from_the_address_sent_to(net: Network) -> None:
    _, driver = await carried(net)
    port = driver.listen_udp(0, ["0.0.0.0", "::"])
    for host in ("127.0.0.5", "127.0.0.1", "::1"):
        udp = await net.udp_socket("::1" if ":" in host else "127.0.0.1")
        assert await ask(udp, b"hello", (host, port)) == (b"hello", (host, port))


@on_every_network
async def test_a_burst_is_echoed_whole_and_in_order(net: Network) -> None:
    program, driver = await carried(net)
    port = driver.listen_udp(0, ["127.0.0.1"])
    udp = await net.udp_socket()
    sent = mixed(200, ("127.0.0.1", port))
    for datagram in sent:
        await udp.send_to(*datagram)
    for data, address in sent:
        assert await udp.receive_from() == (data, address)
    assert program.listeners[0].link.dropped_count == 0


@on_every_network
async def test_a_burst_from_one_engine_to_another(net: Network) -> None:
    """Segmented on the one side, it may arrive in one piece on the other."""
    server, server_driver = await carried(net)
    client, client_driver = await carried(net)
    port = server_driver.listen_udp(0, ["127.0.0.1"])
    sent = mixed(200, ("127.0.0.1", port))
    session = client_driver.apply(lambda now: client.open(("127.0.0.1", port), sent))
    # Somebody to wait with: what comes back to it has been behind the burst.
    udp = await net.udp_socket()
    while len(session.received) < len(sent):
        await ask(udp, b"ping", ("127.0.0.1", port))
    assert session.received == sent
    echoed = [datagram for datagram in server.listeners[0].received if datagram[0] != b"ping"]
    assert [data for data, _ in echoed] == [data for data, _ in sent]
    assert {address for _, address in echoed} == {session.link.local}


@on_every_network
async def test_a_connected_socket_hears_only_its_peer(net: Network) -> None:
    program, driver = await carried(net)
    peer, stranger = await net.udp_socket(), await net.udp_socket()
    session = driver.apply(lambda now: program.open(peer.address, [(b"hello", ("192.0.2.200", 1))]))
    data, source = await peer.receive_from()
    assert data == b"hello"
    assert program.results == [Opened(source)]
    assert session.link.local == source
    await stranger.send_to(b"from elsewhere", source)
    await peer.send_to(b"answer", source)
    await peer.send_to(b"and more", source)
    driver.apply(lambda now: session.link.ask_for_writable())
    await ask_until(net, driver, lambda: len(session.received) == 2)
    assert session.received == [(b"answer", peer.address), (b"and more", peer.address)]
    assert session.times_writable == 1


async def ask_until(net: Network, driver: CarryingDriver, condition: Callable[[], bool]) -> None:
    """Wait for a condition by the echoes of the driver's own listener."""
    port = driver.listen_udp(0, ["127.0.0.1"])
    udp = await net.udp_socket()
    while not condition():
        await ask(udp, b"ping", ("127.0.0.1", port))


@on_every_network
async def test_a_refusal_is_told(net: Network) -> None:
    program, driver = await carried(net)
    gone = await net.udp_socket()
    gone.close()
    session = driver.apply(lambda now: program.open(gone.address, [(b"anybody?", gone.address)]))
    await ask_until(net, driver, lambda: bool(session.failures))
    assert isinstance(program.results[0], Opened)
    assert session.failures[0].source is FailureSource.BACKEND
    assert session.failures[0].code is FailureCode.CONNECTION_REFUSED
    driver.apply(lambda now: session.link.close())
    heard = len(session.failures)
    await ask_until(net, driver, lambda: True)
    assert len(session.failures) == heard
    assert session.link.transport is None


@on_every_network
async def test_a_peer_that_is_gone_is_no_matter_to_a_listener(net: Network) -> None:
    program, driver = await carried(net)
    port = driver.listen_udp(0, ["127.0.0.1"])
    gone, udp = await net.udp_socket(), await net.udp_socket()
    gone.close()
    driver.apply(lambda now: program.listeners[0].link.send([(b"for nobody", gone.address)]))
    assert await ask(udp, b"still there", ("127.0.0.1", port)) == (b"still there", ("127.0.0.1", port))
    assert not program.listeners[0].failures


@on_every_network
async def test_what_no_packet_can_carry_is_dropped(net: Network) -> None:
    program, driver = await carried(net)
    udp = await net.udp_socket()
    too_long = bytes(65_535)
    datagrams = [(b"before", udp.address), (too_long, udp.address), (b"after", udp.address)]
    session = driver.apply(lambda now: program.open(udp.address, datagrams))
    assert [(await udp.receive_from())[0], (await udp.receive_from())[0]] == [b"before", b"after"]
    assert not session.failures


@on_every_network
async def test_closing_sends_what_is_queued(net: Network) -> None:
    program, driver = await carried(net)
    udp = await net.udp_socket()

    def send_and_close(now: float) -> Session:
        session = program.open(udp.address, [(b"last words", udp.address)])
        session.link.close()
        return session

    session = driver.apply(send_and_close)
    data, source = await udp.receive_from()
    assert data == b"last words"
    assert session.link.transport is None
    again = await net.udp_socket("127.0.0.1", source[1])
    again.close()


@on_every_network
async def test_no_longer_listening(net: Network) -> None:
    program, driver = await carried(net)
    port = driver.listen_udp(0, ["127.0.0.1"])
    udp = await net.udp_socket()
    await ask(udp, b"hello", ("127.0.0.1", port))
    driver.stop_listening_udp(0)
    assert await udp.receive_from() == (FAREWELL, ("127.0.0.1", port))
    assert program.listeners[0].link.closing
    assert driver.listening_udp_ports() == {}
    await net.udp_socket("127.0.0.1", port)


@on_every_network
async def test_the_engine_ends_a_listener(net: Network) -> None:
    program, driver = await carried(net)
    port = driver.listen_udp(0, ["127.0.0.1"])
    driver.apply(lambda now: program.listeners[0].link.close())
    assert driver.listening_udp_ports() == {}
    assert driver.listen_udp(0, ["127.0.0.1"], bind_port=port) == port, "it can be bound anew"


@on_every_network
async def test_a_draining_engine_wants_no_listener(net: Network) -> None:
    program, driver = await carried(net)
    driver.apply(program.handle_drain)
    driver.listen_udp(0, ["127.0.0.1"])
    assert driver.listening_udp_ports() == {}
