"""HTTP/1.1 for scripts, clients and backends, on h11."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import h11

from smartproxy.drivers.simulation.scripts import ByteConnection

Fields = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class HttpRequest:
    """A request as a backend script got it. Field names are lower case."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes

    def field(self, name: bytes) -> bytes | None:
        """The first value of a field; None when it was not sent."""
        return next((value for each, value in self.fields if each == name), None)


@dataclass(slots=True)
class HttpResponse:
    """A response: what a backend script gives, or a client script got.

    A backend that gives `cut_after_bytes` sends that much of the body, and then
    ends the connection: by a reset, or with `cut_by_reset` false as if all were well.
    """

    status: int
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    cut_after_bytes: int | None = None
    cut_by_reset: bool = True

    def field(self, name: bytes) -> bytes | None:
        """The first value of a field; None when it was not sent."""
        return next((value for each, value in self.fields if each == name), None)


Respond = Callable[[HttpRequest], Awaitable[HttpResponse]]


class HttpClient:
    """Sends requests one after another on one connection."""

    def __init__(self, connection: ByteConnection, *, host: bytes = b"app.example.com") -> None:
        self.connection = connection
        self._host = host
        self._protocol = h11.Connection(h11.CLIENT)

    @property
    def reusable(self) -> bool:
        """Whether the connection takes another request."""
        return self._protocol.our_state is h11.IDLE

    async def request(
        self,
        method: bytes,
        target: bytes,
        *,
        fields: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        chunked: bool = False,
    ) -> HttpResponse:
        """Send a request and receive its whole response.

        Raises EOFError for a response that ends too soon, h11.RemoteProtocolError for
        a malformed one, and what sending and receiving raise.
        """
        sent: Fields = [(b"host", self._host), *fields]
        if chunked:
            sent.append((b"transfer-encoding", b"chunked"))
        elif body:
            sent.append((b"content-length", str(len(body)).encode()))
        await self._send(h11.Request(method=method, target=target, headers=sent))
        if body:
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())
        response = HttpResponse(0)
        pieces: list[bytes] = []
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                response.status = event.status_code
                response.fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("the connection was closed before the response")
        response.body = b"".join(pieces)
        if self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
        return response

    async def _send(self, event: h11.Event) -> None:
        data = self._protocol.send(event)
        if data:
            await self.connection.send(data)

    async def _next_event(self) -> object:
        return await _next_event(self._protocol, self.connection)


async def serve_http(connection: ByteConnection, respond: Respond) -> None:
    """Answer requests on one connection until either side has had enough.

    Raises EOFError for a request that ends too soon, and h11.RemoteProtocolError for
    a malformed one: what reaches a backend was written by the program under test.
    """
    protocol = h11.Connection(h11.SERVER)
    while True:
        request = await _receive_request(protocol, connection)
        if request is None:
            connection.close()
            return
        response = await respond(request)
        bodiless = request.method == b"HEAD" or response.status in (204, 304)
        fields = response.fields
        has_length = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in fields)
        if not has_length and response.status != 204:
            fields = [*fields, (b"content-length", str(len(response.body)).encode())]
        head = h11.Response(status_code=response.status, headers=fields)
        await _send_event(protocol, connection, head)
        if response.cut_after_bytes is not None:
            if response.cut_after_bytes and not bodiless:
                cut_body = response.body[: response.cut_after_bytes]
                await _send_event(protocol, connection, h11.Data(data=cut_body))
            if response.cut_by_reset:
                connection.reset()
            else:
                connection.close()
            return
        if response.body and not bodiless:
            await _send_event(protocol, connection, h11.Data(data=response.body))
        await _send_event(protocol, connection, h11.EndOfMessage())
        if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
            connection.close()
            return
        protocol.start_next_cycle()


async def _receive_request(protocol: h11.Connection, connection: ByteConnection) -> HttpRequest | None:
    request: HttpRequest | None = None
    pieces: list[bytes] = []
    while True:
        event = await _next_event(protocol, connection)
        if isinstance(event, h11.Request):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers]
            request = HttpRequest(bytes(event.method), bytes(event.target), fields, b"")
            if protocol.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await _send_event(protocol, connection, go_on)
        elif isinstance(event, h11.Data):
            pieces.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            request.body = b"".join(pieces)
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def _send_event(protocol: h11.Connection, connection: ByteConnection, event: h11.Event) -> None:
    data = protocol.send(event)
    if data:
        await connection.send(data)


async def _next_event(protocol: h11.Connection, connection: ByteConnection) -> object:
    ended = False
    while True:
        try:
            event = protocol.next_event()
        except h11.RemoteProtocolError as error:
            if ended:
                raise EOFError(str(error)) from error
            raise
        if event is not h11.NEED_DATA:
            return event
        data = await connection.receive()
        ended = not data
        protocol.receive_data(data)
