"""HTTP Basic authentication (RFC 7617)."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

from smartproxy.core.context import Context
from smartproxy.core.http.messages import Fields
from smartproxy.core.ops import CallFunction, Result, Returned
from smartproxy.core.security.authentication.claim_fields import field_value
from smartproxy.core.security.authentication.hashes import is_hash
from smartproxy.core.security.authentication.refusals import Refusals
from smartproxy.core.security.authentication.remembered import Remembered
from smartproxy.core.security.authentication.waiters import Waiters
from smartproxy.core.security.policies import BasicAuthPolicy
from smartproxy.core.security.verdict import Passed, Refusal, Waiting

MAX_CREDENTIALS_BYTES = 8192
"""Of the field's value."""
MAX_VERIFICATIONS = 64
"""Hashes under way or waiting for a thread, per route."""
MAX_WAITING_REQUESTS = 1024
REMEMBERED_FOR_S = 300.0
"""How long credentials pass without being verified again."""

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_OVERLOADED_RETRY_AFTER_S = 1
_MALFORMED = "malformed credentials"
_WRONG = "wrong user name or password"


def parse_credentials(authorization: bytes) -> tuple[bytes, bytes] | None:
    """User name and password of an Authorization field with the scheme Basic; None where it is malformed."""
    try:
        decoded = binascii.a2b_base64(authorization[len(b"Basic ") :].strip(b" "), strict_mode=True)
    except binascii.Error:
        return None
    name, colon, password = decoded.partition(b":")
    # RFC 7617 §2: neither may have control characters.
    if not colon or _CONTROL.search(decoded):
        return None
    return name, password


class _User:
    __slots__ = ("hash", "passed", "password_digest")

    def __init__(self, hash: str, password_digest: bytes, passed: Passed) -> None:
        #: Empty where the password is plain.
        self.hash = hash
        #: Of a plain password.
        self.password_digest = password_digest
        self.passed = passed


class _Verification:
    """A hash being verified; `user` is None where the outcome is known and only the time it takes counts."""

    __slots__ = ("key", "user", "waiters")

    def __init__(self, key: bytes, user: _User | None) -> None:
        self.key = key
        self.user = user
        self.waiters: Waiters[Passed | Refusal] = Waiters()


class BasicAuthentication:
    """One route's users. How long an answer takes does not tell whether a user name exists."""

    __slots__ = (
        "_context",
        "_digest_key",
        "_hashes",
        "_nobody",
        "_policy",
        "_refusals",
        "_remembered",
        "_users",
        "_verifications",
    )

    def __init__(
        self,
        context: Context,
        policy: BasicAuthPolicy,
        refusals: Refusals,
        removed_fields: frozenset[bytes],
        removed_cookies: tuple[bytes, ...],
    ) -> None:
        self._context = context
        self._policy = policy
        self._refusals = refusals
        self._remembered = Remembered(context.env.entropy(32))
        self._digest_key = context.env.entropy(32)
        #: Stands in for those who do not exist or have no plain password; what it matches is not looked at.
        self._nobody = self._digest(context.env.entropy(32))
        self._verifications: dict[bytes, _Verification] = {}
        self._hashes = tuple(text for text in policy.users.values() if is_hash(text))
        self._users: dict[bytes, _User] = {}
        for name, text in policy.users.items():
            added: Fields = []
            value = field_value(name)
            if policy.user_header and value is not None:
                added.append((policy.user_header, value))
            hash = text if is_hash(text) else ""
            password_digest = self._nobody if hash else self._digest(text.encode("utf-8", "surrogatepass"))
            passed = Passed(removed_fields, added, removed_cookies)
            self._users[name.encode("utf-8", "surrogatepass")] = _User(hash, password_digest, passed)

    def check(
        self, authorization: bytes, on_verdict: Callable[[Passed | Refusal], None]
    ) -> Passed | Refusal | Waiting:
        """The verdict on an Authorization field for Basic; later, where a hash is to be verified."""
        if len(authorization) > MAX_CREDENTIALS_BYTES:
            return self._refusals.wrong_credentials(_MALFORMED)
        remembered = self._remembered.find(authorization, self._context.now)
        if remembered is not None:
            return remembered
        credentials = parse_credentials(authorization)
        if credentials is None:
            return self._refusals.wrong_credentials(_MALFORMED)
        name, password = credentials
        key = self._remembered.digest(authorization)
        user = self._users.get(name)
        expected = user.password_digest if user is not None else self._nobody
        matches = hmac.compare_digest(self._digest(password), expected)
        if user is not None and user.hash:
            return self._verify(key, user, user.hash, password, on_verdict)
        if matches and user is not None:
            self._remember(key, user)
            return user.passed
        if not self._hashes:
            return self._refusals.wrong_credentials(_WRONG)
        # As slow as a wrong password of a user with a hash: the same name always meets the same one.
        number = int.from_bytes(self._digest(name)[:8], "big") % len(self._hashes)
        return self._verify(key, None, self._hashes[number], password, on_verdict)

    def _digest(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._digest_key, digest_size=32).digest()

    def _remember(self, key: bytes, user: _User) -> None:
        now = self._context.now
        self._remembered.add(key, user.passed, now, now + REMEMBERED_FOR_S)

    def _verify(
        self,
        key: bytes,
        user: _User | None,
        hash: str,
        password: bytes,
        on_verdict: Callable[[Passed | Refusal], None],
    ) -> Refusal | Waiting:
        verifications = self._verifications
        verification = verifications.get(key)
        if verification is None:
            if len(verifications) >= MAX_VERIFICATIONS:
                return self._overloaded()
            verification = verifications[key] = _Verification(key, user)
            context = self._context
            call = CallFunction(
                context.next_operation_id(), self._policy.verify_hash, (hash, password), in_thread=True
            )
            context.start(call, lambda result: self._verified(key, result))
        elif sum(len(each.waiters) for each in verifications.values()) >= MAX_WAITING_REQUESTS:
            return self._overloaded()
        # Who leaves does not end the verification: the thread would go on, and no longer be counted.
        return verification.waiters.add(on_verdict)

    def _overloaded(self) -> Refusal:
        return self._refusals.unavailable("too many passwords to verify", _OVERLOADED_RETRY_AFTER_S)

    def _verified(self, key: bytes, result: Result) -> None:
        verification = self._verifications.pop(key)
        user = verification.user
        verdict: Passed | Refusal
        if not isinstance(result, Returned):
            verdict = self._refusals.unavailable(
                "a password could not be verified", _OVERLOADED_RETRY_AFTER_S
            )
        elif user is not None and result.value is True:
            self._remember(key, user)
            verdict = user.passed
        else:
            verdict = self._refusals.wrong_credentials(_WRONG)
        verification.waiters.tell(verdict)
