"""What a client is told that may not pass: 401 with all challenges (RFC 9110 §11.6.1), or 503."""

from __future__ import annotations

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import Fields
from smartproxy.core.security.verdict import Refusal

_WWW_AUTHENTICATE = b"www-authenticate"
NO_CREDENTIALS = "no credentials"
_REQUIRED = "This needs authentication."


class Refusals:
    """One route's refusals, made once. A realm is None where the route does not offer the method."""

    __slots__ = ("_ambiguous", "_basic", "_bearer", "_context", "_made", "_missing")

    def __init__(self, context: Context, basic_realm: str | None, bearer_realm: str | None) -> None:
        self._context = context
        # RFC 7617 §2.1.
        self._basic = b""
        if basic_realm is not None:
            self._basic = b"Basic realm=" + _quoted(basic_realm) + b', charset="UTF-8"'
        self._bearer = b"Bearer realm=" + _quoted(bearer_realm) if bearer_realm is not None else b""
        self._missing = self._unauthorized(NO_CREDENTIALS, _REQUIRED)
        self._ambiguous = self._unauthorized(
            "credentials twice",
            "The request has credentials more than once, and which ones count is not clear.",
        )
        #: By method and what is wrong; the sentences are ours, so they are few.
        self._made: dict[tuple[str, str], Refusal] = {}

    def missing(self) -> Refusal:
        """No credentials of a kind that the route knows. RFC 6750 §3.1: then without an error code."""
        return self._missing

    def ambiguous(self) -> Refusal:
        """The field that credentials are in comes more than once."""
        return self._ambiguous

    def wrong_credentials(self, reason: str) -> Refusal:
        """Basic credentials that are wrong or malformed. `reason` is for the log, and one of a few."""
        refusal = self._made.get(("basic", reason))
        if refusal is None:
            refusal = self._unauthorized(reason, "The user name or the password is wrong.")
            self._made["basic", reason] = refusal
        return refusal

    def invalid_token(self, reason: str) -> Refusal:
        """A token that is wrong or malformed. `reason` is one of a few sentences; the client is told."""
        refusal = self._made.get(("bearer", reason))
        if refusal is None:
            # RFC 6750 §3.1.
            error = b', error="invalid_token", error_description=' + _quoted(reason)
            refusal = self._unauthorized(reason, f"The access token is not accepted: {reason}.", error)
            self._made["bearer", reason] = refusal
        return refusal

    def unavailable(self, reason: str, retry_after_s: int) -> Refusal:
        """The credentials cannot be checked now, which must let nobody in."""
        self._context.record("security", "authentication_unavailable", reason=reason)
        return Refusal(
            503,
            Failure(FailureSource.PROXY, FailureCode.PROXY_INTERNAL_ERROR, reason),
            "Credentials cannot be checked at the moment.",
            retry_after_s=max(1, retry_after_s),
        )

    def _unauthorized(self, detail: str, explanation: str, bearer_error: bytes = b"") -> Refusal:
        fields: Fields = []
        if self._bearer:
            fields.append((_WWW_AUTHENTICATE, self._bearer + bearer_error))
        if self._basic:
            fields.append((_WWW_AUTHENTICATE, self._basic))
        failure = Failure(FailureSource.CLIENT, FailureCode.AUTHENTICATION_FAILED, detail)
        return Refusal(401, failure, explanation, fields=tuple(fields))


def _quoted(text: str) -> bytes:
    """A quoted-string (RFC 9110 §5.6.4); what it cannot hold becomes a question mark."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return b'"' + printable.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'
