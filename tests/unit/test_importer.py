"""From the JSON configuration of @push.rocks/smartproxy to the native form."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from smartproxy.config import ConfigError, compile_configuration, parse_config
from smartproxy.config.importer import ImportResult, import_smartproxy_json
from smartproxy.core.configuration import Route


def imported(*routes: Any, **options: Any) -> ImportResult:
    result = import_smartproxy_json({"routes": list(routes), **options})
    assert tomllib.loads(result.text_toml) == result.config
    return result


def route(**changes: Any) -> dict[str, Any]:
    return {
        "match": {"ports": 80},
        "action": {"type": "forward", "targets": [{"host": "backend", "port": 3000}]},
        **changes,
    }


EVERYTHING_OF_NOW: dict[str, Any] = {
    "trustedProxyIPs": ["10.0.0.1", "10.1.2.3/8"],
    "sendProxyProtocol": True,
    "disableDefaultCert": True,
    "connectionTimeout": 30000,
    "initialDataTimeout": 1500,
    "socketTimeout": 60000,
    "inactivityTimeout": 75000,
    "maxConnectionLifetime": 3600000,
    "gracefulShutdownTimeout": 30000,
    "keepAliveTreatment": "extended",
    "keepAliveInactivityMultiplier": 6,
    "extendedKeepAliveLifetime": 86400000,
    "enableDetailedLogging": True,
    "enableTlsDebugLogging": False,
    "defaults": {
        "target": {"host": "localhost", "port": 8080},
        "security": {"ipAllowList": ["192.168.*"], "ipBlockList": ["192.168.0.1"]},
    },
    "routes": [
        {
            "name": "app",
            "id": "1",
            "priority": 10,
            "match": {
                "ports": [80, {"from": 8000, "to": 8010}],
                "transport": "tcp",
                "inboundProxyProtocol": {"mode": "optional", "trustedProxyIPs": ["10.0.0.1"]},
                "domains": ["example.com", "*.example.com"],
                "path": "/api/*",
                "clientIp": ["10.0.0.0/8", "192.168.*"],
                "headers": {"X-Kind": "beta"},
                "protocol": "http",
            },
            "action": {
                "type": "forward",
                "forwardingEngine": "node",
                "targets": [
                    {
                        "host": ["a", "b"],
                        "port": "preserve",
                        "priority": 1,
                        "match": {
                            "path": "/api/v1/*",
                            "method": ["GET"],
                            "headers": {"A": "b"},
                            "ports": [80],
                        },
                        "loadBalancing": {
                            "algorithm": "least-connections",
                            "healthCheck": {
                                "path": "/up",
                                "interval": 5000,
                                "timeout": 250,
                                "unhealthyThreshold": 4,
                                "healthyThreshold": 1,
                            },
                        },
                        "sendProxyProtocol": False,
                        "headers": {"request": {"X-A": "b"}},
                        "backendTransport": "tcp",
                        "tls": {"mode": "terminate-and-reencrypt"},
                    }
                ],
                "websocket": {"enabled": False},
                "options": {"backendProtocol": "http1"},
            },
            "headers": {
                "request": {
                    "X-Real-IP": "{clientIp}",
                    "X-Literal": "{other} ${HOME} {clientIp}",
                    "X-Gone": None,
                },
                "response": {"Strict-Transport-Security": "max-age=31536000"},
            },
            "security": {"ipAllowList": ["10.0.0.0/8"], "ipBlockList": ["10.0.0.1"]},
        },
        {
            "name": "sni",
            "match": {"ports": 443, "domains": "secure.example.com", "tlsVersion": ["TLSv1.3"]},
            "action": {
                "type": "forward",
                "targets": [{"host": "c", "port": 8443}],
                "tls": {"mode": "passthrough"},
            },
        },
        {
            "name": "tls",
            "match": {"ports": 443, "domains": "tls.example.com"},
            "action": {
                "type": "forward",
                "targets": [{"host": "c", "port": 8443}],
                "tls": {
                    "mode": "terminate",
                    "certificate": {"keyFile": "a.key", "certFile": "a.pem"},
                    "versions": ["TLSv1.2", "TLSv1.3"],
                    "ciphers": "HIGH",
                    "honorCipherOrder": True,
                    "sessionTimeout": 300,
                },
            },
        },
    ],
}


def test_what_this_version_has_loads_and_means_the_same() -> None:
    result = import_smartproxy_json(EVERYTHING_OF_NOW)
    assert result.not_carried == []
    config = parse_config(result.text_toml)
    assert config == parse_config(result.config)
    assert (config.connection_timeout, config.initial_data_timeout) == (30, 1.5)
    assert config.extended_keep_alive_lifetime == 86400
    assert config.keep_alive_inactivity_multiplier == 6
    assert config.trusted_proxy_ips == ["10.0.0.1", "10.0.0.0/8"]
    assert config.logging.level == "debug"
    assert (config.send_proxy_protocol, config.disable_default_cert) == (2, True)
    app, sni, tls = config.routes
    target: Any = getattr(app.action, "targets")[0]  # noqa: B009
    check = target.load_balancing.health_check
    assert (check.interval, check.timeout, check.unhealthy_threshold) == (5, 0.25, 4)
    assert (target.port, target.send_proxy_protocol, target.match.methods) == ("preserve", 0, ["GET"])
    assert app.headers.request == {
        "X-Real-IP": "{clientIp}",
        "X-Literal": "{{other}} ${{HOME}} {clientIp}",
        "X-Gone": None,
    }
    assert sni.match.tls_version == ["TLSv1.3"]
    assert tls.action.tls is not None
    assert (tls.action.tls.session_timeout, tls.action.tls.honor_cipher_order) == (300, True)


def test_an_imported_configuration_compiles() -> None:
    data = {"routes": EVERYTHING_OF_NOW["routes"][:2], "connectionTimeout": 1}
    data["trustedProxyIPs"] = ["10.0.0.1"]
    data["disableDefaultCert"] = False
    compiled = compile_configuration(parse_config(import_smartproxy_json(data).text_toml))
    assert compiled.configuration.timeouts.connection_s == 0.001


LATER: dict[str, Any] = {
    "acme": {
        "email": "a@b.c",
        "useProduction": True,
        "renewThresholdDays": 20,
        "renewCheckIntervalHours": 12,
    },
    "certProvisionFallbackToAcme": True,
    "certProvisionTimeout": 5000,
    "certProvisionFailureCooldownMs": 1800000,
    "metrics": {"enabled": True, "sampleIntervalMs": 1000, "retentionSeconds": 3600},
    "routes": [
        {
            "match": {"ports": 443, "transport": "all", "protocol": "quic"},
            "action": {
                "type": "forward",
                "targets": [{"host": "a", "port": 1, "backendTransport": "udp"}],
                "tls": {"mode": "terminate", "certificate": "auto", "acme": {"email": "a@b.c"}},
                "udp": {
                    "sessionTimeout": 60000,
                    "maxSessionsPerIP": 1000,
                    "maxDatagramSize": 1400,
                    "quic": {"enableHttp3": False},
                },
                "forwardingEngine": "nftables",
                "nftables": {"preserveSourceIP": True},
            },
        }
    ],
}


def test_what_later_versions_have_is_carried_and_listed() -> None:
    result = import_smartproxy_json(LATER)
    config = result.config
    assert config["acme"]["renew_check_interval"] == "12h"
    assert config["cert_provision_timeout"] == "5s"
    assert config["cert_provision_failure_cooldown"] == "30m"
    assert config["metrics"] == {"enabled": True, "sample_interval": "1s", "retention": "1h"}
    action = config["routes"][0]["action"]
    assert action["udp"] == {
        "session_timeout": "1m",
        "max_sessions_per_ip": 1000,
        "max_datagram_size": 1400,
        "quic": {"enable_http3": False},
    }
    listed = {line.partition(":")[0] for line in result.not_carried}
    with pytest.raises(ConfigError) as caught:
        parse_config(result.text_toml)
    # The route's transport is not held against a route that cannot be read for other reasons.
    listed.remove("routes[0].match.transport")
    refused = {problem.place for problem in caught.value.problems}
    # Each thing this version refuses was announced, and nothing else is wrong with the result.
    assert refused == listed
    assert all("not available" in problem.message for problem in caught.value.problems)


GATEKEEPING: dict[str, Any] = {
    "maxConnectionsPerIP": 50,
    "connectionRateLimitPerMinute": 600,
    "securityPolicy": {"blockedIps": ["1.2.3.4"], "blockedCidrs": ["10.0.0.1/8"]},
    "challenge": {
        "relayTimeoutMs": 5000,
        "pendingTtlSeconds": 300,
        "cookieSigningKey": "0123456789abcdef",
        "reservedPathPrefix": "/.well-known/x",
        "pendingCookieName": "p",
        "clearanceCookieName": "c",
    },
    "defaults": {"security": {"maxConnections": 5}},
    "routes": [
        {
            "name": "app",
            "match": {"ports": 80, "protocol": "http"},
            "action": {"type": "forward", "targets": [{"host": "a", "port": 1}]},
            "security": {
                "maxConnections": 10,
                "rateLimit": {
                    "enabled": True,
                    "maxRequests": 100,
                    "window": 60,
                    "keyBy": "header",
                    "headerName": "X-Key",
                    "errorMessage": "slow down",
                    "onExceeded": {
                        "type": "challenge",
                        "challenge": {
                            "providerId": "p",
                            "challengeType": "t",
                            "settings": {"someThing": 1},
                            "clearance": {"ttlSeconds": 300, "bindToHost": True},
                        },
                        "clearanceEffect": "none",
                    },
                },
                "basicAuth": {"users": [{"username": "admin", "password": "${p}"}], "realm": "r"},
                "jwtAuth": {"secret": "s" * 32, "algorithm": "HS256", "issuer": "i", "audience": ["a"]},
                "challenge": {
                    "providerId": "smartchallenge",
                    "challengeType": "wait",
                    "policyRef": "strict",
                    "settings": {"waitSeconds": 5},
                    "applyTo": {"methods": ["GET"], "paths": ["/a/*"], "browserNavigationsOnly": True},
                    "clearance": {"ttlSeconds": 1800, "bindToRoute": False, "bindToIp": True},
                },
            },
        }
    ],
}


def test_gatekeeping_is_carried_over() -> None:
    result = import_smartproxy_json(GATEKEEPING)
    assert result.not_carried == []
    config = result.config
    assert config["max_connections_per_ip"] == 50
    assert config["connection_rate_limit_per_minute"] == 600
    assert config["security_policy"] == {"blocked_ips": ["1.2.3.4"], "blocked_cidrs": ["10.0.0.0/8"]}
    assert config["challenge"] == {
        "relay_timeout": "5s",
        "pending_ttl": "5m",
        "cookie_signing_key": "0123456789abcdef",
        "reserved_path_prefix": "/.well-known/x",
        "pending_cookie_name": "p",
        "clearance_cookie_name": "c",
    }
    assert config["routes"][0]["security"] == {
        "max_connections": 10,
        "rate_limit": {
            "enabled": True,
            "max_requests": 100,
            "window": "1m",
            "key_by": "header",
            "header_name": "X-Key",
            "error_message": "slow down",
            "on_exceeded": {
                "type": "challenge",
                "challenge": {
                    "provider_id": "p",
                    "challenge_type": "t",
                    "settings": {"someThing": 1},
                    "clearance": {"ttl": "5m", "bind_to_host": True},
                },
                "clearance_effect": "none",
            },
        },
        "basic_auth": {"users": [{"username": "admin", "password": "$${p}"}], "realm": "r"},
        "jwt_auth": {"secret": "s" * 32, "algorithm": "HS256", "issuer": "i", "audience": ["a"]},
        "challenge": {
            "provider_id": "smartproxy",
            "challenge_type": "wait",
            "policy_ref": "strict",
            "settings": {"wait_seconds": 5},
            "apply_to": {"methods": ["GET"], "paths": ["/a/*"], "browser_navigations_only": True},
            "clearance": {"ttl": "30m", "bind_to_route": False, "bind_to_ip": True},
        },
    }
    (policy,) = [route.request_policy for route in compiled_routes(result.text_toml)]
    assert policy is not None
    assert policy.basic_auth is not None
    assert policy.basic_auth.users == {"admin": "${p}"}


def compiled_routes(text: str) -> list[Route]:
    return list(compile_configuration(parse_config(text)).configuration.table.routes)


def test_a_signing_key_that_is_too_short_is_listed() -> None:
    result = import_smartproxy_json({"challenge": {"cookieSigningKey": "k"}, "routes": []})
    assert result.config["challenge"] == {}
    (line,) = result.not_carried
    assert line.startswith("challenge.cookieSigningKey: it is shorter than 16 bytes")


def test_a_setting_of_their_wait_that_is_unknown_disables_its_route() -> None:
    challenge = {"providerId": "smartchallenge", "challengeType": "wait", "settings": {"other": 1}}
    result = imported({**GATEKEEPING["routes"][0], "security": {"challenge": challenge}})
    assert "routes[0].security.challenge.settings.other: there is no such option" in result.not_carried
    assert result.config["routes"][0]["enabled"] is False


HTTP3: dict[str, Any] = {
    "match": {"ports": 443, "transport": "all", "protocol": "http", "domains": "a.example"},
    "action": {
        "type": "forward",
        "targets": [
            {"host": "a", "port": 1, "websocket": {"enabled": True, "maxPayloadSize": 1048576}},
        ],
        "tls": {"mode": "terminate", "certificate": {"certFile": "a.pem", "keyFile": "a.key"}},
        "options": {"backendProtocol": "http3"},
        "websocket": {
            "enabled": True,
            "pingInterval": 30000,
            "pingTimeout": 10000,
            "subprotocols": ["chat"],
            "allowedOrigins": ["https://a.example"],
        },
        "udp": {
            "quic": {
                "enableHttp3": True,
                "maxIdleTimeout": 45000,
                "maxConcurrentBidiStreams": 64,
                "maxConcurrentUniStreams": 16,
                "altSvcPort": 8443,
                "altSvcMaxAge": 3600,
                "initialCongestionWindow": 14720,
            }
        },
    },
}


def http3(*, quic: dict[str, Any] | None = None, **match: Any) -> dict[str, Any]:
    action = {**HTTP3["action"], "udp": {"quic": quic if quic is not None else {"enableHttp3": True}}}
    return {"match": {**HTTP3["match"], **match}, "action": action}


def test_http3_and_websockets_are_carried_over() -> None:
    result = imported(HTTP3)
    assert result.not_carried == []
    parse_config(result.text_toml)
    (carried,) = result.config["routes"]
    assert carried["match"]["transport"] == "all"
    action = carried["action"]
    assert action["options"] == {"backend_protocol": "http3"}
    assert action["targets"][0]["websocket"] == {"enabled": True, "max_payload_size": 1048576}
    assert action["websocket"] == {
        "enabled": True,
        "ping_interval": "30s",
        "ping_timeout": "10s",
        "subprotocols": ["chat"],
        "allowed_origins": ["https://a.example"],
    }
    assert action["udp"]["quic"] == {
        "enable_http3": True,
        "max_idle_timeout": "45s",
        "max_concurrent_bidi_streams": 64,
        "max_concurrent_uni_streams": 16,
        "alt_svc_port": 8443,
        "alt_svc_max_age": "1h",
        "initial_congestion_window": 14720,
    }


@pytest.mark.parametrize("protocol", ["quic", "http3"])
@pytest.mark.parametrize("transport", ["udp", "all"])
def test_quic_that_carries_http3_is_http3(protocol: str, transport: str) -> None:
    result = imported(http3(transport=transport, protocol=protocol))
    assert result.not_carried == []
    match = result.config["routes"][0]["match"]
    assert (match["protocol"], match["transport"]) == ("http3", "udp")
    parse_config(result.text_toml)


def test_http3_without_udp_is_listed() -> None:
    result = imported(http3(transport="tcp"))
    assert result.not_carried == ["routes[0].action.udp: it has no effect on a route for TCP"]
    parse_config(result.text_toml)


def test_udp_without_http3_is_announced_and_refused() -> None:
    result = imported(http3(quic={"maxIdleTimeout": 30000, "altSvcMaxAge": 86400}))
    listed = {line.partition(":")[0] for line in result.not_carried}
    with pytest.raises(ConfigError) as caught:
        parse_config(result.text_toml)
    assert {problem.place for problem in caught.value.problems} == listed
    assert len(listed) == 3
    assert all("not available" in problem.message for problem in caught.value.problems)


def test_unknown_options_are_listed() -> None:
    result = imported(route(vpn={}), rustBinaryPath="/x", whatever=1)
    assert result.not_carried == [
        "rustBinaryPath: there is no binary to find",
        "whatever: there is no such option",
        "routes[0].vpn: there is no such option",
    ]


def test_functions_are_listed_and_their_routes_let_nothing_through() -> None:
    result = imported(
        route(action={"type": "socket-handler"}),
        route(action={"type": "forward", "targets": [{"port": 1}]}),
        route(action={"type": "static"}),
        route(action=None),
        route(action={"type": "socket-handler", "tls": {"mode": "terminate-and-reencrypt"}}),
    )
    config = parse_config(result.text_toml)
    assert [getattr(each.action, "handler").kind for each in config.routes] == ["block"] * 5  # noqa: B009
    assert config.routes[4].action.tls is not None
    assert config.routes[4].action.tls.mode == "terminate"
    for position in range(5):
        assert any(line.startswith(f"routes[{position}].action") for line in result.not_carried)


def test_a_route_that_loses_a_condition_is_disabled() -> None:
    result = imported(
        route(match={"ports": 80, "headers": {"X": {}}}),
        route(match={"ports": 80, "tlsVersion": ["TLSv1.0"]}),
        route(match={"ports": 80, "vpn": {"required": True}}),
        route(security={"ipAllowList": [{"ip": "1.2.3.4", "domains": ["a"]}]}),
        route(security="strict"),
        route(match={"ports": 80, "domains": "fine.example"}),
    )
    assert [each.get("enabled", True) for each in result.config["routes"]] == [False] * 5 + [True]
    assert sum("carried over disabled" in line for line in result.not_carried) == 5


@pytest.mark.parametrize("security", [{"vpn": {}}, {"ipAllowList": [{"ip": "1.2.3.4"}]}, False])
def test_a_lost_rule_for_all_routes_disables_them_all(security: object) -> None:
    result = imported(route(), route(match={"ports": 81}), defaults={"security": security})
    assert [each["enabled"] for each in result.config["routes"]] == [False, False]
    assert any("every route is carried over disabled" in line for line in result.not_carried)


def test_a_target_that_loses_a_condition_is_left_out() -> None:
    targets = [{"host": "a", "port": 1, "match": {"headers": {"X": {}}}}, {"host": "b", "port": 1}]
    result = imported(route(action={"type": "forward", "targets": targets}))
    assert [target["host"] for target in result.config["routes"][0]["action"]["targets"]] == ["b"]
    assert any("routes[0].action.targets[0]: it is left out" in line for line in result.not_carried)


def test_options_without_effect_are_listed() -> None:
    tls = {"mode": "passthrough", "certificate": "auto"}
    result = imported(route(action={**route()["action"], "tls": tls}))
    assert result.not_carried == [
        "routes[0].action.tls.certificate: it has no effect on TLS that is passed through"
    ]
    parse_config(result.text_toml)


def test_values_that_are_none_of_the_kind_are_listed() -> None:
    result = imported(
        3,
        route(match=None),
        route(headers=[]),
        connectionTimeout="soon",
        acme=[],
        defaults=1,
        metrics={"x": 1},
    )
    assert [line.partition(":")[0] for line in result.not_carried[:-1]] == [
        "connectionTimeout",
        "acme",
        "metrics.x",
        "defaults",
        "routes[0]",
        "routes[1]",
        "routes[2].headers",
    ]


def test_texts_that_look_like_references_stay_as_they_are() -> None:
    result = imported(route(name="${HOME}", headers={"request": {"A": "file:x"}}))
    config = parse_config(result.text_toml, environ={})
    assert config.routes[0].name == "${HOME}"
    assert config.routes[0].headers.request == {"A": "file:x"}


def test_hostile_names_stay_in_their_comment() -> None:
    result = imported(**{'x\n[[routes]]\nname = "evil"\x07': 1})
    assert tomllib.loads(result.text_toml) == {"routes": []}


def test_the_change_in_verification_is_pointed_out() -> None:
    tls = {"mode": "terminate-and-reencrypt", "certificate": {"keyFile": "a", "certFile": "b"}}
    assert "are verified here" in imported(route(action={**route()["action"], "tls": tls})).text_toml
    assert "are verified here" not in imported(route()).text_toml


@pytest.mark.parametrize("data", [None, [], "x", {"routes": {}}])
def test_what_is_no_configuration_is_refused(data: object) -> None:
    with pytest.raises(ConfigError):
        import_smartproxy_json(data)
