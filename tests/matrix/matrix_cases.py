"""What HTTP has to carry from any client to any backend. A case is `async def case(pair)`."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import Any

from matrix_pairs import Pair
from matrix_peers import Head, Stream, StreamAborted

Case = Callable[[Pair], Coroutine[Any, Any, None]]

LARGE_BYTES = int(os.environ.get("MATRIX_LARGE_BYTES", 2 * 1024 * 1024))
"""The size of a large body; recorded runs set it to 100 MiB."""

BLOCK = bytes(range(256)) * 256


async def check_alive(pair: Pair, path: str = "/after") -> None:
    """One plain request still goes through."""
    stream = await pair.client.request("GET", path)
    request = await pair.backend.request(path)
    assert await request.read_all() == b""
    await request.respond(200, body=b"alive")
    assert (await stream.response()).status == 200
    assert await stream.read_all() == b"alive"


def check_one_connection(pair: Pair) -> None:
    """A multiplexed client has never had to connect again."""
    if pair.front_is_multiplexed:
        assert len(pair.client.wires) == 1
        assert pair.client.wires[0].takes_requests


async def get(pair: Pair) -> None:
    stream = await pair.client.request("GET", "/get?q=1&r=%20", [("x-asked", "for"), ("accept", "*/*")])
    request = await pair.backend.request()
    assert (request.request.method, request.request.path) == ("GET", "/get?q=1&r=%20")
    assert request.request.authority == "app.example.com"
    assert request.request.get("x-asked") == "for"
    assert request.request.get("transfer-encoding") is None
    assert await request.read_all() == b""
    await request.respond(200, [("x-answer", "yes"), ("content-length", "5")], b"hello")
    head = await stream.response()
    assert (head.status, head.get("x-answer"), head.get("content-length")) == (200, "yes", "5")
    assert await stream.read_all() == b"hello"
    assert stream.trailers == []
    await check_alive(pair)
    check_one_connection(pair)


async def post_with_length(pair: Pair) -> None:
    stream = await pair.client.request("POST", "/post", [("content-length", "4")], b"body")
    request = await pair.backend.request()
    assert request.request.get("content-length") == "4"
    assert await request.read_all() == b"body"
    await request.respond(201)
    head = await stream.response()
    assert head.status == 201
    assert await stream.read_all() == b""


async def request_streamed_up(pair: Pair) -> None:
    """The backend has each piece before the client sends the next."""
    stream = await pair.client.open("POST", "/up")
    request = await pair.backend.request()
    for number in range(4):
        piece = b"piece %d" % number
        await stream.send(piece)
        assert await request.read_exactly(len(piece)) == piece
        assert not request.has_ended
    await stream.end()
    assert await request.read_all() == b""
    await request.respond(200, body=b"done")
    assert (await stream.response()).status == 200
    assert await stream.read_all() == b"done"


async def response_streamed_down(pair: Pair) -> None:
    """The client has the head before any content, and each piece before the next is sent."""
    stream = await pair.client.request("GET", "/down")
    request = await pair.backend.request()
    request.respond_head(200)
    assert (await stream.response()).status == 200
    for number in range(4):
        piece = b"piece %d" % number
        await request.send(piece)
        assert await stream.read_exactly(len(piece)) == piece
        assert not stream.has_ended
    await request.end()
    assert await stream.read_all() == b""


async def both_ways_at_once(pair: Pair) -> None:
    """The response begins while the request goes on, and each side answers the other's last piece."""
    stream = await pair.client.open("POST", "/talk")
    request = await pair.backend.request()
    request.respond_head(200)
    assert (await stream.response()).status == 200
    for number in range(3):
        question, answer = b"question %d" % number, b"answer %d" % number
        await stream.send(question)
        assert await request.read_exactly(len(question)) == question
        await request.send(answer)
        assert await stream.read_exactly(len(answer)) == answer
    await stream.end()
    assert await request.read_all() == b""
    await request.end()
    assert await stream.read_all() == b""


async def trailers(pair: Pair) -> None:
    stream = await pair.client.request(
        "POST",
        "/trailers",
        [("te", "trailers")],
        b"content",
        trailers=[("x-checksum", "abc"), ("x-more", "1")],
    )
    request = await pair.backend.request()
    assert await request.read_all() == b"content"
    assert request.trailers == [("x-checksum", "abc"), ("x-more", "1")]
    request.respond_head(200)
    await request.send(b"answer")
    await request.end([("x-result", "fine")])
    assert (await stream.response()).status == 200
    assert await stream.read_all() == b"answer"
    assert stream.trailers == [("x-result", "fine")]


async def head_request(pair: Pair) -> None:
    stream = await pair.client.request("HEAD", "/head")
    request = await pair.backend.request()
    assert request.request.method == "HEAD"
    await request.respond(200, [("content-length", "1234")])
    head = await stream.response()
    assert (head.status, head.get("content-length")) == (200, "1234")
    assert await stream.read_all() == b""
    await check_alive(pair)
    check_one_connection(pair)


async def no_content(pair: Pair) -> None:
    for status in (204, 304):
        stream = await pair.client.request("GET", f"/{status}")
        request = await pair.backend.request(f"/{status}")
        await request.respond(status, [("etag", '"v1"')])
        head = await stream.response()
        assert (head.status, head.get("etag")) == (status, '"v1"')
        assert head.get("content-length") is None
        assert await stream.read_all() == b""
    await check_alive(pair)
    check_one_connection(pair)


async def expect_continue(pair: Pair) -> None:
    """The client holds its content back until the backend asks for it."""
    stream = await pair.client.open("POST", "/expect", [("expect", "100-continue")])
    request = await pair.backend.request()
    assert (request.request.get("expect") or "").lower() == "100-continue"
    request.inform(100)
    assert (await stream.next_head()).status == 100
    await stream.send(b"at last")
    await stream.end()
    assert await request.read_all() == b"at last"
    await request.respond(200, body=b"thanks")
    assert (await stream.response()).status == 200
    assert await stream.read_all() == b"thanks"


async def early_hints(pair: Pair) -> None:
    """103 comes through before the backend has made up its mind."""
    stream = await pair.client.request("GET", "/hints")
    request = await pair.backend.request()
    for number in (1, 2):
        request.inform(103, [("link", f"</style{number}.css>; rel=preload")])
        hint = await stream.next_head()
        assert (hint.status, hint.get("link")) == (103, f"</style{number}.css>; rel=preload")
    await request.respond(200, body=b"page")
    assert (await stream.response()).status == 200
    assert await stream.read_all() == b"page"


async def early_response(pair: Pair) -> None:
    """The backend answers before it has the whole request, and the client has the answer at once."""
    stream = await pair.client.open("POST", "/early", [("content-length", "1000000")])
    await stream.send(b"the beginning")
    request = await pair.backend.request()
    assert await request.read_exactly(13) == b"the beginning"
    await request.respond(413, [("content-length", "9")], b"too large")
    assert (await stream.response()).status == 413
    assert await stream.read_all() == b"too large"
    stream.reset()
    await check_alive(pair)
    check_one_connection(pair)


async def client_cancels(pair: Pair) -> None:
    """One response is given up in the middle; the backend hears of it, and another goes on."""
    steady = await pair.client.request("GET", "/steady")
    steady_request = await pair.backend.request("/steady")
    steady_request.respond_head(200)
    assert (await steady.response()).status == 200
    given_up = await pair.client.request("GET", "/given-up")
    request = await pair.backend.request("/given-up")
    request.respond_head(200)
    await request.send(b"some")
    assert (await given_up.response()).status == 200
    assert await given_up.read_exactly(4) == b"some"
    given_up.reset()
    await request.wait_aborted()
    await steady_request.send(b"still here")
    await steady_request.end()
    assert await steady.read_all() == b"still here"
    await check_alive(pair)
    check_one_connection(pair)


async def client_cancels_before_response(pair: Pair) -> None:
    given_up = await pair.client.open("POST", "/given-up")
    await given_up.send(b"some")
    request = await pair.backend.request("/given-up")
    assert await request.read_exactly(4) == b"some"
    given_up.reset()
    await request.wait_aborted()
    assert not request.has_ended
    await check_alive(pair)
    check_one_connection(pair)


async def backend_resets(pair: Pair) -> None:
    """The client sees that the response is cut, and its other streams go on."""
    steady = await pair.client.request("GET", "/steady")
    steady_request = await pair.backend.request("/steady")
    steady_request.respond_head(200)
    assert (await steady.response()).status == 200
    cut = await pair.client.request("GET", "/cut")
    request = await pair.backend.request("/cut")
    request.respond_head(200)
    await request.send(b"some")
    assert (await cut.response()).status == 200
    assert await cut.read_exactly(4) == b"some"
    request.reset()
    await expect_abort(cut)
    await steady_request.send(b"still here")
    await steady_request.end()
    assert await steady.read_all() == b"still here"
    await check_alive(pair)
    check_one_connection(pair)


async def backend_resets_before_response(pair: Pair) -> None:
    """Nothing has been sent to the client, so it gets a 502."""
    stream = await pair.client.request("POST", "/cut", body=b"content")
    request = await pair.backend.request("/cut")
    assert await request.read_all() == b"content"
    request.reset()
    assert (await stream.response()).status == 502
    await stream.read_all()
    await check_alive(pair)
    check_one_connection(pair)


async def expect_abort(stream: Stream) -> None:
    try:
        rest = await stream.read_all()
    except StreamAborted:
        return
    raise AssertionError(f"the message ended as if it were whole, with {rest!r}")


async def concurrent_streams(pair: Pair) -> None:
    """Several exchanges under way at once, their pieces sent in turn."""
    count = 5
    streams = [await pair.client.open("POST", f"/{number}") for number in range(count)]
    requests = [await pair.backend.request(f"/{number}") for number in range(count)]
    for turn in range(3):
        for number, stream in enumerate(streams):
            await stream.send(b"up %d %d;" % (number, turn))
        for number, request in reversed(list(enumerate(requests))):
            expected = b"up %d %d;" % (number, turn)
            assert await request.read_exactly(len(expected)) == expected
    for stream in streams:
        await stream.end()
    for request in reversed(requests):
        assert await request.read_all() == b""
        request.respond_head(200)
    for turn in range(3):
        for number, request in enumerate(requests):
            await request.send(b"down %d %d;" % (number, turn))
        for number, stream in reversed(list(enumerate(streams))):
            if not turn:
                assert (await stream.response()).status == 200
            expected = b"down %d %d;" % (number, turn)
            assert await stream.read_exactly(len(expected)) == expected
    for request in requests:
        await request.end()
    for stream in streams:
        assert await stream.read_all() == b""
    check_one_connection(pair)


async def large_up(pair: Pair) -> None:
    stream = await pair.client.open("POST", "/large", [("content-length", str(LARGE_BYTES))])
    request = await pair.backend.request()
    await pair.world.gather(send_large(stream), receive_large(request))
    await request.respond(200, body=b"got it")
    assert (await stream.response()).status == 200
    assert await stream.read_all() == b"got it"


async def large_down(pair: Pair) -> None:
    stream = await pair.client.request("GET", "/large")
    request = await pair.backend.request()
    request.respond_head(200, [("content-length", str(LARGE_BYTES))])
    assert (await stream.response()).status == 200
    await pair.world.gather(send_large(request), receive_large(stream))
    await check_alive(pair)
    check_one_connection(pair)


async def large_both_ways(pair: Pair) -> None:
    """Without a length on either side."""
    stream = await pair.client.open("POST", "/large")
    request = await pair.backend.request()
    request.respond_head(200)
    assert (await stream.response()).status == 200

    async def answer() -> None:
        # A response that ended first would tell that the rest of the request is not wanted.
        await pair.world.gather(send_content(request), receive_large(request))
        await request.end()

    await pair.world.gather(send_large(stream), answer(), receive_large(stream))


async def send_content(stream: Stream) -> None:
    left = LARGE_BYTES
    while left:
        piece = BLOCK[:left]
        await stream.send(piece)
        left -= len(piece)


async def send_large(stream: Stream) -> None:
    await send_content(stream)
    await stream.end()


async def receive_large(stream: Stream) -> None:
    position = 0
    while data := await stream.read():
        offset = position % len(BLOCK)
        assert data == (BLOCK * (len(data) // len(BLOCK) + 2))[offset : offset + len(data)]
        position += len(data)
    assert position == LARGE_BYTES


async def backend_leaves_while_idle(pair: Pair) -> None:
    """The backend ends its idle connection; the next request finds another."""
    await check_alive(pair, "/before")
    for wire in pair.backend.wires:
        wire.leave()
    if pair.is_direct:
        seen = pair.client.wires[0]
        await seen.bell.wait_until(lambda: not seen.takes_requests)
    await check_alive(pair)


async def backend_leaves_under_way(pair: Pair) -> None:
    """The backend takes no new requests on its connection, and finishes the one it has."""
    stream = await pair.client.request("GET", "/last")
    request = await pair.backend.request()
    request.respond_head(200, [("connection", "close")] if pair.backend.version == "1.1" else [])
    await request.send(b"first")
    assert (await stream.response()).status == 200
    assert await stream.read_exactly(5) == b"first"
    leaving = request.wire
    leaving.announce_shutdown()
    leaving.bell.ring()
    # The word may go another way than the content behind it, but not much slower.
    for _ in range(3):
        await request.send(b"last")
        assert await stream.read_exactly(4) == b"last"
    other = await pair.client.request("GET", "/other")
    other_request = await pair.backend.request("/other")
    assert other_request.wire is not leaving
    await other_request.respond(200, body=b"elsewhere")
    assert (await other.response()).status == 200
    assert await other.read_all() == b"elsewhere"
    await request.end()
    assert await stream.read_all() == b""


async def request_shorter_than_its_length(pair: Pair) -> None:
    """The backend never sees a whole request of it."""
    stream = await pair.client.open("POST", "/short", [("content-length", "10")])
    await stream.send(b"12345")
    stream.break_off()
    if pair.front_is_multiplexed:
        await expect_refusal(stream)
    await check_alive(pair)
    await check_never_whole(pair, "/short")


async def request_longer_than_its_length(pair: Pair) -> None:
    """Only HTTP/2 and HTTP/3 can say so; in HTTP/1.1 the rest would be another request."""
    if not pair.front_is_multiplexed:
        return
    stream = await pair.client.open("POST", "/long", [("content-length", "3")])
    await stream.send(b"12345")
    stream.break_off()
    await expect_refusal(stream)
    await check_alive(pair)
    await check_never_whole(pair, "/long")


async def expect_refusal(stream: Stream) -> None:
    try:
        head: Head = await stream.response()
        assert head.status == 400
        await stream.read_all()
    except StreamAborted:
        pass


async def check_never_whole(pair: Pair, path: str) -> None:
    while pair.backend.untaken_requests:
        request = await pair.backend.request(path)
        await request.wait_aborted()
        assert not request.has_ended


async def response_shorter_than_its_length(pair: Pair) -> None:
    """The client never sees a whole response of it."""
    stream = await pair.client.request("GET", "/short")
    request = await pair.backend.request()
    request.respond_head(200, [("content-length", "10")])
    await request.send(b"12345")
    request.break_off()
    await expect_no_whole_response(stream)
    await check_alive(pair)
    check_one_connection(pair)


async def response_longer_than_its_length(pair: Pair) -> None:
    """Only HTTP/2 and HTTP/3 can say so."""
    if pair.backend.version == "1.1":
        return
    stream = await pair.client.request("GET", "/long")
    request = await pair.backend.request()
    request.respond_head(200, [("content-length", "3")])
    await request.send(b"12345")
    request.break_off()
    await expect_no_whole_response(stream)
    await check_alive(pair)
    check_one_connection(pair)


async def expect_no_whole_response(stream: Stream) -> None:
    try:
        head = await stream.response()
    except StreamAborted:
        return
    if head.status == 502:
        await stream.read_all()
        return
    assert head.status == 200
    await expect_abort(stream)


CASES: list[Case] = [
    get,
    post_with_length,
    request_streamed_up,
    response_streamed_down,
    both_ways_at_once,
    trailers,
    head_request,
    no_content,
    expect_continue,
    early_hints,
    early_response,
    client_cancels,
    client_cancels_before_response,
    backend_resets,
    concurrent_streams,
    large_up,
    large_down,
    large_both_ways,
    backend_leaves_while_idle,
    backend_leaves_under_way,
]
"""What two peers of one version do with each other too."""

PROXY_CASES: list[Case] = [
    backend_resets_before_response,
    request_shorter_than_its_length,
    request_longer_than_its_length,
    response_shorter_than_its_length,
    response_longer_than_its_length,
]
"""What takes a proxy: its own answers, and what a library refuses by ending the whole connection."""
