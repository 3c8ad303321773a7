"""µs of the HTTP/1.1 codec, h11 beside it: `python bench/http1_codec.py`."""

from __future__ import annotations

import timeit
from collections.abc import Callable

import h11

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http1 import (
    RequestDecoder,
    ResponseDecoder,
    encode_chunk,
    encode_request_head,
    encode_response_head,
)

CURL_HEAD = (
    b"GET /api/v1/items?id=12345 HTTP/1.1\r\nHost: app.example.com\r\nUser-Agent: curl/8.5.0\r\n"
    b"Accept: */*\r\nX-Request-Id: 0123456789abcdef\r\nAccept-Encoding: gzip\r\n\r\n"
)
BROWSER_HEAD = (
    b"GET /assets/app.3f2a1b.js HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua: "Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"\r\n'
    b"sec-ch-ua-mobile: ?0\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
    b"(KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,"
    b"application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\nSec-Fetch-Site: same-origin\r\n"
    b"Referer: https://www.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; lang=en\r\n\r\n"
)
ABSOLUTE_FORM_HEAD = CURL_HEAD.replace(b"/api", b"http://app.example.com/api", 1)
RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.0\r\nDate: Tue, 02 Jul 2024 10:00:00 GMT\r\n"
    b'Content-Type: application/json\r\nContent-Length: 65536\r\nETag: "668-abc"\r\n\r\n'
)
CHUNK_BYTES = 65536
CHUNK = bytes(CHUNK_BYTES)
SMALL_CHUNKS = encode_chunk(b"x" * 58) * (CHUNK_BYTES // 64)


def read_request(head: bytes) -> Callable[[], object]:
    decoder = RequestDecoder()

    def run() -> None:
        decoder.receive_data(head)
        decoder.next_event()
        decoder.next_event()
        decoder.start_next_message()

    return run


def read_request_by_h11(head: bytes) -> Callable[[], object]:
    def run() -> None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(head)
        connection.next_event()
        connection.next_event()

    return run


def read_response() -> None:
    decoder = ResponseDecoder()
    decoder.expect_response_to(b"GET")
    decoder.receive_data(RESPONSE_HEAD)
    decoder.next_event()


def h11_client() -> h11.Connection:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=b"GET", target=b"/", headers=[(b"host", b"a")]))
    connection.send(h11.EndOfMessage())
    return connection


def read_content(framing: bytes, data: bytes) -> Callable[[], object]:
    decoder = RequestDecoder()
    decoder.receive_data(b"PUT / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
    decoder.next_event()

    def run() -> None:
        decoder.receive_data(data)
        while decoder.next_event() is not None:
            pass

    return run


def read_content_by_h11(framing: bytes, data: bytes) -> Callable[[], object]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 30)
    connection.receive_data(b"PUT / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
    connection.next_event()

    def run() -> None:
        connection.receive_data(data)
        while connection.next_event() is not h11.NEED_DATA:
            pass

    return run


def microseconds(call: Callable[[], object], number: int) -> float:
    return min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6


def report(label: str, ours: Callable[[], object], theirs: Callable[[], object] | None, number: int) -> None:
    beside = f"{microseconds(theirs, max(1, number // 10)):10.2f}" if theirs is not None else " " * 10
    print(f"{label:<44}{microseconds(ours, number):8.2f}{beside}")


def main() -> None:
    print(f"{'µs':<44}{'ours':>8}{'h11':>10}")
    for name, head in (("curl", CURL_HEAD), ("browser", BROWSER_HEAD), ("absolute-form", ABSOLUTE_FORM_HEAD)):
        report(f"request, {name} head", read_request(head), read_request_by_h11(head), 5000)

    ready = h11_client()
    preparation = microseconds(h11_client, 500)

    def read_response_by_h11() -> None:
        connection = h11_client()
        connection.receive_data(RESPONSE_HEAD)
        connection.next_event()

    report("response head (new decoder)", read_response, read_response_by_h11, 5000)
    print(f"    (of h11's, {preparation:.2f} are spent sending the request; state {ready.their_state})")

    length = b"Content-Length: 999999999999"
    chunked = b"Transfer-Encoding: chunked"
    one_chunk = encode_chunk(CHUNK)
    report("64 KiB of Content-Length", read_content(length, CHUNK), read_content_by_h11(length, CHUNK), 20000)
    report("64 KiB chunk", read_content(chunked, one_chunk), read_content_by_h11(chunked, one_chunk), 2000)
    report(
        "1,024 chunks of 58 bytes",
        read_content(chunked, SMALL_CHUNKS),
        read_content_by_h11(chunked, SMALL_CHUNKS),
        20,
    )

    decoder = RequestDecoder()
    decoder.receive_data(BROWSER_HEAD)
    request = decoder.next_event()
    assert isinstance(request, RequestHead)
    response = ResponseHead(200, [(b"content-type", b"text/plain"), (b"content-length", b"12")] * 1)
    report("encode browser head", lambda: encode_request_head(request), None, 5000)
    report("encode response head", lambda: encode_response_head(response), None, 5000)


if __name__ == "__main__":
    main()
