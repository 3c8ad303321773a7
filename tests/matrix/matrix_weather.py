"""The matrix in bad weather: a proxy on a network that splits, delays, loses, doubles and reorders."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from matrix_ends import Client, start_backend
from matrix_pairs import Pair, route
from matrix_peers import Stream, StreamAborted, Version
from matrix_world import SimulatedWorld, world_on
from simulated_world import World
from simulation_network import SimulationNetwork

from smartproxy.drivers.simulation import WEATHER_ERRORS, Faults, Simulation

ROUGH_BUT_WHOLE = Faults(
    latency_s=(0.0001, 0.05),
    segment_bytes=(1, 4096),
    send_buffer_bytes=16 * 1024,
    receive_buffer_bytes=16 * 1024,
    datagram_loss_probability=0.03,
    datagram_duplicate_probability=0.05,
    datagram_reorder_probability=0.1,
    datagram_delay_s=(0.0005, 0.03),
    timer_lateness_s=(0.0, 0.02),
)
"""Nothing is lost for good, so every case must end as ever."""

PATIENCE_S = 300.0
EXCHANGE_PATIENCE_S = 150.0
OWN_STATUSES = (408, 502, 503, 504)
"""What the proxy may answer by itself when the weather is to blame."""

Script = Callable[[Pair], Coroutine[Any, Any, None]]


def run_in_weather(seed: int, front: Version, back: Version, faults: Faults, script: Script) -> None:
    """Run a script in one simulated world, and find the proxy empty when it is over."""
    with Simulation(seed) as sim:
        sim.run_until_complete(_run(sim, front, back, faults, script))


async def _run(sim: Simulation, front: Version, back: Version, faults: Faults, script: Script) -> None:
    net = SimulationNetwork(sim)
    async with world_on(net) as world:
        assert isinstance(world, SimulatedWorld)
        world.patience_s = PATIENCE_S
        backend = await start_backend(world, back)
        routes = [route(backend, front, tls=front == "3")]
        proxy = World(sim, {"listen": ["127.0.0.1"], "routes": routes}, faults)
        client = Client(world, front, "127.0.0.1", proxy.proxy.ports[0], tls=front == "3")
        await script(Pair(world, client, backend, None))
    await proxy.settle()


class Storm:
    """Clients and a backend that do what they can, in weather that kills connections."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        assert isinstance(pair.world, SimulatedWorld)
        self._sim = pair.world.sim
        self.whole = 0

    async def run(self) -> None:
        self._pair.world.spawn(self._serve())
        await self._sim.gather(*(self._visit(name) for name in ("a", "b", "c")))

    async def _serve(self) -> None:
        while True:
            request = await self._pair.backend.request()
            self._pair.world.spawn(self._answer(request))

    async def _answer(self, request: Stream) -> None:
        random = self._sim.random
        try:
            if random.random() < 0.2:
                request.inform(103, [("link", "</style.css>")])
            content = await request.read_all()
            mood = random.random()
            if mood < 0.1:
                request.reset()
                return
            await self._sim.sleep(random.random() * 0.5)
            request.respond_head(200, [("x-path", request.request.path)])
            await request.send(content[::-1])
            if mood < 0.2:
                request.reset()
                return
            await request.end([("x-length", str(len(content)))])
        except StreamAborted:
            pass

    async def _visit(self, name: str) -> None:
        client = self._pair.client.unconnected()
        for number in range(4):
            try:
                await self._sim.wait_for(self._exchange(client, f"/{name}/{number}"), EXCHANGE_PATIENCE_S)
            except (*WEATHER_ERRORS, StreamAborted):
                # This connection may be one of which nothing is ever heard again.
                client = client.unconnected()

    async def _exchange(self, client: Client, path: str) -> None:
        random = self._sim.random
        content = random.randbytes(random.choice((1, 1000, 30_000, 100_000)))
        stream = await client.open("POST", path)
        leaves_early = random.random() < 0.1
        await stream.send(content)
        if leaves_early:
            stream.reset()
            return
        await stream.end()
        head = await stream.response()
        answer = await stream.read_all()
        if head.status == 200:
            assert head.get("x-path") == path, "another request's response"
            assert answer == content[::-1], "content was changed or lost"
            assert stream.trailers == [("x-length", str(len(content)))]
            self.whole += 1
        else:
            assert head.status in OWN_STATUSES, head


__all__ = ["ROUGH_BUT_WHOLE", "Storm", "run_in_weather"]
