"""What WebSockets may do."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.scalars import Duration, Shown, Size
from smartproxy.core.wire.websocket.origins import OriginAllowList

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


def _check_subprotocol(text: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        raise invalid("must be the name of a subprotocol", allowed="a token such as graphql-ws")
    return text


def _check_origin(text: str) -> str:
    try:
        OriginAllowList([text])
    except ValueError:
        allowed = 'such as "https://app.example.com", "https://*.example.com", "app.example.com", "null", "*"'
        raise invalid("must be the origin of a web site", allowed=allowed) from None
    return text


Subprotocol = Annotated[str, AfterValidator(_check_subprotocol), Shown("subprotocol")]
Origin = Annotated[str, AfterValidator(_check_origin), Shown("origin")]


class WebSocketConfig(ConfigModel):
    """WebSockets (RFC 6455), over every version of HTTP."""

    section: ClassVar[str] = "websocket"

    enabled: bool = Field(default=True, description="Let requests open WebSockets.")
    ping_interval: Duration | None = Field(
        default=None, description="Silence of either side after which it is sent a Ping. Left out: never."
    )
    ping_timeout: Duration = Field(
        default=20.0,
        description="How long after such a Ping nothing may come before the WebSocket is closed (1011).",
    )
    idle_timeout: Duration = Field(
        default=86400.0, description="How long nothing may pass before the WebSocket is closed."
    )
    max_payload_size: Size | None = Field(
        default=None, description="The largest message, over which it is closed (1009). Left out: no limit."
    )
    subprotocols: list[Subprotocol] | None = Field(
        default=None,
        description="The subprotocols that clients may ask for; the backend sees no other. Left out: any.",
    )
    allowed_origins: list[Origin] | None = Field(
        default=None,
        description="The web sites that may open one; others get 403. An origin, one with a wildcard for "
        'all below a name, a host for any scheme, "null", or "*". Left out: any.',
    )
