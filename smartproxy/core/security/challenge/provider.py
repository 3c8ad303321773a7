"""The interface of challenge providers: who decides on, shows and checks a browser challenge.

A provider is registered under an id (`SmartProxy.register_challenge_provider`);
routes name the id and one of its challenge types. Each of its methods may be sync
or async. One that raises, hangs or returns something else counts as failed: the
request is answered 503, never let through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ChallengeRequest:
    """The request that is challenged, or that answers a challenge."""

    challenge_type: str
    policy_ref: str
    settings: Mapping[str, Any]
    """The route's, as configured."""
    route_name: str
    method: str
    host: str
    """Normalised; empty where the request named none."""
    path: str
    query: str
    headers: Mapping[str, str]
    """Lower-case names; lines of one name joined with a comma and a space, except cookies."""
    client_ip: str
    now: float
    """Seconds since the Unix epoch."""
    over_rate_limit: bool = False
    """Whether a rate limit asks for this challenge."""


class Decision(Enum):
    """What `assess` wants."""

    ALLOW = "allow"
    """No challenge for this request."""
    CHALLENGE = "challenge"
    DENY = "deny"
    """403 for this request."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What to do with a request that has no clearance."""

    decision: Decision
    state: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, at most 1 KiB of them, that `render` and `verify` get back. The client can
    read them but not change them: they are signed, not encrypted."""
    reason: str = ""
    """For the log."""


@dataclass(frozen=True, slots=True)
class PendingChallenge:
    """A challenge under way."""

    challenge_id: str
    """Unpredictable, unique, of the alphabet of base64url."""
    issued_at: float
    """Seconds since the Unix epoch."""
    expires_at: float
    state: Mapping[str, Any]
    """What `assess` returned."""
    verify_path: str
    """Where the page may submit its answer to; GET with a query, or POST of a form or of JSON."""
    return_path: str
    """The path and query asked for; coming back there is an answer too, with an empty payload."""


@dataclass(frozen=True, slots=True)
class ChallengePage:
    """A response that shows a challenge. Cache-Control and Set-Cookie are the proxy's."""

    body: str | bytes
    status: int = 403
    content_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    """More fields, such as Content-Security-Policy or Refresh."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether an answer is right."""

    solved: bool
    reason: str = ""
    """For the log."""


class ChallengeProvider(Protocol):
    """See the module."""

    def assess(self, request: ChallengeRequest) -> Assessment | Awaitable[Assessment]:
        """Whether this request needs a challenge."""

    def render(
        self, request: ChallengeRequest, pending: PendingChallenge
    ) -> ChallengePage | Awaitable[ChallengePage]:
        """The page for a challenge, new or still unsolved."""

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification | Awaitable[Verification]:
        """Whether `payload`, the fields of an answer, solves the challenge. At most 64 fields, 16 KiB."""
