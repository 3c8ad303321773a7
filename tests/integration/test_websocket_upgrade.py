"""A WebSocket upgrade, carried as a raw relay between a real client and server."""

from __future__ import annotations

import asyncio
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)

from smartproxy import SmartProxy


async def echo_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    websocket = WSConnection(ConnectionType.SERVER)
    while data := await reader.read(65536):
        websocket.receive_data(data)
        for event in websocket.events():
            if isinstance(event, Request):
                writer.write(websocket.send(AcceptConnection(subprotocol="chat")))
            elif isinstance(event, Message):
                writer.write(websocket.send(type(event)(event.data, message_finished=event.message_finished)))
            elif isinstance(event, Ping | CloseConnection):
                writer.write(websocket.send(event.response()))
        await writer.drain()
    writer.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._websocket = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []

    def send(self, event: Event) -> None:
        self._writer.write(self._websocket.send(event))

    async def receive(self) -> Event:
        while not self._events:
            data = await self._reader.read(65536)
            self._websocket.receive_data(data or None)
            self._events += self._websocket.events()
        return self._events.pop(0)

    async def receive_message(self) -> Any:
        parts = []
        while True:
            event = await self.receive()
            assert isinstance(event, Message)
            parts.append(event.data)
            if event.message_finished:
                return type(parts[0])().join(parts)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def test_a_websocket_crosses() -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo_server, "127.0.0.1", 0)
        backend_port = server.sockets[0].getsockname()[1]
        route = {
            "name": "ws",
            "match": {"ports": 0},
            "action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": backend_port}]},
        }
        access: list[Any] = []
        async with server, SmartProxy([route], listen=["127.0.0.1"]) as proxy:
            proxy.on("access", access.append)
            (port,) = proxy.get_listening_ports()
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            client.send(Request(host="ws.example.com", target="/socket", subprotocols=["chat"]))
            accepted = await client.receive()
            assert isinstance(accepted, AcceptConnection)
            assert accepted.subprotocol == "chat"
            client.send(TextMessage("grüße"))
            assert await client.receive_message() == "grüße"
            big = bytes(range(256)) * 8192
            client.send(BytesMessage(big))
            assert await client.receive_message() == big
            client.send(Ping(b"are you there"))
            pong = await client.receive()
            assert isinstance(pong, Pong)
            assert pong.payload == b"are you there"
            # Routes may change under it: a tunnel keeps what it began with.
            await proxy.update_routes([{**route, "name": "other"}])
            client.send(TextMessage("still here"))
            assert await client.receive_message() == "still here"
            client.send(CloseConnection(1000, "done"))
            closed = await client.receive()
            assert isinstance(closed, CloseConnection)
            assert closed.code == 1000
            await client.close()
        (record,) = access
        assert (record["status"], record["route"]) == (101, "ws")
        assert record["bytes_received"] > len(big)

    asyncio.run(main())
