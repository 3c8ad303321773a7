"""Virtual UDP: datagrams in all weathers, blocked ways, and the driver's bursts."""

from __future__ import annotations

from collections import Counter

import pytest
from small_engines import SmallEngine

from smartproxy.core.context import Context
from smartproxy.core.datagrams import Datagram, DatagramLink
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.ops import Address, CancelOperation, OpenDatagrams, Opened, OperationFailed, Result
from smartproxy.drivers.simulation import CLIENT_IP, Faults, Simulation, SimulationDriver, UdpSocket
from smartproxy.drivers.simulation import datagrams as datagrams_module
from smartproxy.drivers.simulation.datagram_carrier import BURST_DATAGRAMS, NO_ROOM_PROBABILITY

SERVER: Address = ("10.0.0.1", 443)
NUMBERED = [b"%04d" % number for number in range(500)]


class UdpSession:
    """Keeps what a link hears, and echoes it if it is told to."""

    def __init__(self, link: DatagramLink, *, echoes: bool = False) -> None:
        self.link = link
        self.echoes = echoes
        self.received: list[Datagram] = []
        self.bursts: list[int] = []
        self.failures: list[Failure] = []
        self.times_writable = 0
        link.handler = self

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        assert datagrams
        self.received += datagrams
        self.bursts.append(len(datagrams))
        if self.echoes:
            self.link.send(datagrams)

    def datagrams_writable(self) -> None:
        assert self.link.outgoing_count == 0
        self.times_writable += 1

    def datagrams_lost(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self.link.peer is None:
            self.link.send([(b"farewell", address) for _, address in self.received[:1]])


class UdpEngine(SmallEngine):
    """A small engine that also has UDP sockets."""

    def __init__(self, env: Env) -> None:
        super().__init__(env, lambda engine, link: link.abort())
        self.context = Context(env)
        self.listeners: list[UdpSession] = []
        self.results: list[Result] = []
        self.wants_udp = True

    def _link(self, peer: Address | None, local: Address) -> DatagramLink:
        self._next_link_id += 1
        return DatagramLink(self.context, self._next_link_id, peer, local)

    def handle_udp_bound(self, listening_port: int, local: Address, now: float) -> DatagramLink | None:
        self._input(now)
        if not self.wants_udp:
            return None
        self.listeners.append(UdpSession(self._link(None, local), echoes=True))
        return self.listeners[-1].link

    def handle_datagrams(self, link: DatagramLink, datagrams: list[Datagram], now: float) -> None:
        self._input(now)
        assert not link.closing
        link.handler.receive_datagrams(datagrams)

    def handle_datagrams_writable(self, link: DatagramLink, now: float) -> None:
        self._input(now)
        link.notify_writable = False
        link.handler.datagrams_writable()

    def handle_datagrams_lost(self, link: DatagramLink, reason: LostReason, now: float) -> None:
        self._input(now)
        assert not link.closing
        link.handler.datagrams_lost(
            Failure(FailureSource.PROXY, FailureCode.CONNECTION_TERMINATED, reason.value)
        )

    def poll_dirty_datagram_links(self) -> list[DatagramLink]:
        links, self.context.dirty_datagram_links = self.context.dirty_datagram_links, []
        for link in links:
            link.is_dirty = False
        return links

    def open(self, address: Address) -> tuple[UdpSession, int]:
        session = UdpSession(self._link(address, ("", 0)))
        operation = OpenDatagrams(self.context.next_operation_id(), session.link, address)
        return session, self.context.start(operation, self.results.append)


def started(sim: Simulation) -> tuple[UdpEngine, SimulationDriver]:
    engine = UdpEngine(sim.env)
    return engine, sim.start_engine(engine)


def received_by(server: UdpSocket) -> list[bytes]:
    return [data for data, _ in server.receive_some(10_000)]


def send_numbered(faults: Faults, seed: int = 1, host: str = "10.0.0.1") -> list[bytes]:
    """What arrives of 500 datagrams, in what order."""
    with Simulation(seed, faults=faults) as sim:
        server = sim.open_udp(host, 443)
        client = sim.open_udp()
        for data in NUMBERED:
            client.send_to(data, (host, 443))
        sim.run()
        return received_by(server)


# The network.


def test_calm_weather_loses_nothing_and_keeps_the_order() -> None:
    assert send_numbered(Faults(latency_s=(0.001, 0.2))) == NUMBERED


def test_loss() -> None:
    arrived = send_numbered(Faults(datagram_loss_probability=0.2))
    assert arrived == sorted(arrived)
    assert 350 < len(arrived) < 450


def test_duplication() -> None:
    counts = Counter(send_numbered(Faults(datagram_duplicate_probability=0.2)))
    assert set(counts) == set(NUMBERED)
    assert 50 < sum(count == 2 for count in counts.values()) < 150
    assert max(counts.values()) == 2


def test_reordering() -> None:
    arrived = send_numbered(Faults(datagram_reorder_probability=0.2))
    assert arrived != NUMBERED
    assert sorted(arrived) == NUMBERED


def test_the_weather_comes_from_the_seed() -> None:
    rough = Faults.rough()
    assert send_numbered(rough, seed=7) == send_numbered(rough, seed=7)
    assert send_numbered(rough, seed=7) != send_numbered(rough, seed=8)


def test_a_hosts_own_weather() -> None:
    with Simulation(1) as sim:
        sim.network.host_faults["10.0.0.2"] = Faults(datagram_loss_probability=1.0)
        servers = [sim.open_udp(host, 443) for host in ("10.0.0.1", "10.0.0.2")]
        client = sim.open_udp()
        for server in servers:
            client.send_to(b"hello", server.address)
        sim.run()
        assert [received_by(server) for server in servers] == [[b"hello"], []]


def test_scripts_talk_to_each_other() -> None:
    with Simulation(1) as sim:
        server = sim.open_udp("10.0.0.1", 443)
        client = sim.open_udp()
        assert client.address[0] == CLIENT_IP

        async def serve() -> None:
            data, address = await server.receive_from()
            server.send_to(data.upper(), address)

        async def ask() -> Datagram:
            client.send_to(b"hello", server.address)
            return await client.receive_from()

        sim.spawn(serve())
        assert sim.run_until_complete(ask()) == (b"HELLO", server.address)


def test_a_closed_socket_wakes_its_reader() -> None:
    with Simulation(1) as sim:
        client = sim.open_udp()

        async def wait() -> None:
            with pytest.raises(ConnectionError):
                await client.receive_from()

        task = sim.spawn(wait())
        sim.run(until=sim.now + 1)
        client.close()
        sim.run()
        assert task.done
        assert sim.open_udp(*client.address).port == client.port


def test_an_address_in_use() -> None:
    with Simulation(1) as sim:
        sim.open_udp("10.0.0.1", 443)
        with pytest.raises(OSError, match="UDP address in use"):
            sim.open_udp("10.0.0.1", 443)


def test_ports_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams_module, "LAST_EPHEMERAL_PORT", datagrams_module.FIRST_EPHEMERAL_PORT + 2)
    with Simulation(1) as sim:
        sockets = [sim.open_udp() for _ in range(3)]
        with pytest.raises(OSError, match="no UDP port is free"):
            sim.open_udp()
        sockets[1].close()
        assert sim.open_udp().port == sockets[1].port


def test_a_receive_buffer_that_is_full_loses_the_newest() -> None:
    with Simulation(1) as sim:
        server = sim.open_udp("10.0.0.1", 443)
        client = sim.open_udp()
        big = bytes(64_000)
        for _ in range(100):
            client.send_to(big, server.address)
        sim.run()
        arrived = len(received_by(server))
        assert arrived == datagrams_module.RECEIVE_BUFFER_BYTES // len(big)
        assert server._socket.lost_count == 100 - arrived


def test_too_long_for_a_packet() -> None:
    with Simulation(1) as sim, pytest.raises(OSError, match="too long"):
        sim.open_udp().send_to(bytes(65_508), SERVER)


def test_blocked_and_let_through_again() -> None:
    with Simulation(1) as sim:
        server, other = sim.open_udp("10.0.0.1", 443), sim.open_udp("10.0.0.1", 444)
        client = sim.open_udp()

        async def script() -> None:
            sim.block_udp("10.0.0.1", 443)
            client.send_to(b"into the void", server.address)
            client.send_to(b"another port", other.address)
            server.send_to(b"nor back", client.address)
            assert await other.receive_from() == (b"another port", client.address)
            sim.block_udp("10.0.0.1")
            client.send_to(b"now neither", other.address)
            await sim.sleep(10)
            sim.unblock_udp("10.0.0.1")
            sim.unblock_udp("10.0.0.1", 443)
            client.send_to(b"through again", server.address)
            assert await server.receive_from() == (b"through again", client.address)
            assert received_by(other) == received_by(client) == []

        sim.run_until_complete(script())


# The driver.


def test_a_listener_on_all_addresses_answers_from_each() -> None:
    with Simulation(1) as sim:
        engine, driver = started(sim)
        port = driver.listen_udp(443, ["0.0.0.0", "::"])
        assert port == 443
        assert [listener.link.local[0] for listener in engine.listeners] == ["0.0.0.0", "::"]
        client = sim.open_udp()

        async def ask(host: str) -> None:
            client.send_to(b"hello", (host, port))
            assert await client.receive_from() == (b"hello", (host, port))

        for host in ("192.0.2.1", "127.0.0.1", "127.0.0.9", "2001:db8::1"):
            sim.run_until_complete(ask(host))


def test_only_so_many_peers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams_module, "MAX_KNOWN_PEERS", 3)
    with Simulation(1) as sim:
        engine, driver = started(sim)
        driver.listen_udp(443)
        for _ in range(10):
            sim.open_udp().send_to(b"hello", ("127.0.0.1", 443))
        sim.run()
        [listener] = engine.listeners
        assert len(listener.received) == 10
        socket = listener.link.transport.socket
        assert len(socket._reply_sources) == len(socket._latest_arrivals) == 3


def test_bursts_come_together_and_are_bounded() -> None:
    with Simulation(1) as sim:
        engine, driver = started(sim)
        driver.listen_udp(443, ["10.0.0.1"])
        client = sim.open_udp()
        for data in NUMBERED:
            client.send_to(data, SERVER)
        sim.run()
        [listener] = engine.listeners
        assert [data for data, _ in listener.received] == NUMBERED
        assert 1 < max(listener.bursts) <= BURST_DATAGRAMS
        assert received_by(client) == NUMBERED


def test_room_that_runs_out_comes_back() -> None:
    with Simulation(1) as sim:
        engine, driver = started(sim)
        server = sim.open_udp(*SERVER)
        times_full = 0
        for _ in range(200):
            session, _ = driver.apply(lambda now: engine.open(SERVER))

            def send_and_ask(now: float, session: UdpSession = session) -> None:
                session.link.send([(data, SERVER) for data in NUMBERED[:5]])
                session.link.ask_for_writable()

            driver.apply(send_and_ask)
            times_full += session.times_writable == 0
            sim.run()
            assert session.times_writable == 1
            assert received_by(server) == NUMBERED[:5]
        assert 0 < times_full < 200 * 4 * NO_ROOM_PROBABILITY


@pytest.mark.parametrize("unreachable", [False, True])
def test_nobody_is_there(unreachable: bool) -> None:
    with Simulation(1) as sim:
        if unreachable:
            sim.network.unreachable.add(SERVER[0])
        engine, driver = started(sim)
        session, _ = driver.apply(lambda now: engine.open(SERVER))
        driver.apply(lambda now: session.link.send([(b"anybody?", SERVER)]))
        sim.run()
        assert isinstance(engine.results[0], Opened)
        expected = LostReason.UNREACHABLE if unreachable else LostReason.REFUSED
        assert [failure.detail for failure in session.failures] == [expected.value]


def test_a_black_hole_says_nothing() -> None:
    with Simulation(1) as sim:
        sim.network.black_holes.add(SERVER[0])
        engine, driver = started(sim)
        session, _ = driver.apply(lambda now: engine.open(SERVER))
        driver.apply(lambda now: session.link.send([(b"anybody?", SERVER)]))
        sim.run()
        assert not session.failures


def test_a_closed_link_sends_its_last_and_hears_nothing_more() -> None:
    for seed in range(20):
        with Simulation(seed) as sim:
            engine, driver = started(sim)
            server = sim.open_udp(*SERVER)
            session, _ = driver.apply(lambda now: engine.open(SERVER))  # noqa: B023
            server.send_to(b"too late", session.link.local)

            def send_and_close(now: float, session: UdpSession = session) -> None:
                session.link.send([(b"last", SERVER)])
                session.link.close()

            driver.apply(send_and_close)
            sim.run()
            assert received_by(server) == [b"last"]
            assert not session.received
            assert not driver.datagrams.sockets


def test_cancelled_before_it_was_answered() -> None:
    for seed in range(20):
        with Simulation(seed) as sim:
            engine, driver = started(sim)

            def open_and_cancel(now: float, engine: UdpEngine = engine) -> None:
                _, operation_id = engine.open(SERVER)
                engine.context.operations.append(CancelOperation(operation_id))

            driver.apply(open_and_cancel)
            assert not driver.datagrams.sockets
            sim.run()
            assert not any(isinstance(result, Opened) for result in engine.results)


def test_no_port_left_to_connect_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams_module, "LAST_EPHEMERAL_PORT", datagrams_module.FIRST_EPHEMERAL_PORT - 1)
    with Simulation(1) as sim:
        engine, driver = started(sim)
        driver.apply(lambda now: engine.open(SERVER))
        sim.run()
        [result] = engine.results
        assert isinstance(result, OperationFailed)
        assert result.reason is LostReason.RESOURCE_EXHAUSTED


def test_no_longer_listening() -> None:
    with Simulation(1) as sim:
        engine, driver = started(sim)
        driver.listen_udp(443, ["10.0.0.1"])
        client = sim.open_udp()
        client.send_to(b"hello", SERVER)
        sim.run()
        driver.stop_listening_udp(443)
        client.send_to(b"still there?", SERVER)
        sim.run()
        assert received_by(client) == [b"hello", b"farewell"]
        assert driver.listening_udp_ports() == {}
        assert engine.listeners[0].failures


def test_a_port_in_use_leaves_nothing_bound() -> None:
    with Simulation(1) as sim:
        _, driver = started(sim)
        sim.open_udp("10.0.0.2", 443)
        with pytest.raises(OSError, match="UDP address in use"):
            driver.listen_udp(443, ["10.0.0.1", "10.0.0.2"])
        assert driver.listening_udp_ports() == {}
        sim.open_udp("10.0.0.1", 443)


def test_a_replay_is_the_same_to_the_letter() -> None:
    def transcript(seed: int) -> str:
        with Simulation(seed, faults=Faults.rough()) as sim:
            _, driver = started(sim)
            driver.listen_udp(443, ["10.0.0.1"])
            client = sim.open_udp()
            for data in NUMBERED:
                client.send_to(data, SERVER)
            sim.run()
            return sim.transcript.to_text()

    assert transcript(3) == transcript(3)
    assert "is lost" in transcript(3)
    assert "datagrams(l1" in transcript(3)
    assert "sends(l1)" in transcript(3)


def test_programs_without_udp_need_not_know_of_it() -> None:
    with Simulation(1) as sim:
        driver = sim.start_engine(SmallEngine(sim.env, lambda engine, link: link.abort()))
        assert driver.apply(lambda now: now) == sim.now
