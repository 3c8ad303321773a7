"""A WebSocket tunnel between two links, driven by hand; wsproto speaks at both ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Ping

from smartproxy.core.configuration import WebSocketRules
from smartproxy.core.context import Context
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.relay.tunnel import Tunnel
from smartproxy.core.relay.websocket_tunnel import join_websocket
from smartproxy.core.stream import Ending, Link
from smartproxy.core.timers import Timer

MASK = b"\x0a\x0b\x0c\x0d"
LOST = Failure(FailureSource.CLIENT, FailureCode.CONNECTION_TERMINATED)


class CountingEntropy:
    """Bytes that are never the same twice."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(size, "big")


class Peer:
    """One end: what it sends arrives at once, what it is sent waits until it reads."""

    def __init__(self, link: Link, kind: ConnectionType) -> None:
        self.link = link
        self.wsproto = Connection(kind)

    def send(self, data: bytes | Event) -> None:
        """Bytes as they are, or an event as wsproto writes it. Nothing comes of what a link does not read."""
        assert self.link.reading
        self.link.handler.receive_data(data if isinstance(data, bytes) else self.wsproto.send(data))

    def take(self) -> bytes:
        """Everything there is to read."""
        received = b""
        while data := self.link.pull():
            received += data
        if self.link.notify_writable and not self.link.outgoing_bytes:
            self.link.handler.stream_writable()
        return received

    def events(self) -> list[Event]:
        """Everything there is to read, as wsproto reads it; its refusal raises."""
        self.wsproto.receive_data(self.take() or None) if self.link.outgoing_bytes else None
        return list(self.wsproto.events())

    def answer_pings(self) -> list[Event]:
        events = self.events()
        for event in events:
            if isinstance(event, Ping):
                self.send(event.response())
        return events

    def close_events(self) -> list[tuple[int, str | None]]:
        return [
            (int(event.code), event.reason) for event in self.events() if isinstance(event, CloseConnection)
        ]

    def end(self) -> None:
        self.link.handler.receive_eof()

    def ending(self) -> Ending:
        return self.link.ending


class JoinedByHand:
    """A tunnel and its two peers, in virtual time."""

    def __init__(
        self,
        *,
        idle_s: float = 3600.0,
        ping_interval_s: float | None = None,
        ping_timeout_s: float = 20.0,
        max_payload_bytes: int | None = None,
        extensions: bytes = b"",
        expires_at: float = 1e9,
        join: Callable[..., Tunnel] = join_websocket,
    ) -> None:
        self.context = Context(Env(CountingEntropy(), lambda: 0.0))
        address = ("192.0.2.1", 1)
        self.client = Peer(Link(self.context, 1, address, address), ConnectionType.CLIENT)
        self.backend = Peer(Link(self.context, 2, address, address), ConnectionType.SERVER)
        self.ends: deque[Failure | None] = deque()
        self.tunnel = join(
            self.context,
            self.client.link,
            self.backend.link,
            rules=WebSocketRules(
                ping_interval_s=ping_interval_s,
                ping_timeout_s=ping_timeout_s,
                max_payload_bytes=max_payload_bytes,
            ),
            extensions=extensions,
            timer=Timer(lambda: None),
            idle_s=idle_s,
            expires_at=expires_at,
            on_end=self.ends.append,
        )

    def close_code(self) -> int | None:
        return self.tunnel.close_code

    def advance(self, seconds: float) -> None:
        """Let time pass, with every timer on its way."""
        until = self.context.now + seconds
        while (deadline := self.context.timers.next_deadline()) <= until:
            self.context.now = max(self.context.now, deadline)
            self.context.timers.fire(self.context.now)
        self.context.now = until
