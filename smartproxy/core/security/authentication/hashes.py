"""How a password hash is told from a plain password."""

from __future__ import annotations

BCRYPT_PREFIXES = ("$2a$", "$2b$", "$2y$")
ARGON2_PREFIXES = ("$argon2id$", "$argon2i$", "$argon2d$")
SCRYPT_PREFIX = "$scrypt$"

_PREFIXES = (*BCRYPT_PREFIXES, *ARGON2_PREFIXES, SCRYPT_PREFIX)


def is_hash(text: str) -> bool:
    """Whether `text` begins like a bcrypt, argon2 or scrypt hash; it need not be a valid one."""
    return text.startswith(_PREFIXES)
