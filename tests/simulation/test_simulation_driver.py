"""The simulation's pump keeps the contract of `Link` and of operations, as unkindly as it allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from small_engines import EchoSession, JoinSession, SmallEngine

from smartproxy.core.failure import Failure, LostReason
from smartproxy.core.ops import (
    CallFunction,
    OperationFailed,
    RelayOutcome,
    Resolved,
    ResolveHost,
    Result,
    Returned,
    StartRelay,
)
from smartproxy.core.stream import HIGH_WATER_BYTES, Link
from smartproxy.core.timers import Timer
from smartproxy.drivers.simulation import (
    Connection,
    Faults,
    ProgramFailed,
    Simulation,
    SimulationDriver,
)

BIG = 3 * HIGH_WATER_BYTES


class Session:
    """Takes note of what its link hears."""

    def __init__(self, engine: SmallEngine, link: Link) -> None:
        self.engine = engine
        self.link = link
        self.received = bytearray()
        self.reads = 0
        self.heard: list[str] = []
        link.handler = self
        self.begin()

    def begin(self) -> None:
        """What this session does first."""

    def receive_data(self, data: bytes) -> None:
        self.reads += 1
        self.received += data

    def receive_eof(self) -> None:
        self.heard.append("eof")

    def stream_writable(self) -> None:
        self.heard.append("writable")

    def stream_lost(self, failure: Failure) -> None:
        self.heard.append("lost")


class World:
    """A simulation with one small engine on port 80, and the sessions it has made."""

    def __init__(
        self, sim: Simulation, session: Callable[[SmallEngine, Link], Any] = Session, port: int = 80
    ) -> None:
        self.sim = sim
        self.sessions: list[Any] = []

        def make(engine: SmallEngine, link: Link) -> None:
            self.sessions.append(session(engine, link))

        self.engine = SmallEngine(sim.env, make)
        self.driver: SimulationDriver = sim.start_engine(self.engine)
        self.driver.listen(port)

    def act(self, action: Callable[[], object]) -> None:
        """Let the engine do something, as if an input had asked for it."""

        def handle(now: float) -> None:
            self.engine.context.now = now
            action()

        self.driver.apply(handle)

    async def connect(self) -> tuple[Connection, Any]:
        connection = await self.sim.connect(80)
        return connection, self.sessions[-1]


def run(
    scenario: Callable[[Simulation], Awaitable[None]], seed: int = 1, faults: Faults | None = None
) -> None:
    async def script() -> None:
        await scenario(sim)

    with Simulation(seed, faults=faults) as sim:
        sim.run_until_complete(script())


def test_only_what_the_send_buffer_takes_is_pulled() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        connection, session = await world.connect()

        def write() -> None:
            for _ in range(100):
                session.link.write(bytes(BIG // 100))

        world.act(write)
        await sim.sleep(10.0)
        assert session.link.outgoing_bytes > BIG // 2
        received = await connection.receive_exactly(BIG - BIG % 100)
        assert received == bytes(len(received))
        assert session.link.outgoing_bytes == 0

    run(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_reader_slows_the_program_down(seed: int) -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim, EchoSession)
        connection, session = await world.connect()
        sent = sim.random.randbytes(BIG)
        sim.spawn(connection.send(sent))
        await sim.sleep(10.0)
        assert not session.link.reading
        assert await connection.receive_exactly(BIG) == sent
        assert session.most_outgoing_bytes <= HIGH_WATER_BYTES + 2 * 64 * 1024
        assert session.link.reading

    run(scenario, seed)


def test_after_a_pause_one_read_may_still_come_but_no_second() -> None:
    reads: list[int] = []

    class Once(Session):
        def receive_data(self, data: bytes) -> None:
            super().receive_data(data)
            self.link.pause_reading()

    async def scenario(sim: Simulation) -> None:
        world = World(sim, Once)
        connection, session = await world.connect()
        await connection.send(bytes(5000))
        await sim.sleep(10.0)
        reads.append(session.reads)
        for _ in range(len(session.received), 5001):
            world.act(session.link.resume_reading)
            await sim.sleep(0.1)
        assert len(session.received) == 5000

    for seed in range(20):
        run(scenario, seed, Faults(segment_bytes=(10, 100)))
    assert set(reads) == {1, 2}


def test_shutting_down_sends_everything_first_and_reading_goes_on() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        connection, session = await world.connect()

        def answer_and_end() -> None:
            session.link.write(bytes(BIG))
            session.link.shut_down_writing()
            session.link.notify_writable = True

        world.act(answer_and_end)
        assert await connection.receive_all() == bytes(BIG)
        await connection.send(b"still here")
        await connection.send_eof()
        await sim.sleep(1.0)
        assert session.received == b"still here"
        assert session.heard == ["writable", "eof"]

    run(scenario)


def test_close_sends_everything_first_and_then_nothing_is_read() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        connection, session = await world.connect()
        world.act(lambda: (session.link.write(bytes(BIG)), session.link.close()))
        await connection.send(b"too late")
        assert await connection.receive_exactly(BIG - 1) == bytes(BIG - 1)
        await sim.sleep(1.0)
        assert not world.driver.sockets
        assert session.heard == []
        assert session.received == b""

    run(scenario)


def test_a_closed_link_whose_peer_takes_nothing_is_given_up() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        connection, session = await world.connect()
        world.act(lambda: (session.link.write(bytes(BIG)), session.link.close()))
        await sim.sleep(20.0)
        assert world.driver.sockets
        assert await connection.receive_exactly(10_000)
        await sim.sleep(20.0)
        assert world.driver.sockets
        await sim.sleep(60.0)
        assert not world.driver.sockets
        with pytest.raises(ConnectionResetError):
            await connection.receive_all()

    run(scenario)


def test_abort_resets_at_once() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        connection, session = await world.connect()
        world.act(lambda: (session.link.write(b"dropped"), session.link.abort()))
        with pytest.raises(ConnectionResetError):
            await connection.receive()
        assert not world.driver.sockets

    run(scenario)


def test_losses_are_told_once_and_then_nothing_more() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        connection, session = await world.connect()
        await connection.send(b"before")
        await sim.sleep(1.0)
        connection.reset()
        await sim.sleep(1.0)
        assert session.received == b"before"
        assert session.heard == ["lost"]

    run(scenario)


def test_a_paused_link_may_or_may_not_hear_that_its_peer_is_gone() -> None:
    heard = set()

    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        connection, session = await world.connect()
        world.act(session.link.pause_reading)
        await sim.sleep(1.0)
        connection.reset()
        await sim.sleep(1.0)
        heard.add(bool(session.heard))
        world.act(session.link.resume_reading)
        await sim.sleep(1.0)
        assert session.heard == ["lost"]

    for seed in range(20):
        run(scenario, seed)
    assert heard == {True, False}


def test_timers_fire_late_but_never_early() -> None:
    lateness: list[float] = []

    class Ticking(Session):
        def begin(self) -> None:
            self.timer = Timer(self.tick)
            self.engine.context.set_timer(self.timer, 5.0)

        def tick(self) -> None:
            lateness.append(self.engine.context.now - self.link_opened_at - 5.0)

        @property
        def link_opened_at(self) -> float:
            return 1000.001

    async def scenario(sim: Simulation) -> None:
        await World(sim, Ticking).connect()
        await sim.sleep(10.0)

    for seed in range(20):
        run(scenario, seed, Faults(latency_s=(0.001, 0.001), timer_lateness_s=(0.0, 0.5)))
    assert len(lateness) == 20
    assert min(lateness) >= -1e-9
    assert 0.2 < max(lateness) <= 0.5


# Operations.


class Asking(Session):
    """Starts operations and keeps their results."""

    def begin(self) -> None:
        self.results: list[Result] = []

    def ask(self, kind: Callable[..., Any], *arguments: Any) -> int:
        context = self.engine.context
        return context.start(kind(context.next_operation_id(), *arguments), self.results.append)


def test_look_ups_are_answered_from_the_zone() -> None:
    async def scenario(sim: Simulation) -> None:
        sim.resolver["App.internal"] = ["10.0.0.1", "10.0.0.2"]
        sim.resolver["broken.internal"] = LostReason.NAME_LOOKUP_FAILED
        sim.resolver.unanswered.add("silent.internal")
        world = World(sim, Asking)
        _, session = await world.connect()
        for host in ("app.internal", "broken.internal", "unknown.internal", "silent.internal"):
            world.act(lambda host=host: session.ask(ResolveHost, host))  # type: ignore[misc]  # binds the loop's value
            await sim.sleep(1.0)
        assert session.results == [
            Resolved(("10.0.0.1", "10.0.0.2")),
            OperationFailed(LostReason.NAME_LOOKUP_FAILED, "broken.internal"),
            OperationFailed(LostReason.NAME_NOT_FOUND, "unknown.internal"),
        ]
        assert world.driver.running_operations == [4]

    run(scenario)


def test_the_weather_fails_look_ups() -> None:
    async def scenario(sim: Simulation) -> None:
        sim.resolver["app.internal"] = ["10.0.0.1"]
        world = World(sim, Asking)
        _, session = await world.connect()
        world.act(lambda: session.ask(ResolveHost, "app.internal"))
        await sim.sleep(1.0)
        assert session.results == [OperationFailed(LostReason.NAME_LOOKUP_FAILED, "app.internal")]

    run(scenario, faults=Faults(dns_failure_probability=1.0))


def test_functions_are_called_sync_and_async() -> None:
    async def scenario(sim: Simulation) -> None:
        async def slow_double(number: int) -> int:
            await sim.sleep(3.0)
            return 2 * number

        async def fail_slowly() -> None:
            await sim.sleep(3.0)
            raise KeyError("slow")

        def fail() -> None:
            raise KeyError("fast")

        world = World(sim, Asking)
        _, session = await world.connect()

        def ask() -> None:
            session.ask(CallFunction, max, (1, 5, 3))
            session.ask(CallFunction, slow_double, (21,))
            session.ask(CallFunction, fail, ())
            session.ask(CallFunction, fail_slowly, ())

        world.act(ask)
        await sim.sleep(1.0)
        assert session.results == [Returned(5), OperationFailed(LostReason.ERROR, "KeyError('fast')")]
        await sim.sleep(5.0)
        assert session.results[2:] == [
            Returned(42),
            OperationFailed(LostReason.ERROR, "KeyError('slow')"),
        ]

    run(scenario)


def test_a_function_may_use_the_driver() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim, Asking)
        _, session = await world.connect()
        world.act(lambda: session.ask(CallFunction, world.act, (lambda: session.link.write(b"x"),)))
        await sim.sleep(1.0)
        assert session.results == [Returned(None)]

    run(scenario)


def test_a_function_in_a_thread_takes_a_time_that_the_seed_decides() -> None:
    ended_at: list[float] = []

    async def scenario(sim: Simulation) -> None:
        world = World(sim, Asking)
        _, session = await world.connect()
        asked_at = sim.clock.now
        world.act(
            lambda: session.ask(CallFunction, lambda: ended_at.append(sim.clock.now - asked_at), (), True)
        )
        assert session.results == []
        await sim.sleep(1.0)
        assert session.results == [Returned(None)]

    for seed in (1, 1, 2):
        run(scenario, seed)
    assert ended_at[0] == ended_at[1]
    assert ended_at[0] != ended_at[2]
    assert all(0 < seconds < 0.1 for seconds in ended_at)


def test_cancelled_operations_are_withdrawn_and_some_answers_cross() -> None:
    crossed = 0

    async def scenario(sim: Simulation) -> None:
        nonlocal crossed
        finished: list[bool] = []

        async def slow() -> None:
            await sim.sleep(3.0)
            finished.append(True)

        world = World(sim, Asking)
        _, session = await world.connect()
        ids: list[int] = []
        world.act(lambda: ids.append(session.ask(CallFunction, slow, ())))
        await sim.sleep(1.0)
        world.act(lambda: world.engine.context.cancel(ids[0]))
        await sim.sleep(5.0)
        assert not finished
        assert session.results == []
        assert world.driver.running_operations == []
        crossed += "crossed its cancellation" in sim.transcript.to_text()

    for seed in range(20):
        run(scenario, seed)
    assert 0 < crossed < 20


# Relays.


async def joined(sim: Simulation) -> tuple[World, Connection, Connection, Any]:
    """A client and a backend whose links one session holds; nothing is moved between them yet."""
    sim.resolver["backend.internal"] = ["10.0.0.1"]
    listener = sim.listen("10.0.0.1", 9000)
    world = World(sim, JoinSession)
    client, session = await world.connect()
    backend = await listener.accept()
    await sim.sleep(1.0)
    return world, client, backend, session


@pytest.mark.parametrize("seed", range(5))
def test_a_relay_of_a_given_length_moves_that_and_no_more(seed: int) -> None:
    async def scenario(sim: Simulation) -> None:
        world, client, backend, session = await joined(sim)
        source, sink = session.link, session.tunnel.from_client.sink
        ended: list[tuple[int, RelayOutcome]] = []
        sent = sim.random.randbytes(300_000)

        def start() -> None:
            sink.write(b"first: ")
            relay = StartRelay(world.engine.context.next_operation_id(), source, sink, 250_000)
            world.engine.context.start_relay(
                relay, lambda outcome: ended.append((relay.moved_bytes, outcome))
            )

        world.act(start)
        sim.spawn(client.send(sent))
        assert await backend.receive_exactly(7) == b"first: "
        assert await backend.receive_exactly(250_000) == sent[:250_000]
        assert ended == [(250_000, RelayOutcome.COMPLETE)]
        assert await backend.receive_exactly(50_000) == sent[250_000:]
        assert session.tunnel.from_client.moved_bytes == 50_000

    run(scenario, seed)


@pytest.mark.parametrize("loser", ["source", "sink", "neither"])
def test_a_relay_tells_how_it_ended(loser: str) -> None:
    async def scenario(sim: Simulation) -> None:
        _, client, backend, session = await joined(sim)
        sim.spawn(client.send(bytes(BIG)))
        received = await backend.receive_exactly(BIG)
        assert session.tunnel.from_client.relay is not None
        if loser == "source":
            client.reset()
        elif loser == "sink":
            backend.reset()
        else:
            await client.send_eof()
            assert await backend.receive_all() == b""
            assert session.tunnel.from_client.relay is None
            assert session.tunnel.from_client.moved_bytes == BIG == len(received)
            backend.close()
            assert await client.receive_all() == b""
            await sim.sleep(1.0)
            assert session.tunnel.finished
            return
        with pytest.raises(ConnectionResetError):
            await (backend if loser == "source" else client).receive_all()
        assert session.tunnel.finished

    run(scenario)


def test_a_relay_that_is_taken_back_loses_nothing() -> None:
    async def scenario(sim: Simulation) -> None:
        world, client, backend, session = await joined(sim)
        direction = session.tunnel.from_client
        sent = sim.random.randbytes(2 * BIG)
        sim.spawn(client.send(sent))
        received = bytearray(await backend.receive_exactly(BIG))

        def take_back() -> None:
            relay = direction.relay
            direction.relay = None
            session.tunnel.can_relay = False
            world.engine.context.cancel_relay(relay)

        assert direction.relay is not None
        world.act(take_back)
        received += await backend.receive_exactly(BIG)
        assert received == sent
        assert world.driver.running_operations == []

    run(scenario)


# The public half, and bugs.


def test_listening() -> None:
    async def scenario(sim: Simulation) -> None:
        world = World(sim)
        port = world.driver.listen(0, ("0.0.0.0", "::"))
        assert world.driver.listening_ports() == {80: 80, 0: port}
        await sim.connect(port)
        await sim.connect(port, "::1")
        assert len(world.sessions) == 2
        other = World(sim, port=81)
        with pytest.raises(OSError, match="address in use"):
            other.driver.listen(80)
        with pytest.raises(OSError, match="address in use"):
            other.driver.listen(80, ("10.1.1.1", "0.0.0.0"))
        assert other.driver.listening_ports() == {81: 81}
        world.driver.stop_listening(80)
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(80)
        other.driver.listen(80, ("10.1.1.1", "0.0.0.0"))

    run(scenario)


def test_inputs_are_never_nested() -> None:
    class Nesting(Session):
        world: World

        def receive_data(self, data: bytes) -> None:
            self.world.act(lambda: None)

    async def scenario(sim: Simulation) -> None:
        Nesting.world = World(sim, Nesting)
        connection, _ = await Nesting.world.connect()
        await connection.send(b"x")
        await sim.sleep(1.0)

    with pytest.raises(ProgramFailed, match="an input came from within an input"):
        run(scenario)


def test_a_deadline_that_stays_due_is_caught() -> None:
    class Hasty(SmallEngine):
        def handle_timeout(self, now: float) -> None:
            """Does nothing about it."""

        def poll_timeout(self) -> float:
            return 1000.5

    async def scenario(sim: Simulation) -> None:
        sim.start_engine(Hasty(sim.env, Session)).listen(80)
        await sim.connect(80)
        await sim.sleep(10.0)

    with pytest.raises(ProgramFailed, match="inputs within one instant"):
        run(scenario, faults=Faults(timer_lateness_s=(0.0, 0.0)))
