"""One route: what it takes, and what it does with it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from smartproxy.config.models.action import Action
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.match import MatchConfig
from smartproxy.config.models.scalars import Integer
from smartproxy.config.models.security import SecurityConfig
from smartproxy.config.models.target import HeadersConfig


class RouteConfig(ConfigModel):
    """One route: what it takes, and what it does with it."""

    section: ClassVar[str] = "route"

    name: str | None = Field(default=None, min_length=1, description="A name of its own, for logs and tools.")
    id: str | None = Field(default=None, min_length=1, description="An id of its own, for programs.")
    priority: Integer = Field(
        default=0,
        description="Routes with a higher priority go first; then the more specific ones; then as written.",
    )
    enabled: bool = Field(default=True, description="A route that is not enabled takes nothing.")
    match: MatchConfig = Field(description="The traffic that the route takes.")
    action: Action = Field(description="What it does with it.")
    headers: HeadersConfig = Field(default=HeadersConfig(), description="Fields to set or remove.")
    security: SecurityConfig = Field(default=SecurityConfig(), description="Who may use the route.")
