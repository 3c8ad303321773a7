"""The virtual network by itself: order, pieces, half-close, resets, back-pressure, and every fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.failure import LostReason
from smartproxy.drivers.simulation import Connection, Faults, Simulation

HOST = "10.0.0.1"
PORT = 7000


async def pair(sim: Simulation, faults: Faults | None = None) -> tuple[Connection, Connection]:
    listener = sim.listen(HOST, PORT)
    client = await sim.connect(PORT, HOST, faults=faults)
    server = await listener.accept()
    listener.close()
    return client, server


@given(
    st.integers(0, 2**32),
    st.binary(max_size=5000),
    st.integers(1, 50),
    st.integers(1, 3000),
    st.integers(1, 400),
)
def test_bytes_arrive_in_order_whatever_the_pieces(
    seed: int, data: bytes, shortest: int, buffer_bytes: int, chunk: int
) -> None:
    faults = Faults(
        latency_s=(0.0, 0.1),
        segment_bytes=(shortest, shortest + 100),
        send_buffer_bytes=buffer_bytes,
        receive_buffer_bytes=buffer_bytes,
        stall_probability=0.5,
        bandwidth_bytes_per_s=10_000.0,
    )

    async def scenario() -> bytes:
        client, server = await pair(sim, faults)

        async def send() -> bytes:
            for start in range(0, len(data), chunk):
                await client.send(data[start : start + chunk])
            await client.send_eof()
            return b""

        return (await sim.gather(send(), server.receive_all()))[1]

    with Simulation(seed) as sim:
        assert sim.run_until_complete(scenario()) == data


def test_end_of_file_comes_after_the_data_and_leaves_the_other_direction_open() -> None:
    async def scenario() -> None:
        client, server = await pair(sim)
        await client.send(b"question")
        await client.send_eof()
        assert await server.receive_all() == b"question"
        await server.send(b"answer")
        server.close()
        assert await client.receive_all() == b"answer"

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_a_full_send_buffer_makes_the_sender_wait() -> None:
    faults = Faults(send_buffer_bytes=1000, receive_buffer_bytes=500)

    async def scenario() -> None:
        client, server = await pair(sim, faults)
        sent = sim.spawn(client.send(bytes(5000)))
        await sim.sleep(60.0)
        assert not sent.done
        assert len(await server.receive_exactly(5000)) == 5000
        await sent

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_a_reset_loses_what_is_in_flight_and_tells_the_peer() -> None:
    async def scenario() -> None:
        client, server = await pair(sim, Faults(latency_s=(0.01, 0.02)))
        await client.send(b"never arrives")
        client.reset()
        with pytest.raises(ConnectionResetError):
            await server.receive()
        with pytest.raises(ConnectionResetError):
            await server.send(b"too late")
        with pytest.raises(ConnectionError, match="this end"):
            await client.receive()

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_what_had_arrived_before_a_reset_is_read_first() -> None:
    async def scenario() -> None:
        client, server = await pair(sim)
        await client.send(b"arrived")
        await sim.sleep(1.0)
        client.reset()
        await sim.sleep(1.0)
        assert await server.receive() == b"arrived"
        with pytest.raises(ConnectionResetError):
            await server.receive()

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_a_reset_can_take_what_had_arrived() -> None:
    async def scenario() -> None:
        client, server = await pair(sim, Faults(reset_discards_received_probability=1.0))
        await client.send(b"arrived")
        await sim.sleep(1.0)
        client.reset()
        await sim.sleep(1.0)
        with pytest.raises(ConnectionResetError):
            await server.receive()

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


@pytest.mark.parametrize("arrives", ["before the close", "after the close"])
def test_data_nobody_reads_is_answered_by_a_reset_behind_the_last_byte(arrives: str) -> None:
    async def scenario() -> None:
        client, server = await pair(sim)
        await client.send(b"unread")
        if arrives == "before the close":
            await sim.sleep(1.0)
        await server.send(b"goodbye")
        server.close()
        assert await client.receive_exactly(7) == b"goodbye"
        await sim.sleep(1.0)
        with pytest.raises(ConnectionResetError):
            await client.send(b"more")

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_nobody_listening_refuses() -> None:
    async def scenario() -> None:
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(PORT, HOST)
        listener = sim.listen(HOST, PORT)
        with pytest.raises(OSError, match="address in use"):
            sim.listen(HOST, PORT)
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(PORT, HOST)

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_a_wildcard_listener_gets_the_local_addresses_and_no_others() -> None:
    async def scenario() -> None:
        listener = sim.listen("0.0.0.0", PORT)
        await sim.connect(PORT, "127.0.0.1")
        assert (await listener.accept()).local == ("127.0.0.1", PORT)
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(PORT, "10.9.9.9")
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(PORT, "::1")

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_unix_sockets_have_no_port() -> None:
    async def scenario() -> None:
        listener = sim.listen_unix("/run/app.sock")
        client = await sim.connect(-1, "/run/app.sock")
        server = await listener.accept()
        await client.send(b"hello")
        assert await server.receive() == b"hello"

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_a_refused_connect() -> None:
    async def scenario() -> None:
        sim.listen(HOST, PORT)
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(PORT, HOST)

    with Simulation(1, faults=Faults(refuse_probability=1.0)) as sim:
        sim.run_until_complete(scenario())


@pytest.mark.parametrize("by_name", [True, False])
def test_a_black_hole_answers_never(by_name: bool) -> None:
    async def scenario() -> None:
        sim.listen(HOST, PORT)
        started_at = sim.now
        with pytest.raises(TimeoutError):
            await sim.connect(PORT, HOST)
        assert sim.now - started_at == 127.0

    with Simulation(1, faults=Faults(black_hole_probability=0.0 if by_name else 1.0)) as sim:
        if by_name:
            sim.network.black_holes.add(HOST)
        sim.run_until_complete(scenario())


def test_an_unreachable_address_fails_at_once() -> None:
    async def scenario() -> None:
        with pytest.raises(OSError, match="unreachable"):
            await sim.connect(PORT, HOST)
        assert sim.now - 1000.0 < 0.1

    with Simulation(1) as sim:
        sim.network.unreachable.add(HOST)
        sim.run_until_complete(scenario())


def test_a_slow_connect_still_succeeds() -> None:
    async def scenario() -> None:
        await pair(sim, Faults(slow_connect_probability=1.0, slow_connect_s=(5.0, 6.0)))
        assert 5.0 < sim.now - 1000.0 < 7.0

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_a_connect_given_up_resets_who_had_accepted() -> None:
    async def scenario() -> None:
        listener = sim.listen(HOST, PORT)
        with pytest.raises(TimeoutError):
            await sim.wait_for(sim.connect(PORT, HOST), 0.0015)
        accepted = await listener.accept()
        with pytest.raises(ConnectionResetError):
            await accepted.receive()

    with Simulation(1, faults=Faults(latency_s=(0.001, 0.001))) as sim:
        sim.run_until_complete(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_a_planned_reset_reaches_both_ends(seed: int) -> None:
    async def trickle(connection: Connection) -> None:
        while True:
            await connection.send(b"x" * 100)
            await sim.sleep(0.1)

    async def expect_reset(connection: Connection) -> None:
        sim.spawn(trickle(connection), daemon=True).on_done(lambda: None)
        with pytest.raises(ConnectionResetError):
            await connection.receive_all()

    async def scenario() -> None:
        client, server = await pair(sim, Faults(reset_probability=1.0, fault_within_bytes=1000))
        await sim.gather(expect_reset(client), expect_reset(server))

    with Simulation(seed) as sim:
        sim.run_until_complete(scenario())
        assert " is reset" in sim.transcript.to_text()


def test_a_planned_stall_delays_and_loses_nothing() -> None:
    faults = Faults(stall_probability=1.0, stall_s=(50.0, 60.0), fault_within_bytes=100, fault_within_s=1e-3)
    durations: list[float] = []

    async def echo(server: Connection) -> None:
        await server.send(await server.receive_exactly(1000))
        server.close()

    async def scenario() -> None:
        client, server = await pair(sim, faults)
        sim.spawn(echo(server))
        await client.send(bytes(1000))
        assert await client.receive_all() == bytes(1000)
        durations.append(sim.now - 1000.0)

    for seed in range(20):
        with Simulation(seed) as sim:
            sim.run_until_complete(scenario())
    # A stall may fall on a direction that has nothing to deliver any more.
    assert all(duration < 0.1 or 50.0 <= duration <= 61.0 for duration in durations)
    assert sum(duration >= 50.0 for duration in durations) > 10


def test_a_vanished_connection_times_out_for_who_has_sent_and_never_for_who_has_not() -> None:
    faults = Faults(vanish_probability=1.0, fault_within_bytes=1, fault_within_s=0.0)

    async def scenario() -> None:
        client, server = await pair(sim, faults)
        await sim.sleep(1.0)
        silent = sim.spawn(server.receive(), daemon=True)
        await client.send(b"anyone there?")
        await sim.sleep(1.0)
        await client.send(b"?")
        with pytest.raises(TimeoutError):
            await client.receive()
        assert sim.now - 1000.0 > 900.0
        await sim.sleep(3600.0)
        assert not silent.done

    with Simulation(0) as sim:
        sim.run_until_complete(scenario())


def test_bandwidth_takes_time() -> None:
    async def scenario() -> None:
        client, server = await pair(sim, Faults(bandwidth_bytes_per_s=1000.0))
        sim.spawn(client.send(bytes(10_000)))
        await server.receive_exactly(10_000)
        assert 9.9 < sim.now - 1000.0 < 10.5

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_the_wall_clock_jumps_while_monotonic_time_goes_on() -> None:
    async def scenario() -> None:
        before = sim.env.wall_clock() - sim.now
        await pair(sim)
        assert abs(sim.env.wall_clock() - sim.now - before) >= 0.5
        assert 1000.0 < sim.now < 1001.0

    with Simulation(1, faults=Faults(clock_jump_probability=1.0, clock_jump_s=(-9.0, -1.0))) as sim:
        sim.run_until_complete(scenario())
        assert "wall clock jumps -" in sim.transcript.to_text()


def test_faults_of_one_host() -> None:
    async def scenario() -> None:
        sim.listen(HOST, PORT)
        sim.listen("10.0.0.2", PORT)
        sim.network.host_faults[HOST] = Faults(refuse_probability=1.0)
        with pytest.raises(ConnectionRefusedError):
            await sim.connect(PORT, HOST)
        await sim.connect(PORT, "10.0.0.2")

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_probability": 1.5}, "reset_probability must be from 0 to 1"),
        ({"latency_s": (2.0, 1.0)}, r"latency_s must be \(low, high\)"),
        ({"segment_bytes": (0, 10)}, "segment_bytes must be at least 1"),
        ({"send_buffer_bytes": 0}, "at least 1 byte"),
    ],
)
def test_impossible_weather_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faults(**options)  # type: ignore[arg-type]  # wrong on purpose


def test_a_zone_answer_is_addresses_or_a_reason() -> None:
    with Simulation(1) as sim:
        sim.resolver["a.internal"] = LostReason.NAME_LOOKUP_FAILED
        with pytest.raises(ValueError, match="non-empty list"):
            sim.resolver["b.internal"] = "10.0.0.1"
        with pytest.raises(ValueError, match="non-empty list"):
            sim.resolver["b.internal"] = []
