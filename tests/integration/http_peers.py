"""Caddy, Envoy, nghttpx and hypercorn as backends that speak HTTP/2 and HTTP/3; Caddy and Envoy as clients.

All but hypercorn hand on to an HTTP/1.1 origin, which they tell what they were spoken to in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from real_peers import Certificate
from server_process import ServerProcess, ServicePort

Json = dict[str, Any]

PEER_PROTOCOL = "x-peer-protocol"
"""The field of /info's answer in which a peer says what it was spoken to in."""

_TYPES = "type.googleapis.com/envoy.extensions"
_HERE = Path(__file__).resolve().parent


def caddy(
    binary: str,
    folder: Path,
    port: ServicePort,
    certificate: Certificate,
    origin: int,
    *,
    http3: bool = False,
) -> ServerProcess:
    """HTTPS on `port`: HTTP/1.1 and HTTP/2, and HTTP/3 beside them, which its Alt-Svc then says."""
    tcp, udp = port.file_descriptors
    quic = f"bind fdgram/{udp} {{\n protocols h3\n }}" if http3 else ""
    site = f"""
https://:{port.number} {{
 bind fd/{tcp} {{
  protocols h1 h2
 }}
 {quic}
 tls {certificate.cert_file} {certificate.key_file}
 reverse_proxy 127.0.0.1:{origin} {{
  header_up {PEER_PROTOCOL} {{http.request.proto}}
  flush_interval -1
 }}
}}
"""
    return _caddy(binary, folder, port.number, site, port.file_descriptors)


def caddy_cleartext(binary: str, folder: Path, port: int, origin: int) -> ServerProcess:
    """HTTP/2 without TLS, by prior knowledge, and HTTP/1.1."""
    site = f"""
http://:{port} {{
 bind 127.0.0.1 {{
  protocols h1 h2c
 }}
 reverse_proxy 127.0.0.1:{origin} {{
  header_up {PEER_PROTOCOL} {{http.request.proto}}
  flush_interval -1
 }}
}}
"""
    return _caddy(binary, folder, port, site)


def caddy_to_http3(
    binary: str, folder: Path, port: int, backend_port: int, server_name: str, ca_file: Path
) -> ServerProcess:
    """HTTP/1.1 without TLS on `port`, HTTP/3 towards `backend_port`."""
    site = f"""
http://:{port} {{
 bind 127.0.0.1
 reverse_proxy https://127.0.0.1:{backend_port} {{
  header_up Host {server_name}:{backend_port}
  flush_interval -1
  transport http {{
   versions 3
   tls_server_name {server_name}
   tls_trust_pool file {ca_file}
  }}
 }}
}}
"""
    return _caddy(binary, folder, port, site)


def _caddy(binary: str, folder: Path, port: int, site: str, inherits: tuple[int, ...] = ()) -> ServerProcess:
    folder.mkdir()
    config = folder / "Caddyfile"
    config.write_text("{\n admin off\n auto_https off\n persist_config off\n grace_period 100ms\n}\n" + site)
    command = [binary, "run", "--config", str(config), "--adapter", "caddyfile"]
    return ServerProcess(command, folder, port, inherits=inherits)


def nghttpx(
    binary: str, folder: Path, port: int, certificate: Certificate | None, origin: int
) -> ServerProcess:
    """HTTPS with HTTP/2 and HTTP/1.1, or both of them in cleartext without a certificate."""
    folder.mkdir()
    listens = f"--frontend=127.0.0.1,{port}" + ("" if certificate else ";no-tls")
    command = [binary, "--conf=/dev/null", listens, f"--backend=127.0.0.1,{origin}", "--workers=1"]
    command += ["--errorlog-file=/dev/stderr", "--accesslog-file=/dev/null", "--single-process"]
    if certificate is not None:
        command += ["--no-ocsp", str(certificate.key_file), str(certificate.cert_file)]
    return ServerProcess(command, folder, port)


def hypercorn(
    binary: str, folder: Path, port: ServicePort, certificate: Certificate | None, *, http3: bool = False
) -> ServerProcess:
    """asgi_backend.py over HTTP/1.1 and HTTP/2, and over HTTP/3 beside them, which its Alt-Svc then says."""
    folder.mkdir()
    tcp, udp = port.file_descriptors
    command = [binary, "asgi_backend:application", "--workers", "0"]
    command += ["--bind", f"fd://{tcp}"]
    if certificate is not None:
        command += ["--certfile", str(certificate.cert_file), "--keyfile", str(certificate.key_file)]
        if http3:
            command += ["--quic-bind", f"fd://{udp}"]
    return ServerProcess(
        command, folder, port.number, inherits=port.file_descriptors, environment={"PYTHONPATH": str(_HERE)}
    )


def _address(port: int, protocol: str = "TCP") -> Json:
    return {"socket_address": {"protocol": protocol, "address": "127.0.0.1", "port_value": port}}


def _http_connections(codec: str, cluster: str, **virtual_host: Any) -> Json:
    hosts = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
        **virtual_host,
    }
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "codec_type": codec,
            "http_protocol_options": {"enable_trailers": True},
            "route_config": {"virtual_hosts": [hosts]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        },
    }


def _cluster(name: str, port: int, protocol: Json, **settings: Any) -> Json:
    options = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": protocol,
    }
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **settings,
    }


def envoy(
    binary: str,
    folder: Path,
    port: int,
    certificate: Certificate | None,
    origin: int,
    *,
    http3: bool = False,
) -> ServerProcess:
    """HTTPS (without a certificate: cleartext) over HTTP/1.1 and HTTP/2, and HTTP/3 on the same UDP port."""
    told = {"request_headers_to_add": [{"header": {"key": PEER_PROTOCOL, "value": "%PROTOCOL%"}}]}
    chain: Json = {"filters": [_http_connections("AUTO", "origin", **told)]}
    listeners: list[Json] = [{"name": "tcp", "address": _address(port), "filter_chains": [chain]}]
    if certificate is not None:
        tls: Json = {
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(certificate.cert_file)},
                        "private_key": {"filename": str(certificate.key_file)},
                    }
                ],
            }
        }
        tls_type = f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {"@type": tls_type, **tls},
        }
        if http3:
            context = {"common_tls_context": {**tls["common_tls_context"], "alpn_protocols": ["h3"]}}
            quic = {
                "@type": f"{_TYPES}.transport_sockets.quic.v3.QuicDownstreamTransport",
                "downstream_tls_context": context,
            }
            quic_chain = {
                "filters": [_http_connections("HTTP3", "origin", **told)],
                "transport_socket": {"name": "envoy.transport_sockets.quic", "typed_config": quic},
            }
            listeners.append(
                {
                    "name": "udp",
                    "address": _address(port, "UDP"),
                    # Else it loses what reaches it by loopback as one large datagram of many (UDP GSO).
                    "udp_listener_config": {
                        "quic_options": {},
                        "downstream_socket_config": {"prefer_gro": True},
                    },
                    "filter_chains": [quic_chain],
                }
            )
    protocol = {"http_protocol_options": {"enable_trailers": True}}
    return _envoy(binary, folder, port, listeners, [_cluster("origin", origin, protocol)])


def envoy_to_http3(
    binary: str, folder: Path, port: int, backend_port: int, server_name: str, ca_file: Path
) -> ServerProcess:
    """HTTP/1.1 and HTTP/2 without TLS on `port`, HTTP/3 towards `backend_port`."""
    rewritten = [
        {"match": {"prefix": "/"}, "route": {"cluster": "http3", "host_rewrite_literal": server_name}}
    ]
    chain = {"filters": [_http_connections("AUTO", "http3", routes=rewritten)]}
    upstream = {
        "sni": server_name,
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": str(ca_file)},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": server_name}}],
            }
        },
    }
    quic = {
        "name": "envoy.transport_sockets.quic",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.quic.v3.QuicUpstreamTransport",
            "upstream_tls_context": upstream,
        },
    }
    cluster = _cluster("http3", backend_port, {"http3_protocol_options": {}}, transport_socket=quic)
    listener = {"name": "tcp", "address": _address(port), "filter_chains": [chain]}
    return _envoy(binary, folder, port, [listener], [cluster])


def _envoy(
    binary: str, folder: Path, port: int, listeners: list[Json], clusters: list[Json]
) -> ServerProcess:
    folder.mkdir()
    config = folder / "envoy.json"
    config.write_text(
        json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}, indent=1)
    )
    command = [binary, "--config-path", str(config), "--concurrency", "1", "--disable-hot-restart"]
    return ServerProcess([*command, "--log-level", "warning"], folder, port)
