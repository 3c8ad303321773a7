"""From models to the core's tables."""

from __future__ import annotations

import dataclasses
from math import inf
from typing import Any

import pytest

from smartproxy.config import ConfigError, LimitsConfig, RouteConfig, compile_configuration, parse_config
from smartproxy.core.configuration import (
    BackendProtocol,
    BalancingAlgorithm,
    Configuration,
    ForwardAction,
    HandlerAction,
    HandlerKind,
    HealthCheck,
    Limits,
    MatchProtocol,
    ProxyProtocolMode,
    QuicPolicy,
    Route,
    Timeouts,
    TlsMode,
    Transport,
)
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.core.security.policies import ChallengeSettings


def configuration(*routes: dict[str, Any], **options: Any) -> Configuration:
    return compile_configuration(parse_config({"routes": list(routes), **options})).configuration


def route(*targets: dict[str, Any], **options: Any) -> dict[str, Any]:
    action = {"type": "forward", "targets": list(targets) or [{"host": "backend", "port": 3000}]}
    return {"match": {"ports": 80, **options.pop("match", {})}, "action": action, **options}


def handler(**kinds: Any) -> HandlerAction:
    compiled = configuration({"match": {"ports": 80}, "action": {"type": "handler", "handler": kinds}})
    action = compiled.table.routes[0].action
    assert isinstance(action, HandlerAction)
    return action


def forward(of: Route) -> ForwardAction:
    assert isinstance(of.action, ForwardAction)
    return of.action


def test_the_defaults_are_the_cores_own() -> None:
    compiled = configuration()
    assert compiled.timeouts == Timeouts()
    assert compiled.limits == Limits(max_connections_per_ip=100, connection_rate_limit_per_minute=300)
    assert compiled.challenges == ChallengeSettings()
    assert not compiled.blocked_addresses
    assert compiled.listen_hosts == ("0.0.0.0", "::")
    assert compiled.server_name == "smartproxy"
    assert not compiled.trusted_proxies
    per_address = {"max_connections_per_ip", "connection_rate_limit_per_minute"}
    assert {field.name for field in dataclasses.fields(Limits)} == {*LimitsConfig.model_fields, *per_address}


def test_every_condition_arrives() -> None:
    compiled = configuration(
        route(
            name="app",
            id="1",
            priority=7,
            match={
                "ports": [80, {"from": 8000, "to": 8099}],
                "domains": ["App.Example.", "*.Bücher.example", "*"],
                "path": "/users/:id",
                "client_ip": "10.0.0.0/8",
                "tls_version": ["TLSv1.3"],
                "headers": {"X-Kind": "a*"},
                "methods": ["get", "POST"],
                "inbound_proxy_protocol": {"mode": "optional", "trusted_proxy_ips": ["10.0.0.1"]},
            },
        )
    )
    (compiled_route,) = compiled.table.routes
    match = compiled_route.match
    assert (compiled_route.name, compiled_route.id, compiled_route.priority) == ("app", "1", 7)
    assert match.ports == ((80, 80), (8000, 8099))
    assert match.transport is Transport.TCP
    assert match.domains == ("app.example", "*.xn--bcher-kva.example", "*")
    assert match.path == "/users/:id"
    assert match.client_ip is not None
    assert match.client_ip.contains(ip_number("10.1.2.3"))
    assert match.tls_versions == {"TLSv1.3"}
    assert match.fields[0].matches([(b"x-kind", b"abc")])
    assert match.methods == {b"GET", b"POST"}
    assert match.protocol is None
    assert match.proxy_protocol is not None
    assert match.proxy_protocol.mode is ProxyProtocolMode.OPTIONAL
    assert match.proxy_protocol.trusted.contains(ip_number("10.0.0.1"))


def test_the_protocol_arrives() -> None:
    compiled = configuration(route(match={"protocol": "http"}), route(match={"protocol": "tcp"}))
    assert [each.match.protocol for each in compiled.table.routes] == [MatchProtocol.HTTP, MatchProtocol.TCP]


def test_names_fall_back_to_ids_and_positions_and_disabled_routes_keep_theirs() -> None:
    compiled = configuration(
        route(enabled=False), route(match={"path": "/a"}), route(id="x", match={"path": "/b"})
    )
    assert [(each.position, each.name) for each in compiled.table.routes] == [(1, "route[1]"), (2, "x")]


def test_targets_arrive_in_the_order_they_are_tried() -> None:
    compiled = configuration(
        route(
            {"host": "last", "port": 1},
            {
                "host": ["a", {"host": "b", "weight": 3}],
                "port": "preserve",
                "priority": 2,
                "match": {"path": "/a", "methods": "PUT", "ports": 80, "headers": {"a": "b"}},
                "load_balancing": {
                    "algorithm": "ip-hash",
                    "health_check": {"path": "/up?x=1", "interval": "1m", "timeout": "500ms"},
                },
                "send_proxy_protocol": True,
                "headers": {"request": {"A": "{clientIp}"}},
            },
            {"unix": "/run/backend", "priority": 1, "match": {"methods": "GET"}},
        ),
        send_proxy_protocol=1,
    )
    balanced, unix, last = forward(compiled.table.routes[0]).targets
    assert (balanced.hosts, balanced.weights, balanced.port) == (("a", "b"), (1, 3), "preserve")
    assert balanced.match is not None
    assert balanced.match.path == "/a"
    assert balanced.match.methods == {b"PUT"}
    assert balanced.match.ports == ((80, 80),)
    assert balanced.balancing.algorithm is BalancingAlgorithm.IP_HASH
    assert balanced.balancing.health_check == HealthCheck("/up?x=1", 60.0, 0.5, 3, 2)
    assert balanced.send_proxy_protocol == 2
    assert balanced.request_fields is not None
    assert (unix.unix_path, unix.hosts, unix.send_proxy_protocol) == ("/run/backend", (), 1)
    assert (last.hosts, last.port, last.match, last.request_fields) == (("last",), 1, None, None)


def test_functions_arrive() -> None:
    def host(context: object) -> str:
        return "a"

    async def port(context: object) -> int:
        return 1

    target = forward(configuration(route({"host": host, "port": port})).table.routes[0]).targets[0]
    assert target.host_function is host
    assert target.port_function is port
    assert target.hosts == ()


def test_hosts_are_in_the_form_they_are_dialled() -> None:
    hosts = ["[::1]", "2001:DB8::1", "Backend_1", "bücher.example"]
    target = forward(configuration(route({"host": hosts, "port": 1})).table.routes[0]).targets[0]
    assert target.hosts == ("::1", "2001:db8::1", "Backend_1", "xn--bcher-kva.example")


def test_options_arrive() -> None:
    options = {"options": {"preserve_host": False, "via": True}, "websocket": {"enabled": False}}
    changed = route()
    changed["action"] |= options
    action = forward(configuration(changed).table.routes[0])
    assert (action.preserve_host, action.add_via, action.websocket.enabled) == (False, True, False)
    assert action.tls is None


@pytest.mark.parametrize("protocol", list(BackendProtocol))
def test_the_backend_protocol_arrives(protocol: BackendProtocol) -> None:
    changed = route()
    changed["action"]["options"] = {"backend_protocol": protocol.value}
    action = forward(configuration(changed).table.routes[0])
    assert action.backend_protocol is protocol
    # HTTP/3 is the only one that brings TLS with it.
    (target,) = action.targets
    assert (target.tls is not None) == (protocol is BackendProtocol.HTTP3)
    assert target.tls is None or target.tls.verifies


def test_websocket_rules_arrive() -> None:
    changed = route()
    changed["action"]["websocket"] = {
        "ping_interval": "30s",
        "ping_timeout": "5s",
        "max_payload_size": "1MiB",
        "subprotocols": ["chat", "graphql-ws"],
        "allowed_origins": ["https://*.a.example"],
    }
    rules = forward(configuration(changed).table.routes[0]).websocket
    assert (rules.enabled, rules.ping_interval_s, rules.ping_timeout_s) == (True, 30.0, 5.0)
    assert (rules.max_payload_bytes, rules.subprotocols) == (1 << 20, (b"chat", b"graphql-ws"))
    assert rules.allowed_origins is not None
    assert rules.allowed_origins.allows(b"https://x.a.example")
    assert not rules.allowed_origins.allows(b"https://a.example")


def test_websockets_have_no_rules_of_their_own_accord() -> None:
    action = forward(configuration(route()).table.routes[0])
    rules = action.websocket
    assert (rules.enabled, rules.ping_interval_s, rules.ping_timeout_s) == (True, None, 20.0)
    assert (rules.max_payload_bytes, rules.subprotocols, rules.allowed_origins) == (None, None, None)
    assert action.targets[0].websocket is None


def test_a_targets_websocket_rules_stand_over_the_actions() -> None:
    changed = route(
        {"host": "a", "port": 1, "match": {"path": "/a"}, "websocket": {"max_payload_size": 5}},
        {"host": "b", "port": 1},
    )
    changed["action"]["websocket"] = {"ping_interval": 30, "max_payload_size": 9}
    action = forward(configuration(changed).table.routes[0])
    first, second = action.targets
    assert first.websocket is not None
    assert (first.websocket.ping_interval_s, first.websocket.max_payload_bytes) == (30.0, 5)
    assert second.websocket is None
    assert action.websocket.max_payload_bytes == 9


def http3_route(quic: dict[str, Any] | None = None, **match: Any) -> dict[str, Any]:
    changed = route(match={"transport": "all", **match})
    changed["action"]["tls"] = {"mode": "terminate"}
    changed["action"]["udp"] = {"quic": {"enable_http3": True, **(quic or {})}}
    return changed


def test_http3_arrives_with_the_cores_own_defaults() -> None:
    compiled = configuration(http3_route(), route(match={"path": "/x"}))
    assert [each.quic for each in compiled.table.routes] == [QuicPolicy(), None]
    assert compiled.table.routes[0].match.transport is Transport.ALL
    assert compiled.table.udp_listening_ports() == (80,)


def test_http3_options_arrive() -> None:
    quic = {
        "max_idle_timeout": "45s",
        "max_concurrent_bidi_streams": 7,
        "max_concurrent_uni_streams": 5,
        "alt_svc_port": 8443,
        "alt_svc_max_age": "90500ms",
        "initial_congestion_window": "24kB",
        "zero_rtt": True,
    }
    compiled = configuration(http3_route(quic, transport="udp", protocol="http3"))
    (only,) = compiled.table.routes
    assert only.quic == QuicPolicy(45.0, 7, 5, 8443, 91, 20, True)
    assert only.match.protocol is MatchProtocol.HTTP3
    assert compiled.table.listening_ports() == ()


def test_the_stream_limit_is_that_of_all_connections_unless_http3_has_its_own() -> None:
    limits = {"concurrent_streams": 10}
    own, other = http3_route({"max_concurrent_bidi_streams": 20}), http3_route(path="/x")
    compiled = configuration(own, other, limits=limits)
    assert compiled.limits.concurrent_streams == 10
    policies = [each.quic for each in compiled.table.routes]
    assert [policy.bidirectional_streams for policy in policies if policy is not None] == [20, 10]


def test_handlers_answer_over_http3_too() -> None:
    action = {
        "type": "handler",
        "handler": {"http_response": {"body": "hi"}},
        "tls": {"mode": "terminate"},
        "udp": {"quic": {"enable_http3": True}},
    }
    compiled = configuration({"match": {"ports": 443, "transport": "all"}, "action": action})
    assert compiled.table.routes[0].quic == QuicPolicy()


def test_tls_arrives() -> None:
    changed = route()
    changed["action"]["tls"] = {"mode": "passthrough"}
    action = forward(configuration(changed).table.routes[0])
    assert action.tls is not None
    assert action.tls.mode is TlsMode.PASSTHROUGH


def test_handlers_arrive() -> None:
    redirect = handler(http_redirect={"url": "https://{domain}{path}"})
    assert (redirect.kind, redirect.status) == (HandlerKind.HTTP_REDIRECT, 301)
    assert redirect.template is not None
    values = {"domain": "a.example", "path": "/x"}
    assert redirect.template.expand(values.__getitem__) == "https://a.example/x"
    response = handler(http_response={"code": 204, "body": "b", "content_type": "text/html"})
    assert (response.status, response.text, response.content_type) == (204, "b", "text/html")
    blocked = handler(http_block={"status": 451, "message": "no"})
    assert (blocked.kind, blocked.status, blocked.text) == (HandlerKind.HTTP_BLOCK, 451, "no")
    assert handler(block={"message": "bye"}).text == "bye"
    assert handler(echo={}).kind is HandlerKind.ECHO
    assert handler(echo=True).kind is HandlerKind.ECHO


def test_access_rules_add_up_with_the_defaults() -> None:
    defaults = {"security": {"ip_allow_list": ["10.0.0.0/8"], "ip_block_list": ["10.0.0.1"]}}
    compiled = configuration(
        route(),
        route(
            match={"path": "/a"},
            security={"ip_allow_list": ["192.168.*"], "ip_block_list": ["192.168.0.1"]},
        ),
        defaults=defaults,
    )
    plain, own = [each.access for each in compiled.table.routes]
    assert plain.allowed is not None
    assert plain.allowed.contains(ip_number("10.2.3.4"))
    assert own.allowed is not None
    assert not own.allowed.contains(ip_number("10.2.3.4"))
    assert own.allowed.contains(ip_number("192.168.0.1"))
    assert own.blocked is not None
    assert own.blocked.contains(ip_number("192.168.0.1"))
    assert own.blocked.contains(ip_number("10.0.0.1"))


def test_without_rules_there_is_nothing_to_check() -> None:
    access = configuration(route()).table.routes[0].access
    assert (access.allowed, access.blocked) == (None, None)


def test_the_default_target_fills_routes_without() -> None:
    compiled = configuration(
        {"match": {"ports": 80}, "action": {"type": "forward"}},
        defaults={"target": {"host": "default", "port": 1}},
    )
    assert forward(compiled.table.routes[0]).targets[0].hosts == ("default",)


@pytest.mark.parametrize(
    ("options", "inactivity_s", "lifetime_s"),
    [
        ({}, 75, 3600),
        ({"keep_alive_treatment": "extended"}, 300, 3600),
        (
            {
                "keep_alive_treatment": "extended",
                "inactivity_timeout": 10,
                "keep_alive_inactivity_multiplier": 2,
                "extended_keep_alive_lifetime": "1d",
            },
            20,
            86400,
        ),
        ({"keep_alive_treatment": "immortal"}, inf, inf),
    ],
)
def test_keep_alive_treatment(options: dict[str, Any], inactivity_s: float, lifetime_s: float) -> None:
    timeouts = configuration(**options).timeouts
    assert (timeouts.inactivity_s, timeouts.lifetime_s) == (inactivity_s, lifetime_s)


def test_timeouts_and_limits_arrive() -> None:
    compiled = configuration(
        connection_timeout="1s",
        initial_data_timeout=2,
        socket_timeout="3s",
        graceful_shutdown_timeout=0,
        server_first_delay="10ms",
        pool_idle_timeout="1m",
        limits={"header_bytes": "1KiB", "body_bytes": "10MB"},
        listen=["127.0.0.1", "127.0.0.1", "[::1]"],
        server_name="edge-1.example",
    )
    assert compiled.timeouts == Timeouts(
        connection_s=1,
        initial_data_s=2,
        socket_s=3,
        graceful_shutdown_s=0,
        server_first_s=0.01,
        pool_idle_s=60,
    )
    assert (compiled.limits.header_bytes, compiled.limits.body_bytes) == (1024, 10_000_000)
    assert compiled.listen_hosts == ("127.0.0.1", "::1")
    assert compiled.server_name == "edge-1.example"


def test_what_routes_share_is_made_once() -> None:
    defaults = {"security": {"ip_block_list": [f"10.0.{n}.0/24" for n in range(200)]}}
    headers = {"request": {"X-A": "{clientIp}"}}
    routes = [route(match={"path": f"/{n}"}, headers=headers) for n in range(3)]
    compiled = configuration(*routes, defaults=defaults).table.routes
    assert compiled[0].access.blocked is compiled[1].access.blocked
    assert compiled[0].request_fields is compiled[1].request_fields


def test_contradictions_keep_a_model_from_compiling() -> None:
    wrong = route(match={"path": "/a", "protocol": "tcp"})
    config = parse_config({}).model_copy(update={"routes": [RouteConfig.model_validate(wrong)]})
    with pytest.raises(ConfigError) as caught:
        compile_configuration(config)
    assert [problem.place for problem in caught.value.problems] == ["routes[0].match.path"]


def test_routes_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTPROXY_TEST_PORT", "8080")
    config = parse_config({"routes": [route()], "server_name": "edge"})
    replaced = config.with_routes([config.routes[0], route(match={"ports": "${SMARTPROXY_TEST_PORT}"})])
    assert replaced.server_name == "edge"
    assert compile_configuration(replaced).configuration.table.listening_ports() == (80, 8080)
    assert "8080" not in repr(replaced)
    with pytest.raises(ConfigError) as caught:
        config.with_routes([route(match={"ports": "${SMARTPROXY_ABSENT}"})])
    assert caught.value.problems[0].place == "routes[0].match.ports"
    with pytest.raises(ConfigError) as caught:
        config.with_routes([route(match={"ports": "x"})])
    assert caught.value.problems[0].place == "routes[0].match.ports"
