"""Raw TCP through the proxy: every byte in order, or an end that both sides can see."""

from __future__ import annotations

from simulated_world import World, forward_route

from smartproxy.drivers.simulation import WEATHER_ERRORS, ByteConnection, Connection, Simulation
from smartproxy.drivers.simulation.faults import log_uniform

PATIENCE_S = 900.0
GREETING = b"hello, I speak first\n"
TAG_BYTES = 4


class Side:
    """What one end of a conversation had to send, and what came of it."""

    def __init__(self, payload: bytes, *, ends: str) -> None:
        self.payload = payload
        self.ends = ends
        """`eof`, or `reset` after a part of the payload."""
        self.received = b""
        self.end = ""
        """How receiving ended: `eof`, `reset`, or empty for not at all."""
        self.finished_sending = False

    async def talk(self, sim: Simulation, connection: ByteConnection) -> None:
        try:
            await sim.gather(self._send(sim, connection), self._receive(sim, connection))
        except WEATHER_ERRORS:
            connection.reset()
        else:
            connection.close()

    async def _send(self, sim: Simulation, connection: ByteConnection) -> None:
        payload = self.payload
        if self.ends == "reset":
            payload = payload[: sim.random.randrange(len(payload))]
        position = 0
        while position < len(payload):
            size = log_uniform(sim.random, 1, 200_000)
            await connection.send(payload[position : position + size])
            position += size
            if sim.random.random() < 0.2:
                await sim.sleep(log_uniform(sim.random, 1, 2000) / 1000)
        if self.ends == "reset":
            connection.reset()
        else:
            self.finished_sending = True
            await connection.send_eof()

    async def _receive(self, sim: Simulation, connection: ByteConnection) -> None:
        pieces: list[bytes] = [self.received]
        try:
            while data := await connection.receive(log_uniform(sim.random, 1, 65536)):
                pieces.append(data)
                if sim.random.random() < 0.05:
                    await sim.sleep(log_uniform(sim.random, 1, 2000) / 1000)
            self.end = "eof"
        except WEATHER_ERRORS:
            self.end = "reset"
            raise
        finally:
            self.received = b"".join(pieces)


class Conversation:
    """A client and, if the proxy gets that far, the backend connection that belongs to it."""

    def __init__(self, sim: Simulation, number: int) -> None:
        tag = b"%0*d" % (TAG_BYTES, number)
        self.client_speaks_first = sim.random.random() < 0.7
        self.client = Side(tag + self._payload(sim), ends=self._end(sim))
        self.backend = Side(GREETING + self._payload(sim), ends=self._end(sim))
        self.backend_connections = 0

    @staticmethod
    def _payload(sim: Simulation) -> bytes:
        # Now and then long enough that the driver is asked to relay it.
        longest = 1_000_000 if sim.random.random() < 0.1 else 20_000
        return sim.random.randbytes(log_uniform(sim.random, 1, longest))

    @staticmethod
    def _end(sim: Simulation) -> str:
        return "reset" if sim.random.random() < 0.1 else "eof"

    def check(self) -> None:
        assert self.backend_connections <= 1
        for sender, receiver in ((self.client, self.backend), (self.backend, self.client)):
            assert sender.payload.startswith(receiver.received), "bytes lost, changed or out of order"
            if receiver.end == "eof" and self.backend_connections:
                assert sender.finished_sending, "end-of-file from a side that did not send it"
                assert receiver.received == sender.payload, (
                    f"a clean end after {len(receiver.received)} of {len(sender.payload)} bytes"
                )
        if not self.backend_connections:
            # A backend may have greeted, and been lost before it heard whom.
            assert GREETING.startswith(self.client.received)


async def raw_relay(sim: Simulation) -> None:
    """Clients and backends that speak in any order, half-close, dawdle and reset."""
    route = forward_route(7000, {"host": "app.internal", "port": 9000}, protocol="tcp")
    world = World(sim, {"routes": [route]})
    await relay_conversations(sim, world, 7000)


async def relay_conversations(sim: Simulation, world: World, port: int) -> None:
    sim.resolver["app.internal"] = ["10.0.0.1", "10.0.0.2", "2001:db8:1::1"][: sim.random.randint(1, 3)]
    conversations = [Conversation(sim, number) for number in range(sim.random.randint(1, 4))]

    async def serve(connection: Connection) -> None:
        await connection.send(GREETING)
        tag = await connection.receive_exactly(TAG_BYTES)
        conversation = conversations[int(tag)]
        conversation.backend_connections += 1
        side = conversation.backend
        side.received = tag
        side.payload = side.payload[len(GREETING) :]
        await side.talk(sim, connection)
        side.payload = GREETING + side.payload

    for host in ("10.0.0.1", "10.0.0.2", "2001:db8:1::1"):
        sim.backend(host, 9000, serve)

    async def converse(conversation: Conversation) -> None:
        await sim.sleep(sim.random.random() * 3.0)
        try:
            connection = await sim.connect(port)
            if not conversation.client_speaks_first:
                conversation.client.received = await connection.receive_exactly(len(GREETING))
        except WEATHER_ERRORS:
            return
        await conversation.client.talk(sim, connection)

    await sim.gather(*(sim.wait_for(converse(each), PATIENCE_S) for each in conversations))
    await world.settle()
    for conversation in conversations:
        conversation.check()
