"""A client and a backend of any version, on any network."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from fixed_certificates import authority
from harness import Connection, Listener
from matrix_carriers import DatagramCarrier, StreamCarrier, StreamWire, TlsCarrier
from matrix_http1 import Http1Wire
from matrix_http2 import Http2Wire
from matrix_http3 import Http3Endpoint, Http3Wire
from matrix_peers import AUTHORITY, FieldLines, Head, Stream, StreamAborted, Version, Wire
from matrix_world import World

KERNEL_BUFFER_BYTES = 256 * 1024
ALPN = {"1.1": "http/1.1", "2": "h2"}


def tune_socket(connection: Connection) -> None:
    """No waiting for a fuller segment, as every client does; and little waits in the kernel's buffers."""
    sock: socket.socket | None = getattr(connection, "sock", None)
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES)


def new_stream_wire(world: World, version: Version, on_stream: Callable[[Stream], None] | None) -> StreamWire:
    kind = Http1Wire if version == "1.1" else Http2Wire
    return kind(world.bell(), on_stream)


class Client:
    """Asks from one connection, or in HTTP/1.1 from as many as there are requests at once."""

    def __init__(self, world: World, version: Version, host: str, port: int, *, tls: bool) -> None:
        self._world = world
        self.version = version
        self._address = (host, port)
        self._tls = tls
        self.wires: list[Wire] = []

    async def connect(self) -> Wire:
        """One more connection. Raises ConnectionRefusedError."""
        if self.version == "3":
            return await self._connect_quic()
        host, port = self._address
        connection = await self._world.net.connect(port, host)
        tune_socket(connection)
        wire = new_stream_wire(self._world, self.version, None)
        if self._tls:
            context = ssl.create_default_context(cadata=authority().certificate)
            context.set_alpn_protocols([ALPN[self.version]])
            carrier = TlsCarrier(connection, context, AUTHORITY)
            await carrier.handshake()
            assert carrier.tls.selected_alpn_protocol() == ALPN[self.version]
            StreamCarrier(self._world, carrier, wire)
        else:
            StreamCarrier(self._world, connection, wire)
        self.wires.append(wire)
        return wire

    async def another(self) -> Client:
        """Another client of the same, with a connection of its own."""
        client = self.unconnected()
        await client.connect()
        return client

    def unconnected(self) -> Client:
        """Another client of the same, which connects when it has something to ask."""
        return Client(self._world, self.version, *self._address, tls=self._tls)

    async def _connect_quic(self) -> Wire:
        world = self._world
        bell = world.bell()
        wire = Http3Wire(bell, None)
        wire.quic.connect(self._address, now=world.now())
        socket = await world.net.udp_socket(world.client_host)
        DatagramCarrier(world, socket, bell).wires.append(wire)
        self.wires.append(wire)
        return wire

    async def _wire(self) -> Wire:
        for wire in self.wires:
            if wire.takes_requests:
                return wire
        return await self.connect()

    async def open(
        self,
        method: str,
        path: str,
        fields: FieldLines = (),
        *,
        is_end: bool = False,
        protocol: str | None = None,
    ) -> Stream:
        """Send a request's head; its content, if any, by the stream."""
        wire = await self._wire()
        if protocol is not None:
            await wire.bell.wait_until(lambda: wire.is_ready_for_tunnels or wire.lost)
        scheme = "https" if self._tls else "http"
        head = Head(
            list(fields), method=method, path=path, authority=AUTHORITY, scheme=scheme, protocol=protocol
        )
        stream = wire.open_stream(head, is_end=is_end)
        wire.bell.ring()
        return stream

    async def request(
        self, method: str, path: str, fields: FieldLines = (), body: bytes = b"", *, trailers: FieldLines = ()
    ) -> Stream:
        """Send a whole request. Raises StreamAborted when it is refused before it is sent."""
        stream = await self.open(method, path, fields, is_end=not (body or trailers))
        if body or trailers:
            await stream.send(body)
            await stream.end(trailers)
        return stream

    async def fetch(
        self, method: str, path: str, fields: FieldLines = (), body: bytes = b""
    ) -> tuple[Head, bytes]:
        """A request, its response's head and content."""
        stream = await self.request(method, path, fields, body)
        head = await stream.response()
        return head, await stream.read_all()


class Backend:
    """Hands over the requests that come, whatever connection they came on."""

    def __init__(self, world: World, version: Version) -> None:
        self._world = world
        self.version = version
        self.host = ""
        self.port = 0
        self.wires: list[Wire] = []
        self._arrived: list[Stream] = []
        self._bell = world.bell()

    def _on_stream(self, stream: Stream) -> None:
        self._arrived.append(stream)
        self._bell.ring()

    async def start(self) -> None:
        if self.version == "3":
            await self._start_quic()
        else:
            listener = await self._world.net.listen()
            self.host, self.port = listener.host, listener.port
            self._world.spawn(self._accept(listener))

    async def _accept(self, listener: Listener) -> None:
        while True:
            connection = await listener.accept()
            tune_socket(connection)
            wire = new_stream_wire(self._world, self.version, self._on_stream)
            self.wires.append(wire)
            StreamCarrier(self._world, connection, wire)

    async def _start_quic(self) -> None:
        bell = self._world.bell()

        def accept(original_destination: bytes) -> Http3Wire:
            wire = Http3Wire(bell, self._on_stream, original_destination)
            self.wires.append(wire)
            return wire

        socket = await self._world.net.udp_socket(self._world.backend_host)
        self.host, self.port = socket.address
        carrier = DatagramCarrier(self._world, socket, bell)
        carrier.endpoint = Http3Endpoint(accept)
        carrier.wires = carrier.endpoint.wires

    async def request(self, path: str | None = None) -> Stream:
        """The next request, in the order they came, or the next for `path`."""

        def find() -> Stream | None:
            return next((each for each in self._arrived if path in (None, each.request.path)), None)

        await self._bell.wait_until(find)
        stream = find()
        assert stream is not None
        self._arrived.remove(stream)
        await stream.next_head()
        return stream

    @property
    def untaken_requests(self) -> int:
        """How many requests have come that no test has taken."""
        return len(self._arrived)


async def open_client(
    world: World, version: Version, port: int, host: str = "127.0.0.1", *, tls: bool = False
) -> Client:
    client = Client(world, version, host, port, tls=tls or version == "3")
    await client.connect()
    return client


async def start_backend(world: World, version: Version) -> Backend:
    backend = Backend(world, version)
    await backend.start()
    return backend


__all__ = ["Backend", "Client", "StreamAborted", "open_client", "start_backend"]
