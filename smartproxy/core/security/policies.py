"""What a route asks of its clients before it serves them, compiled (SPEC: Security)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smartproxy.core.routing.paths import PathPattern


class RateLimitKey(Enum):
    """What requests are counted by."""

    IP = "ip"
    """The client's address; an IPv6 client's /64."""
    PATH = "path"
    """The normalised path, for all clients together."""
    HEADER = "header"
    """The value of one field; the client's address where the request has none."""


@dataclass(frozen=True, slots=True)
class ChallengeClearance:
    """How long a solved challenge counts, and where."""

    ttl_s: float = 1800.0
    bind_to_host: bool = True
    bind_to_route: bool = True
    bind_to_ip: bool = False
    """An IPv6 client's /64."""


@dataclass(frozen=True, slots=True, eq=False)
class ChallengePolicy:
    """That a route's browsers must have solved a challenge, and which requests need it."""

    provider_id: str
    challenge_type: str
    policy_ref: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """JSON values; the provider's own."""
    methods: frozenset[bytes] = frozenset()
    """Empty: all."""
    paths: tuple[PathPattern, ...] = ()
    """Empty: all."""
    browser_navigations_only: bool = False
    clearance: ChallengeClearance = field(default_factory=ChallengeClearance)


@dataclass(frozen=True, slots=True, eq=False)
class RateLimitPolicy:
    """Never more than `max_requests` of one key in any span of `window_s` seconds."""

    max_requests: int
    window_s: float
    key_by: RateLimitKey = RateLimitKey.IP
    header_name: bytes = b""
    """Lower case; with `RateLimitKey.HEADER`."""
    error_message: str = ""
    """What a refused client is told; empty for the sentence of every 429."""
    max_keys: int = 100_000
    """Keys counted at a time; beyond it the least telling one is forgotten."""
    over_limit_challenge: ChallengePolicy | None = None
    """Instead of 429, for the requests that it applies to."""
    clearance_bypasses: bool = True
    """Whether a clearance of `over_limit_challenge` exempts its requests from the limit."""


@dataclass(frozen=True, slots=True, eq=False)
class BasicAuthPolicy:
    """HTTP Basic authentication (RFC 7617)."""

    users: Mapping[str, str]
    """User name → plain password, or a bcrypt, argon2 or scrypt hash."""
    verify_hash: Callable[[str, bytes], bool]
    """`(hash, password) -> matches`; slow by design, so it is called in a thread. Raises nothing."""
    realm: str = "Restricted"
    strip: bool = False
    """Whether the credentials are kept from the backend."""
    user_header: bytes = b""
    """The field, lower case, that tells the backend the user's name; empty for none."""


@dataclass(frozen=True, slots=True, eq=False)
class JwksSource:
    """A JSON Web Key Set (RFC 7517) that is fetched."""

    url: str
    fetch: Callable[[], bytes]
    """Blocks, so it is called in a thread; bounded in time and size. Raises OSError."""
    refresh_s: float = 3600.0
    """How long a fetched set is used before the next fetch."""
    least_interval_s: float = 30.0
    """How soon an unknown `kid` may cause another fetch."""


@dataclass(frozen=True, slots=True, eq=False)
class JwtPolicy:
    """JSON Web Tokens as bearer tokens (RFC 7519, RFC 6750)."""

    algorithms: tuple[str, ...]
    """RFC 7518 names; never "none", and of one family: HMAC or signatures."""
    secret: bytes | None = None
    public_key_pem: bytes | None = None
    jwks: JwksSource | None = None
    issuer: str | None = None
    audiences: tuple[str, ...] = ()
    """A token must have one of them; empty: a token's audience is not looked at."""
    leeway_s: float = 0.0
    header: bytes = b"authorization"
    """Lower case. In `authorization` the value has the scheme Bearer; in others it may."""
    cookie: str = ""
    """The cookie that is looked at where the field is absent; empty for none."""
    realm: str = "Restricted"
    strip: bool = False
    claims_to_headers: Mapping[str, bytes] = field(default_factory=dict)
    """Claim (dots reach into objects) → field name, lower case. Clients' own such fields never pass."""


@dataclass(frozen=True, slots=True)
class ChallengeSettings:
    """What holds for the challenges of every route."""

    signing_keys: tuple[bytes, ...] = ()
    """The first signs, all verify; empty: one is made at start."""
    pending_cookie_name: str = "__smartproxy_challenge_pending"
    clearance_cookie_name: str = "__smartproxy_clearance"
    reserved_path_prefix: str = "/.well-known/smartproxy-challenge"
    """Without a trailing slash."""
    relay_timeout_s: float = 5.0
    """For everything a provider does for one request."""
    pending_ttl_s: float = 300.0


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """What a route asks of every request, in the order in which it is asked; None: nothing."""

    rate_limit: RateLimitPolicy | None = None
    challenge: ChallengePolicy | None = None
    basic_auth: BasicAuthPolicy | None = None
    jwt_auth: JwtPolicy | None = None
    """With `basic_auth` too, either is enough."""

    @property
    def challenge_providers(self) -> frozenset[str]:
        """The ids of the providers whose challenges requests may meet."""
        rate_limit = self.rate_limit
        over_limit = rate_limit.over_limit_challenge if rate_limit is not None else None
        return frozenset(each.provider_id for each in (self.challenge, over_limit) if each is not None)

    @property
    def needs_http(self) -> bool:
        """Whether it can be met by a request only, so that raw bytes must never pass."""
        return bool(self.challenge or self.basic_auth or self.jwt_auth)
