"""Where a route's traffic goes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, Tag, WithJsonSchema, model_validator

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.match import TargetMatchConfig
from smartproxy.config.models.scalars import (
    FUNCTION,
    LIST,
    SCALAR,
    TABLE,
    Count,
    Duration,
    FileName,
    Function,
    HeaderRules,
    HostName,
    Integer,
    RequestTarget,
    Shown,
    TargetPort,
    by_shape,
)
from smartproxy.config.models.tls import TargetTlsConfig
from smartproxy.config.models.websocket import WebSocketConfig

_PROXY_VERSIONS: dict[object, int] = {"false": 0, "true": 2, "1": 1, "2": 2, "v1": 1, "v2": 2}


def _proxy_version(value: object) -> int:
    if isinstance(value, bool):
        return 2 if value else 0
    if isinstance(value, int) and 0 <= value <= 2:
        return value
    if isinstance(value, str) and value.lower() in _PROXY_VERSIONS:
        return _PROXY_VERSIONS[value.lower()]
    raise invalid("must say whether to send a PROXY header", allowed="false, true (version 2), 1, 2")


SendProxyProtocol = Annotated[
    int,
    BeforeValidator(_proxy_version),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": [0, 1, 2]}]}),
    Shown("`false`, `true`, `1` or `2`"),
]
"""0: none; 1 or 2: that version."""


class WeightedHostConfig(ConfigModel):
    """A host with its share of the load."""

    section: ClassVar[str] = "weighted_host"

    host: HostName = Field(description="Name or address.")
    weight: Annotated[Integer, Field(ge=0, le=10_000)] = Field(
        default=1, description="Share, relative to the others'. With 0 it gets none."
    )


Host = Annotated[
    Annotated[HostName, Tag(SCALAR)]
    | Annotated[
        list[
            Annotated[
                Annotated[HostName, Tag(SCALAR)] | Annotated[WeightedHostConfig, Tag(TABLE)],
                by_shape("must be a host or { host, weight }"),
            ]
        ],
        Field(min_length=1),
        Tag(LIST),
    ]
    | Annotated[Function, Tag(FUNCTION)],
    by_shape("must be a host or a list of hosts"),
    Shown("host, list of hosts or `{ host, weight }`, or in Python a function"),
]


class HealthCheckConfig(ConfigModel):
    """Requests that find out whether a host works."""

    section: ClassVar[str] = "health_check"

    path: RequestTarget = Field(description="Path and query to ask for.")
    interval: Duration = Field(default=10.0, description="Time from one check to the next.")
    timeout: Duration = Field(default=2.0, description="How long an answer may take.")
    unhealthy_threshold: Count = Field(
        default=3, description="Failures in a row after which a host gets no more traffic."
    )
    healthy_threshold: Count = Field(
        default=2, description="Successes in a row after which it gets traffic again."
    )


class LoadBalancingConfig(ConfigModel):
    """How one of several hosts is chosen."""

    section: ClassVar[str] = "load_balancing"

    algorithm: Literal["round-robin", "least-connections", "ip-hash"] = Field(
        default="round-robin",
        description='"ip-hash" gives a client the same host each time, as long as there is that host.',
    )
    health_check: HealthCheckConfig | None = Field(
        default=None,
        description="Active checks. Hosts that cannot be reached are left out for a time anyway.",
    )


class HeadersConfig(ConfigModel):
    """Fields to set or remove. Values are templates such as `{clientIp}`."""

    section: ClassVar[str] = "headers"

    request: HeaderRules = Field(default={}, description="In requests to the backend.")
    response: HeaderRules = Field(default={}, description="In responses to the client.")


class TargetConfig(ConfigModel):
    """One backend, or several equal ones to balance over."""

    section: ClassVar[str] = "target"

    host: Host | None = Field(
        default=None,
        description="Name or address; several are load-balanced. A function gets a `RouteContext` and "
        "returns one host or a list.",
    )
    port: TargetPort | None = Field(
        default=None, description='The port; "preserve" is the one the client came in on.'
    )
    unix: FileName | None = Field(
        default=None, description="Path of a unix socket, in place of `host` and `port`."
    )
    priority: Integer = Field(default=0, description="Targets with a higher priority are tried first.")
    match: TargetMatchConfig | None = Field(default=None, description="Conditions within the route.")
    tls: TargetTlsConfig | None = Field(
        default=None, description="TLS towards this target, where it differs from the route's."
    )
    websocket: WebSocketConfig | None = Field(
        default=None, description="WebSockets to this target, where they differ from the action's."
    )
    load_balancing: LoadBalancingConfig = Field(
        default=LoadBalancingConfig(), description="How one of several hosts is chosen."
    )
    send_proxy_protocol: SendProxyProtocol | None = Field(
        default=None,
        description="Open each connection with a PROXY header of this version. Left out: as at top level.",
    )
    headers: HeadersConfig = Field(
        default=HeadersConfig(), description="Fields to set or remove, after those of the route."
    )
    backend_transport: Literal["tcp"] = Field(default="tcp", description="The transport to the backend.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.unix is not None:
            for field in ("host", "port"):
                if getattr(self, field) is not None:
                    raise invalid("cannot be given together with `unix`", field=field)
        elif self.host is None:
            raise invalid("is required", allowed="a host, or `unix` with the path of a socket", field="host")
        elif self.port is None:
            raise invalid("is required", allowed='1 to 65535, or "preserve"', field="port")
        return self
