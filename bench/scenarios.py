"""What is measured, and how: each scenario drives one proxy for a moment and returns numbers."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from bench import bulk, gates
from bench.backends import LARGE_BODY_BYTES, SMALL_BODY
from bench.gates import ALL_CASES, BARE, CONNECTIONS, REQUEST_CASES, SINGLE_CASES, Case, Check
from bench.h2load import request_once, run_h2load
from bench.handshakes import count_handshakes
from bench.http3_load import run_http3
from bench.load import Load
from bench.peers import SERVER_NAME, Front
from bench.processes import Service
from bench.websocket import echo_once, run_large_echoes, run_small_echoes
from bench.wrk import SHORTEST_LOAD_S, run_wrk

MIB = 1 << 20
GIB = 1 << 30
BULK_STREAMS = 2
HANDSHAKE_CLIENTS = 4
IDLE_CONNECTIONS = 5000
IDLE_WARM_UP = 100
WARM_UP_S = 0.3
GATED_CONNECTIONS = 64
HTTP2_CONNECTIONS, HTTP2_STREAMS = 16, 16
HTTP3_CONNECTIONS, HTTP3_STREAMS = 2, 4
ECHO_CONNECTIONS, ECHO_BYTES = 64, 64
LARGE_ECHO_CONNECTIONS, LARGE_ECHO_BYTES = 2, 1 << 20
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
    checks: frozenset[Check] = frozenset()
    """What it can check, and for `Front.GATED` does in the cases that ask for it."""
    case_ports: Mapping[str, int] = field(default_factory=dict)
    """For `Front.GATED`: the cases that it has, and where each of them listens."""

    def port_of(self, case: Case) -> int:
        return self.case_ports[case.name]


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
    check: Callable[[Proxy], None]
    """Asks for what is to be measured, once before every run; raises when that is not what comes."""
    measure: Callable[[Proxy], Numbers]
    rows: tuple[Row, ...]
    fresh: bool = False
    """Every run needs a process that has done nothing yet."""
    case: Case | None = None
    """For `Front.GATED`: the case without which there is nothing to measure."""

    def suits(self, fronts: frozenset[Front], checks: frozenset[Check]) -> bool:
        """Whether a proxy with these is measured."""
        return self.front in fronts and (self.case is None or self.case.suits(checks))


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


def check_plain(proxy: Proxy) -> None:
    check_http(proxy.port, tls=False)


def check_large_body(proxy: Proxy) -> None:
    check_http(proxy.port, tls=False, path="/large", length=LARGE_BODY_BYTES)


def check_tls(proxy: Proxy) -> None:
    check_http(proxy.port, tls=True)


def check_http2(proxy: Proxy) -> None:
    length = request_once(SERVER_NAME, proxy.port)
    if length != len(SMALL_BODY):
        raise WrongAnswer(f"HTTP/2: {length} bytes, not {len(SMALL_BODY)}")


def check_http3(proxy: Proxy) -> None:
    run_http3(SERVER_NAME, proxy.port, 1, 1, len(SMALL_BODY), 0)


def check_websocket(proxy: Proxy) -> None:
    echo_once(proxy.port, SERVER_NAME, ECHO_BYTES)


def check_websocket_bulk(proxy: Proxy) -> None:
    echo_once(proxy.port, SERVER_NAME, LARGE_ECHO_BYTES)


def _measured(proxy: Proxy, make_load: Callable[[], Load]) -> Numbers:
    cpu_s = proxy.service.cpu_s()
    load = make_load()
    cpu_s = proxy.service.cpu_s() - cpu_s
    return {
        "cpu_us": cpu_s / load.requests * 1e6,
        "per_s": load.requests / load.seconds,
        "core": cpu_s / load.seconds,
    }


def _under_load(proxy: Proxy, path: str, connections: int, *, close: bool = False) -> Numbers:
    url = f"http://127.0.0.1:{proxy.port}{path}"
    run_wrk(url, connections, 1, close=close)
    return _measured(proxy, lambda: run_wrk(url, connections, proxy.seconds, close=close))


def keep_alive(proxy: Proxy) -> Numbers:
    return _under_load(proxy, "/", connections=64)


def _request_fields(proxy: Proxy) -> dict[str, dict[str, str]]:
    return gates.request_fields(proxy.case_ports, challenged=Check.CHALLENGE in proxy.checks)


def check_gates(proxy: Proxy) -> None:
    fields = _request_fields(proxy)
    for case in gates.CASES:
        if case.name in proxy.case_ports:
            checks = case.checks & proxy.checks
            port = proxy.case_ports[case.name]
            gates.check_gate(case.name, checks, port, fields[case.name], SMALL_BODY.encode())


def gatekeeping(proxy: Proxy) -> Numbers:
    fields = _request_fields(proxy)
    cases = [case for case in REQUEST_CASES if case.name in proxy.case_ports]

    def load(case: Case, seconds: float) -> Load:
        url = f"http://127.0.0.1:{proxy.port_of(case)}/"
        return run_wrk(url, GATED_CONNECTIONS, seconds, fields=fields[case.name])

    load(BARE, 1)
    taken: dict[str, list[float]] = {case.name: [] for case in cases}
    seconds, turns = proxy.seconds, list(cases)
    if seconds >= 2 * SHORTEST_LOAD_S:
        # There and back, so that all have the same share of a machine that grows slower meanwhile.
        seconds, turns = seconds / 2, [*cases, *reversed(cases)]
    for case in turns:
        numbers = _measured(proxy, partial(load, case, seconds))
        taken[case.name].append(numbers["cpu_us"])
    cpu_us = {name: sum(values) / len(values) for name, values in taken.items()}
    more_us = {f"{name}_more_us": value - cpu_us[BARE.name] for name, value in cpu_us.items()}
    del more_us[f"{BARE.name}_more_us"]
    return {f"{BARE.name}_us": cpu_us[BARE.name], **more_us}


def gated_connections(proxy: Proxy) -> Numbers:
    url = f"http://127.0.0.1:{proxy.port_of(CONNECTIONS)}/"
    run_wrk(url, GATED_CONNECTIONS, 1, close=True)
    return _measured(proxy, lambda: run_wrk(url, GATED_CONNECTIONS, proxy.seconds, close=True))


def new_connections(proxy: Proxy) -> Numbers:
    return _under_load(proxy, "/", connections=64, close=True)


def large_bodies(proxy: Proxy) -> Numbers:
    return _under_load(proxy, "/large", connections=16)


def http2(proxy: Proxy) -> Numbers:
    def load(seconds: float) -> Load:
        return run_h2load(SERVER_NAME, proxy.port, HTTP2_CONNECTIONS, HTTP2_STREAMS, seconds)

    load(1)
    return _measured(proxy, lambda: load(proxy.seconds))


def http3(proxy: Proxy) -> Numbers:
    def load(seconds: float) -> Load:
        content_bytes = len(SMALL_BODY)
        return run_http3(SERVER_NAME, proxy.port, HTTP3_CONNECTIONS, HTTP3_STREAMS, content_bytes, seconds)

    load(WARM_UP_S)
    return _measured(proxy, lambda: load(proxy.seconds))


def websocket_echo(proxy: Proxy) -> Numbers:
    def load(seconds: float) -> Load:
        return run_small_echoes(proxy.port, SERVER_NAME, ECHO_CONNECTIONS, ECHO_BYTES, seconds)

    load(WARM_UP_S)
    return _measured(proxy, lambda: load(proxy.seconds))


def websocket_bulk(proxy: Proxy) -> Numbers:
    def load(count: int) -> Load:
        return run_large_echoes(proxy.port, SERVER_NAME, LARGE_ECHO_CONNECTIONS, LARGE_ECHO_BYTES, count)

    # A message crosses the proxy twice.
    message_bytes = 2 * LARGE_ECHO_BYTES
    count = max(1, int(proxy.bulk_gib * GIB) // (message_bytes * LARGE_ECHO_CONNECTIONS))
    load(max(1, count // 16))
    numbers = _measured(proxy, lambda: load(count))
    crossed_mib = message_bytes / MIB
    return {
        "cpu_us_per_mib": numbers["cpu_us"] / crossed_mib,
        "mib_per_s": numbers["per_s"] * crossed_mib,
        "core": numbers["core"],
    }


def handshakes(proxy: Proxy) -> Numbers:
    count_handshakes(proxy.port, SERVER_NAME, WARM_UP_S, HANDSHAKE_CLIENTS)
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


def _check_bulk(proxy: Proxy, preface: bytes) -> None:
    try:
        for direction in (bulk.DOWNLOAD, bulk.UPLOAD):
            bulk.transfer(proxy.port, direction, MIB, preface, proxy.source)
    except bulk.Broken as error:
        raise WrongAnswer(f"bulk: {error}") from None


def check_tcp(proxy: Proxy) -> None:
    _check_bulk(proxy, b"")


def check_passthrough(proxy: Proxy) -> None:
    _check_bulk(proxy, bulk.client_hello(SERVER_NAME))


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
        check_plain,
        keep_alive,
        (
            Row("cpu_us", "HTTP/1.1 keep-alive, 64 connections, 128-byte body: CPU µs per request", 1),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "new-connections",
        Front.HTTP,
        check_plain,
        new_connections,
        (
            Row("cpu_us", "HTTP/1.1, a new connection per request: CPU µs per request", 1),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "gatekeeping-connections",
        Front.GATED,
        check_gates,
        gated_connections,
        (
            Row(
                "cpu_us",
                f"HTTP/1.1, a new connection per request, {gates.BLOCKED_NETWORKS:,} blocked networks and "
                "limits by address: CPU µs per request",
                1,
            ),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
        case=CONNECTIONS,
    ),
    Scenario(
        "gatekeeping",
        Front.GATED,
        check_gates,
        gatekeeping,
        (
            Row("bare_us", "HTTP/1.1 keep-alive, a route that checks nothing: CPU µs per request", 1),
            *(
                Row(f"{case.name}_more_us", f"… more with {case.title}", 1)
                for case in (*SINGLE_CASES, *ALL_CASES)
            ),
        ),
        case=BARE,
    ),
    Scenario(
        "handshakes",
        Front.HTTPS,
        check_tls,
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
        check_large_body,
        large_bodies,
        (
            Row("cpu_us", "HTTP/1.1 keep-alive, 1 MiB body: CPU µs per request", 0),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "http2",
        Front.HTTP2,
        check_http2,
        http2,
        (
            Row("cpu_us", "HTTP/2 over TLS, 16 connections × 16 streams: CPU µs per request", 1),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "http3",
        Front.HTTP3,
        check_http3,
        http3,
        (
            Row("cpu_us", "HTTP/3, 8 requests in flight over 2 connections: CPU µs per request", 1),
            Row("per_s", "… requests per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "websocket-echo",
        Front.WEBSOCKET,
        check_websocket,
        websocket_echo,
        (
            Row("cpu_us", "WebSocket, 64 connections, 64-byte messages: CPU µs per round trip", 1),
            Row("per_s", "… round trips per second", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "websocket-bulk",
        Front.WEBSOCKET,
        check_websocket_bulk,
        websocket_bulk,
        (
            Row("cpu_us_per_mib", "WebSocket, 1 MiB messages echoed: CPU µs per MiB, either way", 0),
            Row("mib_per_s", "… MiB per second, both ways together", 0, less_is_better=False),
        ),
    ),
    Scenario(
        "tcp-download",
        Front.TCP,
        check_tcp,
        tcp_download,
        (Row("cpu_s_per_gib", "Plain TCP, backend to client: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "tcp-upload",
        Front.TCP,
        check_tcp,
        tcp_upload,
        (Row("cpu_s_per_gib", "Plain TCP, client to backend: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "passthrough-download",
        Front.PASSTHROUGH,
        check_passthrough,
        passthrough_download,
        (Row("cpu_s_per_gib", "TLS passthrough by SNI, backend to client: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "passthrough-upload",
        Front.PASSTHROUGH,
        check_passthrough,
        passthrough_upload,
        (Row("cpu_s_per_gib", "TLS passthrough by SNI, client to backend: CPU seconds per GiB", 3),),
    ),
    Scenario(
        "idle",
        Front.HTTP,
        check_plain,
        idle_connections,
        (
            Row("kib_per_connection", "Memory per idle keep-alive connection (of 5,000): KiB", 2),
            Row("start_mib", "… memory before them: MiB", 1),
        ),
        fresh=True,
    ),
)
