"""Signed texts that fit a cookie: what they say can be read by anyone and changed by nobody."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256

MAX_KEYS = 8
MAX_TOKEN_BYTES = 4096
"""A longer token is refused before any work is done on it."""


class KeyRing:
    """HMAC-SHA256 keys (RFC 2104): the first signs, all verify, so that keys can be replaced one by one.

    `keys` are 1 to 8, none empty; else ValueError is raised. Each purpose has keys of its own, derived
    from these: a token made for one is worth nothing for another.

    A token is two texts of the base64url alphabet without padding (RFC 4648 §5) with a dot between
    them: the payload and the signature. The text of the payload is signed, and the text of the
    signature is compared, so no other spelling of the same bytes is a token.
    """

    __slots__ = ("_derived", "_keys")

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        if not 0 < len(keys) <= MAX_KEYS or not all(keys):
            raise ValueError(f"1 to {MAX_KEYS} keys are needed, none of them empty")
        self._keys = keys
        self._derived: dict[bytes, tuple[bytes, ...]] = {}

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        """The token that says `payload`. One longer than `MAX_TOKEN_BYTES` is never verified."""
        text = urlsafe_b64encode(payload).rstrip(b"=")
        return text + b"." + _signature(self._keys_for(purpose)[0], text)

    def verify(self, purpose: bytes, token: bytes) -> bytes | None:
        """The payload of a token that was made for `purpose` with one of the keys; else None."""
        if len(token) > MAX_TOKEN_BYTES:
            return None
        text, _, signature = token.partition(b".")
        for key in self._keys_for(purpose):
            if hmac.compare_digest(_signature(key, text), signature):
                return urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        return None

    def _keys_for(self, purpose: bytes) -> tuple[bytes, ...]:
        derived = self._derived.get(purpose)
        if derived is None:
            derived = tuple(hmac.digest(key, b"challenge token: " + purpose, sha256) for key in self._keys)
            self._derived[purpose] = derived
        return derived


def _signature(key: bytes, text: bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(key, text, sha256)).rstrip(b"=")
