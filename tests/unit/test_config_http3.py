"""What of HTTP/2, HTTP/3 and WebSockets can be asked for, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from smartproxy.config import (
    ConfigError,
    Problem,
    ProxyConfig,
    RouteValidator,
    Severity,
    compile_configuration,
    parse_config,
)

TLS = {"mode": "terminate", "certificate": {"cert_file": "a.pem", "key_file": "a.key"}}
ENABLED = {"quic": {"enable_http3": True}}
TARGET = {"host": "backend", "port": 443}


def route(
    *targets: dict[str, Any],
    match: dict[str, Any] | None = None,
    tls: Any = TLS,
    udp: Any = ENABLED,
    **action: Any,
) -> dict[str, Any]:
    forward = {"type": "forward", "targets": list(targets) or [TARGET], "udp": udp, **action}
    if tls:
        forward["tls"] = tls
    return {"match": {"ports": 443, "transport": "all", **(match or {})}, "action": forward}


def backend(protocol: str, *targets: dict[str, Any], **action: Any) -> dict[str, Any]:
    written = route(*targets, udp={}, options={"backend_protocol": protocol}, **action)
    del written["match"]["transport"]
    return written


def problems(*routes: dict[str, Any], severity: Severity = Severity.ERROR, **options: Any) -> list[Problem]:
    found = RouteValidator.validate(routes, ProxyConfig.model_validate(options))
    return [problem for problem in found if problem.severity is severity]


def handler(kind: str) -> dict[str, Any]:
    action = {"type": "handler", "handler": {kind: {}}, "tls": TLS, "udp": ENABLED}
    return {"match": {"ports": 443, "transport": "all"}, "action": action}


REQUIRED = {"mode": "required", "trusted_proxy_ips": ["10.0.0.1"]}
OPTIONAL = {"mode": "optional", "trusted_proxy_ips": ["10.0.0.1"]}


@pytest.mark.parametrize(
    ("wrong", "place", "message"),
    [
        (route(match={"transport": "tcp"}), "match.transport", "leaves no UDP"),
        (route(match={"transport": "udp"}, udp={}), "match.transport", "routes that serve HTTP/3"),
        (route(match={"transport": "all"}, udp={}), "match.transport", "routes that serve HTTP/3"),
        (route(match={"protocol": "http3"}), "match.transport", "takes nothing over TCP"),
        (
            route(match={"transport": "tcp", "protocol": "http3"}, udp={}),
            "match.protocol",
            "serves no HTTP/3",
        ),
        (
            route(match={"transport": "tcp"}, udp={"quic": {"max_idle_timeout": 5}}),
            "action.udp.quic.max_idle_timeout",
            "no effect without `enable_http3 = true`",
        ),
        (route(tls=None), "action.udp.quic.enable_http3", "TLS that is terminated here"),
        (
            route(tls={"mode": "passthrough"}),
            "action.udp.quic.enable_http3",
            "TLS that is terminated here",
        ),
        (route(tls=TLS | {"versions": ["TLSv1.2"]}), "action.tls.versions", "needs TLSv1.3"),
        (
            route(tls=TLS | {"client_auth": {"ca": "ca.pem"}}),
            "action.tls.client_auth",
            "clients would get in without",
        ),
        (route(match={"protocol": "tcp"}), "match.protocol", "leaves out HTTP/3"),
        (handler("echo"), "action.udp.quic.enable_http3", "echo handler"),
        (handler("block"), "action.udp.quic.enable_http3", "block handler"),
        (
            route(match={"transport": "udp", "tls_version": "TLSv1.2"}),
            "match.tls_version",
            "always TLSv1.3",
        ),
        (
            route(match={"inbound_proxy_protocol": REQUIRED}),
            "match.inbound_proxy_protocol.mode",
            "clients would get in without",
        ),
        (
            route(match={"transport": "udp", "inbound_proxy_protocol": OPTIONAL}),
            "match.inbound_proxy_protocol.mode",
            "no effect over UDP",
        ),
        (backend("http3", {"unix": "/run/x"}), "action.targets[0].unix", "needs UDP"),
        (
            backend("http3", TARGET | {"tls": {"mode": "terminate"}}),
            "action.targets[0].tls.mode",
            "is plain to the backend",
        ),
        (
            backend("http3", TARGET | {"send_proxy_protocol": 1}),
            "action.targets[0].send_proxy_protocol",
            "no PROXY header",
        ),
        (
            backend("http1", tls=TLS | {"backend": {"ca": "ca.pem"}}),
            "action.tls.backend",
            "no effect without TLS",
        ),
        (
            backend("auto", TARGET | {"websocket": {"enabled": False}}, tls={"mode": "passthrough"}),
            "action.targets[0].websocket",
            "passed through",
        ),
        (
            {
                "match": {"ports": 1},
                "action": {
                    "type": "forward",
                    "targets": [TARGET],
                    "tls": {"mode": "passthrough", "http2": False},
                },
            },
            "action.tls.http2",
            "passed through",
        ),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], place: str, message: str) -> None:
    found = problems(wrong)
    assert f"routes[0].{place}" in [problem.place for problem in found]
    assert any(message in problem.message for problem in found)
    # One mistake is told once, but for options that TLS passed through makes senseless as well.
    assert len(found) == 1 or wrong["action"].get("tls") == {"mode": "passthrough"}


@pytest.mark.parametrize(
    "right",
    [
        route(),
        route(match={"transport": "udp"}),
        route(match={"transport": "udp", "protocol": "http3"}),
        route(match={"protocol": "http"}),
        route(match={"tls_version": "TLSv1.2"}),
        route(match={"inbound_proxy_protocol": OPTIONAL}),
        route(match={"inbound_proxy_protocol": {"mode": "reject"}}),
        route(tls=TLS | {"mode": "terminate-and-reencrypt", "http2": False}),
        route(tls=TLS | {"versions": ["TLSv1.3"]}),
        handler("http_response"),
        backend("http2"),
        backend("http2", {"unix": "/run/x"}),
        backend("http3"),
        backend("http3", tls=None),
        backend("http3", tls=TLS | {"backend": {"ca": "ca.pem"}}),
        backend("http3", TARGET | {"tls": {"fingerprint": "ab" * 32}}),
        backend("http3", TARGET | {"send_proxy_protocol": False}),
        backend("auto", TARGET | {"websocket": {"ping_timeout": "5s"}}),
        backend(
            "auto", websocket={"allowed_origins": ["*", "null", "https://a.example:8443", "*.b.example"]}
        ),
    ],
)
def test_what_can_be_is_not(right: dict[str, Any]) -> None:
    assert problems(right) == []


def test_a_proxy_header_for_every_backend_keeps_http3_out() -> None:
    (problem,) = problems(backend("http3"), send_proxy_protocol=True)
    assert problem.place == "routes[0].action.targets[0].send_proxy_protocol"
    assert problems(backend("http3", TARGET | {"send_proxy_protocol": False}), send_proxy_protocol=True) == []


def test_the_default_target_is_held_against_http3_too() -> None:
    written = backend("http3")
    written["action"]["targets"] = []
    (problem,) = problems(written, defaults={"target": {"unix": "/run/x"}})
    assert problem.place == "routes[0].action.targets.unix"


def test_the_way_out_is_told() -> None:
    (problem,) = problems(route(match={"transport": "tcp"}))
    assert problem.allowed == '"all" for HTTP/3 beside TCP, or "udp" for HTTP/3 alone'
    (problem,) = problems(route(udp={}))
    assert problem.given == '"all"'
    assert "enable_http3 = true" in problem.allowed


def test_one_route_for_tcp_and_one_for_udp_do_not_shadow_each_other() -> None:
    udp, tcp = route(match={"transport": "udp"}), route(match={"transport": "tcp"}, udp={})
    assert problems(udp, tcp, severity=Severity.WARNING) == []
    assert len(problems(udp, udp, severity=Severity.WARNING)) == 1


def refused(**action: Any) -> Problem:
    written = {"match": {"ports": 443}, "action": {"type": "forward", "targets": [TARGET], **action}}
    with pytest.raises(ConfigError) as caught:
        parse_config({"routes": [written]})
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("action", "place", "message"),
    [
        (
            {"websocket": {"allowed_origins": ["https://a.example/x"]}},
            "allowed_origins[0]",
            "origin of a web",
        ),
        ({"websocket": {"allowed_origins": ["https://*"]}}, "allowed_origins[0]", "origin of a web site"),
        ({"websocket": {"subprotocols": ["a b"]}}, "subprotocols[0]", "name of a subprotocol"),
        ({"websocket": {"subprotocols": [""]}}, "subprotocols[0]", "name of a subprotocol"),
        ({"websocket": {"max_payload_size": "many"}}, "max_payload_size", "must be a size"),
        ({"websocket": {"max_payload_size": 0}}, "max_payload_size", "must be at least 1"),
        ({"websocket": {"ping_interval": 0}}, "ping_interval", "longer than 0"),
        ({"websocket": {"ping_timeout": "soon"}}, "ping_timeout", "must be a duration"),
        ({"udp": {"quic": {"max_concurrent_uni_streams": 2}}}, "max_concurrent_uni_streams", "at least 3"),
        ({"udp": {"quic": {"max_concurrent_bidi_streams": 0}}}, "max_concurrent_bidi_streams", "at least 1"),
        ({"udp": {"quic": {"initial_congestion_window": "1KiB"}}}, "initial_congestion_window", "at least"),
        ({"udp": {"quic": {"initial_congestion_window": "1GiB"}}}, "initial_congestion_window", "at most"),
        ({"udp": {"quic": {"alt_svc_port": 0}}}, "alt_svc_port", "must be a port"),
        ({"udp": {"quic": {"alt_svc_max_age": -1}}}, "alt_svc_max_age", "at least 0"),
        ({"udp": {"quic": {"enable_h3": True}}}, "enable_h3", "unknown key"),
    ],
)
def test_values_are_checked(action: dict[str, Any], place: str, message: str) -> None:
    problem = refused(**action)
    assert problem.place.endswith(place)
    assert message in problem.message


def test_an_engine_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartproxy.config.validator.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"quic_engine.*pip install smartproxy\[fast\]"):
        compile_configuration(parse_config({"routes": [], "quic_engine": "qh3"}))


def test_transport_parameters_that_cannot_both_hold_are_warned_about() -> None:
    def served(domain: str, **quic: Any) -> dict[str, Any]:
        return {
            "match": {"ports": 443, "domains": [domain], "transport": "all"},
            "action": {
                "type": "handler",
                "handler": {"http_response": {}},
                "tls": {"mode": "terminate"},
                "udp": {"quic": {"enable_http3": True, **quic}},
            },
        }

    routes = [served("a.example"), served("b.example", max_idle_timeout="5s"), served("c.example")]
    warnings = compile_configuration(parse_config({"routes": routes})).warnings
    about_quic = [problem for problem in warnings if "quic" in problem.place]
    assert [problem.place for problem in about_quic] == ["routes[1].action.udp.quic.max_idle_timeout"]
    assert "routes[0]" in about_quic[0].message
