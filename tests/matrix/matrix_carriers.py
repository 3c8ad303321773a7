"""The tasks that carry a peer's bytes and datagrams between its wire and its socket."""

from __future__ import annotations

import ssl
from typing import Protocol

from harness import Connection, UdpSocket
from matrix_http1 import Http1Wire
from matrix_http2 import Http2Wire
from matrix_http3 import Http3Endpoint, Http3Wire
from matrix_world import Bell, World

StreamWire = Http1Wire | Http2Wire
NETWORK_ERRORS = (ConnectionError, TimeoutError, EOFError)
PLAINTEXT_BYTES = 16 * 1024
TICK_S = 1e-6
RECEIVE_BYTES = 64 * 1024


class ByteCarrier(Protocol):
    """A stream's socket, or TLS over one."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


class TlsCarrier:
    """TLS over a connection; one task sends, another receives."""

    def __init__(self, below: Connection, context: ssl.SSLContext, server_name: str | None) -> None:
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )

    async def handshake(self) -> None:
        """Raises ssl.SSLError, and EOFError when the peer leaves."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise EOFError("the peer ended the connection during the TLS handshake") from None
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._below.send(data)

    async def _fill(self) -> bool:
        data = await self._below.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), PLAINTEXT_BYTES):
            self.tls.write(data[start : start + PLAINTEXT_BYTES])
            await self._flush()

    async def receive(self) -> bytes:
        while True:
            try:
                return self.tls.read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def reset(self) -> None:
        self._below.reset()

    def close(self) -> None:
        self._below.close()


class StreamCarrier:
    """One connection over a stream."""

    def __init__(self, world: World, below: ByteCarrier, wire: StreamWire) -> None:
        self._below = below
        self.wire = wire
        self._is_closed = False
        self._is_reading = False
        self._cancel_reading = world.spawn(self._read())
        world.spawn(self._write())
        world.endings.append(self._close_socket)

    async def _read(self) -> None:
        wire = self.wire
        self._is_reading = True
        try:
            while not wire.lost:
                await wire.bell.wait_until(lambda: wire.wants_data or wire.lost)
                data = await self._below.receive()
                if not data:
                    wire.receive_eof()
                    break
                wire.receive_data(data)
                wire.bell.ring()
        except NETWORK_ERRORS as error:
            wire.connection_lost(type(error).__name__)
        finally:
            self._is_reading = False
            wire.bell.ring()

    async def _write(self) -> None:
        wire = self.wire
        try:
            while not (wire.wants_reset or wire.lost):
                if data := wire.data_to_send():
                    await self._below.send(data)
                    wire.bell.ring()
                elif wire.wants_close:
                    break
                else:
                    await wire.bell.wait()
        except NETWORK_ERRORS as error:
            # What came before the connection broke is still read.
            await wire.bell.wait_until(lambda: not self._is_reading or wire.wants_reset)
            wire.connection_lost(type(error).__name__)
        # A socket is closed only when no task waits on it.
        self._cancel_reading()
        await wire.bell.wait_until(lambda: not self._is_reading)
        self._is_closed = True
        if wire.wants_reset:
            self._below.reset()
        else:
            self._below.close()
        wire.connection_lost("this side closed the connection")

    def _close_socket(self) -> None:
        if not self._is_closed:
            self._below.close()


class DatagramCarrier:
    """QUIC connections over one UDP socket: a client's one, or all of a backend's."""

    def __init__(self, world: World, socket: UdpSocket, bell: Bell) -> None:
        self._world = world
        self._socket = socket
        self._bell = bell
        self.wires: list[Http3Wire] = []
        self.endpoint: Http3Endpoint | None = None
        world.spawn(self._read())
        world.spawn(self._write())
        world.endings.append(socket.close)

    async def _read(self) -> None:
        while True:
            try:
                data, source = await self._socket.receive_from()
            except ConnectionError:
                # An ICMP error about a datagram sent before; QUIC has timers for that.
                continue
            now = self._world.now()
            if self.endpoint is not None:
                self.endpoint.receive_datagram(data, source, now)
            else:
                self.wires[0].receive_datagram(data, source, now)
            self._bell.ring()

    async def _write(self) -> None:
        while True:
            rings = self._bell.rings
            next_timer: float | None = None
            for wire in list(self.wires):
                timer = await self._serve(wire)
                if timer is not None and (next_timer is None or timer < next_timer):
                    next_timer = timer
            if self._bell.rings == rings:
                await self._bell.wait(None if next_timer is None else next_timer - self._world.now())

    async def _serve(self, wire: Http3Wire) -> float | None:
        """Send what there is to send; when the wire wants to be called again."""
        now = self._world.now()
        timer = wire.timer()
        if timer is not None and timer <= now:
            # At its very deadline, rounding may leave aioquic's loss timer due again.
            wire.handle_timer(now + TICK_S)
            self._bell.ring()
        datagrams = wire.datagrams_to_send(now)
        for data, destination in datagrams:
            await self._socket.send_to(data, destination)
        if datagrams:
            self._bell.ring()
        return wire.timer()
