"""HTTP/1.1 through a proxy, on every network."""

from __future__ import annotations

import pytest
from harness import Connection, Listener, Network, ProxyHandle, forward, on_every_network
from http_talk import (
    Message,
    head,
    receive_body,
    receive_chunk,
    receive_head,
    receive_message,
    request,
    response,
)

ENDLESS_BYTES = 64 * 1024 * 1024
PIECE = bytes(range(256)) * 256


async def exchange(
    client: Connection, server: Connection, path: str, body: bytes = b"hello"
) -> tuple[Message, Message]:
    """One GET on connections that are there already."""
    await client.send(request("GET", path))
    seen = await receive_message(server)
    await server.send(response(200, body))
    return seen, await receive_message(client)


async def start(net: Network, **options: object) -> tuple[Listener, ProxyHandle]:
    backend = await net.listen()
    return backend, await net.start_proxy([forward(backend)], **options)


async def backend_heard_nothing(backend: Listener, proxy: ProxyHandle, net: Network) -> None:
    """The next thing the backend hears of is a request made now, so nothing came before it."""
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/first"))
    server = await backend.accept()
    assert (await receive_message(server)).first == "GET /first HTTP/1.1"
    await server.send(response(200, b"", "Connection: close"))
    assert (await receive_message(client)).status == 200
    server.close()
    client.close()


@on_every_network
async def test_requests_of_one_client_share_one_backend_connection(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/1"))
    server = await backend.accept()
    seen = await receive_message(server)
    assert seen.first == "GET /1 HTTP/1.1"
    assert seen.get("host") == "app.example.com"
    await server.send(response(200, b"one"))
    assert (await receive_message(client)).body == b"one"
    for number in range(2, 6):
        seen, answer = await exchange(client, server, f"/{number}", b"%d" % number)
        assert seen.first == f"GET /{number} HTTP/1.1"
        assert answer.body == b"%d" % number


@on_every_network
async def test_pipelined_requests_are_answered_in_order(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(b"".join(request("POST", f"/{number}", b"%d" % number * 3) for number in range(6)))
    server = await backend.accept()
    for number in range(6):
        seen = await receive_message(server)
        assert seen.first == f"POST /{number} HTTP/1.1"
        assert seen.body == b"%d" % number * 3
        await server.send(response(200, b"answer %d" % number))
    for number in range(6):
        assert (await receive_message(client)).body == b"answer %d" % number


@on_every_network
async def test_a_request_body_streams(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(head("POST /upload HTTP/1.1", "Host: app.example.com", "Content-Length: 10"))
    await client.send(b"first")
    server = await backend.accept()
    seen = await receive_head(server)
    assert seen.get("content-length") == "10"
    assert await server.receive_exactly(5) == b"first"
    await client.send(b"later")
    assert await server.receive_exactly(5) == b"later"
    await server.send(response(201))
    assert (await receive_message(client)).status == 201


@on_every_network
async def test_a_response_body_streams(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/events"))
    server = await backend.accept()
    await receive_message(server)
    await server.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
    answer = await receive_head(client)
    assert answer.get("transfer-encoding") == "chunked"
    for number in range(3):
        await server.send(b"7\r\nevent %d\r\n" % number)
        assert await receive_chunk(client) == b"event %d" % number
    await server.send(b"0\r\n\r\n")
    await receive_body(client, answer)
    assert answer.body == b""


@on_every_network
async def test_large_bodies_arrive_whole_both_ways(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    body = PIECE * 48

    async def play_client() -> None:
        for _ in range(2):
            await client.send(request("PUT", "/file", body))
            assert (await receive_message(client)).body == body[::-1]

    async def play_backend() -> None:
        server = await backend.accept()
        for _ in range(2):
            assert (await receive_message(server)).body == body
            await server.send(response(200, body[::-1]))

    await net.gather(play_client(), play_backend())
    assert [record.bytes_sent for record in proxy.access_records] == [len(body)] * 2


@on_every_network
async def test_chunks_and_trailers_cross_both_ways(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    chunked = b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nDigest: abc\r\n\r\n"
    await client.send(
        head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Trailer: Digest") + chunked
    )
    server = await backend.accept()
    seen = await receive_message(server)
    assert (seen.body, seen.trailers) == (b"hello world", [("digest", "abc")])
    await server.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: Digest") + chunked)
    answer = await receive_message(client)
    assert (answer.body, answer.trailers) == (b"hello world", [("digest", "abc")])


@on_every_network
async def test_responses_without_content_leave_the_connection_in_step(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("HEAD", "/file"))
    server = await backend.accept()
    assert (await receive_message(server)).first == "HEAD /file HTTP/1.1"
    await server.send(head("HTTP/1.1 200 OK", "Content-Length: 1000000"))
    assert (await receive_head(client)).get("content-length") == "1000000"
    for status in (204, 304):
        await client.send(request("GET", f"/{status}"))
        await receive_message(server)
        await server.send(response(status))
        assert (await receive_head(client)).status == status
    _, answer = await exchange(client, server, "/after")
    assert answer.body == b"hello"


@on_every_network
async def test_informational_responses_come_first(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(head("POST / HTTP/1.1", "Host: a", "Content-Length: 4", "Expect: 100-continue"))
    server = await backend.accept()
    assert (await receive_head(server)).get("expect") == "100-continue"
    await server.send(head("HTTP/1.1 103 Early Hints", "Link: </style.css>; rel=preload"))
    hints = await receive_head(client)
    assert (hints.status, hints.get("link")) == (103, "</style.css>; rel=preload")
    await server.send(head("HTTP/1.1 100 Continue"))
    assert (await receive_head(client)).status == 100
    await client.send(b"body")
    assert await server.receive_exactly(4) == b"body"
    await server.send(response(200, b"done"))
    assert (await receive_message(client)).body == b"done"


@on_every_network
async def test_an_answer_before_the_end_of_the_request_arrives(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(head("POST / HTTP/1.1", "Host: a", f"Content-Length: {len(PIECE) * 16}"))
    await client.send(PIECE)
    server = await backend.accept()
    await receive_head(server)
    await server.send(response(413, b"too much", "Connection: close"))
    # Closing on unread input makes the kernel send a reset behind the answer.
    server.close()
    answer = await receive_message(client)
    assert (answer.status, answer.body) == (413, b"too much")


@on_every_network
async def test_a_client_that_half_closes_behind_its_request_is_answered(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/"))
    await client.send_eof()
    server = await backend.accept()
    await receive_message(server)
    await server.send(response(200, b"hello"))
    answer = await receive_message(client)
    assert answer.body == b"hello"
    assert await client.receive_all() == b""


@on_every_network
async def test_a_client_that_leaves_mid_response_frees_its_backend(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/endless"))
    server = await backend.accept()
    await receive_message(server)
    await server.send(head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
    await receive_head(client)
    assert await receive_chunk(client) == b"hello"
    client.reset()
    try:
        assert await server.receive_all() == b""
    except ConnectionResetError:
        pass
    await backend_heard_nothing(backend, proxy, net)


@on_every_network
async def test_a_client_that_leaves_while_the_backend_thinks_frees_it(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/slow"))
    server = await backend.accept()
    await receive_message(server)
    client.reset()
    try:
        assert await server.receive_all() == b""
    except ConnectionResetError:
        pass


@on_every_network
async def test_a_backend_that_breaks_off_cuts_the_response_visibly(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/"))
    server = await backend.accept()
    await receive_message(server)
    await server.send(head("HTTP/1.1 200 OK", "Content-Length: 100") + b"not all")
    answer = await receive_head(client)
    assert await client.receive_exactly(7) == b"not all"
    server.reset()
    with pytest.raises((EOFError, ConnectionResetError)):
        await receive_body(client, answer)


@on_every_network
async def test_a_backend_that_refuses_is_a_502(net: Network) -> None:
    backend = await net.listen()
    backend.port = net.refused_port()
    proxy = await net.start_proxy([forward(backend)])
    client = await net.connect(proxy.port)
    for _ in range(2):
        await client.send(request("GET", "/"))
        answer = await receive_message(client)
        assert answer.status == 502
        assert "connection_refused" in (answer.get("proxy-status") or "")


@on_every_network
async def test_a_backend_that_closes_without_an_answer_is_a_502(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("POST", "/", b"once only"))
    server = await backend.accept()
    await receive_message(server)
    server.close()
    assert (await receive_message(client)).status == 502


@on_every_network
async def test_a_kept_connection_found_dead_is_replaced(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/1"))
    server = await backend.accept()
    await receive_message(server)
    await server.send(response(200, b"one"))
    await receive_message(client)
    server.close()
    await client.send(request("GET", "/2"))
    server = await backend.accept()
    assert (await receive_message(server)).first == "GET /2 HTTP/1.1"
    await server.send(response(200, b"two"))
    assert (await receive_message(client)).body == b"two"


@on_every_network
async def test_a_reset_amid_the_head_costs_no_backend_byte(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: app.exa")
    client.reset()
    await backend_heard_nothing(backend, proxy, net)


@on_every_network
async def test_an_end_amid_the_head_costs_no_backend_byte(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: app.exa")
    await client.send_eof()
    answer = await client.receive_all()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    await backend_heard_nothing(backend, proxy, net)


@on_every_network
async def test_a_malformed_head_is_a_400_and_costs_no_backend_byte(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
    answer = await receive_message(client)
    assert answer.status == 400
    assert await client.receive_all() == b""
    await backend_heard_nothing(backend, proxy, net)


@on_every_network
async def test_a_slow_head_meets_its_deadline(net: Network) -> None:
    backend, proxy = await start(net, initial_data_timeout=0.2)
    client = await net.connect(proxy.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: ")
    answer = await receive_message(client)
    assert answer.status == 408
    assert await client.receive_all() == b""
    await backend_heard_nothing(backend, proxy, net)


@on_every_network
async def test_a_silent_backend_meets_its_deadline(net: Network) -> None:
    backend, proxy = await start(net, socket_timeout=0.2)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/"))
    server = await backend.accept()
    await receive_message(server)
    assert (await receive_message(client)).status == 504


@on_every_network
async def test_a_client_that_does_not_read_stops_its_backend(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    await client.send(request("GET", "/large"))
    server = await backend.accept()
    await receive_message(server)
    await server.send(head("HTTP/1.1 200 OK", "Connection: close"))
    sent = quiet_rounds = 0
    while quiet_rounds < 5:
        taken = server.send_some(PIECE[sent % len(PIECE) :])
        sent += taken
        assert sent < ENDLESS_BYTES, "nothing holds the backend back"
        quiet_rounds = 0 if taken else quiet_rounds + 1
        if not taken:
            # An exchange of its own shows that the proxy has seen to all that was ready.
            await backend_heard_nothing(backend, proxy, net)
    assert proxy.buffered_bytes() <= 1024 * 1024
    server.close()
    answer = await receive_head(client)
    assert answer.get("transfer-encoding") == "chunked"
    await receive_body(client, answer)
    whole, rest = divmod(sent, len(PIECE))
    assert answer.body == PIECE * whole + PIECE[:rest]


@on_every_network
async def test_an_upgrade_becomes_a_relay(net: Network) -> None:
    backend, proxy = await start(net)
    client = await net.connect(proxy.port)
    upgrade = ("Connection: Upgrade", "Upgrade: websocket")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    await client.send(request("GET", "/chat", b"", *upgrade, "Sec-WebSocket-Version: 13", key))
    server = await backend.accept()
    assert (await receive_message(server)).get("upgrade") == "websocket"
    accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    await server.send(head("HTTP/1.1 101 Switching Protocols", *upgrade, accept) + b"first frame")
    assert (await receive_head(client)).status == 101
    assert await client.receive_exactly(11) == b"first frame"
    await client.send(b"any bytes \x00\xff")
    assert await server.receive_exactly(12) == b"any bytes \x00\xff"
    server.close()
    assert await client.receive_all() == b""
