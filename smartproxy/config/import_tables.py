"""How each option of @push.rocks/smartproxy is called here, and in which unit it comes.

Every table maps the option's name there to its name here and a converter. A
converter gets the value, its place and the `Importing` that collects what is lost.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smartproxy.challenges import BUILT_IN_PROVIDER_ID
from smartproxy.config.models.challenge import SHORTEST_SIGNING_KEY_BYTES
from smartproxy.config.units import format_duration


class NotCarried(Exception):
    """A value that has no meaning here; the text says why."""


class Importing:
    """One import under way: what is lost, and what else the reader should know."""

    def __init__(self) -> None:
        self.not_carried: list[str] = []

    def lose(self, place: str, reason: str) -> None:
        """Note that what stands at `place` is left out."""
        self.not_carried.append(f"{place}: {reason}")

    def table(self, source: Mapping[str, Any], place: str, options: Options) -> dict[str, Any]:
        """`source` with its options renamed and converted; the others are lost."""
        target: dict[str, Any] = {}
        for key, value in source.items():
            option_place = f"{place}.{key}" if place else key
            if value is None:
                continue
            if key not in options:
                self.lose(option_place, "there is no such option")
                continue
            name, convert = options[key]
            try:
                converted = convert(value, option_place, self)
            except NotCarried as reason:
                self.lose(option_place, str(reason))
                continue
            target[name] = converted
        return target


Converter = Callable[[Any, str, Importing], Any]
Options = Mapping[str, tuple[str, Converter]]

CODE = "it is code, and code is given in Python"


def same(value: Any, place: str, importing: Importing) -> Any:
    """The value as it is."""
    return value


def _duration_in(unit_s: float) -> Converter:
    def convert(value: Any, place: str, importing: Importing) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value * unit_s < 1e9:
            raise NotCarried("it is not a duration")
        return format_duration(value * unit_s if unit_s >= 1 else value / round(1 / unit_s))

    return convert


milliseconds = _duration_in(0.001)
seconds = _duration_in(1)
hours = _duration_in(3600)


def lost(reason: str) -> Converter:
    """For what has no counterpart."""

    def convert(value: Any, place: str, importing: Importing) -> Any:
        raise NotCarried(reason)

    return convert


def table_of(options: Options) -> Converter:
    """A table of further options."""

    def convert(value: Any, place: str, importing: Importing) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise NotCarried("it is not a table")
        return importing.table(value, place, options)

    return convert


def list_of(item: Converter) -> Converter:
    """A list; what of it cannot be carried is lost by itself."""

    def convert(value: Any, place: str, importing: Importing) -> list[Any]:
        converted: list[Any] = []
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            try:
                converted.append(item(each, f"{place}[{index}]", importing))
            except NotCarried as reason:
                importing.lose(f"{place}[{index}]", str(reason))
        return converted

    return convert


def _ip_rule(value: Any, place: str, importing: Importing) -> str:
    if not isinstance(value, str):
        raise NotCarried("only addresses and blocks can stand in a list of addresses")
    try:
        # A block written with bits after its prefix means the whole block there.
        return str(ipaddress.ip_network(value, strict=False)) if "/" in value else value
    except ValueError:
        return value


ip_rules = list_of(_ip_rule)


def _text(value: Any, place: str, importing: Importing) -> str:
    if not isinstance(value, str):
        raise NotCarried("it is not text; a regular expression is written /like this/")
    return value


def header_conditions(value: Any, place: str, importing: Importing) -> dict[str, str]:
    """Conditions on header fields. JSON has no regular expressions: those are lost."""
    if not isinstance(value, dict):
        raise NotCarried("it is not a table")
    return importing.table(value, place, {name: (name, _text) for name in value})


def _tls_versions(value: Any, place: str, importing: Importing) -> list[str]:
    kept: list[str] = []
    for version in value if isinstance(value, list) else [value]:
        if version in ("TLSv1.2", "TLSv1.3"):
            kept.append(version)
        else:
            importing.lose(place, f"{version} is not supported: TLSv1.2 is the lowest version")
    if not kept:
        raise NotCarried("none of its versions is supported")
    return kept


def _certificate(value: Any, place: str, importing: Importing) -> Any:
    return "auto" if value == "auto" else table_of(_CERTIFICATE)(value, place, importing)


_CERTIFICATE: Options = {
    "key": ("key", same),
    "cert": ("cert", same),
    "ca": ("ca", same),
    "keyFile": ("key_file", same),
    "certFile": ("cert_file", same),
}

_TLS: Options = {
    "mode": ("mode", same),
    "certificate": ("certificate", _certificate),
    "acme": (
        "acme",
        table_of(
            {
                "email": ("email", same),
                "useProduction": ("use_production", same),
                "challengePort": ("challenge_port", same),
                "renewBeforeDays": ("renew_before_days", same),
            }
        ),
    ),
    "versions": ("versions", _tls_versions),
    "ciphers": ("ciphers", same),
    "honorCipherOrder": ("honor_cipher_order", same),
    "sessionTimeout": ("session_timeout", seconds),
}

_FOR_CLIENTS_ONLY = lost("it is about clients, and a target has none")
_TARGET_TLS: Options = {key: ("mode", same) if key == "mode" else (key, _FOR_CLIENTS_ONLY) for key in _TLS}

_WEBSOCKET: Options = {
    "enabled": ("enabled", same),
    "pingInterval": ("ping_interval", milliseconds),
    "pingTimeout": ("ping_timeout", milliseconds),
    "maxPayloadSize": ("max_payload_size", same),
    "subprotocols": ("subprotocols", same),
    "allowedOrigins": ("allowed_origins", same),
}

_LOAD_BALANCING: Options = {
    "algorithm": ("algorithm", same),
    "healthCheck": (
        "health_check",
        table_of(
            {
                "path": ("path", same),
                "interval": ("interval", milliseconds),
                "timeout": ("timeout", milliseconds),
                "unhealthyThreshold": ("unhealthy_threshold", same),
                "healthyThreshold": ("healthy_threshold", same),
            }
        ),
    ),
}


def _header_values(value: Any, place: str, importing: Importing) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotCarried("it is not a table")
    # TOML has no null: false removes a field too.
    return {name: False if text is None else text for name, text in value.items()}


HEADERS: Options = {"request": ("request", _header_values), "response": ("response", _header_values)}

_TARGET_MATCH: Options = {
    "ports": ("ports", same),
    "port": ("ports", same),
    "path": ("path", same),
    "headers": ("headers", header_conditions),
    "method": ("methods", same),
    "methods": ("methods", same),
}

TARGET: Options = {
    "host": ("host", same),
    "port": ("port", same),
    "tls": ("tls", table_of(_TARGET_TLS)),
    "priority": ("priority", same),
    "match": ("match", table_of(_TARGET_MATCH)),
    "websocket": ("websocket", table_of(_WEBSOCKET)),
    "loadBalancing": ("load_balancing", table_of(_LOAD_BALANCING)),
    "sendProxyProtocol": ("send_proxy_protocol", same),
    "headers": ("headers", table_of(HEADERS)),
    "backendTransport": ("backend_transport", same),
}

_UDP: Options = {
    "sessionTimeout": ("session_timeout", milliseconds),
    "maxSessionsPerIP": ("max_sessions_per_ip", same),
    "maxDatagramSize": ("max_datagram_size", same),
    "quic": (
        "quic",
        table_of(
            {
                "maxIdleTimeout": ("max_idle_timeout", milliseconds),
                "maxConcurrentBidiStreams": ("max_concurrent_bidi_streams", same),
                "maxConcurrentUniStreams": ("max_concurrent_uni_streams", same),
                "enableHttp3": ("enable_http3", same),
                "altSvcPort": ("alt_svc_port", same),
                "altSvcMaxAge": ("alt_svc_max_age", seconds),
                "initialCongestionWindow": ("initial_congestion_window", same),
            }
        ),
    ),
}

ACTION: Options = {
    "type": ("type", same),
    "targets": ("targets", same),
    "tls": ("tls", table_of(_TLS)),
    "websocket": ("websocket", table_of(_WEBSOCKET)),
    "options": ("options", table_of({"backendProtocol": ("backend_protocol", same)})),
    "udp": ("udp", table_of(_UDP)),
    "forwardingEngine": ("forwarding_engine", same),
    "nftables": (
        "nftables",
        table_of(
            {
                "protocol": ("protocol", same),
                "preserveSourceIP": ("preserve_source_ip", same),
                "maxRate": ("max_rate", same),
            }
        ),
    ),
    "socketHandler": ("handler", lost(CODE)),
    "datagramHandler": ("datagram_handler", lost(CODE)),
}

MATCH: Options = {
    "ports": ("ports", same),
    "transport": ("transport", same),
    "inboundProxyProtocol": (
        "inbound_proxy_protocol",
        table_of({"mode": ("mode", same), "trustedProxyIPs": ("trusted_proxy_ips", ip_rules)}),
    ),
    "domains": ("domains", same),
    "path": ("path", same),
    "clientIp": ("client_ip", ip_rules),
    "tlsVersion": ("tls_version", _tls_versions),
    "headers": ("headers", header_conditions),
    "protocol": ("protocol", same),
}

_CHALLENGE: Options = {
    "enabled": ("enabled", same),
    "providerId": ("provider_id", same),
    "challengeType": ("challenge_type", same),
    "policyRef": ("policy_ref", same),
    "settings": ("settings", same),
    "applyTo": (
        "apply_to",
        table_of(
            {
                "methods": ("methods", same),
                "paths": ("paths", same),
                "browserNavigationsOnly": ("browser_navigations_only", same),
            }
        ),
    ),
    "clearance": (
        "clearance",
        table_of(
            {
                "ttlSeconds": ("ttl", seconds),
                "bindToHost": ("bind_to_host", same),
                "bindToRoute": ("bind_to_route", same),
                "bindToIp": ("bind_to_ip", same),
            }
        ),
    ),
}

_WAIT_SETTINGS: Options = {"waitSeconds": ("wait_seconds", same)}


def _challenge(value: Any, place: str, importing: Importing) -> dict[str, Any]:
    """A challenge; the `wait` of their provider is built in here."""
    challenge: dict[str, Any] = table_of(_CHALLENGE)(value, place, importing)
    if challenge.get("provider_id") == "smartchallenge" and challenge.get("challenge_type") == "wait":
        challenge["provider_id"] = BUILT_IN_PROVIDER_ID
        if isinstance(challenge.get("settings"), dict):
            challenge["settings"] = importing.table(
                challenge["settings"], f"{place}.settings", _WAIT_SETTINGS
            )
    return challenge


_RATE_LIMIT: Options = {
    "enabled": ("enabled", same),
    "maxRequests": ("max_requests", same),
    "window": ("window", seconds),
    "keyBy": ("key_by", same),
    "headerName": ("header_name", same),
    "errorMessage": ("error_message", same),
    "onExceeded": (
        "on_exceeded",
        table_of(
            {
                "type": ("type", same),
                "challenge": ("challenge", _challenge),
                "clearanceEffect": ("clearance_effect", same),
            }
        ),
    ),
}

_CREDENTIALS: Options = {name: (name, same) for name in ("username", "password")}

_BASIC_AUTH: Options = {
    "enabled": ("enabled", same),
    "users": ("users", list_of(table_of(_CREDENTIALS))),
    "realm": ("realm", same),
}

_JWT_AUTH: Options = {name: (name, same) for name in ("enabled", "secret", "algorithm", "issuer", "audience")}

SECURITY: Options = {
    "ipAllowList": ("ip_allow_list", ip_rules),
    "ipBlockList": ("ip_block_list", ip_rules),
    "maxConnections": ("max_connections", same),
    "rateLimit": ("rate_limit", table_of(_RATE_LIMIT)),
    "basicAuth": ("basic_auth", table_of(_BASIC_AUTH)),
    "jwtAuth": ("jwt_auth", table_of(_JWT_AUTH)),
    "challenge": ("challenge", _challenge),
}

_ACME: Options = {
    "email": ("email", same),
    "useProduction": ("use_production", same),
    "port": ("port", same),
    "renewThresholdDays": ("renew_threshold_days", same),
    "autoRenew": ("auto_renew", same),
    "renewCheckIntervalHours": ("renew_check_interval", hours),
}


def _signing_key(value: Any, place: str, importing: Importing) -> str:
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) < SHORTEST_SIGNING_KEY_BYTES:
        raise NotCarried(
            f"it is shorter than {SHORTEST_SIGNING_KEY_BYTES} bytes; a key is made at start instead"
        )
    return value


_CHALLENGE_RUNTIME: Options = {
    "cookieSigningKey": ("cookie_signing_key", _signing_key),
    "pendingCookieName": ("pending_cookie_name", same),
    "clearanceCookieName": ("clearance_cookie_name", same),
    "reservedPathPrefix": ("reserved_path_prefix", same),
    "relaySocketPath": ("", lost("providers run in the proxy itself")),
    "relayTimeoutMs": ("relay_timeout", milliseconds),
    "pendingTtlSeconds": ("pending_ttl", seconds),
}


def _none_but_true(value: Any, place: str, importing: Importing) -> Any:
    if value is not True:
        raise NotCarried("it has no counterpart")
    return {"level": "debug"}


def _names_and_units(pairs: Iterable[tuple[str, str]], convert: Converter) -> Options:
    return {theirs: (ours, convert) for theirs, ours in pairs}


SWITCHES = ("enableDetailedLogging", "enableTlsDebugLogging")
"""Off by default: turned off, they say nothing."""

ROOT: Options = {
    "acme": ("acme", table_of(_ACME)),
    "certProvisionFunction": ("", lost(CODE)),
    "certStore": ("", lost(CODE)),
    "certProvisionFallbackToAcme": ("cert_provision_fallback_to_acme", same),
    "certProvisionConcurrency": ("cert_provision_concurrency", same),
    "disableDefaultCert": ("disable_default_cert", same),
    "rustBinaryPath": ("", lost("there is no binary to find")),
    "trustedProxyIPs": ("trusted_proxy_ips", ip_rules),
    "sendProxyProtocol": ("send_proxy_protocol", same),
    "maxConnectionsPerIP": ("max_connections_per_ip", same),
    "connectionRateLimitPerMinute": ("connection_rate_limit_per_minute", same),
    "securityPolicy": (
        "security_policy",
        table_of({"blockedIps": ("blocked_ips", ip_rules), "blockedCidrs": ("blocked_cidrs", ip_rules)}),
    ),
    "challenge": ("challenge", table_of(_CHALLENGE_RUNTIME)),
    "keepAliveTreatment": ("keep_alive_treatment", same),
    "keepAliveInactivityMultiplier": ("keep_alive_inactivity_multiplier", same),
    "metrics": (
        "metrics",
        table_of(
            {
                "enabled": ("enabled", same),
                "sampleIntervalMs": ("sample_interval", milliseconds),
                "retentionSeconds": ("retention", seconds),
            }
        ),
    ),
    "enableDetailedLogging": ("logging", _none_but_true),
    "enableTlsDebugLogging": ("logging", _none_but_true),
    **_names_and_units(
        [
            ("certProvisionTimeout", "cert_provision_timeout"),
            ("certProvisionFailureCooldownMs", "cert_provision_failure_cooldown"),
            ("connectionTimeout", "connection_timeout"),
            ("initialDataTimeout", "initial_data_timeout"),
            ("socketTimeout", "socket_timeout"),
            ("maxConnectionLifetime", "max_connection_lifetime"),
            ("inactivityTimeout", "inactivity_timeout"),
            ("gracefulShutdownTimeout", "graceful_shutdown_timeout"),
            ("extendedKeepAliveLifetime", "extended_keep_alive_lifetime"),
        ],
        milliseconds,
    ),
}
