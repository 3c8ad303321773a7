"""A request that meets a challenge."""

from __future__ import annotations

from dataclasses import dataclass

from smartproxy.core.http.messages import Fields
from smartproxy.core.security.challenge.provider import ChallengeRequest
from smartproxy.core.security.policies import ChallengePolicy


@dataclass(slots=True)
class ChallengedRequest:
    """What challenges go by."""

    policy: ChallengePolicy
    route_name: str
    method: bytes
    host: str
    """Normalised; empty where the request named none."""
    path: str
    """Normalised."""
    target: bytes
    """As sent."""
    fields: Fields
    client_ip: str
    client_number: int
    """As `ip_number` gives it."""
    is_tls: bool
    """Whether the client's connection is encrypted."""
    over_rate_limit: bool
    """Whether `policy` is what the route's rate limit asks for."""

    def for_provider(self, now: float) -> ChallengeRequest:
        """What the provider is told of it; `now` in seconds since the Unix epoch."""
        policy = self.policy
        headers: dict[str, str] = {}
        for raw_name, raw_value in self.fields:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if name in headers:
                # RFC 9110 §5.3, RFC 9113 §8.2.3.
                headers[name] += ("; " if name == "cookie" else ", ") + value
            else:
                headers[name] = value
        return ChallengeRequest(
            challenge_type=policy.challenge_type,
            policy_ref=policy.policy_ref,
            settings=policy.settings,
            route_name=self.route_name,
            method=self.method.decode("latin-1"),
            host=self.host,
            path=self.path,
            query=self.target.partition(b"?")[2].decode("latin-1"),
            headers=headers,
            client_ip=self.client_ip,
            now=now,
            over_rate_limit=self.over_rate_limit,
        )
