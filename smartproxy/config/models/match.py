"""What traffic a route, or a target within it, takes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, Tag, model_validator

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.scalars import (
    LIST,
    SCALAR,
    TABLE,
    Domains,
    HeaderConditions,
    IpRule,
    IpRules,
    ListeningPort,
    Methods,
    PathText,
    Port,
    Shown,
    as_list,
    by_shape,
)
from smartproxy.config.models.tls import TlsVersion


class PortRangeConfig(ConfigModel):
    """A range of ports, both ends included."""

    section: ClassVar[str] = "port_range"

    from_: Port = Field(validation_alias="from", serialization_alias="from", description="The first port.")
    to: Port = Field(description="The last port.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.from_ > self.to:
            raise invalid("must not be before `from`", field="to")
        return self


_PORTS_MESSAGE = "must be a port, or a list of ports and { from, to } ranges"

Ports = Annotated[
    Annotated[ListeningPort, Tag(SCALAR)]
    | Annotated[
        list[
            Annotated[
                Annotated[ListeningPort, Tag(SCALAR)] | Annotated[PortRangeConfig, Tag(TABLE)],
                by_shape("must be a port or a { from, to } range"),
            ]
        ],
        Field(min_length=1),
        Tag(LIST),
    ],
    by_shape(_PORTS_MESSAGE),
    Shown("port, or a list of ports and `{ from, to }` ranges"),
]


TlsVersions = Annotated[
    Annotated[TlsVersion, Tag(SCALAR)] | Annotated[list[TlsVersion], Field(min_length=1), Tag(LIST)],
    by_shape("must be a TLS version or a list of them"),
    Shown('`"TLSv1.2"`, `"TLSv1.3"`, or a list'),
]


def port_ranges(ports: int | list[int | PortRangeConfig] | None) -> tuple[tuple[int, int], ...]:
    """Inclusive ranges, in order, as written."""
    return tuple(
        (port.from_, port.to) if isinstance(port, PortRangeConfig) else (port, port)
        for port in as_list(ports)
    )


class InboundProxyProtocolConfig(ConfigModel):
    """Whether connections begin with a PROXY header. It holds for the whole port."""

    section: ClassVar[str] = "inbound_proxy_protocol"

    mode: Literal["reject", "optional", "required"] = Field(
        default="reject",
        description='"reject": there is no header. "optional": trusted addresses may send one. '
        '"required": every connection must, and from a trusted address.',
    )
    trusted_proxy_ips: list[IpRule] | None = Field(
        default=None, description="Whose header is believed. Left out: the global `trusted_proxy_ips`."
    )


class MatchConfig(ConfigModel):
    """A route's conditions; all that are given must hold."""

    section: ClassVar[str] = "match"

    ports: Ports = Field(description="The ports to listen on. Port 0 is any free one.")
    transport: Literal["tcp", "udp", "all"] = Field(
        default="tcp",
        description='The transport. "udp" and "all" are for routes that serve HTTP/3 '
        "(`action.udp.quic.enable_http3`), on the UDP ports of the same numbers.",
    )
    domains: Domains | None = Field(
        default=None,
        description="Names, exact or `*.example.com` (all below it, any depth), `example.*`, `*`. Left out: "
        "any, also none.",
    )
    path: PathText | None = Field(
        default=None, description="`/exact`, `/users/:id` (one segment), `/api/*` (everything below)."
    )
    client_ip: IpRules | None = Field(default=None, description="Client addresses.")
    tls_version: TlsVersions | None = Field(
        default=None, description="TLS versions of the client's connection."
    )
    headers: HeaderConditions | None = Field(default=None, description="Conditions on fields, by name.")
    methods: Methods | None = Field(default=None, description="HTTP methods.")
    protocol: Literal["http", "tcp", "http3"] | None = Field(
        default=None,
        description='"http": HTTP of any version. "tcp": anything that is not HTTP. "http3": HTTP/3 only. '
        "Left out: anything. Where TLS is terminated the decrypted bytes decide.",
    )
    inbound_proxy_protocol: InboundProxyProtocolConfig | None = Field(
        default=None, description="Whether connections begin with a PROXY header."
    )


class TargetMatchConfig(ConfigModel):
    """A target's own conditions within its route."""

    section: ClassVar[str] = "target_match"

    ports: Ports | None = Field(default=None, description="Ports the client came in on.")
    path: PathText | None = Field(default=None, description="As in a route's match.")
    headers: HeaderConditions | None = Field(default=None, description="As in a route's match.")
    methods: Methods | None = Field(default=None, description="As in a route's match.")
