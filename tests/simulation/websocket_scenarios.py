"""WebSockets through two proxies, any version of HTTP between them: frames whole and in order, and an end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from chained_scenarios import front_config, inner_config
from http_scenarios import BACKEND_IPS, OWN_STATUSES, PORT
from simulated_world import World

from smartproxy.core.wire.websocket import (
    CloseCode,
    Opcode,
    accept_key,
    apply_mask,
    encode_close,
    encode_frame,
)
from smartproxy.drivers.simulation import WEATHER_ERRORS, ByteConnection, Connection, Simulation
from smartproxy.drivers.simulation.faults import log_uniform
from smartproxy.drivers.simulation.proxy import SimulatedProxy

PATIENCE_S = 86_400.0
CLOSE_PATIENCE_S = 300.0
"""For the end of the connection behind the Closes: longer than every stall of the weather."""

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
LARGEST_PAYLOAD_BYTES = 50_000
ASKS_FOR_CLOSE = b"close, please"
BACKEND_CLOSE = 4001


@dataclass(slots=True)
class Message:
    opcode: Opcode
    payload: bytes


@dataclass(slots=True)
class WebSocketEnd:
    """One end of an open WebSocket, a client's or a server's."""

    sim: Simulation
    connection: ByteConnection
    is_client: bool
    pings_sent: deque[bytes] = field(default_factory=deque)
    close_sent: int | None = None
    close_received: int | None = None
    _outbox: bytearray = field(default_factory=bytearray)
    _is_sending: bool = False

    # Sending.

    def _mask_key(self) -> bytes | None:
        return self.sim.random.randbytes(4) if self.is_client else None

    async def _send(self, frame: bytes) -> None:
        """Send a frame whole: another may be on its way, which comes first."""
        self._outbox += frame
        if self._is_sending:
            return
        self._is_sending = True
        try:
            while self._outbox:
                frames, self._outbox = bytes(self._outbox), bytearray()
                await self.connection.send(frames)
        finally:
            self._is_sending = False

    async def send_message(self, message: Message) -> None:
        """In one frame or several, now and then with a Ping in between (RFC 6455 §5.4)."""
        random = self.sim.random
        opcode, rest = message.opcode, message.payload
        while self.close_sent is None:
            size = len(rest) if random.random() < 0.7 else random.randint(0, len(rest))
            piece, rest = rest[:size], rest[size:]
            await self._send(encode_frame(opcode, piece, fin=not rest, mask_key=self._mask_key()))
            opcode = Opcode.CONTINUATION
            if random.random() < 0.1:
                await self.send_ping()
            if not rest:
                return

    async def send_ping(self) -> None:
        if self.close_sent is None:
            payload = self.sim.random.randbytes(self.sim.random.randint(0, 125))
            self.pings_sent.append(payload)
            await self._send(encode_frame(Opcode.PING, payload, mask_key=self._mask_key()))

    async def send_close(self, code: int) -> None:
        if self.close_sent is None:
            self.close_sent = code
            await self._send(encode_close(code, "reason", self._mask_key()))

    # Receiving.

    async def receive_message(self) -> Message | None:
        """The next message; None once a Close has come, and has been answered. Raises EOFError."""
        opcode = Opcode.CONTINUATION
        pieces: list[bytes] = []
        while True:
            fin, frame_opcode, payload = await self._receive_frame()
            if frame_opcode is Opcode.PING:
                if self.close_sent is None:
                    await self._send(encode_frame(Opcode.PONG, payload, mask_key=self._mask_key()))
            elif frame_opcode is Opcode.PONG:
                assert self.pings_sent, "a Pong nobody asked for"
                assert payload == self.pings_sent.popleft(), "another Ping's Pong"
            elif frame_opcode is Opcode.CLOSE:
                self.close_received = int.from_bytes(payload[:2], "big")
                await self.send_close(self.close_received)
                return None
            else:
                assert (frame_opcode is Opcode.CONTINUATION) == bool(pieces), "a message within a message"
                opcode = opcode if pieces else frame_opcode
                pieces.append(payload)
                if fin:
                    return Message(opcode, b"".join(pieces))

    async def _receive_frame(self) -> tuple[bool, Opcode, bytes]:
        receive = self.connection.receive_exactly
        first, second = await receive(2)
        assert not first & 0x70, "a reserved bit without an extension"
        assert bool(second & 0x80) != self.is_client, "masked by a server, or not by a client"
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(await receive(2 if length == 126 else 8), "big")
        mask_key = b"" if self.is_client else await receive(4)
        payload = await receive(length) if length else b""
        return (
            bool(first & 0x80),
            Opcode(first & 0x0F),
            apply_mask(payload, mask_key) if mask_key else payload,
        )

    async def receive_end(self) -> None:
        """Whatever comes behind the Closes, to the end of the connection."""
        assert not await self.sim.wait_for(self.connection.receive_all(), CLOSE_PATIENCE_S), (
            "bytes after Close"
        )


@dataclass(slots=True)
class Conversation:
    """What a client had to say, and what came of it."""

    messages: list[Message]
    end: str
    """Who ends it, and how: `client`, `backend`, `reset` or `eof`."""
    idle_s: float
    echoed: list[Message] = field(default_factory=list)
    status: int = 0
    close_code: int | None = None
    finished_sending: bool = False


class WebSocketTraffic:
    """Clients on HTTP/1.1, and backends that send back every message."""

    def __init__(self, sim: Simulation, proxy_closes: set[int], longest_idle_s: int) -> None:
        self.sim = sim
        self.conversations: list[Conversation] = []
        self.open_at_backends = 0
        self._proxy_closes = proxy_closes
        """Codes that a proxy on the way may end a WebSocket with."""
        self._longest_idle_s = longest_idle_s
        sim.resolver["inner.internal"] = ["10.0.1.1"]
        sim.resolver["app1.internal"] = ["10.0.0.1"]
        sim.resolver["app2.internal"] = ["10.0.0.2", "2001:db8:1::2"]
        for host in BACKEND_IPS:
            sim.backend(host, 8080, self._serve)

    # The backends.

    async def _serve(self, connection: Connection) -> None:
        self.open_at_backends += 1
        try:
            head = await connection.receive_until(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            key = fields[b"sec-websocket-key"]
            await connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
            )
            await self._echo(WebSocketEnd(self.sim, connection, is_client=False))
        finally:
            self.open_at_backends -= 1

    async def _echo(self, end: WebSocketEnd) -> None:
        random = self.sim.random
        while (message := await end.receive_message()) is not None:
            if message.payload == ASKS_FOR_CLOSE:
                await end.send_close(BACKEND_CLOSE)
            else:
                await end.send_message(message)
                if random.random() < 0.1:
                    await end.send_ping()
        end.connection.close()

    # The clients.

    def _new_conversation(self, name: str) -> Conversation:
        random = self.sim.random
        messages = []
        for number in range(random.randint(0, 6)):
            text = f"{name}-{number}|".encode()
            size = log_uniform(random, 1, LARGEST_PAYLOAD_BYTES)
            payload = (text * (size // len(text) + 1))[:size]
            messages.append(Message(random.choice((Opcode.TEXT, Opcode.BINARY)), payload))
        end = random.choices(("client", "backend", "reset", "eof"), (6, 3, 1, 1))[0]
        if end == "backend":
            messages.append(Message(Opcode.TEXT, ASKS_FOR_CLOSE))
        idle_s = log_uniform(random, 1, self._longest_idle_s) if random.random() < 0.3 else 0
        conversation = Conversation(messages, end, idle_s)
        self.conversations.append(conversation)
        return conversation

    async def client(self, name: str) -> None:
        await self.sim.sleep(self.sim.random.random() * 3.0)
        for attempt in range(self.sim.random.randint(1, 3)):
            conversation = self._new_conversation(f"{name}-{attempt}")
            try:
                connection = await self.sim.connect(PORT)
            except WEATHER_ERRORS:
                continue
            try:
                await self._converse(connection, conversation)
            except WEATHER_ERRORS:
                connection.reset()
            else:
                connection.close()

    async def _converse(self, connection: ByteConnection, conversation: Conversation) -> None:
        await connection.send(
            b"GET /chat HTTP/1.1\r\nHost: app.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
        )
        head = await connection.receive_until(b"\r\n\r\n")
        conversation.status = int(head.split(b" ", 2)[1])
        if conversation.status != 101:
            assert conversation.status in OWN_STATUSES, head
            return
        assert accept_key(KEY) in head
        end = WebSocketEnd(self.sim, connection, is_client=True)
        sending = self.sim.spawn(self._say(end, conversation), daemon=True)
        # The sender meets what weather the receiver meets.
        sending.on_done(lambda: None)
        try:
            while (message := await end.receive_message()) is not None:
                conversation.echoed.append(message)
            conversation.close_code = end.close_received
            self.sim.transcript.note(f"closed with {end.close_received}")
            await end.receive_end()
        finally:
            sending.cancel()

    async def _say(self, end: WebSocketEnd, conversation: Conversation) -> None:
        random = self.sim.random
        for message in conversation.messages:
            if conversation.idle_s and random.random() < 0.3:
                await self.sim.sleep(conversation.idle_s)
            elif random.random() < 0.3:
                await self.sim.sleep(log_uniform(random, 1, 20_000) / 1000)
            await end.send_message(message)
        conversation.finished_sending = True
        if conversation.end == "client":
            await end.send_close(CloseCode.NORMAL_CLOSURE)
        elif conversation.end == "reset":
            end.connection.reset()
        elif conversation.end == "eof":
            await end.connection.send_eof()

    async def run(self, *beside: Any) -> None:
        clients = [self.client(f"c{number}") for number in range(self.sim.random.randint(1, 4))]
        await self.sim.gather(*(self.sim.wait_for(each, PATIENCE_S) for each in (*clients, *beside)))

    def check(self) -> None:
        assert not self.open_at_backends, f"{self.open_at_backends} backends still wait for an end"
        for conversation in self.conversations:
            self._check(conversation)

    def _check(self, conversation: Conversation) -> None:
        said = [message for message in conversation.messages if message.payload != ASKS_FOR_CLOSE]
        assert conversation.echoed == said[: len(conversation.echoed)], (
            "messages lost, changed or out of order"
        )
        code = conversation.close_code
        if code is None:
            return
        if code in (CloseCode.NORMAL_CLOSURE, BACKEND_CLOSE):
            assert conversation.finished_sending, f"closed with {code} before anybody wanted it"
            assert conversation.end == ("client" if code == CloseCode.NORMAL_CLOSURE else "backend")
            assert conversation.echoed == said, f"closed with {code} before the last message"
        else:
            assert code in self._proxy_closes, f"closed with {code}"


def _websocket_options(sim: Simulation, proxy_closes: set[int]) -> dict[str, Any]:
    """Options at random; `proxy_closes` gets the codes that the proxy may then close with."""
    random = sim.random
    options: dict[str, Any] = {}
    if random.random() < 0.4:
        options["ping_interval"] = random.choice((5, 30, 600))
        options["ping_timeout"] = random.choice((1, 20))
        proxy_closes.add(CloseCode.INTERNAL_ERROR)
    if random.random() < 0.3:
        options["max_payload_size"] = log_uniform(random, 100, LARGEST_PAYLOAD_BYTES)
        proxy_closes.add(CloseCode.MESSAGE_TOO_BIG)
    if options:
        # Ends that need frames to be seen: too long a wait for a Close, or for anything.
        proxy_closes.add(CloseCode.GOING_AWAY)
    if random.random() < 0.3:
        options["idle_timeout"] = random.choice((60, 1800))
    return options


async def websockets(sim: Simulation) -> None:
    """WebSockets that talk, rest for hours and close, while the proxies are reconfigured."""
    random = sim.random
    protocol = random.choice(("http1", "http2", "http3"))
    with_tls = protocol == "http3" or random.random() < 0.3
    proxy_closes: set[int] = set()
    front = front_config(protocol, with_tls=with_tls)
    front["routes"][0]["action"]["websocket"] = _websocket_options(sim, proxy_closes)
    inner_options = _websocket_options(sim, proxy_closes)
    quic: dict[str, Any] | None = {} if protocol == "http3" else None

    def new_inner_config(generation: int) -> dict[str, Any]:
        config = inner_config(with_tls=with_tls, generation=generation, quic=quic)
        config["routes"][0]["action"]["websocket"] = inner_options
        return config

    world = World(sim, front)
    inner = world.start(new_inner_config(0))
    # A QUIC connection is kept alive every few seconds, each time in the same way.
    traffic = WebSocketTraffic(sim, proxy_closes, 300 if protocol == "http3" else 6 * 3600)

    async def change(proxy: SimulatedProxy, config: dict[str, Any]) -> None:
        await sim.sleep(random.random() * 10.0)
        world.update(config, proxy)

    await traffic.run(change(world.proxy, front), change(inner, new_inner_config(1)))
    await world.settle()
    traffic.check()
