"""The signed cookies of challenges: which are issued, which are honoured, and which are spent."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from smartproxy.core.http.messages import Fields
from smartproxy.core.security.challenge.clearance import Clearance
from smartproxy.core.security.challenge.contents import address_key
from smartproxy.core.security.challenge.cookies import (
    MAX_AGE_S,
    MAX_SET_COOKIE_BYTES,
    cookie_names,
    cookie_values,
    deleted_cookie,
    set_cookie,
)
from smartproxy.core.security.challenge.pending import Pending
from smartproxy.core.security.challenge.request import ChallengedRequest
from smartproxy.core.security.challenge.return_path import return_path, without_query
from smartproxy.core.security.challenge.spent import SpentChallenges
from smartproxy.core.security.challenge.tokens import KeyRing
from smartproxy.core.security.policies import ChallengeSettings

VERIFIED_KEPT = 8192
"""Clearance tokens that need no second look at their signature."""

_MADE_KEY_BYTES = 32
_CHALLENGE_ID_BYTES = 16
_MAX_PENDING_COOKIES = 32
"""That one browser sends for one site, each for another route."""


class Issuer:
    """Seals and unseals with the configured keys, or with one that is made when it is first needed."""

    __slots__ = (
        "_entropy",
        "_keys",
        "_made_key",
        "_names",
        "_spent",
        "_verified",
        "settings",
    )

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self.settings = ChallengeSettings()
        self._made_key = b""
        self._keys: KeyRing | None = None
        #: Names of cookies, by what tells them apart; as many as there are challenged routes.
        self._names: dict[tuple[str, str | None, bool], bytes] = {}
        self._verified: OrderedDict[bytes, Clearance] = OrderedDict()
        self._spent = SpentChallenges()

    def configure(self, settings: ChallengeSettings) -> None:
        """Obey `settings`. A key of its own making, and what is spent, outlive it. Raises ValueError as
        `KeyRing` does."""
        self._keys = KeyRing(settings.signing_keys) if settings.signing_keys else None
        self.settings = settings
        self._names.clear()
        # The key that signed them may be gone.
        self._verified.clear()

    @property
    def keys(self) -> KeyRing:
        if self._keys is None:
            if not self._made_key:
                self._made_key = self._entropy(_MADE_KEY_BYTES)
            self._keys = KeyRing((self._made_key,))
        return self._keys

    # Names.

    def own_cookie_names(self, fields: Fields) -> tuple[bytes, ...]:
        """The names of the request's cookies that are ours, for whichever route; no backend needs them."""
        found: list[bytes] = []
        for configured in (self.settings.pending_cookie_name, self.settings.clearance_cookie_name):
            base = configured.encode("latin-1")
            found += [n for n in cookie_names(fields, base) if n == base or n.startswith(base + b"_")]
        return tuple(found)

    def _name(self, base: str, route_name: str | None, over_rate_limit: bool) -> bytes:
        # Two challenges that one browser may have to meet must not overwrite each other's cookies.
        key = (base, route_name, over_rate_limit)
        name = self._names.get(key)
        if name is None:
            text = base
            if route_name is not None:
                text += "_" + sha256(route_name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            if over_rate_limit:
                text += "_limit"
            name = self._names[key] = text.encode("latin-1")
        return name

    def _pending_name(self, request: ChallengedRequest) -> bytes:
        return self._name(self.settings.pending_cookie_name, request.route_name, request.over_rate_limit)

    def _clearance_name(self, request: ChallengedRequest) -> bytes:
        route_name = request.route_name if request.policy.clearance.bind_to_route else None
        name = self._name(self.settings.clearance_cookie_name, route_name, request.over_rate_limit)
        # A browser takes no cookie from cleartext in place of a Secure one, and a clearance for all
        # routes has the same name on either (RFC 6265bis §5.7).
        return name if request.is_tls or route_name is not None else name + b"_cleartext"

    # Clearances.

    def cleared_until(self, request: ChallengedRequest, now: float) -> float:
        """Until when a clearance of the request's covers it; 0.0: none does."""
        for token in cookie_values(request.fields, self._clearance_name(request)):
            clearance = self._verified.get(token)
            if clearance is None:
                clearance = Clearance.unseal(self.keys, token)
                if clearance is None:
                    continue
                self._verified[token] = clearance
                if len(self._verified) > VERIFIED_KEPT:
                    self._verified.popitem(last=False)
            else:
                self._verified.move_to_end(token)
            if clearance.covers(request, now):
                return min(clearance.expires_at, clearance.issued_at + request.policy.clearance.ttl_s)
        return 0.0

    def clearance_cookie(self, request: ChallengedRequest, now: float) -> bytes | None:
        """The Set-Cookie value for who has solved the request's challenge; None where it is too long."""
        token = Clearance.earned_by(request, now).seal(self.keys)
        ttl_s = request.policy.clearance.ttl_s
        cookie = set_cookie(self._clearance_name(request), token, max_age_s=ttl_s, is_secure=request.is_tls)
        return cookie if len(cookie) <= MAX_SET_COOKIE_BYTES else None

    # Pending challenges.

    def new_pending(self, request: ChallengedRequest, state: dict[str, Any], now: float) -> Pending:
        """A challenge that begins."""
        policy = request.policy
        return Pending(
            challenge_id=urlsafe_b64encode(self._entropy(_CHALLENGE_ID_BYTES)).rstrip(b"=").decode("ascii"),
            route_name=request.route_name,
            host=request.host,
            address=_bound_address(request),
            provider_id=policy.provider_id,
            challenge_type=policy.challenge_type,
            policy_ref=policy.policy_ref,
            over_rate_limit=request.over_rate_limit,
            issued_at=now,
            expires_at=now + min(self.settings.pending_ttl_s, MAX_AGE_S),
            return_path=return_path(request.target),
            state=state,
        )

    def pending_cookie(
        self, request: ChallengedRequest, pending: Pending, now: float
    ) -> tuple[Pending, bytes] | None:
        """The Set-Cookie value, and `pending` as it says it: too long a return path is cut.

        First to its path, then to "/". None where the rest is too long by itself.
        """
        name = self._pending_name(request)
        path = pending.return_path
        for shorter in dict.fromkeys((path, without_query(path), "/")):
            fitting = pending.returning_to(shorter)
            token = fitting.seal(self.keys)
            cookie = set_cookie(name, token, max_age_s=pending.expires_at - now, is_secure=request.is_tls)
            if len(cookie) <= MAX_SET_COOKIE_BYTES:
                return fitting, cookie
        return None

    def no_pending_cookie(self, request: ChallengedRequest) -> bytes:
        """The Set-Cookie value that takes the pending challenge back."""
        return deleted_cookie(self._pending_name(request), is_secure=request.is_tls)

    def find_pending(self, request: ChallengedRequest, now: float) -> Pending | None:
        """The challenge that the request's browser is at, and can still solve."""
        for token in cookie_values(request.fields, self._pending_name(request)):
            pending = Pending.unseal(self.keys, token)
            if pending is not None and self.belongs(pending, request) and self.is_open(pending, request, now):
                return pending
        return None

    def find_pending_by_id(self, fields: Fields, challenge_id: str) -> Pending | None:
        """The signed challenge of this id among the request's cookies, whatever else is true of it."""
        base = self.settings.pending_cookie_name.encode("latin-1") + b"_"
        for name in cookie_names(fields, base)[:_MAX_PENDING_COOKIES]:
            for token in cookie_values(fields, name):
                pending = Pending.unseal(self.keys, token)
                if pending is not None and pending.challenge_id == challenge_id:
                    return pending
        return None

    def belongs(self, pending: Pending, request: ChallengedRequest) -> bool:
        """Whether the challenge was begun by this client, on this host, for this route."""
        return (
            pending.route_name == request.route_name
            and pending.over_rate_limit == request.over_rate_limit
            and pending.host == request.host
            and pending.address == _bound_address(request)
        )

    def is_open(self, pending: Pending, request: ChallengedRequest, now: float) -> bool:
        """Whether it is what the route asks for now, in time, and not solved before."""
        return (
            pending.is_of(request.policy) and now < pending.expires_at and not self._spent.has(pending, now)
        )

    def spend(self, pending: Pending, now: float) -> bool:
        """Take a solved challenge; False for one that was taken before."""
        return self._spent.add(pending, now)


def _bound_address(request: ChallengedRequest) -> str | None:
    return address_key(request.client_number) if request.policy.clearance.bind_to_ip else None
