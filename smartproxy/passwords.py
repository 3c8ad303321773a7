"""Password hashes: bcrypt, argon2 and scrypt, made and verified. Slow by design, so never on an event loop.

Verifying takes the memory and the time that the hash asks for. `check_hash` has limits for both, and
`verify_hash` keeps to them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re

import argon2
import bcrypt

from smartproxy.core.security.authentication.hashes import (
    ARGON2_PREFIXES,
    BCRYPT_PREFIXES,
    SCRYPT_PREFIX,
    is_hash,
)

__all__ = [
    "ALGORITHMS",
    "BCRYPT_PASSWORD_BYTES",
    "check_hash",
    "hash_password",
    "is_hash",
    "verify_hash",
]

ALGORITHMS = ("argon2", "bcrypt", "scrypt")

BCRYPT_PASSWORD_BYTES = 72
"""What bcrypt looks at of a password."""

_MAX_MEMORY_BYTES = 1 << 30
_MAX_BCRYPT_COST = 20
_MAX_SCRYPT_LOG2_N = 22
_MAX_ITERATIONS = 100
_MAX_LANES = 64
# A hash of a few bits is matched by many passwords, one of none by all.
_MIN_DIGEST_BYTES = 16
_MAX_DIGEST_BYTES = 128
_MAX_SALT_BYTES = 256

_BCRYPT_COST = 12
_SCRYPT_LOG2_N = 16
_SCRYPT_BLOCK_SIZE = 8
_SCRYPT_LANES = 1
_SCRYPT_SALT_BYTES = 16
_SCRYPT_DIGEST_BYTES = 32

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_NUMBER = "(0|[1-9][0-9]{0,9})"
_BASE64 = "([A-Za-z0-9+/]+)"
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(
    rf"\$argon2(?:id|i|d)(?:\$v=(?:16|19))?\$m={_NUMBER},t={_NUMBER},p={_NUMBER}\${_BASE64}\${_BASE64}"
)
_SCRYPT = re.compile(rf"\$scrypt\$ln={_NUMBER},r={_NUMBER},p={_NUMBER}\${_BASE64}\${_BASE64}")


def check_hash(text: str) -> None:
    """Raise ValueError, with the reason, unless `text` is a hash that can be verified in bounded time.

    The limits: 1 GiB of memory, bcrypt's cost 20, scrypt's ln 22, 100 iterations and 64 lanes.
    """
    if text.startswith(BCRYPT_PREFIXES):
        _check_bcrypt(text)
    elif text.startswith(ARGON2_PREFIXES):
        _check_argon2(text)
    elif text.startswith(SCRYPT_PREFIX):
        _parse_scrypt(text)
    else:
        raise ValueError("is not a bcrypt, argon2 or scrypt hash")


def verify_hash(hash: str, password: bytes) -> bool:
    """Whether `hash` was made of `password`. Raises nothing: what is not a valid hash matches nothing.

    bcrypt looks at the first 72 bytes of a password only, and whatever made such a hash of a longer one
    has cut it there. So it is cut here too; `hash_password` makes no such hash.
    """
    try:
        check_hash(hash)
        if hash.startswith(BCRYPT_PREFIXES):
            return bcrypt.checkpw(password[:BCRYPT_PASSWORD_BYTES], hash.encode("ascii"))
        if hash.startswith(ARGON2_PREFIXES):
            return argon2.PasswordHasher().verify(hash, password)
        return _verify_scrypt(hash, password)
    except (ValueError, argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError, MemoryError):
        return False


def hash_password(password: bytes, algorithm: str = "argon2") -> str:
    """A new hash of `password`, with a random salt: argon2id, bcrypt or scrypt at today's usual cost.

    Raises ValueError for an empty password, one with control characters, which Basic authentication
    cannot carry (RFC 7617 §2), and for bcrypt one of more than 72 bytes.
    """
    if not password:
        raise ValueError("the password is empty")
    if _CONTROL.search(password):
        raise ValueError("the password has a control character")
    if algorithm == "argon2":
        return argon2.PasswordHasher().hash(password)
    if algorithm == "bcrypt":
        if len(password) > BCRYPT_PASSWORD_BYTES:
            raise ValueError(
                f"bcrypt looks at the first {BCRYPT_PASSWORD_BYTES} bytes of a password only, "
                f"and this one has {len(password)}"
            )
        return bcrypt.hashpw(password, bcrypt.gensalt(_BCRYPT_COST)).decode("ascii")
    if algorithm == "scrypt":
        return _hash_scrypt(password)
    raise ValueError(f"no such algorithm: {algorithm}")


def _check_bcrypt(text: str) -> None:
    match = _BCRYPT.fullmatch(text)
    if match is None:
        raise ValueError("is not a complete bcrypt hash: $2b$, two digits of cost, $, 53 characters")
    cost = int(match[1])
    if not 4 <= cost <= _MAX_BCRYPT_COST:
        raise ValueError(f"has a bcrypt cost of {cost}; 4 to {_MAX_BCRYPT_COST} are possible")


def _check_argon2(text: str) -> None:
    match = _ARGON2.fullmatch(text)
    if match is None:
        raise ValueError("is not a complete argon2 hash: $argon2id$v=19$m=..,t=..,p=..$salt$hash")
    memory_kib, iterations, lanes = int(match[1]), int(match[2]), int(match[3])
    _check_lanes(lanes)
    if not 1 <= iterations <= _MAX_ITERATIONS:
        raise ValueError(f"has {iterations} argon2 iterations; 1 to {_MAX_ITERATIONS} are possible")
    # RFC 9106 §3.1: at least 8 blocks for each lane.
    if memory_kib < 8 * lanes:
        raise ValueError(f"asks for {memory_kib} KiB of memory, too little for {lanes} lanes")
    _check_memory(memory_kib * 1024)
    _decode_salt_and_digest(match[4], match[5], least_salt_bytes=8)


def _parse_scrypt(text: str) -> tuple[int, int, int, bytes, bytes]:
    """N, r, p, salt and digest. Raises ValueError."""
    match = _SCRYPT.fullmatch(text)
    if match is None:
        raise ValueError("is not a complete scrypt hash: $scrypt$ln=..,r=..,p=..$salt$hash")
    log2_n, block_size, lanes = int(match[1]), int(match[2]), int(match[3])
    if not 1 <= log2_n <= _MAX_SCRYPT_LOG2_N:
        raise ValueError(f"has scrypt's ln={log2_n}; 1 to {_MAX_SCRYPT_LOG2_N} are possible")
    if block_size < 1:
        raise ValueError("has scrypt's r=0")
    _check_lanes(lanes)
    _check_memory(_scrypt_memory_bytes(1 << log2_n, block_size, lanes))
    salt, digest = _decode_salt_and_digest(match[4], match[5], least_salt_bytes=1)
    return 1 << log2_n, block_size, lanes, salt, digest


def _check_lanes(lanes: int) -> None:
    if not 1 <= lanes <= _MAX_LANES:
        raise ValueError(f"has p={lanes}; 1 to {_MAX_LANES} are possible")


def _check_memory(memory_bytes: int) -> None:
    if memory_bytes > _MAX_MEMORY_BYTES:
        raise ValueError(
            f"asks for {memory_bytes >> 10} KiB of memory; {_MAX_MEMORY_BYTES >> 10} KiB is the most"
        )


def _decode_salt_and_digest(salt: str, digest: str, *, least_salt_bytes: int) -> tuple[bytes, bytes]:
    salt_bytes, digest_bytes = _decode_base64(salt), _decode_base64(digest)
    if not least_salt_bytes <= len(salt_bytes) <= _MAX_SALT_BYTES:
        raise ValueError(f"has a salt of {len(salt_bytes)} bytes")
    if not _MIN_DIGEST_BYTES <= len(digest_bytes) <= _MAX_DIGEST_BYTES:
        raise ValueError(f"has a digest of {len(digest_bytes)} bytes; {_MIN_DIGEST_BYTES} are the least")
    return salt_bytes, digest_bytes


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("has a salt or digest that is not base64") from error


def _encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _scrypt_memory_bytes(n: int, block_size: int, lanes: int) -> int:
    return 128 * block_size * (n + lanes)


def _derive_scrypt(password: bytes, salt: bytes, n: int, block_size: int, lanes: int, length: int) -> bytes:
    # OpenSSL counts a little more than the two arrays.
    most_bytes = _scrypt_memory_bytes(n, block_size, lanes) + (1 << 20)
    return hashlib.scrypt(password, salt=salt, n=n, r=block_size, p=lanes, maxmem=most_bytes, dklen=length)


def _verify_scrypt(text: str, password: bytes) -> bool:
    n, block_size, lanes, salt, digest = _parse_scrypt(text)
    derived = _derive_scrypt(password, salt, n, block_size, lanes, len(digest))
    return hmac.compare_digest(derived, digest)


def _hash_scrypt(password: bytes) -> str:
    salt = os.urandom(_SCRYPT_SALT_BYTES)
    digest = _derive_scrypt(
        password, salt, 1 << _SCRYPT_LOG2_N, _SCRYPT_BLOCK_SIZE, _SCRYPT_LANES, _SCRYPT_DIGEST_BYTES
    )
    parameters = f"ln={_SCRYPT_LOG2_N},r={_SCRYPT_BLOCK_SIZE},p={_SCRYPT_LANES}"
    return f"{SCRYPT_PREFIX}{parameters}${_encode_base64(salt)}${_encode_base64(digest)}"
