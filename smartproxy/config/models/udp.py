"""What a route serves over UDP."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.scalars import AnyDuration, Duration, Integer, Port, Size, StreamCount


class QuicConfig(ConfigModel):
    """HTTP/3 for clients. Of several such routes on a port, the first decides what concerns connections."""

    section: ClassVar[str] = "quic"

    enable_http3: bool = Field(
        default=False,
        description='Serve HTTP/3 on the UDP ports of the same numbers, with `match.transport` "all" (beside '
        'TCP, where Alt-Svc tells clients of it) or "udp" (alone). It needs TLS that is terminated here.',
    )
    max_idle_timeout: Duration = Field(
        default=30.0, description="Silence after which a connection is given up (RFC 9000 §10.1)."
    )
    max_concurrent_bidi_streams: StreamCount | None = Field(
        default=None,
        description="Requests that a client may have open at a time. Left out: `limits.concurrent_streams`.",
    )
    # The control stream and the two of QPACK take three (RFC 9114 §6.2).
    max_concurrent_uni_streams: Annotated[Integer, Field(ge=3, le=100_000)] = Field(
        default=100, description="Unidirectional streams of a client, of which HTTP/3 itself takes three."
    )
    alt_svc_port: Port | None = Field(
        default=None,
        description="The UDP port that Alt-Svc tells clients, where something in between maps ports. "
        "Left out: the port they came in on.",
    )
    alt_svc_max_age: AnyDuration = Field(
        default=86400.0, description="How long clients may keep what Alt-Svc said."
    )
    initial_congestion_window: Annotated[Size, Field(ge=2400, le=16 * 1024 * 1024)] | None = Field(
        default=None,
        description="What may be sent before the first acknowledgement. Left out: RFC 9002 §7.2.",
    )
    zero_rtt: bool = Field(
        default=False,
        description="Let resumed connections begin with safe requests (GET, HEAD and the like) before the "
        "handshake is done. Whoever records such a request can send it again. All routes that serve "
        "HTTP/3 on a port must say so.",
    )


class UdpConfig(ConfigModel):
    """What is served over UDP."""

    section: ClassVar[str] = "udp"

    quic: QuicConfig = Field(default=QuicConfig(), description="HTTP/3.")
