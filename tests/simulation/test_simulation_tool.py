"""The simulation as a tool: scripts and their failures, deadlocks, replay, sweeps, the command line."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import h11
import pytest
import trustme
from small_engines import EchoSession, JoinSession, SmallEngine

from smartproxy.drivers.simulation import (
    WEATHER_ERRORS,
    Connection,
    Faults,
    HttpClient,
    HttpRequest,
    HttpResponse,
    ProgramFailed,
    ScriptCancelled,
    ScriptFailed,
    Simulation,
    SimulationDeadlock,
    SimulationOverrun,
    TlsConnection,
    run_scenario,
    sweep,
)
from smartproxy.drivers.simulation.__main__ import main

THIS_FILE = Path(__file__).resolve()
REPOSITORY = THIS_FILE.parents[2]


# Scenarios, also run by name.


async def echo_through_two_programs(sim: Simulation) -> None:
    """A client talks through one program to another, in bad weather."""
    sim.faults = Faults.rough()
    sim.resolver["backend.internal"] = ["10.0.0.1"]
    sim.echo_backend("10.0.0.1", 9000)
    for port, session in ((80, JoinSession), (81, EchoSession)):
        sim.start_engine(SmallEngine(sim.env, session)).listen(port)

        async def exchange(port: int = port) -> None:
            connection = await sim.connect(port)
            sent = sim.random.randbytes(5000)

            async def send() -> bytes:
                await connection.send(sent)
                await connection.send_eof()
                return b""

            received = (await sim.gather(send(), connection.receive_all()))[1]
            assert received == sent

        try:
            await sim.wait_for(exchange(), 200.0)
        except WEATHER_ERRORS as error:
            sim.transcript.note(f"port {port}: {error}")


async def odd_seeds_fail(sim: Simulation) -> None:
    await sim.sleep(1.0)
    assert sim.seed % 2 == 0, "an odd seed"


# Replay.


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_replays_event_by_event(seed: int) -> None:
    first, second = (run_scenario(echo_through_two_programs, seed, transcript_lines=None) for _ in range(2))
    assert first.transcript.to_text() == second.transcript.to_text()
    assert first.events_run == second.events_run


def test_other_seeds_are_other_worlds() -> None:
    transcripts = {run_scenario(echo_through_two_programs, seed).transcript.to_text() for seed in range(10)}
    assert len(transcripts) == 10


def test_another_process_with_another_hash_seed_replays_it_too() -> None:
    transcripts = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "smartproxy.drivers.simulation"]
        finished = subprocess.run(
            [*command, f"{THIS_FILE}:echo_through_two_programs", "--seed", "6", "--transcript"],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "seed 6 passed" in finished.stdout
        assert "> accepted(c1, peer 198.51.100.7:40000, listener :80)" in finished.stdout
        transcripts.add(finished.stdout)
    here = run_scenario(echo_through_two_programs, 6, transcript_lines=None).transcript.to_text()
    assert len(transcripts) == 1
    assert transcripts.pop().startswith(here)


def test_the_scripts_randomness_does_not_change_the_weather() -> None:
    async def scenario(draws: int) -> float:
        sim.random.randbytes(draws)
        sim.echo_backend("10.0.0.1", 7)
        connection = await sim.connect(7, "10.0.0.1")
        await connection.send(b"hello")
        await connection.receive_exactly(5)
        return sim.now

    times = set()
    for draws in (0, 100):
        with Simulation(4) as sim:
            times.add(sim.run_until_complete(scenario(draws)))
    assert len(times) == 1


# Time.


def test_time_starts_at_a_fixed_value_and_jumps_to_the_next_event() -> None:
    async def scenario() -> None:
        assert sim.now == 1000.0
        assert sim.env.wall_clock() == 1_767_225_600.0
        await sim.sleep(86_400.0)
        assert sim.now == 87_400.0
        assert sim.env.wall_clock() == 1_767_225_600.0 + 86_400.0
        sim.clock.jump_wall_clock(-3600.0)
        assert sim.env.wall_clock() == 1_767_225_600.0 + 82_800.0

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_run_until_a_time() -> None:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await sim.sleep(1.0)
            ticks.append(sim.now)

    with Simulation(1) as sim:
        sim.spawn(tick())
        sim.run(until=1003.5)
        assert ticks == [1001.0, 1002.0, 1003.0]
        assert sim.now == 1003.5


# Scripts.


def test_gather_gives_every_result_and_wait_for_gives_up() -> None:
    async def after(seconds: float) -> float:
        await sim.sleep(seconds)
        return seconds

    async def scenario() -> None:
        assert await sim.gather(after(3.0), after(1.0), after(2.0)) == [3.0, 1.0, 2.0]
        assert sim.now == 1003.0
        assert await sim.gather() == []
        assert await sim.wait_for(after(1.0), 2.0) == 1.0
        with pytest.raises(TimeoutError, match=r"within 2\.0 s"):
            await sim.wait_for(after(5.0), 2.0)
        assert sim.now == 1006.0

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())
        sim.run()
        assert sim.now < 1007.0, "the script given up still slept"


def test_gather_raises_the_first_failure_and_cancels_the_rest() -> None:
    cancelled: list[str] = []

    async def fail() -> None:
        await sim.sleep(1.0)
        raise KeyError("mine")

    async def wait() -> None:
        try:
            await sim.sleep(100.0)
        except ScriptCancelled:
            cancelled.append("wait")
            raise

    async def scenario() -> None:
        with pytest.raises(KeyError, match="mine"):
            await sim.gather(wait(), fail())
        await sim.sleep(1.0)
        assert cancelled == ["wait"]

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def test_a_failing_script_fails_the_run_with_the_seed() -> None:
    async def fail() -> None:
        await sim.sleep(1.0)
        raise ValueError("broken")

    async def scenario() -> None:
        sim.spawn(fail(), name="the broken one")
        await sim.sleep(10.0)

    with (
        Simulation(77) as sim,
        pytest.raises(ScriptFailed, match="seed 77: script the broken one: ValueError: broken") as caught,
    ):
        sim.run_until_complete(scenario())
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_backend_may_meet_the_weather_but_not_fail() -> None:
    async def serve(connection: Connection) -> None:
        await connection.receive_exactly(10)
        raise AssertionError("the backend's own")

    async def scenario() -> None:
        sim.backend("10.0.0.1", 7, serve)
        early = await sim.connect(7, "10.0.0.1")
        await early.send(b"short")
        await early.send_eof()
        with pytest.raises(ConnectionResetError):
            await early.receive()
        await (await sim.connect(7, "10.0.0.1")).send(bytes(10))
        await sim.sleep(10.0)

    with Simulation(1) as sim, pytest.raises(ScriptFailed, match="the backend's own"):
        sim.run_until_complete(scenario())


def test_a_deadlock_tells_who_waits_and_what_happened_last() -> None:
    async def wait_for_ever() -> None:
        listener = sim.listen("10.0.0.1", 7)
        sim.transcript.note("now waiting")
        await listener.accept()

    with Simulation(5) as sim, pytest.raises(SimulationDeadlock) as caught:
        sim.run_until_complete(wait_for_ever())
    assert "seed 5" in str(caught.value)
    assert "wait_for_ever" in str(caught.value)
    assert "# now waiting" in str(caught.value)

    with Simulation(5) as sim:
        sim.spawn(wait_for_ever(), daemon=True)
        sim.run()
        sim.listen("10.0.0.2", 7)
        sim.spawn(wait_for_ever(), name="second")
        with pytest.raises(ScriptFailed, match="address in use"):
            sim.run()


def test_run_waits_for_every_script_that_is_no_daemon() -> None:
    async def wait_for_ever() -> None:
        await sim.listen("10.0.0.1", 7).accept()

    with Simulation(5) as sim:
        sim.spawn(wait_for_ever())
        with pytest.raises(SimulationDeadlock, match="wait_for_ever"):
            sim.run()


def test_an_endless_run_is_stopped() -> None:
    async def spin() -> None:
        while True:
            await sim.sleep(0.0)

    with Simulation(1) as sim, pytest.raises(SimulationOverrun, match="1000 events and no end"):
        sim.run_until_complete(spin(), max_events=1000)


def test_an_exception_out_of_an_input_fails_the_run() -> None:
    class Broken(EchoSession):
        def receive_data(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    async def scenario() -> None:
        connection = await sim.connect(80)
        await connection.send(b"x")
        await connection.receive()

    with Simulation(8) as sim:
        sim.start_engine(SmallEngine(sim.env, Broken)).listen(80)
        with pytest.raises(ProgramFailed, match=r"seed 8: RuntimeError: a bug(?s:.*)> data\(c1, 'x'\)"):
            sim.run_until_complete(scenario())


def test_awaiting_something_foreign_is_said_so() -> None:
    class Foreign:
        def __await__(self):  # type: ignore[no-untyped-def]
            yield "from another loop"

    async def scenario() -> None:
        await Foreign()

    with Simulation(1) as sim, pytest.raises(ScriptFailed, match="which no simulation can wake"):
        sim.run_until_complete(scenario())


# What scripts speak.


def test_reading_helpers() -> None:
    async def scenario() -> None:
        listener = sim.listen("10.0.0.1", 7)
        client = await sim.connect(7, "10.0.0.1")
        server = await listener.accept()
        await client.send(b"first\r\nsecond\r\nrest")
        await client.send_eof()
        assert await server.receive_until(b"\r\n") == b"first\r\n"
        assert await server.receive_exactly(8) == b"second\r\n"
        with pytest.raises(EOFError, match="after 4 bytes"):
            await server.receive_until(b"\r\n")
        await server.send(bytes(100))
        server.close()
        with pytest.raises(ValueError, match="within 50 bytes"):
            await client.receive_until(b"\n", max_bytes=50)
        await client.receive_all()
        with pytest.raises(EOFError, match="0 of 1 bytes"):
            await client.receive_exactly(1)

    for seed in range(10):
        with Simulation(seed, faults=Faults(segment_bytes=(1, 5))) as sim:
            sim.run_until_complete(scenario())


async def upper_case(request: HttpRequest) -> HttpResponse:
    if request.target == b"/close":
        return HttpResponse(200, [(b"connection", b"close")], b"bye")
    return HttpResponse(200, [(b"x-method", request.method)], request.body.upper())


def test_http_client_and_backend() -> None:
    async def scenario() -> None:
        sim.http_backend("10.0.0.1", 80, upper_case)
        client = HttpClient(await sim.connect(80, "10.0.0.1"))
        response = await client.request(b"POST", b"/", body=b"hello")
        assert (response.status, response.body, response.field(b"x-method")) == (200, b"HELLO", b"POST")
        response = await client.request(b"PUT", b"/", body=b"in chunks", chunked=True)
        assert response.body == b"IN CHUNKS"
        assert (await client.request(b"HEAD", b"/", body=b"ignored")).body == b""
        assert client.reusable
        response = await client.request(b"GET", b"/close")
        assert response.body == b"bye"
        assert not client.reusable

    with Simulation(1, faults=Faults(segment_bytes=(1, 20))) as sim:
        sim.run_until_complete(scenario())


def test_a_truncated_response_is_an_early_end() -> None:
    async def truncate(connection: Connection) -> None:
        await connection.receive_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        connection.close()

    async def garble(connection: Connection) -> None:
        await connection.receive_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: nonsense\r\n\r\n")
        connection.close()

    async def scenario() -> None:
        sim.backend("10.0.0.1", 80, truncate)
        sim.backend("10.0.0.1", 81, garble)
        with pytest.raises(EOFError):
            await HttpClient(await sim.connect(80, "10.0.0.1")).request(b"GET", b"/")
        with pytest.raises(h11.RemoteProtocolError):
            await HttpClient(await sim.connect(81, "10.0.0.1")).request(b"GET", b"/")

    with Simulation(1) as sim:
        sim.run_until_complete(scenario())


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("app.example.com").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def test_tls_between_scripts() -> None:
    server_context, client_context = tls_contexts()

    async def scenario() -> None:
        listener = sim.listen("10.0.0.1", 443)

        async def serve() -> None:
            connection = await TlsConnection.start(await listener.accept(), server_context, server_side=True)
            assert await connection.receive_all() == b"x" * 100_000
            await connection.send(b"got it")
            await connection.send_eof()
            connection.close()

        async def ask() -> None:
            plain = await sim.connect(443, "10.0.0.1")
            connection = await TlsConnection.start(plain, client_context, server_name="app.example.com")
            await connection.send(b"x" * 100_000)
            await connection.send_eof()
            assert await connection.receive_all() == b"got it"
            with pytest.raises(ssl.SSLCertVerificationError):
                await TlsConnection.start(
                    await sim.connect(444, "10.0.0.1"), client_context, server_name="other.example.com"
                )

        async def serve_a_stranger() -> None:
            stranger = await sim.listen("10.0.0.1", 444).accept()
            with pytest.raises((ssl.SSLError, EOFError)):
                await TlsConnection.start(stranger, server_context, server_side=True)

        await sim.gather(serve(), serve_a_stranger(), ask())

    with Simulation(1, faults=Faults(segment_bytes=(1, 2000))) as sim:
        sim.run_until_complete(scenario())


# Sweeps and the command line.


ROUND_IN_CIRCLES = """
import sys

import smartproxy.drivers.simulation

sweep_module = sys.modules["smartproxy.drivers.simulation.sweep"]
sweep_module.MOST_SECONDS_PER_SEED = 0.2

async def never_returns(sim):
    while sim.seed == 1:
        sim.transcript.note("round and round")

for failure in sweep_module.sweep(never_returns, range(3)):
    print(failure.seed, failure.message)
"""


def test_a_seed_that_goes_round_in_circles_fails() -> None:
    # In a process that nobody traces: the alarm breaks into whatever runs, and a tracer it finds
    # holding its lock never lets go of it.
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-c", ROUND_IN_CIRCLES]
    result = subprocess.run(
        command, env=untraced, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert line.startswith("1 ")
    assert "still running after 0 s, at " in line


def test_a_sweep_gives_the_failing_seeds_and_their_messages() -> None:
    progress: list[int] = []
    failures = sweep(odd_seeds_fail, range(60), on_progress=lambda done, found: progress.append(done))
    assert [failure.seed for failure in failures] == list(range(1, 60, 2))
    assert "seed 1: script odd_seeds_fail: AssertionError: an odd seed" in failures[0].message
    assert progress == [25, 50, 60]


def test_a_sweep_over_processes_finds_the_same() -> None:
    failures = sweep(f"{THIS_FILE}:odd_seeds_fail", range(60), processes=2)
    assert [failure.seed for failure in failures] == list(range(1, 60, 2))


def test_the_command_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{THIS_FILE}:odd_seeds_fail", "--seeds", "30"]) == 1
    shown = capsys.readouterr().out
    assert "seed 1 failed: seed 1: script odd_seeds_fail: AssertionError: an odd seed" in shown
    assert "and 5 more" in shown
    assert "30 seeds, 15 failed" in shown
    assert "--seed 1 --transcript" in shown
    assert main([f"{THIS_FILE}:odd_seeds_fail", "--seeds", "1", "--first-seed", "4"]) == 0


def test_the_command_replays(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{THIS_FILE}:odd_seeds_fail", "--seed", "3"]) == 1
    shown = capsys.readouterr()
    assert "seed 3 failed" in shown.out
    assert "an odd seed" in shown.err


@pytest.mark.parametrize(
    "name", ["nothing", "no.such.module:f", f"{THIS_FILE}:no_such", "missing.py:f", ":f"]
)
def test_the_command_names_what_it_cannot_find(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert capsys.readouterr().err.strip()


def test_the_transcript_is_a_ring() -> None:
    with Simulation(1, transcript_lines=3) as sim:
        for number in range(5):
            sim.transcript.note(f"line {number}")
        assert sim.transcript.to_text() == (
            "(2 earlier lines dropped)\n    0.000000 # line 2\n    0.000000 # line 3\n    0.000000 # line 4\n"
        )
        assert sim.transcript.tail(1) == "    0.000000 # line 4"
        assert len(sim.transcript) == 3
