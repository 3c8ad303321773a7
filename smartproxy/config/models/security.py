"""Who may use a route."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.scalars import IpRule


class SecurityConfig(ConfigModel):
    """Access rules. A blocked address stays out even where it is allowed."""

    section: ClassVar[str] = "security"

    ip_allow_list: Annotated[list[IpRule], Field(min_length=1)] | None = Field(
        default=None,
        description="Only these addresses get in. Left out: all. "
        "A route's list takes the place of the one in `defaults`.",
    )
    ip_block_list: list[IpRule] = Field(
        default=[], description="These addresses stay out. Adds to the list in `defaults`."
    )
