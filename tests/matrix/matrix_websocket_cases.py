"""What a WebSocket has to carry from any client to any backend. A case is `async def case(pair)`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from matrix_cases import check_alive, check_one_connection
from matrix_pairs import Pair
from matrix_peers import StreamAborted
from matrix_websocket import (
    BytesMessage,
    CloseConnection,
    Ping,
    TextMessage,
    WebSocket,
    ask,
    check_asked,
    open_websocket,
)

Case = Callable[[Pair], Coroutine[Any, Any, None]]

BINARY = bytes(range(256)) * 1024
HOURS_S = 3 * 3600.0


def check_untouched(client: WebSocket, server: WebSocket) -> None:
    """No frame was opened, masked again, split or joined on the way."""
    assert server.received == client.sent
    assert client.received == server.sent


async def close_by(closer: WebSocket, other: WebSocket, code: int, reason: str) -> None:
    """The closing handshake, and then the end of the stream, which is the server's to begin."""
    await closer.send(CloseConnection(code, reason))
    heard = await other.receive_close()
    assert (heard.code, heard.reason or "") == (code, reason)
    await other.send(heard.response())
    answer = await closer.receive_close()
    assert answer.code == code


async def end_by(server: WebSocket, client: WebSocket) -> None:
    await server.stream.end()
    await client.expect_end()


async def text(pair: Pair) -> None:
    client, server = await open_websocket(pair)
    for words in ("hello", "", "grüße, 世界"):
        await client.send(TextMessage(words))
        assert await server.receive_message() == words
        await server.send(TextMessage(words + "!"))
        assert await client.receive_message() == words + "!"
    check_untouched(client, server)
    await close_by(client, server, 1000, "")
    await end_by(server, client)
    await check_alive(pair)
    check_one_connection(pair)


async def binary(pair: Pair) -> None:
    client, server = await open_websocket(pair)
    answers: list[str | bytes] = []

    async def hear(end: WebSocket) -> None:
        answers.append(await end.receive_message())

    await pair.world.gather(client.send(BytesMessage(BINARY)), hear(server))
    await pair.world.gather(server.send(BytesMessage(BINARY[::-1])), hear(client))
    assert answers == [BINARY, BINARY[::-1]]
    check_untouched(client, server)


async def fragmented(pair: Pair) -> None:
    """A message in three frames, with a ping in the middle, which may stand there (RFC 6455 §5.4)."""
    client, server = await open_websocket(pair)
    for sender, receiver in ((client, server), (server, client)):
        await sender.send(TextMessage("one ", message_finished=False))
        await sender.send(TextMessage("two ", message_finished=False))
        await sender.send(Ping(b"between"))
        await sender.send(TextMessage("three"))
        parts: list[str] = []
        pings: list[bytes] = []
        while True:
            event = await receiver.receive()
            if isinstance(event, Ping):
                pings.append(bytes(event.payload))
                continue
            assert isinstance(event, TextMessage)
            parts.append(event.data)
            if event.message_finished:
                break
        assert "".join(parts) == "one two three"
        assert pings == [b"between"]
    check_untouched(client, server)


async def ping_and_pong(pair: Pair) -> None:
    """The proxy leaves pings to the two ends."""
    client, server = await open_websocket(pair)
    for asker, asked in ((client, server), (server, client)):
        ping = Ping(b"are you there?")
        await asker.send(ping)
        assert await asked.receive_ping() == b"are you there?"
        await asked.send(ping.response())
        pong = await asker.receive()
        assert pong == ping.response()
    check_untouched(client, server)


async def close_by_client(pair: Pair) -> None:
    client, server = await open_websocket(pair)
    await close_by(client, server, 4001, "had enough")
    check_untouched(client, server)
    await end_by(server, client)
    await check_alive(pair)
    check_one_connection(pair)


async def close_by_backend(pair: Pair) -> None:
    client, server = await open_websocket(pair)
    await close_by(server, client, 1012, "restarting")
    check_untouched(client, server)
    await end_by(server, client)
    await check_alive(pair)
    check_one_connection(pair)


async def client_vanishes(pair: Pair) -> None:
    """No closing handshake: the backend learns of it."""
    client, server = await open_websocket(pair)
    await client.send(TextMessage("so"))
    assert await server.receive_message() == "so"
    client.stream.reset()
    await server.stream.wait_aborted()
    await check_alive(pair)
    check_one_connection(pair)


async def backend_vanishes(pair: Pair) -> None:
    client, server = await open_websocket(pair)
    await server.send(TextMessage("so"))
    assert await client.receive_message() == "so"
    server.stream.reset()
    try:
        await client.stream.read()
    except StreamAborted:
        pass
    else:
        raise AssertionError("the client was told that the WebSocket had ended well")
    await check_alive(pair)
    check_one_connection(pair)


async def refused(pair: Pair) -> None:
    stream = await ask(pair.client, "/chat")
    request = await pair.backend.request("/chat")
    check_asked(request)
    await request.respond(403, [("x-why", "not you"), ("content-length", "9")], b"go away!\n")
    head = await stream.response()
    assert (head.status, head.get("x-why")) == (403, "not you")
    assert await stream.read_all() == b"go away!\n"
    await check_alive(pair)


async def subprotocol(pair: Pair) -> None:
    offered = [("sec-websocket-protocol", "chat, superchat"), ("origin", "https://app.example.com")]
    chosen = [("sec-websocket-protocol", "superchat")]
    stream = await ask(pair.client, "/offer", offered)
    request = await pair.backend.request("/offer")
    names = (request.request.get("sec-websocket-protocol") or "").replace(" ", "").split(",")
    assert names == ["chat", "superchat"]
    assert request.request.get("origin") == "https://app.example.com"
    stream.reset()
    client, server = await open_websocket(pair, "/chat", offered, chosen)
    await client.send(TextMessage("in the chosen protocol"))
    assert await server.receive_message() == "in the chosen protocol"


async def beside_requests(pair: Pair) -> None:
    """WebSockets and requests share a client, and on HTTP/2 and HTTP/3 one connection."""
    first = await open_websocket(pair, "/first")
    await check_alive(pair, "/between")
    second = await open_websocket(pair, "/second")
    for client, server in (second, first):
        await client.send(TextMessage("which one?"))
        assert await server.receive_message() == "which one?"
    await check_alive(pair)
    for client, server in (first, second):
        await server.send(TextMessage("this one"))
        assert await client.receive_message() == "this one"
    check_one_connection(pair)


CASES: list[Case] = [
    text,
    binary,
    fragmented,
    ping_and_pong,
    close_by_client,
    close_by_backend,
    client_vanishes,
    backend_vanishes,
    refused,
    subprotocol,
    beside_requests,
]


async def idle_for_hours(pair: Pair) -> None:
    """Silence does not end a WebSocket that may be silent; virtual time only."""
    client, server = await open_websocket(pair)
    await client.send(TextMessage("before"))
    assert await server.receive_message() == "before"
    await pair.world.sleep(HOURS_S)
    await server.send(TextMessage("after"))
    assert await client.receive_message() == "after"
    await client.send(TextMessage("indeed"))
    assert await server.receive_message() == "indeed"
    check_untouched(client, server)
    await close_by(client, server, 1000, "")
    await end_by(server, client)
