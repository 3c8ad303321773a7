"""The whole configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.challenge import ChallengeSettingsConfig
from smartproxy.config.models.route import RouteConfig
from smartproxy.config.models.scalars import (
    AnyDuration,
    Count,
    Duration,
    Integer,
    IpRule,
    KeyCount,
    Limit,
    ListenAddress,
    Size,
    StreamCount,
)
from smartproxy.config.models.security import SecurityConfig, SecurityPolicyConfig
from smartproxy.config.models.target import SendProxyProtocol, TargetConfig
from smartproxy.config.models.tls import CertificateConfig
from smartproxy.config.problems import ConfigError
from smartproxy.config.references import ReferenceResolver


def _check_server_name(text: str) -> str:
    # A token, as a pseudonym in Via (RFC 9110 §7.6.3) and an item in Proxy-Status (RFC 9209 §2).
    if not text.isascii() or not text[:1].isalpha() or not text.replace("-", "").replace(".", "").isalnum():
        raise invalid("must be a name", allowed="ASCII letters, digits, '-' and '.', a letter first")
    return text


class DefaultsConfig(ConfigModel):
    """What routes have that say nothing else."""

    section: ClassVar[str] = "defaults"

    target: TargetConfig | None = Field(
        default=None, description="The target of routes that forward and name none."
    )
    security: SecurityConfig = Field(
        default=SecurityConfig(),
        description="What is asked of every route's clients. Block lists add up; of the others a route's own "
        "takes the place of this one as a whole, and `{ enabled = false }` of none. A rule that cannot hold "
        "for some route is an error until that route says so.",
    )


class LimitsConfig(ConfigModel):
    """Bounds on what one peer may cost."""

    section: ClassVar[str] = "limits"

    header_bytes: Size = Field(default=65536, description="A message's field lines, together.")
    header_count: Count = Field(default=128, description="A message's field lines.")
    target_bytes: Size = Field(default=16384, description="A request's URI.")
    client_hello_bytes: Size = Field(default=65536, description="A TLS ClientHello.")
    body_bytes: Size | None = Field(default=None, description="A request's content. Left out: no limit.")
    body_rate_bytes_per_s: Annotated[Integer, Field(ge=0)] = Field(
        default=100,
        description="A request's content that arrives slower for all of `socket_timeout` is refused.",
    )
    concurrent_streams: StreamCount = Field(
        default=100,
        description="Requests at a time on one HTTP/2 or HTTP/3 connection, of a client as to a backend.",
    )
    counted_addresses: KeyCount = Field(
        default=100_000,
        description="Addresses whose new connections are counted for `connection_rate_limit_per_minute` at a "
        "time.",
    )
    pool_connections_per_host: Count = Field(default=1024, description="Connections to one host.")
    pool_idle_per_host: Annotated[Integer, Field(ge=0)] = Field(
        default=256, description="Idle connections kept to one host."
    )
    pending_per_host: Annotated[Integer, Field(ge=0)] = Field(
        default=1024, description="Exchanges that may wait for a connection to one host."
    )


class LoggingConfig(ConfigModel):
    """What is logged, and how."""

    section: ClassVar[str] = "logging"

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severity that is logged."
    )
    format: Literal["text", "json"] = Field(default="text", description="For people or for programs.")
    access_log: bool = Field(default=True, description="Log every request and every raw connection.")


class ProxyConfig(ConfigModel):
    """The whole configuration of a proxy."""

    section: ClassVar[str] = "proxy"

    routes: list[RouteConfig] = Field(default=[], description="The routes.")
    listen: Annotated[list[ListenAddress], Field(min_length=1)] = Field(
        default=["0.0.0.0", "::"],  # noqa: S104 - a proxy listens to everyone by default
        description="Addresses to listen on.",
    )
    trusted_proxy_ips: list[IpRule] = Field(
        default=[],
        description="Proxies in front of this one: their PROXY headers (where a route asks for them) and "
        "forwarding fields are believed.",
    )
    send_proxy_protocol: SendProxyProtocol = Field(
        default=0, description="Open each backend connection with a PROXY header of this version."
    )
    defaults: DefaultsConfig = Field(
        default=DefaultsConfig(), description="What routes have that say nothing else."
    )

    connection_timeout: Duration = Field(
        default=60.0, description="A backend connection, from the name look-up to the end of its handshakes."
    )
    initial_data_timeout: Duration = Field(
        default=60.0,
        description="All of a client's PROXY header, ClientHello and TLS handshake; all of an HTTP head, "
        "from its first byte.",
    )
    socket_timeout: Duration = Field(
        default=60.0, description="The longest silence of the side whose turn it is during an exchange."
    )
    inactivity_timeout: Duration = Field(
        default=75.0,
        description="An idle client connection between requests, or a tunnel that moves nothing.",
    )
    max_connection_lifetime: Duration = Field(
        default=3600.0, description="At this age a raw connection is closed and an HTTP connection drained."
    )
    graceful_shutdown_timeout: AnyDuration = Field(
        default=30.0, description="How long `stop` lets connections finish."
    )
    keep_alive_treatment: Literal["standard", "extended", "immortal"] = Field(
        default="standard",
        description='"extended": idle connections last `keep_alive_inactivity_multiplier` times as long, and '
        '`extended_keep_alive_lifetime` is their lifetime. "immortal": neither has an end.',
    )
    keep_alive_inactivity_multiplier: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = Field(
        default=4.0, description='Times `inactivity_timeout`, with "extended".'
    )
    extended_keep_alive_lifetime: Duration = Field(default=3600.0, description='Lifetime with "extended".')
    server_first_delay: AnyDuration = Field(
        default=0.25,
        description="How long a client may stay silent before a backend that may speak first is connected.",
    )
    pool_idle_timeout: Duration = Field(
        default=60.0, description="How long an idle backend connection is kept for the next request."
    )

    max_connections_per_ip: Limit = Field(
        default=100,
        description="Client connections of one address at a time, of IPv6 of one /64.",
    )
    connection_rate_limit_per_minute: Limit = Field(
        default=300,
        description="New client connections of one address within any minute, of IPv6 of one /64.",
    )
    security_policy: SecurityPolicyConfig = Field(
        default=SecurityPolicyConfig(), description="Who gets no connection at all."
    )
    challenge: ChallengeSettingsConfig = Field(
        default=ChallengeSettingsConfig(), description="What holds for the challenges of every route."
    )
    limits: LimitsConfig = Field(default=LimitsConfig(), description="Bounds on what one peer may cost.")
    logging: LoggingConfig = Field(default=LoggingConfig(), description="What is logged, and how.")
    quic_engine: Literal["auto", "aioquic", "qh3"] = Field(
        default="auto",
        description="What carries the QUIC of clients. `auto`: qh3, which takes a third of the time, where "
        "it is installed (`pip install smartproxy[fast]`), else aioquic. With qh3, uploads on one "
        "connection wait for each other once 14 MB of them are unread.",
    )
    server_name: Annotated[str, AfterValidator(_check_server_name)] = Field(
        default="smartproxy",
        min_length=1,
        max_length=64,
        description="The proxy's name in Proxy-Status and Via.",
    )
    default_certificate: CertificateConfig | None = Field(
        default=None,
        description="The certificate for names that no other is good for. Left out: a self-signed one.",
    )
    disable_default_cert: bool = Field(
        default=False, description="Do without the self-signed certificate: every TLS route needs a real one."
    )

    def with_routes(self, routes: Iterable[RouteConfig | Mapping[str, Any]]) -> ProxyConfig:
        """This configuration with other routes. Mappings may hold references. Raises ConfigError."""
        resolver = ReferenceResolver(Path(), os.environ)
        resolved = [
            route if isinstance(route, RouteConfig) else resolver.resolve(route, ("routes", position))
            for position, route in enumerate(routes)
        ]
        if resolver.problems:
            raise ConfigError(resolver.problems)
        return ProxyConfig.model_validate({**self.plain(), "routes": resolved})
