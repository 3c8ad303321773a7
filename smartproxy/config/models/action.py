"""What a route does with its traffic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Tag, model_validator

from smartproxy.config.explain import invalid, tag_of
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.scalars import ErrorContext, FieldValue, Integer, Shown, UrlTemplate, tagged_by
from smartproxy.config.models.target import TargetConfig
from smartproxy.config.models.tls import RouteTlsConfig
from smartproxy.config.models.udp import UdpConfig
from smartproxy.config.models.websocket import WebSocketConfig

_FORWARD = tag_of("forward")
_HANDLER = tag_of("handler")
_UNKNOWN = tag_of("unknown")


class ForwardOptionsConfig(ConfigModel):
    """How requests are forwarded."""

    section: ClassVar[str] = "options"

    backend_protocol: Literal["auto", "http1", "http2", "http3"] = Field(
        default="auto",
        description='HTTP towards the backend. "auto": the best it speaks, HTTP/3 as soon as it has '
        'advertised it (Alt-Svc); plain backends are spoken to in HTTP/1.1. "http2": HTTP/2 or none, plain '
        'backends by prior knowledge. "http3": HTTP/3 or none, always with TLS.',
    )
    preserve_host: bool = Field(
        default=True, description="Send the client's Host field; otherwise the target's host."
    )
    via: bool = Field(default=False, description="Add a Via field (RFC 9110 §7.6.3).")


class ForwardActionConfig(ConfigModel):
    """Forward to a backend."""

    section: ClassVar[str] = "action"
    tag: ClassVar[str] = _FORWARD

    type: Literal["forward"] = Field(default="forward", description='"forward".')
    targets: list[TargetConfig] = Field(
        default=[],
        description="Where to. The first whose own match holds is taken, higher `priority` first. "
        "Left out: `defaults.target`.",
    )
    tls: RouteTlsConfig | None = Field(default=None, description="TLS from clients. Left out: none.")
    options: ForwardOptionsConfig = Field(
        default=ForwardOptionsConfig(), description="How requests are forwarded."
    )
    websocket: WebSocketConfig = Field(default=WebSocketConfig(), description="WebSockets.")
    udp: UdpConfig = Field(default=UdpConfig(), description="What is served over UDP.")


def _code_among(codes: Collection[int], message: str, allowed: str) -> AfterValidator:
    def check(code: int) -> int:
        if code not in codes:
            raise invalid(message, allowed=allowed)
        return code

    return AfterValidator(check)


_REDIRECTS = (301, 302, 303, 307, 308)
_RedirectCode = Annotated[
    Integer,
    _code_among(_REDIRECTS, "must be the status code of a redirect", "301, 302, 303, 307, 308"),
    Field(json_schema_extra={"enum": list(_REDIRECTS)}),
    Shown("301, 302, 303, 307 or 308"),
]
_StatusCode = Annotated[
    Integer,
    _code_among(range(200, 600), "must be the status code of a final response", "200 to 599"),
    Field(json_schema_extra={"minimum": 200, "maximum": 599}),
    Shown("status code"),
]
_ErrorCode = Annotated[
    Integer,
    _code_among(range(400, 600), "must be the status code of an error", "400 to 599"),
    Field(json_schema_extra={"minimum": 400, "maximum": 599}),
    Shown("status code"),
]


class HttpRedirectConfig(ConfigModel):
    """Send the client to another URL."""

    section: ClassVar[str] = "http_redirect"

    url: UrlTemplate = Field(
        description="Where to; may hold `{domain}`, `{path}`, `{port}`, `{clientIp}`. The query is kept "
        "unless the URL has one.",
    )
    code: _RedirectCode = Field(default=301, description="The status code.")


class HttpResponseConfig(ConfigModel):
    """A fixed response."""

    section: ClassVar[str] = "http_response"

    code: _StatusCode = Field(default=200, description="The status code.")
    body: str = Field(default="", description="The content.")
    content_type: FieldValue = Field(
        default="text/plain; charset=utf-8", description="The content's media type."
    )


class HttpBlockConfig(ConfigModel):
    """Refuse every request."""

    section: ClassVar[str] = "http_block"

    status: _ErrorCode = Field(default=403, description="The status code.")
    message: str = Field(default="Forbidden", description="What the client is told.")


class BlockConfig(ConfigModel):
    """Close every connection."""

    section: ClassVar[str] = "block"

    message: str = Field(default="", description="Text to send before closing.")


def _table_of_nothing(value: object) -> object:
    return True if isinstance(value, Mapping) and not value else value


class HandlerConfig(ConfigModel):
    """A built-in handler; exactly one."""

    section: ClassVar[str] = "handler"

    http_redirect: HttpRedirectConfig | None = Field(default=None, description="Redirect every request.")
    http_response: HttpResponseConfig | None = Field(
        default=None, description="Answer every request the same."
    )
    http_block: HttpBlockConfig | None = Field(default=None, description="Refuse every request.")
    block: BlockConfig | None = Field(default=None, description="Close every connection.")
    echo: Annotated[Literal[True], BeforeValidator(_table_of_nothing)] | None = Field(
        default=None, description="Send back what comes in."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            count = "must name a handler" if not given else "must name only one handler"
            raise invalid(count, allowed=", ".join(type(self).model_fields))
        return self

    @property
    def kind(self) -> str:
        """The name of the one handler."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


class HandlerActionConfig(ConfigModel):
    """Answer here, without a backend."""

    section: ClassVar[str] = "action"
    tag: ClassVar[str] = _HANDLER

    type: Literal["handler"] = Field(default="handler", description='"handler".')
    handler: HandlerConfig = Field(description="What to answer with.")
    tls: RouteTlsConfig | None = Field(default=None, description="TLS from clients. Left out: none.")
    udp: UdpConfig = Field(default=UdpConfig(), description="What is served over UDP.")


def _action_tag(value: object) -> str:
    if isinstance(value, Mapping):
        kind = value.get("type")
    else:
        kind = getattr(value, "type", None) if isinstance(value, BaseModel) else None
        if kind is None:
            return _UNKNOWN
    if kind == "forward":
        return _FORWARD
    return _HANDLER if kind == "handler" else _UNKNOWN


Action = Annotated[
    Annotated[ForwardActionConfig, Tag(_FORWARD)] | Annotated[HandlerActionConfig, Tag(_HANDLER)],
    tagged_by(
        _action_tag,
        ErrorContext("must say what the route does", allowed='"forward", "handler"', field="type"),
    ),
    Shown("table [`forward`](#action-forward) or [`handler`](#action-handler)"),
]
