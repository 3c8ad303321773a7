"""µs of the HTTP/2 layer over each engine, the bare libraries beside it: `python bench/http2_codec.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import h2.config
import h2.connection

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http2 import (
    AVAILABLE_ENGINES,
    DataReceived,
    Http2Connection,
    Http2EngineName,
    Http2Limits,
    RequestReceived,
    frames,
)

if "jh2" in AVAILABLE_ENGINES:
    import jh2.config
    import jh2.connection

NOW = 0.0
REQUESTS = 2000
REQUEST_FIELDS = [(b"user-agent", b"h2load nghttp2/1.59.0"), (b"accept", b"*/*")]
RESPONSE_FIELDS = [
    (b"server", b"nginx"),
    (b"date", b"Tue, 02 Jul 2024 10:00:00 GMT"),
    (b"content-type", b"text/plain"),
    (b"content-length", b"12"),
]
REQUEST = RequestHead(b"GET", b"/api/v1/items?id=12345", b"app.example.com", REQUEST_FIELDS, scheme=b"https")
RESPONSE = ResponseHead(200, RESPONSE_FIELDS)
CONTENT = b"hello world\n"
CHUNK = bytes(65536)
SETTINGS_ACK = frames.encode_frame(frames.SETTINGS, frames.ACK, 0)
WIDE_WINDOWS = (
    frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 2**30})
    + SETTINGS_ACK
    + frames.encode_window_update(0, 2**30)
)


def recorded_requests(new_path_each: bool) -> list[bytes]:
    """What a client sends for each of `REQUESTS`, its greeting with the first."""
    client = Http2Connection(client_side=True, engine="h2")
    client.initiate(NOW)
    written = []
    for index in range(REQUESTS):
        head = REQUEST
        if new_path_each:
            head = RequestHead(
                b"GET", b"/items/%d" % index, REQUEST.authority, REQUEST_FIELDS, scheme=b"https"
            )
        stream_id = client.send_request(head, end_stream=True)
        written.append(client.data_to_send())
        client.receive_data((b"" if index else WIDE_WINDOWS) + response_bytes(stream_id), NOW)
    return written


def response_bytes(stream_id: int) -> bytes:
    return frames.encode_frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id, b"\x88")


def serve(engine: Http2EngineName, requests: list[bytes]) -> None:
    server = Http2Connection(client_side=False, engine=engine)
    server.initiate(NOW)
    for data in requests:
        for event in server.receive_data(data, NOW):
            if isinstance(event, RequestReceived):
                server.send_response(event.stream_id, RESPONSE, end_stream=False)
                server.send_data(event.stream_id, CONTENT, NOW, end_stream=True)
        server.data_to_send()


def serve_bare(library: Any, requests: list[bytes]) -> None:
    """The library alone, as its documentation has it."""
    server = library.connection.H2Connection(library.config.H2Configuration(client_side=False))
    server.initiate_connection()
    for data in requests:
        for event in server.receive_data(data):
            if type(event).__name__ == "RequestReceived":
                server.send_headers(event.stream_id, [(b":status", b"200"), *RESPONSE_FIELDS])
                server.send_data(event.stream_id, CONTENT, end_stream=True)
        server.data_to_send()


def request_and_read(engine: Http2EngineName) -> None:
    client = Http2Connection(client_side=True, engine=engine)
    client.initiate(NOW)
    client.receive_data(WIDE_WINDOWS, NOW)
    for _ in range(REQUESTS):
        stream_id = client.send_request(REQUEST, end_stream=True)
        client.data_to_send()
        client.receive_data(response_bytes(stream_id), NOW)


def download(engine: Http2EngineName) -> None:
    """`REQUESTS` chunks of 64 KiB on one stream."""
    server = Http2Connection(client_side=False, engine=engine)
    server.initiate(NOW)
    server.receive_data(recorded_requests(False)[0] + WIDE_WINDOWS, NOW)
    server.send_response(1, RESPONSE, end_stream=False)
    for _ in range(REQUESTS):
        server.send_data(1, CHUNK, NOW)
        server.data_to_send()


def upload(engine: Http2EngineName) -> None:
    """`REQUESTS` chunks of 64 KiB on one stream, consumed at once."""
    client = Http2Connection(client_side=True, engine="h2")
    client.initiate(NOW)
    client.send_request(REQUEST, end_stream=False)
    # Half of a window may be on its way back at any time.
    limits = Http2Limits(stream_window_bytes=4 * len(CHUNK))
    server = Http2Connection(client_side=False, engine=engine, limits=limits)
    server.initiate(NOW)
    server.receive_data(client.data_to_send(), NOW)
    chunk = frames.encode_frame(frames.DATA, 0, 1, bytes(16384)) * 4
    for _ in range(REQUESTS):
        for event in server.receive_data(chunk, NOW):
            if isinstance(event, DataReceived):
                server.acknowledge_received_data(1, len(event.data))
        server.data_to_send()


def microseconds(run: Callable[[], None]) -> float:
    """CPU per request, the best of five runs."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best / REQUESTS * 1e6


def main() -> None:
    same, different = recorded_requests(False), recorded_requests(True)
    libraries = {"h2": h2, **({"jh2": jh2} if "jh2" in AVAILABLE_ENGINES else {})}
    heads = (
        f"{name:>14}" + (f"{f'bare {name}':>10}" if name in libraries else "") for name in AVAILABLE_ENGINES
    )
    print(f"{'µs of CPU':<44}" + "".join(heads))

    def report(
        label: str, ours: Callable[[Http2EngineName], None], bare: Callable[[Any], None] | None = None
    ) -> None:
        print(f"{label:<44}", end="", flush=True)
        for name in AVAILABLE_ENGINES:
            print(f"{microseconds(partial(ours, name)):>14.1f}", end="", flush=True)
            if name in libraries:
                beside = f"{microseconds(partial(bare, libraries[name])):.1f}" if bare is not None else ""
                print(f"{beside:>10}", end="", flush=True)
        print()

    report("server half, small request", partial(serve, requests=same), partial(serve_bare, requests=same))
    report(
        "server half, a new path each time",
        partial(serve, requests=different),
        partial(serve_bare, requests=different),
    )
    report("client half, small request", request_and_read)
    report("64 KiB sent", download)
    report("64 KiB received and consumed", upload)


if __name__ == "__main__":
    main()
