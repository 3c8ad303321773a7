"""The signed state of a challenge under way, kept by the browser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from smartproxy.core.security.challenge.contents import (
    FLAG,
    OBJECT,
    TEXT,
    TEXT_OR_NONE,
    TIME,
    decode_row,
    encode_row,
)
from smartproxy.core.security.challenge.provider import PendingChallenge
from smartproxy.core.security.challenge.return_path import return_path
from smartproxy.core.security.challenge.tokens import KeyRing
from smartproxy.core.security.policies import ChallengePolicy, RequestPolicy

MAX_STATE_BYTES = 1024
"""Of a provider's state, as compact JSON."""

_PURPOSE = b"pending"
_TYPES = (TEXT, TEXT, TEXT, TEXT_OR_NONE, TEXT, TEXT, TEXT, FLAG, TIME, TIME, TEXT, OBJECT)


@dataclass(frozen=True, slots=True)
class Pending:
    """A challenge that a browser has been shown."""

    challenge_id: str
    """16 random bytes in base64url."""
    route_name: str
    host: str
    address: str | None
    """`address_key` of the client's; None where nothing is bound to it."""
    provider_id: str
    challenge_type: str
    policy_ref: str
    over_rate_limit: bool
    """Whether the route's rate limit asked for it."""
    issued_at: float
    """Seconds since the Unix epoch."""
    expires_at: float
    return_path: str
    """A result of `return_path`."""
    state: dict[str, Any]
    """The provider's."""

    def seal(self, keys: KeyRing) -> bytes:
        """The token that says this."""
        row = (
            self.challenge_id,
            self.route_name,
            self.host,
            self.address,
            self.provider_id,
            self.challenge_type,
            self.policy_ref,
            self.over_rate_limit,
            self.issued_at,
            self.expires_at,
            self.return_path,
            self.state,
        )
        return keys.sign(_PURPOSE, encode_row(row))

    @classmethod
    def unseal(cls, keys: KeyRing, token: bytes) -> Pending | None:
        """What a token says; None for one that is not of these keys and this form."""
        payload = keys.verify(_PURPOSE, token)
        row = decode_row(payload, _TYPES) if payload is not None else None
        if row is None:
            return None
        pending = cls(*row)
        # Keys may be shared with others, whose idea of a path that stays on the site need not be ours.
        try:
            stays = return_path(pending.return_path.encode("ascii")) == pending.return_path
        except UnicodeEncodeError:
            return None
        return pending if stays else None

    def returning_to(self, path: str) -> Pending:
        """The same challenge, asked of another page."""
        return replace(self, return_path=path)

    def is_of(self, policy: ChallengePolicy) -> bool:
        """Whether this is the challenge that `policy` asks for."""
        return (
            self.provider_id == policy.provider_id
            and self.challenge_type == policy.challenge_type
            and self.policy_ref == policy.policy_ref
        )

    def asked_by(self, policy: RequestPolicy | None) -> ChallengePolicy | None:
        """The part of its route's policy that asked for it; None where it asks no longer."""
        if policy is None:
            return None
        if not self.over_rate_limit:
            return policy.challenge
        return policy.rate_limit.over_limit_challenge if policy.rate_limit is not None else None

    def for_provider(self, reserved_path_prefix: str) -> PendingChallenge:
        """What the provider is told of it."""
        return PendingChallenge(
            challenge_id=self.challenge_id,
            issued_at=self.issued_at,
            expires_at=self.expires_at,
            state=self.state,
            verify_path=f"{reserved_path_prefix}/{self.challenge_id}",
            return_path=self.return_path,
        )
