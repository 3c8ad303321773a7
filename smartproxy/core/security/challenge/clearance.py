"""The signed proof that a browser has solved a challenge."""

from __future__ import annotations

from dataclasses import dataclass

from smartproxy.core.security.challenge.contents import (
    FLAG,
    TEXT,
    TEXT_OR_NONE,
    TIME,
    address_key,
    decode_row,
    encode_row,
)
from smartproxy.core.security.challenge.cookies import MAX_AGE_S
from smartproxy.core.security.challenge.request import ChallengedRequest
from smartproxy.core.security.challenge.tokens import KeyRing

_PURPOSE = b"clearance"
_TYPES = (TEXT, TEXT, TEXT, FLAG, TEXT_OR_NONE, TEXT_OR_NONE, TEXT_OR_NONE, TIME, TIME)


@dataclass(frozen=True, slots=True)
class Clearance:
    """Counts for requests that want the same challenge solved, within what it is bound to."""

    provider_id: str
    challenge_type: str
    policy_ref: str
    over_rate_limit: bool
    """A rate limit's challenge is another one than the route's own, be they ever so alike: else
    everyone who had come in would be above the limit too."""
    route_name: str | None
    """None here and in the next two: bound to none."""
    host: str | None
    address: str | None
    """As `address_key` gives it."""
    issued_at: float
    """Seconds since the Unix epoch."""
    expires_at: float

    @classmethod
    def earned_by(cls, request: ChallengedRequest, now: float) -> Clearance:
        """For the browser that has solved what `request.policy` asks."""
        policy = request.policy
        bounds = policy.clearance
        return cls(
            provider_id=policy.provider_id,
            challenge_type=policy.challenge_type,
            policy_ref=policy.policy_ref,
            over_rate_limit=request.over_rate_limit,
            route_name=request.route_name if bounds.bind_to_route else None,
            host=request.host if bounds.bind_to_host else None,
            address=address_key(request.client_number) if bounds.bind_to_ip else None,
            issued_at=now,
            expires_at=now + min(bounds.ttl_s, MAX_AGE_S),
        )

    def covers(self, request: ChallengedRequest, now: float) -> bool:
        """Whether `request` needs no challenge because of this one.

        What the route's policy says now counts, also where it has changed since.
        """
        policy = request.policy
        bounds = policy.clearance
        return (
            now < self.expires_at
            and now < self.issued_at + bounds.ttl_s
            and self.provider_id == policy.provider_id
            and self.challenge_type == policy.challenge_type
            and self.policy_ref == policy.policy_ref
            and self.over_rate_limit == request.over_rate_limit
            and self.route_name == (request.route_name if bounds.bind_to_route else None)
            and self.host == (request.host if bounds.bind_to_host else None)
            and self.address == (address_key(request.client_number) if bounds.bind_to_ip else None)
        )

    def seal(self, keys: KeyRing) -> bytes:
        """The token that says this."""
        row = (
            self.provider_id,
            self.challenge_type,
            self.policy_ref,
            self.over_rate_limit,
            self.route_name,
            self.host,
            self.address,
            self.issued_at,
            self.expires_at,
        )
        return keys.sign(_PURPOSE, encode_row(row))

    @classmethod
    def unseal(cls, keys: KeyRing, token: bytes) -> Clearance | None:
        """What a token says; None for one that is not of these keys and this form."""
        payload = keys.verify(_PURPOSE, token)
        row = decode_row(payload, _TYPES) if payload is not None else None
        return cls(*row) if row is not None else None
