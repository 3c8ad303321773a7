"""Who may use a route, how much of it, and what they must show first."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from smartproxy.config.models.authentication import BasicAuthConfig, JwtAuthConfig
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.challenge import ChallengeConfig
from smartproxy.config.models.rate_limit import RateLimitConfig
from smartproxy.config.models.scalars import IpRule, Limit, LongIpRuleList


class SecurityConfig(ConfigModel):
    """What is asked of clients, in this order: access, rate limit, challenge, authentication."""

    section: ClassVar[str] = "security"

    ip_allow_list: Annotated[list[IpRule], Field(min_length=1)] | None = Field(
        default=None,
        description="Only these addresses get in. Left out: all. "
        "A route's list takes the place of the one in `defaults`.",
    )
    ip_block_list: list[IpRule] = Field(
        default=[],
        description="These addresses stay out, even where they are allowed. Adds to the list in `defaults`.",
    )
    max_connections: Limit | None = Field(
        default=None,
        description="Client connections of a route at a time. Left out: as in `defaults`, "
        "where each route still counts its own.",
    )
    rate_limit: RateLimitConfig | None = Field(
        default=None, description="How many requests get in. Left out: as in `defaults`."
    )
    challenge: ChallengeConfig | None = Field(
        default=None,
        description="What browsers must do before they get in. Left out: as in `defaults`. The route needs a "
        '`name` or an `id`, `action.type` "forward" and `match.protocol` "http".',
    )
    basic_auth: BasicAuthConfig | None = Field(
        default=None,
        description="Names and passwords (RFC 7617). Left out: as in `defaults`. "
        "Together with `jwt_auth`, either is enough.",
    )
    jwt_auth: JwtAuthConfig | None = Field(
        default=None, description="JSON Web Tokens (RFC 7519, RFC 6750). Left out: as in `defaults`."
    )


class SecurityPolicyConfig(ConfigModel):
    """Who gets no connection at all. A hundred thousand entries cost a connection no more than one."""

    section: ClassVar[str] = "security_policy"

    blocked_ips: LongIpRuleList = Field(default=[], description="Addresses.")
    blocked_cidrs: LongIpRuleList = Field(default=[], description="Blocks of addresses.")
