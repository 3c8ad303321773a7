"""HTTP/1.1 through the proxy: every response belongs to its request, and no request is done twice unasked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import h11
from simulated_world import World, forward_route

from smartproxy.drivers.simulation import (
    WEATHER_ERRORS,
    ByteConnection,
    Connection,
    Faults,
    HttpClient,
    HttpRequest,
    HttpResponse,
    Simulation,
)
from smartproxy.drivers.simulation.faults import log_uniform

PORT = 8000
PATIENCE_S = 900.0
BACKEND_IPS = ("10.0.0.1", "10.0.0.2", "2001:db8:1::2")
METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"HEAD")
IDEMPOTENT = (b"GET", b"PUT", b"DELETE", b"HEAD")
OWN_STATUSES = (408, 502, 503, 504)
"""What the proxy may answer by itself when the weather is to blame."""

HTTP_CONFIG: dict[str, Any] = {
    "routes": [forward_route(PORT, {"host": ["app1.internal", "app2.internal"], "port": 8080})]
}


def body_of(tag: bytes, size: int) -> bytes:
    """A body that belongs to one request and to no other."""
    piece = tag + b"|"
    return (piece * (size // len(piece) + 1))[:size]


class Traffic:
    """Clients and backends that tell every request from every other, and what they saw."""

    most_clients = 4
    most_executions = 2
    """Of a request that may be done again: each proxy on the way may try it once more."""
    backends_have_moods = True
    """Whether they die, dawdle and cut their responses now and then."""
    largest_body_bytes = 50_000

    def __init__(self, sim: Simulation, world: World) -> None:
        self.sim = sim
        self.world = world
        self.methods: dict[bytes, bytes] = {}
        self.executions: Counter[bytes] = Counter()
        self.answered = 0
        sim.resolver["app1.internal"] = ["10.0.0.1"]
        sim.resolver["app2.internal"] = ["10.0.0.2", "2001:db8:1::2"]

    def start_backends(self) -> None:
        for host in BACKEND_IPS:
            self.sim.http_backend(host, 8080, self.respond)

    async def respond(self, request: HttpRequest) -> HttpResponse:
        """Do a request: once counted, it is done, whatever becomes of the answer."""
        tag = request.field(b"x-tag")
        assert tag is not None
        assert request.method == self.methods[tag], "another request's method"
        assert request.target == b"/" + tag, "another request's target"
        size = int(request.field(b"x-body-size") or b"0")
        assert request.body == body_of(tag, size), "the request's content was changed"
        self.executions[tag] += 1
        random = self.sim.random
        mood = random.random() if self.backends_have_moods else 1.0
        if mood < 0.05:
            raise ConnectionResetError("a backend that dies instead of answering")
        if mood < 0.2:
            await self.sim.sleep(random.random() * (90.0 if mood < 0.1 else 2.0))
        response = HttpResponse(
            200, [(b"x-tag", tag)], body_of(tag, log_uniform(random, 1, self.largest_body_bytes))
        )
        if random.random() < 0.3:
            response.fields.append((b"transfer-encoding", b"chunked"))
        if random.random() < 0.1:
            response.fields.append((b"connection", b"close"))
        if self.backends_have_moods and random.random() < 0.05:
            response.cut_after_bytes = random.randrange(len(response.body))
            response.cut_by_reset = random.random() < 0.5
        return response

    def new_request(self, tag: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
        """A method, fields and a body for a tag never used before."""
        random = self.sim.random
        method = self.methods[tag] = random.choice(METHODS)
        has_body = method in (b"POST", b"PUT")
        body = body_of(tag, log_uniform(random, 1, self.largest_body_bytes) if has_body else 0)
        return method, [(b"x-tag", tag), (b"x-body-size", str(len(body)).encode())], body

    def check_response(self, tag: bytes, response: HttpResponse) -> None:
        assert response.status == 200 or response.status in OWN_STATUSES, response
        self.answered += 1
        if response.status == 200:
            assert response.field(b"x-tag") == tag, "a response to another request"
            assert response.body == body_of(tag, len(response.body)), "another response's content"
            assert bool(response.body) == (self.methods[tag] != b"HEAD")
            assert self.executions[tag] >= 1

    async def browse(self, name: str, connection: ByteConnection, host: bytes, count: int) -> None:
        """One request after another on one connection, until it ends."""
        random = self.sim.random
        client = HttpClient(connection, host=host)
        for number in range(count):
            tag = f"{name}-{number}".encode()
            method, fields, body = self.new_request(tag)
            if random.random() < 0.05:
                self.sim.spawn(self._leave_early(connection), daemon=True)
            response = await client.request(
                method, b"/" + tag, fields=fields, body=body, chunked=bool(body) and random.random() < 0.3
            )
            self.check_response(tag, response)
            if not client.reusable:
                break
            if random.random() < 0.3:
                await self.sim.sleep(log_uniform(random, 1, 100_000) / 1000)
        connection.close()

    async def _leave_early(self, connection: ByteConnection) -> None:
        await self.sim.sleep(self.sim.random.random() * 0.2)
        connection.reset()

    async def pipeline(self, name: str, connection: ByteConnection, host: bytes, count: int) -> None:
        """Several requests at once; their answers must come in the same order (RFC 9112 §9.3.2)."""
        tags = [f"{name}-{number}".encode() for number in range(count)]
        sent = b""
        for tag in tags:
            self.methods[tag] = b"GET"
            sent += b"GET /" + tag + b" HTTP/1.1\r\nHost: " + host + b"\r\nX-Tag: " + tag + b"\r\n\r\n"
        await connection.send(sent)
        early = b""
        for tag in tags:
            protocol = h11.Connection(h11.CLIENT)
            protocol.send(h11.Request(method=b"GET", target=b"/", headers=[(b"host", b"x")]))
            protocol.send(h11.EndOfMessage())
            response, early = await self._receive_response(connection, protocol, early)
            self.check_response(tag, response)
            if response.field(b"connection") == b"close":
                break
        connection.close()

    @staticmethod
    async def _receive_response(
        connection: ByteConnection, protocol: h11.Connection, early: bytes
    ) -> tuple[HttpResponse, bytes]:
        response = HttpResponse(0)
        if early:
            protocol.receive_data(early)
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                data = await connection.receive()
                if not data:
                    raise EOFError("cut")
                protocol.receive_data(data)
            elif isinstance(event, h11.Response):
                response.status = event.status_code
                response.fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h11.Data):
                response.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return response, bytes(protocol.trailing_data[0])

    async def connect(self) -> Connection:
        return await self.sim.connect(PORT)

    async def client(self, name: str) -> None:
        """One client: it may connect again when its connection ends."""
        random = self.sim.random
        await self.sim.sleep(random.random() * 3.0)
        for attempt in range(random.randint(1, 3)):
            try:
                connection = await self.connect()
                await self.visit(f"{name}-{attempt}", connection)
            except WEATHER_ERRORS:
                continue

    async def visit(self, name: str, connection: ByteConnection, host: bytes = b"app.example.com") -> None:
        random = self.sim.random
        visit = self.pipeline if random.random() < 0.2 else self.browse
        try:
            await visit(name, connection, host, random.randint(1, 6))
        except WEATHER_ERRORS:
            connection.reset()
            raise

    async def run(self, *beside: Any) -> None:
        """Run a few clients, and other scripts beside them, to their end."""
        clients = [
            self.client(f"c{number}") for number in range(self.sim.random.randint(1, self.most_clients))
        ]
        await self.sim.gather(*(self.sim.wait_for(each, PATIENCE_S) for each in (*clients, *beside)))

    def check(self) -> None:
        for tag, count in self.executions.items():
            most = self.most_executions if self.methods[tag] in IDEMPOTENT else 1
            assert count <= most, f"{self.methods[tag]!r} {tag!r} was done {count} times"


async def http_keep_alive(sim: Simulation) -> None:
    """Clients keep connections, backends are pooled, and everything breaks now and then."""
    world = World(sim, HTTP_CONFIG)
    traffic = Traffic(sim, world)
    traffic.start_backends()
    await traffic.run()
    await world.settle()
    traffic.check()


async def http_calm(sim: Simulation) -> None:
    """The same without any fault of the network: what is answered by the proxy is the backends' doing."""
    world = World(sim, HTTP_CONFIG, sim.faults)
    traffic = Traffic(sim, world)
    traffic.start_backends()
    await traffic.run()
    await world.settle()
    traffic.check()


async def vanishing_backends(sim: Simulation) -> None:
    """Backends that fall silent without a word, and resets that take what had arrived with them."""
    world = World(sim, HTTP_CONFIG)
    traffic = Traffic(sim, world)
    traffic.start_backends()
    faults = replace(Faults.rough(), vanish_probability=0.3, reset_discards_received_probability=0.5)
    for host in BACKEND_IPS:
        sim.network.host_faults[host] = faults
    await traffic.run()
    await world.settle()
    traffic.check()


async def small_pool(sim: Simulation) -> None:
    """One backend connection for everybody: the others wait for it, or are told that they cannot."""
    limits = {"pool_connections_per_host": 1, "pool_idle_per_host": 1, "pending_per_host": 2}
    world = World(sim, {**HTTP_CONFIG, "limits": limits, "pool_idle_timeout": 5})
    traffic = Traffic(sim, world)
    traffic.start_backends()
    await traffic.run()
    await world.settle()
    traffic.check()


async def draining(sim: Simulation) -> None:
    """A graceful stop in the middle of everything."""
    world = World(sim, HTTP_CONFIG)
    traffic = Traffic(sim, world)
    traffic.start_backends()

    async def drain() -> None:
        await sim.sleep(sim.random.random() * 6.0)
        world.proxy.drain()

    await traffic.run(drain())
    await world.settle()
    traffic.check()


def _generation_config(number: int) -> Mapping[str, Any]:
    route = forward_route(PORT, {"host": ["app1.internal", "app2.internal"], "port": 8080})
    return {"routes": [{**route, "headers": {"response": {"X-Generation": str(number)}}}]}


class ChangingTraffic(Traffic):
    """Clients that know which configurations were in force while they connected."""

    number = 0

    async def client(self, name: str) -> None:
        random = self.sim.random
        await self.sim.sleep(random.random() * 3.0)
        for attempt in range(random.randint(1, 3)):
            oldest = self.number
            try:
                connection = await self.sim.connect(PORT)
                self.allowed = range(oldest, self.number + 1)
                await self.visit(f"{name}-{attempt}-{oldest}-{self.number}", connection)
            except WEATHER_ERRORS:
                continue

    def check_response(self, tag: bytes, response: HttpResponse) -> None:
        super().check_response(tag, response)
        if response.status == 200:
            oldest, newest = (int(text) for text in tag.split(b"-")[2:4])
            generation = int(response.field(b"x-generation") or b"-1")
            assert oldest <= generation <= newest, f"{tag!r} was served by generation {generation}"


async def changing_configuration(sim: Simulation) -> None:
    """The configuration is replaced under load: every connection keeps the one it began with."""
    world = World(sim, _generation_config(0))
    traffic = ChangingTraffic(sim, world)
    traffic.start_backends()

    async def change() -> None:
        for number in range(1, 4):
            await sim.sleep(sim.random.random() * 3.0)
            traffic.number = number
            world.update(_generation_config(number))

    await traffic.run(change())
    await world.settle()
    traffic.check()
