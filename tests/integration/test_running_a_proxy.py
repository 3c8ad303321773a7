"""SmartProxy as a program uses it: start, change, events, stop; under asyncio and trio."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography import x509

from smartproxy import ConfigError, RouteContext, SmartProxy
from smartproxy.testing.running_proxy import RunningProxy

StartProxy = Callable[..., RunningProxy]


class _Backend(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def backend_port() -> Iterator[int]:
    """A backend that answers every request with its request line."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                body = line.strip()
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with _Backend(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def forward(port: int, **target: Any) -> dict[str, Any]:
    return {
        "name": "app",
        "match": {"ports": 0},
        "action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": port, **target}]},
    }


def respond(body: str, port: int = 0) -> dict[str, Any]:
    return {
        "name": body,
        "match": {"ports": port},
        "action": {"type": "handler", "handler": {"http_response": {"body": body}}},
    }


def get(port: int, path: str = "/", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_forwards(start_proxy: StartProxy, backend_port: int) -> None:
    proxy = start_proxy([forward(backend_port)])
    assert get(proxy.port, "/hello") == (200, b"GET /hello HTTP/1.1")
    record = proxy.wait_for_record("access", status=200)
    assert record["route"] == "app"
    assert record["backend"] == f"127.0.0.1:{backend_port}"


def test_host_and_port_functions_sync_and_async(start_proxy: StartProxy, backend_port: int) -> None:
    seen: list[RouteContext] = []

    async def host(context: RouteContext) -> str:
        seen.append(context)
        await asyncio.sleep(0)
        return "localhost"

    route = forward(0, host=host)
    route["action"]["targets"][0]["port"] = lambda context: backend_port
    proxy = start_proxy([route])
    assert get(proxy.port, "/premium?x=1", Host="app.example.com")[0] == 200
    (context,) = seen
    assert (context.path, context.query, context.domain) == ("/premium", "x=1", "app.example.com")
    assert context.client_ip == "127.0.0.1"


def test_a_function_that_raises_is_the_proxys_fault(start_proxy: StartProxy) -> None:
    def host(context: RouteContext) -> str:
        raise ValueError("no idea")

    proxy = start_proxy([forward(80, host=host)])
    assert get(proxy.port)[0] == 500
    assert "no idea" in str(proxy.wait_for_record("access", status=500)["failure_detail"])


def test_a_backend_that_is_down_is_a_502(start_proxy: StartProxy) -> None:
    proxy = start_proxy([forward(free_port())])
    assert get(proxy.port)[0] == 502
    assert proxy.wait_for_record("dial_failed")["error"] == "connection_refused"


def test_routes_change_at_once_or_not_at_all(start_proxy: StartProxy) -> None:
    proxy = start_proxy([respond("old")])
    assert get(proxy.port)[1] == b"old"
    bad = respond("bad")
    bad["match"]["ports"] = 70000
    with pytest.raises(ConfigError) as caught:
        proxy.update_routes([respond("new"), bad])
    assert "routes[1].match.ports" in str(caught.value)
    assert get(proxy.port)[1] == b"old"
    proxy.update_routes([respond("new")])
    assert get(proxy.port)[1] == b"new"


def test_ports_follow_the_routes(start_proxy: StartProxy) -> None:
    first, second = free_port(), free_port()
    proxy = start_proxy([respond("one", first)])
    proxy.update_routes([respond("two", second)])
    assert get(second)[1] == b"two"
    with pytest.raises(ConnectionRefusedError):
        get(first)


def test_a_port_that_is_taken_changes_nothing(start_proxy: StartProxy) -> None:
    proxy = start_proxy([respond("old")])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = free_port()
        with pytest.raises(OSError, match=str(port)):
            proxy.update_routes([respond("new", port), respond("other", wanted)])
    assert get(proxy.port)[1] == b"old"
    with pytest.raises(ConnectionRefusedError):
        get(wanted)


def test_ports_can_be_added_and_removed(start_proxy: StartProxy) -> None:
    extra = free_port()
    proxy = start_proxy([respond("here", 0)])
    first = proxy.port
    assert proxy.call(proxy.proxy.add_listening_port(extra)) == extra
    assert proxy.proxy.get_listening_ports() == sorted([first, extra])
    proxy.update_routes([respond("here", 0), respond("extra", extra)])
    assert get(extra)[1] == b"extra"
    proxy.call(proxy.proxy.remove_listening_port(extra))
    assert proxy.proxy.get_listening_ports() == [first]


def test_a_port_already_taken_stops_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        proxy = RunningProxy([respond("x", taken.getsockname()[1])])
        with pytest.raises(OSError, match="in use"):
            proxy.start()


def test_a_proxy_starts_once(start_proxy: StartProxy) -> None:
    proxy = start_proxy([respond("x")])
    with pytest.raises(RuntimeError, match="starts once"):
        proxy.call(proxy.proxy.start())


def test_stop_lets_a_response_finish(start_proxy: StartProxy) -> None:
    release = threading.Event()

    class Slow(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            release.wait(20)
            self.wfile.write(b"rest")

    with _Backend(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        proxy = start_proxy([forward(server.server_address[1])])
        port = proxy.port
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"half" not in received:
                received += client.recv(65536)
            stopping = threading.Thread(target=proxy.stop)
            stopping.start()
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except ConnectionRefusedError:
                    break
            release.set()
            while chunk := client.recv(65536):
                received += chunk
            assert received.endswith(b"halfrest")
            stopping.join()
        server.shutdown()
        thread.join()


def test_listeners_hear_and_cannot_hurt(start_proxy: StartProxy) -> None:
    proxy = start_proxy([respond("x")])

    def broken(facts: object) -> None:
        raise RuntimeError("listener")

    proxy.proxy.on("access", broken)
    assert get(proxy.port)[0] == 200
    assert get(proxy.port)[0] == 200
    with pytest.raises(ValueError, match="no event"):
        proxy.proxy.on("acces", broken)


def test_records_reach_the_standard_librarys_logging(
    start_proxy: StartProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "smartproxy")
    proxy = start_proxy([respond("x")])
    assert get(proxy.port, "/logged")[0] == 200
    proxy.stop()
    (access,) = [record for record in caplog.records if record.name == "smartproxy.access"]
    assert access.__dict__["fields"]["target"] == "/logged"
    assert access.getMessage().startswith("127.0.0.1 GET http://")


def test_runs_under_trio(backend_port: int) -> None:
    async def main() -> None:
        async with SmartProxy([forward(backend_port)], listen=["127.0.0.1"]) as proxy:
            (port,) = proxy.get_listening_ports()
            assert (await trio.to_thread.run_sync(get, port, "/trio"))[1] == b"GET /trio HTTP/1.1"
            await proxy.update_routes([respond("changed")])
            assert (await trio.to_thread.run_sync(get, port))[1] == b"changed"

    trio.run(main)


def test_needs_an_event_loop() -> None:
    proxy = SmartProxy([respond("x")])
    with pytest.raises(RuntimeError, match="asyncio or trio"):
        proxy.start().send(None)


def test_a_changed_certificate_is_presented_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartproxy.proxy.CERTIFICATE_CHECK_S", 0.01)
    authority = trustme.CA()
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue() -> int:
        issued = authority.issue_cert("a.example.com")
        key_file.write_bytes(issued.private_key_pem.bytes())
        cert_file.write_bytes(issued.cert_chain_pems[0].bytes())
        return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number

    def presented(port: int) -> int:
        pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    route = respond("x")
    route["action"]["tls"] = {
        "mode": "terminate",
        "certificate": {"cert_file": str(cert_file), "key_file": str(key_file)},
    }
    first = issue()
    with RunningProxy([route]) as proxy:
        assert presented(proxy.port) == first
        second = issue()
        while presented(proxy.port) != second:
            proxy.wait_for_record("certificates_replaced")
        cert_file.write_text("not a certificate")
        third = issue()
        while presented(proxy.port) != third:
            assert presented(proxy.port) in (second, third)


def test_what_is_known_of_a_backends_protocols_can_be_asked(start_proxy: StartProxy) -> None:
    action = {
        **respond("hello")["action"],
        "tls": {"mode": "terminate"},
        "udp": {"quic": {"enable_http3": True}},
    }
    backend = start_proxy([{"match": {"ports": 0, "transport": "all"}, "action": action}])
    # Plain in front, TLS behind: the target says so itself.
    target = {"host": "127.0.0.1", "port": backend.port, "tls": {"verify": False}}
    proxy = start_proxy(
        [{"match": {"ports": 0}, "action": {"type": "forward", "targets": [target]}}],
    )
    assert proxy.proxy.get_backend_protocols() == {}
    assert get(proxy.port) == (200, b"hello")
    proxy.wait_for_record("alt_svc_discovered")
    alternative = {
        "alternative": f"h3=127.0.0.1:{backend.port}",
        "availability": "ready",
        "failure_count": 0,
    }
    assert proxy.proxy.get_backend_protocols() == {
        f"127.0.0.1:{backend.port}": {
            "mode": "auto",
            "best": "http3",
            "learned": "http2",
            "alternatives": [alternative],
        }
    }
    assert get(proxy.port) == (200, b"hello")
    proxy.wait_for_record("backend_connected", protocol="http3")
