"""What is measured, and how: each scenario drives one proxy for a moment and returns numbers."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench import bulk
from bench.backends import LARGE_BODY_BYTES, SMALL_BODY
from bench.handshakes import count_handshakes
from bench.peers import SERVER_NAME, Front
from bench.processes import Service
from bench.wrk import run_wrk

GIB = 1 << 30
BULK_STREAMS = 2
HANDSHAKE_CLIENTS = 4
IDLE_CONNECTIONS = 5000
IDLE_WARM_UP = 100
REQUEST = f"GET / HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n".encode()

Numbers = dict[str, float]


class WrongAnswer(Exception):
    """The proxy does not do what is to be measured."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy that is running, and what its scenario was given."""

    service: Service
    port: int
    seconds: float
    bulk_gib: float
    source: int
    """A descriptor of bytes to upload."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: one of a scenario's numbers."""

    number: str
    title: str
    decimals: int
    less_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    front: Front
    measure: Callable[[Proxy], Numbers]
    rows: tuple[Row, ...]
    fresh: bool = False
    """Every run needs a process that has done nothing yet."""


def check_http(port: int, *, tls: bool, path: str = "/", length: int = len(SMALL_BODY)) -> None:
    """Raise WrongAnswer unless a GET through the proxy gives what the backend has there."""
    connection: http.client.HTTPConnection
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        # http.client sends the address as SNI; the name is set on a socket of our own.
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sock = context.wrap_socket(plain, server_hostname=SERVER_NAME)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": SERVER_NAME})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200 or len(body) != length:
        raise WrongAnswer(f"GET {path}: status {response.status}, {len(body)} bytes, not {length}")


def _under_load(proxy: Proxy, path: str, connections: int, *, close: bool = False) -> Numbers:
    url = f"http://127.0.0.1:{proxy.port}{path}"
    run_wrk(url, connections, 1, close=close)
    cpu_s = proxy.service.cpu_s()
    load = run_wrk(url, connections, proxy.seconds, close=close)
    cpu_s = proxy.service.cpu_s() - cpu_s
    return {
        "cpu_us": cpu_s / load.requests * 1e6,
        "per_s": load.requests / load.seconds,
        "core": cpu_s / load.seconds,
    }


def keep_alive(proxy: Proxy) -> Numbers:
    check_http(proxy.port, tls=False)
    return _under_load(proxy, "/", connections=64)


def new_connections(proxy: Proxy) -> Numbers:
    check_http(proxy.port, tls=False)
    return _under_load(proxy, "/", connections=64, close=True)


def large_bodies(proxy: Proxy) -> Numbers:
    check_http(proxy.port, tls=False, path="/large", length=LARGE_BODY_BYTES)
    return _under_load(proxy, "/large", connections=16)


def handshakes(proxy: Proxy) -> Numbers:
    check_http(proxy.port, tls=True)
    count_handshakes(proxy.port, SERVER_NAME, 0.3, HANDSHAKE_CLIENTS)
    cpu_s = proxy.service.cpu_s()
    started = time.monotonic()
    count = count_handshakes(proxy.port, SERVER_NAME, proxy.seconds, HANDSHAKE_CLIENTS)
    seconds = time.monotonic() - started
    cpu_s = proxy.service.cpu_s() - cpu_s
    return {
        "cpu_us": cpu_s / count * 1e6,
        "per_core_s": count / cpu_s,
        "per_s": count / seconds,
        "core": cpu_s / seconds,
    }


def _bulk(proxy: Proxy, direction: bytes, preface: bytes) -> Numbers:
    total = int(proxy.bulk_gib * GIB) // BULK_STREAMS
    failures: list[Exception] = []

    def stream(count: int) -> None:
        try:
            bulk.transfer(proxy.port, direction, count, preface, proxy.source)
        except (OSError, bulk.Broken) as error:
            failures.append(error)

    def run(count: int) -> None:
        threads = [threading.Thread(target=stream, args=(count,)) for _ in range(BULK_STREAMS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise WrongAnswer(f"bulk: {failures[0]!r}")

    run(total // 16)
    cpu_s = proxy.service.cpu_s()
    started = time.monotonic()
    run(total)
    seconds = time.monotonic() - started
    cpu_s = proxy.service.cpu_s() - cpu_s
    moved_gib = total * BULK_STREAMS / GIB
    return {"cpu_s_per_gib": cpu_s / moved_gib, "gib_per_s": moved_gib / seconds, "core": cpu_s / seconds}


def tcp_download(proxy: Proxy) -> Numbers:
    return _bulk(proxy, bulk.DOWNLOAD, b"")


def tcp_upload(proxy: Proxy) -> Numbers:
    return _bulk(proxy, bulk.UPLOAD, b"")


def passthrough_download(proxy: Proxy) -> Numbers:
    return _bulk(proxy, bulk.DOWNLOAD, bulk.client_hello(SERVER_NAME))


def passthrough_upload(proxy: Proxy) -> Numbers:
    return _bulk(proxy, bulk.UPLOAD, bulk.client_hello(SERVER_NAME))


def _connect_and_ask(port: int) -> socket.socket:
    """A connection that has had one request answered."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(SMALL_BODY.encode()):
        data = connection.recv(65536)
        if not data:
            raise WrongAnswer(f"closed after {answer!r}")
        answer += data
    return connection


def idle_connections(proxy: Proxy) -> Numbers:
    for _ in range(IDLE_WARM_UP):
        _connect_and_ask(proxy.port).close()
    before = proxy.service.pss_bytes()
    connections = [_connect_and_ask(proxy.port) for _ in range(IDLE_CONNECTIONS)]
    try:
        after = proxy.service.pss_bytes()
        for connection in (connections[0], connections[-1]):
            connection.setblocking(False)
            try:
                raise WrongAnswer(f"an idle connection was not kept: {connection.recv(1)!r}")
            except BlockingIOError:
                pass
    finally:
        for connection in connections:
            connection.close()
    return {
        "kib_per_connection": (after - before) / IDLE_CONNECTIONS / 1024,
        "start_mib": before / (1 << 20),
    }


SCENARIOS = (
    Scenario(
        "keep-alive",
        Front.HTTP,
        keep_alive,
        (
            Row("cpu_us", "HTTP/1.1 keep-alive, 64 connections, 128-byte body: CPU µs per request", 1),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "new-connections",
        Front.HTTP,
        new_connections,
        (
            Row("cpu_us", "HTTP/1.1, a new connection per request: CPU µs per request", 1),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "handshakes",
        Front.HTTPS,
        handshakes,
        (
            Row(
                "per_core_s", "TLS 1.3 full handshakes (ECDSA P-256) per CPU second", 0, less_is_better=False
            ),
            Row("cpu_us", "… CPU µs per handshake", 0),
        ),
    ),
    Scenario(
        "large-bodies",
        Front.HTTP,
        large_bodies,
        (
            Row("cpu_us", "HTTP/1.1 keep-alive, 1 MiB body: CPU µs per request", 0),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "tcp-download",
        Front.TCP,
        tcp_download,
        (Row("cpu_s_per_gib", "Plain TCP, backend to client: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "tcp-upload",
        Front.TCP,
        tcp_upload,
        (Row("cpu_s_per_gib", "Plain TCP, client to backend: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "passthrough-download",
        Front.PASSTHROUGH,
        passthrough_download,
        (Row("cpu_s_per_gib", "TLS passthrough by SNI, backend to client: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "passthrough-upload",
        Front.PASSTHROUGH,
        passthrough_upload,
        (Row("cpu_s_per_gib", "TLS passthrough by SNI, client to backend: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "idle",
        Front.HTTP,
        idle_connections,
        (
            Row("kib_per_connection", "Memory per idle keep-alive connection (of 5,000): KiB", 2),
            Row("start_mib", "… memory before them: MiB", 1),
        ),
        fresh=True,
    ),
)
