"""Bearer tokens (RFC 6750): found in a request, verified, remembered."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.context import Context
from smartproxy.core.http.messages import Fields
from smartproxy.core.security.authentication.claim_fields import claim_fields
from smartproxy.core.security.authentication.credentials import has_bearer_scheme
from smartproxy.core.security.authentication.key_source import KeySource
from smartproxy.core.security.authentication.keys import (
    SIGNATURE_ALGORITHMS,
    KeySet,
    check_algorithms,
    configured_key,
)
from smartproxy.core.security.authentication.refusals import Refusals
from smartproxy.core.security.authentication.remembered import Remembered
from smartproxy.core.security.authentication.token import (
    InvalidTokenError,
    Token,
    check_claims,
    parse_object,
    parse_token,
)
from smartproxy.core.security.policies import JwtPolicy
from smartproxy.core.security.verdict import Passed, Refusal, Waiting

# Longer than a token and its scheme can be.
_MAX_VALUE_BYTES = 17000
_NO_KEYS = "there are no keys to verify tokens with"
_OVERLOADED = "too many requests wait for keys"
_UNKNOWN_KEY = "its key is not known"


class TokenPlace:
    """Where tokens come from: what is removed from a request that one of them lets pass, and who has passed.

    A token lets its request pass with the same removals only where it came from the same place.
    """

    __slots__ = ("remembered", "removed_cookies", "removed_fields")

    def __init__(
        self, remembered: Remembered, removed_fields: frozenset[bytes], removed_cookies: tuple[bytes, ...]
    ) -> None:
        self.remembered = remembered
        self.removed_fields = removed_fields
        self.removed_cookies = removed_cookies


class BearerAuthentication:
    """One route's tokens.

    Raises ValueError where the policy's key cannot be used with its algorithms.
    """

    __slots__ = (
        "_algorithms",
        "_context",
        "_key_set",
        "_key_source",
        "_policy",
        "_refusals",
        "in_cookie",
        "in_field",
    )

    def __init__(
        self,
        context: Context,
        policy: JwtPolicy,
        refusals: Refusals,
        removed_for_field: frozenset[bytes],
        removed_for_cookie: frozenset[bytes],
        removed_cookies: tuple[bytes, ...],
    ) -> None:
        self._context = context
        self._policy = policy
        self._refusals = refusals
        self._algorithms = frozenset(policy.algorithms)
        self._key_source: KeySource | None = None
        self._key_set: KeySet | None = None
        if policy.jwks is not None:
            check_algorithms(policy.algorithms, SIGNATURE_ALGORITHMS, "a key set")
            self._key_source = KeySource(context, policy.jwks, policy.algorithms, self._forget)
        else:
            self._key_set = configured_key(policy)
        key = context.env.entropy(32)
        self.in_field = TokenPlace(Remembered(key), removed_for_field, removed_cookies)
        self.in_cookie = TokenPlace(Remembered(key), removed_for_cookie, removed_cookies)

    def check(
        self, value: bytes, place: TokenPlace, on_verdict: Callable[[Passed | Refusal], None]
    ) -> Passed | Refusal | Waiting:
        """The verdict on a token, bare or after the scheme Bearer; later, where keys are to be fetched."""
        if len(value) > _MAX_VALUE_BYTES:
            return self._refusals.invalid_token("it is too long")
        remembered = place.remembered.find(value, self._context.env.wall_clock())
        if remembered is not None:
            if self._key_source is not None:
                # So that the set is renewed also while all tokens are remembered.
                self._key_source.current()
            return remembered
        try:
            token = parse_token(
                value[6:].strip(b" ") if has_bearer_scheme(value) else value, self._algorithms
            )
        except InvalidTokenError as error:
            return self._refusals.invalid_token(error.reason)
        key = place.remembered.digest(value)
        return self._check_signature(key, token, place, on_verdict)

    def _check_signature(
        self, key: bytes, token: Token, place: TokenPlace, on_verdict: Callable[[Passed | Refusal], None]
    ) -> Passed | Refusal | Waiting:
        source = self._key_source
        if source is None:
            assert self._key_set is not None
            return self._decide(key, token, place, self._key_set)
        key_set = source.current()
        if key_set is not None and key_set.candidates(token):
            return self._decide(key, token, place, key_set)
        # It may be signed with a key newer than the set.
        waiting = source.newer(lambda newer: on_verdict(self._decide(key, token, place, newer)))
        if waiting is not None:
            return waiting
        if source.is_fetching:
            return self._refusals.unavailable(_OVERLOADED, source.retry_after_s())
        return self._decide(key, token, place, key_set)

    def _decide(
        self, key: bytes, token: Token, place: TokenPlace, key_set: KeySet | None
    ) -> Passed | Refusal:
        if key_set is None:
            assert self._key_source is not None
            return self._refusals.unavailable(_NO_KEYS, self._key_source.retry_after_s())
        candidates = key_set.candidates(token)
        if not candidates:
            return self._refusals.invalid_token(_UNKNOWN_KEY)
        if not any(candidate.verifies(token) for candidate in candidates):
            return self._refusals.invalid_token("its signature is wrong")
        try:
            claims = parse_object(token.payload)
            good_from, good_until = check_claims(claims, self._policy, self._context.env.wall_clock())
        except InvalidTokenError as error:
            return self._refusals.invalid_token(error.reason)
        added: Fields = claim_fields(claims, self._policy.claims_to_headers)
        passed = Passed(place.removed_fields, added, place.removed_cookies)
        place.remembered.add(key, passed, good_from, good_until)
        return passed

    def _forget(self) -> None:
        self.in_field.remembered.clear()
        self.in_cookie.remembered.clear()
