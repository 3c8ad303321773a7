"""The benchmark's gates: what is checked, who gets through, and what smartproxy is configured with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from pathlib import Path

import jwt
import pytest

from bench import gates
from bench.gates import ALL_CASES, BARE, CASES, Check, NotPassed
from bench.peers import Assignment, Front
from bench.peers.haproxy import gate as haproxy_gate
from bench.peers.nginx import gate as nginx_gate
from bench.peers.smartproxy import gated_configuration, security
from bench.processes import free_ports
from smartproxy.config import compile_configuration, parse_config

CONTENT = b"what the backend has"
Respond = Callable[[BaseHTTPRequestHandler], tuple[int, list[tuple[str, str]], bytes]]


@contextlib.contextmanager
def server(respond: Respond) -> Iterator[int]:
    """A server on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, fields, body = respond(self)
            self.send_response(status)
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()
            thread.join()


def open_gate(request: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
    return 200, [], CONTENT


class Challenge:
    """A gate with a challenge that is solved by the visit after so many."""

    def __init__(self, visits_too_early: int) -> None:
        self.visits_too_early = visits_too_early

    def __call__(self, request: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
        cookies = request.headers.get("Cookie", "")
        if "cleared=yes" in cookies:
            return 200, [], CONTENT
        if "pending=p1" not in cookies:
            return 403, [("Set-Cookie", "pending=p1; HttpOnly; Max-Age=300")], b"wait"
        self.visits_too_early -= 1
        if self.visits_too_early >= 0:
            return 403, [], b"still"
        fields = [
            ("Set-Cookie", "pending=; Max-Age=0; Path=/"),
            ("Set-Cookie", "cleared=yes; HttpOnly; Max-Age=1800"),
            ("Location", "/"),
        ]
        return 303, fields, b""


def test_the_networks_are_many_different_and_not_the_loads() -> None:
    client = ip_address("127.0.0.1")
    blocked = gates.blocked_networks()
    assert len(set(blocked)) == gates.BLOCKED_NETWORKS
    assert blocked == gates.blocked_networks(), "the same in every run"
    assert not any(client in ip_network(network) for network in blocked[:1000] + blocked[-1000:])
    assert len(gates.allow_list()) == len(gates.block_list()) == gates.LISTED_NETWORKS
    assert [network for network in gates.allow_list() if client in ip_network(network)] == [gates.CLIENTS]
    assert not any(client in ip_network(network) for network in gates.block_list())


def test_a_proxy_without_challenges_is_measured_with_all_that_it_has() -> None:
    everything = ALL_CASES[0]
    assert everything.suits(everything.checks - {Check.CHALLENGE})
    assert not everything.suits(everything.checks - {Check.RATE_LIMIT})
    assert BARE.suits(frozenset())
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_challenge_is_passed_by_coming_back_with_its_cookies() -> None:
    with server(Challenge(0)) as first, server(Challenge(2)) as second:
        fields = gates.clearances([first, second], wait_s=0)
        assert fields == {first: {"Cookie": "cleared=yes"}, second: {"Cookie": "cleared=yes"}}
        gates.check_gate("challenge", frozenset({Check.CHALLENGE}), first, fields[first], CONTENT)


def test_a_challenge_that_is_not_there_or_never_ends_is_no_measurement() -> None:
    with server(open_gate) as port, pytest.raises(NotPassed, match="no challenge, but status 200"):
        gates.clearances([port], wait_s=0)
    with server(Challenge(100)) as port, pytest.raises(NotPassed, match="no waiting passes"):
        gates.clearances([port], wait_s=0)


@pytest.mark.parametrize(
    ("checks", "fields", "manner"),
    [
        ({Check.PASSWORD}, {"Authorization": "Basic Og=="}, "without Authorization"),
        ({Check.IP_LISTS}, {}, "from a listed address"),
        ({Check.BLOCKED_NETWORKS}, {}, "from a blocked network"),
    ],
)
def test_a_gate_that_is_open_for_everybody_is_no_measurement(
    checks: set[Check], fields: dict[str, str], manner: str
) -> None:
    with server(open_gate) as port, pytest.raises(NotPassed, match=manner):
        gates.check_gate("open", frozenset(checks), port, fields, CONTENT)


def test_a_gate_that_is_shut_for_the_load_is_no_measurement() -> None:
    with server(lambda request: (401, [], b"")) as port, pytest.raises(NotPassed, match="status 401"):
        gates.check_gate("shut", frozenset(), port, {}, CONTENT)
    with pytest.raises(NotPassed, match="status 0"):
        gates.check_gate("nobody", frozenset(), free_ports(1)[0], {}, CONTENT)


def test_a_gate_that_tells_its_clients_apart_is_measured() -> None:
    def respond(request: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
        is_listed = request.client_address[0] in (gates.LIST_BLOCKED_CLIENT, gates.NETWORK_BLOCKED_CLIENT)
        return (403, [], b"") if is_listed or "Authorization" not in request.headers else (200, [], CONTENT)

    checks = frozenset({Check.PASSWORD, Check.IP_LISTS, Check.BLOCKED_NETWORKS})
    with server(respond) as port:
        gates.check_gate("shut for some", checks, port, {"Authorization": "Basic Og=="}, CONTENT)


def test_the_token_is_good_for_longer_than_a_run() -> None:
    [case] = [case for case in CASES if case.name == "token"]
    scheme, _, token = gates.authorization(case)["Authorization"].partition(" ")
    assert scheme == "Bearer"
    claims = jwt.decode(token, gates.TOKEN_SECRET, algorithms=["HS256"], options={"require": ["exp"]})
    assert claims["sub"] == gates.USER


def test_smartproxy_is_configured_with_a_route_for_each_case(tmp_path: Path) -> None:
    ports = free_ports(len(CASES))
    assignment = Assignment(
        front=Front.GATED,
        listen_port=ports[0],
        backend_port=1,
        certificate=tmp_path,
        key=tmp_path,
        directory=tmp_path,
        case_ports={case.name: port for case, port in zip(CASES, ports, strict=True)},
    )
    compiled = compile_configuration(parse_config(gated_configuration(assignment)))
    assert set(compiled.configuration.table.listening_ports()) == set(ports)
    assert security(BARE, "") == {}
    keys = {key for case in ALL_CASES for key in security(case, "")}
    assert keys == {
        *("max_connections", "ip_allow_list", "ip_block_list"),
        *("rate_limit", "challenge", "basic_auth", "jwt_auth"),
    }


def test_the_peers_check_nothing_where_nothing_is_asked_for(tmp_path: Path) -> None:
    assert nginx_gate(BARE, tmp_path) == haproxy_gate(BARE, tmp_path) == ""
    assert "limit_req" in nginx_gate(ALL_CASES[0], tmp_path)
    assert "jwt_verify" in haproxy_gate(ALL_CASES[1], tmp_path)
