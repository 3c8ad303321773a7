"""What the core runs on: routes, targets, limits and timeouts, compiled from what users write.

Everything here is plain data with decided defaults: no file names, no references
still to be resolved, no unit still to be converted. `smartproxy.config` makes it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.security.policies import ChallengeSettings, RequestPolicy

if TYPE_CHECKING:
    from smartproxy.core.certificates import CertificateIndex
    from smartproxy.core.http.field_rules import FieldRules, Template
    from smartproxy.core.routing.conditions import FieldCondition
    from smartproxy.core.routing.table import RouteTable
    from smartproxy.core.wire.http3.quic_engine import EngineName
    from smartproxy.core.wire.websocket.origins import OriginAllowList


class Transport(Enum):
    TCP = "tcp"
    UDP = "udp"
    ALL = "all"


class MatchProtocol(Enum):
    HTTP = "http"
    TCP = "tcp"
    UDP = "udp"
    QUIC = "quic"
    HTTP3 = "http3"


class ProxyProtocolMode(Enum):
    REJECT = "reject"
    OPTIONAL = "optional"
    REQUIRED = "required"


class TlsMode(Enum):
    PASSTHROUGH = "passthrough"
    TERMINATE = "terminate"
    TERMINATE_AND_REENCRYPT = "terminate-and-reencrypt"


class BackendProtocol(Enum):
    AUTO = "auto"
    HTTP1 = "http1"
    HTTP2 = "http2"
    HTTP3 = "http3"


class BalancingAlgorithm(Enum):
    ROUND_ROBIN = "round-robin"
    LEAST_CONNECTIONS = "least-connections"
    IP_HASH = "ip-hash"


@dataclass(frozen=True, slots=True)
class ProxyProtocolPolicy:
    """Whether a listener's connections begin with a PROXY header, and from whom it is believed."""

    mode: ProxyProtocolMode
    trusted: IpSet


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """A route's conditions. None or empty means: no condition."""

    ports: tuple[tuple[int, int], ...]
    """Inclusive ranges."""
    transport: Transport = Transport.TCP
    domains: tuple[str, ...] = ()
    """Lower case A-labels without a trailing dot; `*.x`, `x.*` and `*` as written."""
    path: str | None = None
    client_ip: IpSet | None = None
    tls_versions: frozenset[str] = frozenset()
    fields: tuple[FieldCondition, ...] = ()
    methods: frozenset[bytes] = frozenset()
    protocol: MatchProtocol | None = None
    proxy_protocol: ProxyProtocolPolicy | None = None


@dataclass(frozen=True, slots=True)
class TargetMatch:
    """A target's own conditions within its route."""

    ports: tuple[tuple[int, int], ...] = ()
    path: str | None = None
    fields: tuple[FieldCondition, ...] = ()
    methods: frozenset[bytes] = frozenset()


ContextForAlpn = Callable[[tuple[bytes, ...]], ssl.SSLContext]
"""A client's context that offers these ALPN protocols, best first; the same one for the same offer."""


@dataclass(frozen=True, slots=True, eq=False)
class OriginTls:
    """TLS towards a backend. `identity` tells apart pools that must not be shared."""

    context: ssl.SSLContext
    """The one that offers nothing by ALPN."""
    server_name: str | None
    """Name sent as SNI and verified; None: the target's host."""
    fingerprint_sha256: bytes | None
    identity: str
    verifies: bool = True
    """Whether the certificate must chain to a trusted root and be valid for the name."""
    make_context: ContextForAlpn | None = None
    """None: `context` serves every offer."""
    read_ca_pem: Callable[[], bytes] | None = None
    """What `ca_pem` is, read when it is first wanted; None where there are no roots to tell."""

    def context_for(self, alpn: tuple[bytes, ...]) -> ssl.SSLContext:
        """The context that offers `alpn`, best first; `()` for TLS around something else than HTTP."""
        if not alpn or self.make_context is None:
            return self.context
        return self.make_context(alpn)

    @property
    def ca_pem(self) -> bytes:
        """The trusted roots in PEM, for the TLS inside QUIC; empty when none can be had."""
        return self.read_ca_pem() if self.read_ca_pem is not None else b""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Active health checks of a target's hosts (SPEC: Load balancing)."""

    path: str
    interval_s: float = 10.0
    timeout_s: float = 2.0
    unhealthy_threshold: int = 3
    healthy_threshold: int = 2


@dataclass(frozen=True, slots=True)
class Balancing:
    algorithm: BalancingAlgorithm = BalancingAlgorithm.ROUND_ROBIN
    health_check: HealthCheck | None = None


HostFunction = Callable[..., Any]
"""`(RouteContext) -> str | list[str]`, sync or async."""
PortFunction = Callable[..., Any]
"""`(RouteContext) -> int`, sync or async."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One sub-route of a forward action, with equivalent hosts to balance over."""

    hosts: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()
    """As long as `hosts`."""
    host_function: HostFunction | None = None
    port: int | Literal["preserve"] = "preserve"
    port_function: PortFunction | None = None
    unix_path: str | None = None
    priority: int = 0
    match: TargetMatch | None = None
    tls: OriginTls | None = None
    balancing: Balancing = field(default_factory=Balancing)
    send_proxy_protocol: int = 0
    """0: none; 1 or 2: that version of the PROXY header opens each backend connection."""
    request_fields: FieldRules | None = None
    response_fields: FieldRules | None = None
    websocket: WebSocketRules | None = None
    """None: the action's."""


@dataclass(frozen=True, slots=True)
class RouteTls:
    """What a route does with TLS from clients."""

    mode: TlsMode
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2


@dataclass(frozen=True, slots=True, eq=False)
class WebSocketRules:
    """What WebSockets of a route may do. None is no rule; frames then pass unopened."""

    enabled: bool = True
    """False: 403 for every handshake."""
    ping_interval_s: float | None = None
    """Silence of a peer after which it is sent a Ping; None for never."""
    ping_timeout_s: float = 20.0
    """How long after that Ping a peer may stay silent before the WebSocket is closed with 1011."""
    idle_timeout_s: float = 24 * 3600.0
    """How long nothing may pass; many applications are silent for longer than any other tunnel may be."""
    max_payload_bytes: int | None = None
    """Of one message. Over it: close code 1009."""
    subprotocols: tuple[bytes, ...] | None = None
    """Those a client may ask for; others are left out of what the backend sees."""
    allowed_origins: OriginAllowList | None = None
    """The web sites that may open one; others get 403."""


@dataclass(frozen=True, slots=True)
class QuicPolicy:
    """How a route's HTTP/3 is served, on the UDP ports of the same numbers (RFC 9114)."""

    idle_timeout_s: float = 30.0
    """max_idle_timeout (RFC 9000 §10.1)."""
    bidirectional_streams: int = 100
    """Requests that a client may have open at a time."""
    unidirectional_streams: int = 100
    alt_svc_port: int | None = None
    """The UDP port that Alt-Svc names (RFC 7838); None: the port the client used."""
    alt_svc_max_age_s: int = 86400
    initial_congestion_window_datagrams: int | None = None
    """None: RFC 9002 §7.2."""
    zero_rtt: bool = False
    """Whether safe requests may come as early data, which anybody can replay (RFC 8470)."""


@dataclass(frozen=True, slots=True, eq=False)
class ForwardAction:
    targets: tuple[Target, ...]
    """In the order they are tried: highest priority first, then as written."""
    tls: RouteTls | None = None
    backend_protocol: BackendProtocol = BackendProtocol.AUTO
    preserve_host: bool = True
    add_via: bool = False
    websocket: WebSocketRules = field(default_factory=WebSocketRules)


class HandlerKind(Enum):
    HTTP_REDIRECT = "http_redirect"
    HTTP_RESPONSE = "http_response"
    HTTP_BLOCK = "http_block"
    BLOCK = "block"
    ECHO = "echo"


@dataclass(frozen=True, slots=True, eq=False)
class HandlerAction:
    """A built-in answer. `text` is the body or the message; a redirect has its URL in `template`."""

    kind: HandlerKind
    status: int = 0
    text: str = ""
    template: Template | None = None
    content_type: str = "text/plain; charset=utf-8"
    tls: RouteTls | None = None


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may use a route. `blocked` wins over `allowed`; None for either is no rule."""

    allowed: IpSet | None = None
    blocked: IpSet | None = None

    def refused_by(self, client_number: int) -> Literal["ip_block_list", "ip_allow_list"] | None:
        """The list that keeps out the address with this number (`ip_number`); None: it may come in."""
        if self.blocked is not None and self.blocked.contains(client_number):
            return "ip_block_list"
        if self.allowed is not None and not self.allowed.contains(client_number):
            return "ip_allow_list"
        return None


@dataclass(slots=True, eq=False)
class Route:
    """One compiled route."""

    position: int
    """Its index in the order written."""
    name: str
    """The given name, else the id, else `route[<position>]`."""
    id: str
    priority: int
    match: RouteMatch
    action: ForwardAction | HandlerAction
    access: AccessRules = field(default_factory=AccessRules)
    max_connections: int | None = None
    """Client connections at a time; None: no limit."""
    request_policy: RequestPolicy | None = None
    """What requests must pass besides; None: nothing."""
    request_fields: FieldRules | None = None
    response_fields: FieldRules | None = None
    quic: QuicPolicy | None = None
    """None: no HTTP/3 for its clients."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; `inf` for never."""

    connection_s: float = 60.0
    """A backend connection, from the name look-up to the end of its handshakes."""
    initial_data_s: float = 60.0
    """All of a PROXY header and ClientHello and TLS handshake; all of an HTTP head, from its first byte."""
    socket_s: float = 60.0
    """The longest silence of the side whose turn it is while an exchange is under way."""
    inactivity_s: float = 75.0
    """An idle keep-alive client connection, or a tunnel that moves nothing."""
    lifetime_s: float = 3600.0
    """A raw connection is closed, an HTTP connection drained, at this age."""
    graceful_shutdown_s: float = 30.0
    server_first_s: float = 0.25
    """How long a client may stay silent before a backend that may speak first is dialled."""
    pool_idle_s: float = 60.0
    address_race_s: float = 0.25
    """Head start of one address over the next (RFC 8305 §5)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one peer may cost."""

    header_bytes: int = 64 * 1024
    header_count: int = 128
    target_bytes: int = 16 * 1024
    client_hello_bytes: int = 64 * 1024
    body_bytes: int | None = None
    body_rate_bytes_per_s: int = 100
    """A request body arriving slower than this over a whole `socket_s` is refused with 408."""
    pool_connections_per_host: int = 1024
    pool_idle_per_host: int = 256
    pending_per_host: int = 1024
    """Exchanges that may wait for a connection to one host."""
    max_connections_per_ip: int | None = None
    """Client connections at a time of one address, or of one IPv6 /64; None: no limit."""
    connection_rate_limit_per_minute: int | None = None
    """New client connections of one address, or of one IPv6 /64, in any 60 seconds; None: no limit."""
    counted_addresses: int = 100_000
    """Addresses whose connections per minute are counted at a time."""
    concurrent_streams: int = 100
    """Requests at a time on one HTTP/2 connection, of clients as to backends (RFC 9113 §5.1.2)."""


@dataclass(slots=True, eq=False)
class Configuration:
    """One generation of everything the engine obeys. Replaced whole, never changed in place."""

    table: RouteTable
    certificates: CertificateIndex
    trusted_proxies: IpSet
    """Whose X-Forwarded-* and Forwarded fields are kept."""
    blocked_addresses: IpSet = field(default_factory=IpSet)
    """The global block policy: who gets no connection at all."""
    challenges: ChallengeSettings = field(default_factory=ChallengeSettings)
    listen_hosts: Sequence[str] = ("0.0.0.0", "::")  # noqa: S104 - a proxy listens to everyone by default
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    server_name: str = "smartproxy"
    """The proxy's name in Proxy-Status and Via."""
    quic_engine: EngineName | None = None
    """What carries the QUIC of clients; None: the fastest installed."""
