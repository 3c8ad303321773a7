"""A bug planted on purpose is found by a sweep, and replays from its seed (told in docs/simulation.md)."""

from __future__ import annotations

import pytest
from gatekeeping_scenarios import gatekeeping
from simulated_world import World, forward_route

from smartproxy.core.security.rate_limit import _ExactWindow
from smartproxy.core.stream import Link
from smartproxy.drivers.simulation import Faults, ScriptFailed, Simulation, sweep

SEEDS = range(100, 300)


async def upload(sim: Simulation) -> None:
    """A client sends a file through the proxy, and the backend must get it whole."""
    route = forward_route(9000, {"host": "10.0.0.1", "port": 9000}, protocol="tcp")
    world = World(sim, {"routes": [route]}, Faults(segment_bytes=(1, 65536), send_buffer_bytes=8192))
    listener = sim.listen("10.0.0.1", 9000)
    client = await sim.connect(9000)
    file = b"".join(b"line %05d\n" % number for number in range(sim.random.randrange(1, 4000)))

    async def send() -> bytes:
        await client.send(file)
        await client.send_eof()
        return b""

    async def receive() -> bytes:
        backend = await listener.accept()
        received = await backend.receive_all()
        backend.close()
        return received

    received = (await sim.gather(send(), receive()))[1]
    # Compared beforehand: pytest would draw the difference of two long texts line by line, for every seed.
    is_whole = received == file
    assert is_whole, f"{len(received)} of {len(file)} bytes arrived"
    client.close()
    await world.settle()


@pytest.fixture
def planted_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that grows long forgets the write it took last: right on every fast network."""
    pull = Link.pull

    def pull_and_forget(link: Link) -> bytes:
        if len(link._outgoing) > 60:
            link.outgoing_bytes -= len(link._outgoing.pop())
        return pull(link)

    monkeypatch.setattr(Link, "pull", pull_and_forget)


def test_without_the_bug_every_seed_passes() -> None:
    assert sweep(upload, SEEDS) == []


@pytest.mark.usefixtures("planted_bug")
def test_a_sweep_finds_the_bug_and_the_seed_replays_it() -> None:
    failures = sweep(upload, SEEDS)
    # Most seeds are too kind for it.
    assert 0 < len(failures) < len(SEEDS) // 4
    first = failures[0]
    assert f"seed {first.seed}: script upload: AssertionError: " in first.message
    assert " bytes arrived" in first.message

    transcripts = []
    for _ in range(2):
        with Simulation(first.seed, transcript_lines=None) as sim:
            with pytest.raises(ScriptFailed) as caught:
                sim.run_until_complete(upload(sim))
            assert str(caught.value) == first.message
            transcripts.append(sim.transcript.to_text())
    assert transcripts[0] == transcripts[1]


@pytest.fixture
def forgetful_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request counts for nine tenths of its window: right for who never comes back that early."""
    advance = _ExactWindow.advance

    def advance_and_forget(window: _ExactWindow, now: float) -> None:
        advance(window, now)
        window.mark = now + 0.9 * window._window_s

    monkeypatch.setattr(_ExactWindow, "advance", advance_and_forget)


@pytest.mark.usefixtures("forgetful_limit")
def test_a_sweep_finds_a_rate_limit_that_counts_short() -> None:
    failures = sweep(gatekeeping, range(20))
    assert failures
    assert all(": AssertionError: number " in failure.message for failure in failures)
    with pytest.raises(ScriptFailed) as caught, Simulation(failures[0].seed) as sim:
        sim.run_until_complete(gatekeeping(sim))
    assert str(caught.value) == failures[0].message
