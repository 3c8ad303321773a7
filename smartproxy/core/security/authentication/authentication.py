"""Whether a request has the credentials that its route asks for: Basic, a bearer token, or either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from smartproxy.core.context import Context
from smartproxy.core.http.field_names import ONE_SPELLING
from smartproxy.core.http.messages import Fields
from smartproxy.core.security.authentication.basic import BasicAuthentication
from smartproxy.core.security.authentication.credentials import (
    has_basic_scheme,
    has_bearer_scheme,
    token_cookie,
)
from smartproxy.core.security.authentication.refusals import Refusals
from smartproxy.core.security.policies import BasicAuthPolicy, JwtPolicy
from smartproxy.core.security.verdict import Passed, Refusal, Waiting

if TYPE_CHECKING:
    from smartproxy.core.security.authentication.bearer import BearerAuthentication

OnVerdict = Callable[[Passed | Refusal], None]

_AUTHORIZATION = b"authorization"


class Authentication:
    """One route's credentials: what it has verified, what it is verifying, and the keys for that.

    It lives as long as its policies. With both, either is enough; a token is looked at first, as that is
    cheaper. Raises ValueError where the key of `jwt` cannot be used with its algorithms.
    """

    __slots__ = ("_basic", "_bearer", "_cookie_name", "_header", "_refusals")

    def __init__(self, context: Context, basic: BasicAuthPolicy | None, jwt: JwtPolicy | None) -> None:
        self._refusals = Refusals(
            context, basic.realm if basic is not None else None, jwt.realm if jwt is not None else None
        )
        # What identifies a user to the backend never comes from the client, whichever way it has passed.
        own = [basic.user_header] if basic is not None and basic.user_header else []
        if jwt is not None:
            own += jwt.claims_to_headers.values()
        basic_stripped = [_AUTHORIZATION] if basic is not None and basic.strip else []
        token_stripped = [jwt.header] if jwt is not None and jwt.strip else []
        # The Authorization field holds one credential only: it is the token, or it is Basic's.
        other_token_stripped = [name for name in token_stripped if name != _AUTHORIZATION]
        other_basic_stripped = basic_stripped if jwt is None or jwt.header != _AUTHORIZATION else []
        self._cookie_name = jwt.cookie.encode() if jwt is not None else b""
        removed_cookies = (self._cookie_name,) if self._cookie_name and token_stripped else ()
        self._basic: BasicAuthentication | None = None
        if basic is not None:
            removed = _removed(own, basic_stripped, other_token_stripped)
            self._basic = BasicAuthentication(context, basic, self._refusals, removed, removed_cookies)
        self._bearer: BearerAuthentication | None = None
        self._header = b""
        if jwt is not None:
            # PyJWT brings an HTTP client of its own; who uses no tokens does not load it.
            from smartproxy.core.security.authentication.bearer import BearerAuthentication

            self._header = jwt.header
            self._bearer = BearerAuthentication(
                context,
                jwt,
                self._refusals,
                _removed(own, token_stripped, other_basic_stripped),
                _removed(own, other_token_stripped, basic_stripped),
                removed_cookies,
            )

    def check(self, fields: Fields, on_verdict: OnVerdict) -> Passed | Refusal | Waiting:
        """The verdict on a request's fields, at once where that is possible.

        Else it comes to `on_verdict`, after this call, unless what is returned is cancelled before. A
        `Passed` may be shared by many requests.
        """
        authorization = b""
        for name, value in fields:
            if name == b"authorization":
                # RFC 9110 §5.3: a field that is no list comes once; a backend might read the other one.
                if authorization:
                    return self._refusals.ambiguous()
                authorization = value
        bearer = self._bearer
        if bearer is None:
            return self._check_basic(authorization, on_verdict)
        place = bearer.in_field
        token: bytes | None = None
        if self._header == _AUTHORIZATION:
            if has_bearer_scheme(authorization):
                token = authorization
        else:
            values = [value for name, value in fields if name == self._header and value]
            if len(values) > 1:
                return self._refusals.ambiguous()
            token = values[0] if values else None
        if token is None and self._cookie_name:
            token = token_cookie(fields, self._cookie_name)
            place = bearer.in_cookie
        if token is None:
            return self._check_basic(authorization, on_verdict)
        if self._basic is None or not has_basic_scheme(authorization):
            return bearer.check(token, place, on_verdict)
        second = _SecondCheck(self._basic, authorization, on_verdict)
        return second.after(bearer.check(token, place, second.first_decided))

    def _check_basic(self, authorization: bytes, on_verdict: OnVerdict) -> Passed | Refusal | Waiting:
        if self._basic is None or not has_basic_scheme(authorization):
            return self._refusals.missing()
        return self._basic.check(authorization, on_verdict)


class _SecondCheck:
    """Basic credentials beside a token: they are looked at where the token does not pass."""

    __slots__ = ("_authorization", "_basic", "_on_verdict", "_waiting")

    def __init__(self, basic: BasicAuthentication, authorization: bytes, on_verdict: OnVerdict) -> None:
        self._basic = basic
        self._authorization = authorization
        self._on_verdict = on_verdict
        self._waiting = Waiting(_nothing)

    def after(self, first: Passed | Refusal | Waiting) -> Passed | Refusal | Waiting:
        """What becomes of the token's verdict."""
        if isinstance(first, Passed):
            return first
        if isinstance(first, Refusal):
            return self._basic.check(self._authorization, self._on_verdict)
        self._waiting = first
        return Waiting(self._cancel)

    def first_decided(self, first: Passed | Refusal) -> None:
        """The token's verdict has come late."""
        verdict = self.after(first)
        if isinstance(verdict, Waiting):
            self._waiting = verdict
        else:
            self._on_verdict(verdict)

    def _cancel(self) -> None:
        self._waiting.cancel()


def _nothing() -> None:
    """Nobody waits yet."""


def _removed(*names: Iterable[bytes]) -> frozenset[bytes]:
    """Names as `Passed.removed_fields` has them."""
    return frozenset(name.translate(ONE_SPELLING) for some in names for name in some)
