"""What scripts hold: connections and listeners, awaited in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from smartproxy.core.datagrams import Datagram
from smartproxy.core.ops import Address
from smartproxy.drivers.simulation.datagrams import VirtualDatagramSocket
from smartproxy.drivers.simulation.sockets import VirtualSocket
from smartproxy.drivers.simulation.tasks import Signal

RECEIVE_BYTES = 64 * 1024
MAX_LINE_BYTES = 1024 * 1024


class ByteConnection:
    """A stream of bytes both ways, in a script's hands: plain (`Connection`) or TLS (`TlsConnection`)."""

    def __init__(self) -> None:
        self._read_ahead = b""

    @property
    def local(self) -> Address:
        raise NotImplementedError

    @property
    def peer(self) -> Address:
        raise NotImplementedError

    async def send(self, data: bytes) -> None:
        """Send all of `data`, waiting while the send buffer is full.

        Raises ConnectionResetError or TimeoutError once the connection is lost.
        """
        raise NotImplementedError

    async def send_eof(self) -> None:
        """Send no more; receiving goes on."""
        raise NotImplementedError

    async def _receive_some(self, max_bytes: int) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        """Close both directions; what was sent still arrives, unless something received was left unread."""
        raise NotImplementedError

    def reset(self) -> None:
        """Drop the connection and what is in flight; the peer sees a reset."""
        raise NotImplementedError

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """At least one byte, or b"" at end-of-file.

        Raises ConnectionResetError or TimeoutError once the connection is lost.
        """
        if self._read_ahead:
            data, self._read_ahead = self._read_ahead[:max_bytes], self._read_ahead[max_bytes:]
            return data
        return await self._receive_some(max_bytes)

    def put_back(self, data: bytes) -> None:
        """Have `data` received again, before anything else."""
        self._read_ahead = data + self._read_ahead

    async def receive_exactly(self, count: int) -> bytes:
        """`count` bytes. Raises EOFError when the stream ends before."""
        received = bytearray()
        while len(received) < count:
            data = await self.receive(count - len(received))
            if not data:
                raise EOFError(f"end of stream after {len(received)} of {count} bytes")
            received += data
        return bytes(received)

    async def receive_until(self, separator: bytes, max_bytes: int = MAX_LINE_BYTES) -> bytes:
        """Everything up to and including `separator`.

        Raises EOFError when the stream ends before it, ValueError when it does not
        come within `max_bytes`.
        """
        received = bytearray()
        while True:
            start = max(0, len(received) - len(separator) + 1)
            data = await self.receive()
            if not data:
                raise EOFError(f"end of stream after {len(received)} bytes, before {separator!r}")
            received += data
            position = received.find(separator, start)
            if position >= 0:
                end = position + len(separator)
                self._read_ahead = bytes(received[end:]) + self._read_ahead
                return bytes(received[:end])
            if len(received) > max_bytes:
                raise ValueError(f"no {separator!r} within {max_bytes} bytes")

    async def receive_all(self) -> bytes:
        """Everything until end-of-file."""
        pieces: list[bytes] = []
        while data := await self.receive():
            pieces.append(data)
        return b"".join(pieces)


class Connection(ByteConnection):
    """One end of a virtual TCP (or unix) connection."""

    def __init__(self, socket: VirtualSocket) -> None:
        super().__init__()
        self._socket = socket
        self._reader: Signal[None] | None = None
        self._writer: Signal[None] | None = None
        socket.observer = self

    def __repr__(self) -> str:
        return f"<Connection {self.local} - {self.peer}>"

    @property
    def local(self) -> Address:
        return self._socket.local

    @property
    def peer(self) -> Address:
        return self._socket.peer

    def readable(self) -> None:
        if self._reader is not None:
            self._reader.succeed(None)

    def writable(self) -> None:
        if self._writer is not None:
            self._writer.succeed(None)

    def _raise_if_closed(self) -> None:
        if self._socket.closed:
            raise ConnectionError("this end of the connection was closed")

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            self._raise_if_closed()
            rest = rest[self._socket.send(rest) :]
            if not rest:
                return
            self._writer = Signal()
            await self._writer

    def send_some(self, data: bytes) -> int:
        """Send what there is room for now, and say how much; 0 for none."""
        self._raise_if_closed()
        return self._socket.send(data)

    async def send_eof(self) -> None:
        self._socket.send_eof()

    async def _receive_some(self, max_bytes: int) -> bytes:
        while True:
            self._raise_if_closed()
            data = self._socket.receive(max_bytes)
            if data is not None:
                return data
            self._reader = Signal()
            await self._reader

    def close(self) -> None:
        self._socket.close()
        self.readable()
        self.writable()

    def reset(self) -> None:
        self._socket.reset()
        self.readable()
        self.writable()


class Listener:
    """Somewhere a script accepts connections."""

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close
        self._backlog: deque[Connection] = deque()
        self._acceptor: Signal[None] | None = None
        self.address: Address = ("", 0)

    @property
    def port(self) -> int:
        return self.address[1]

    def arrived(self, socket: VirtualSocket) -> None:
        self._backlog.append(Connection(socket))
        if self._acceptor is not None:
            self._acceptor.succeed(None)

    async def accept(self) -> Connection:
        """The next connection."""
        while not self._backlog:
            self._acceptor = Signal()
            await self._acceptor
        return self._backlog.popleft()

    def close(self) -> None:
        """Refuse further connections, and reset those nobody has accepted."""
        self._on_close()
        for connection in self._backlog:
            connection.reset()
        self._backlog.clear()


class UdpSocket:
    """A UDP socket in a script's hands."""

    def __init__(self, socket: VirtualDatagramSocket) -> None:
        self._socket = socket
        self._reader: Signal[None] | None = None
        socket.observer = self

    def __repr__(self) -> str:
        return f"<UdpSocket {self.address}>"

    @property
    def address(self) -> Address:
        return self._socket.local

    @property
    def port(self) -> int:
        return self._socket.local[1]

    def readable(self) -> None:
        if self._reader is not None:
            self._reader.succeed(None)

    def send_to(self, data: bytes, address: Address) -> None:
        """Send one datagram; it waits for nothing. Raises OSError (EMSGSIZE) beyond 65,507 bytes."""
        self._socket.send(data, address)

    def receive_some(self, max_datagrams: int = 64) -> list[Datagram]:
        """What has arrived already, each with where it came from; an empty list for nothing."""
        received: list[Datagram] = []
        while len(received) < max_datagrams and (datagram := self._socket.receive()) is not None:
            received.append(datagram)
        return received

    async def receive_from(self) -> Datagram:
        """The next datagram and where it came from. Raises ConnectionError once this end is closed."""
        while True:
            datagram = self._socket.receive()
            if datagram is not None:
                return datagram
            if self._socket.closed:
                raise ConnectionError("this UDP socket was closed")
            self._reader = Signal()
            await self._reader

    def close(self) -> None:
        """Receive nothing more; what was sent still arrives."""
        self._socket.close()
        self.readable()
