"""Password hashes: made, verified, and refused where they are malformed or cost too much."""

from __future__ import annotations

import base64
import hashlib
import time

import argon2
import bcrypt
import pytest

from smartproxy.passwords import ALGORITHMS, check_hash, hash_password, is_hash, verify_hash

SALT = "c2FsdHNhbHRzYWx0c2FsdA"
DIGEST = "ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGlnZXN0ZGk"
BCRYPT = "$2b$04$oZjXelIFsuTz7BciM4AlaOY9KZvTYJeyOsBRsaKyK8QxlvwrvXbRW"
# Of other programs: passlib's documentation, htpasswd -B, and argon2's own tool.
MADE_ELSEWHERE = {
    "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E": b"password",
    BCRYPT: b"x",
    BCRYPT.replace("$2b$", "$2y$"): b"x",
    BCRYPT.replace("$2b$", "$2a$"): b"x",
}


def cheap_argon2(password: bytes, kind: argon2.Type = argon2.Type.ID, version: int = 19) -> str:
    return argon2.low_level.hash_secret(password, b"saltsalt", 1, 8, 1, 16, kind, version).decode()


def cheap_scrypt(password: bytes) -> str:
    digest = hashlib.scrypt(password, salt=b"salt", n=2, r=1, p=1, dklen=32)
    salt_text, digest_text = (base64.b64encode(each).decode().rstrip("=") for each in (b"salt", digest))
    return f"$scrypt$ln=1,r=1,p=1${salt_text}${digest_text}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_made_hash_verifies(algorithm: str) -> None:
    password = "pässword: 秘密".encode()
    made = hash_password(password, algorithm)
    assert is_hash(made)
    check_hash(made)
    assert verify_hash(made, password)
    assert not verify_hash(made, password + b"x")


def test_argon2id_is_the_default() -> None:
    assert hash_password(b"secret").startswith("$argon2id$v=19$")


@pytest.mark.parametrize("made", MADE_ELSEWHERE)
def test_hashes_made_elsewhere_verify(made: str) -> None:
    assert is_hash(made)
    check_hash(made)
    assert verify_hash(made, MADE_ELSEWHERE[made])
    assert not verify_hash(made, MADE_ELSEWHERE[made] + b"x")


@pytest.mark.parametrize("kind", argon2.Type)
@pytest.mark.parametrize("version", [16, 19])
def test_every_kind_of_argon2_verifies(kind: argon2.Type, version: int) -> None:
    made = cheap_argon2(b"secret", kind, version)
    assert is_hash(made)
    check_hash(made)
    assert verify_hash(made, b"secret")
    assert not verify_hash(made, b"Secret")


@pytest.mark.parametrize("text", ["", "secret", "$2b", "$1$salt$digest", "$5$x$y", "$argon2$x", "$2x$04$"])
def test_plain_passwords_are_no_hashes(text: str) -> None:
    assert not is_hash(text)
    assert not verify_hash(text, text.encode())
    with pytest.raises(ValueError, match="is not a bcrypt, argon2 or scrypt hash"):
        check_hash(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$2b$", "complete"),
        (BCRYPT[:-1], "complete"),
        (BCRYPT + "x", "complete"),
        (BCRYPT + "\n", "complete"),
        (BCRYPT.replace("$04$", "$4$"), "complete"),
        (BCRYPT.replace("$04$", "$٠٤$"), "complete"),
        (BCRYPT.replace("$04$", "$03$"), "cost of 3"),
        (BCRYPT.replace("$04$", "$21$"), "cost of 21"),
        ("$argon2id$", "complete"),
        (f"$argon2id$v=19$m=65536,t=3,p=4${SALT}$", "complete"),
        (f"$argon2id$v=18$m=65536,t=3,p=4${SALT}${DIGEST}", "complete"),
        (f"$argon2id$v=19$t=3,m=65536,p=4${SALT}${DIGEST}", "complete"),
        (f"$argon2id$v=19$m=65536,t=3,p=4,data=x${SALT}${DIGEST}", "complete"),
        (f"$argon2id$v=19$m=65536,t=3,p=4${SALT}${DIGEST}$", "complete"),
        (f"$argon2id$v=19$m=1048577,t=3,p=4${SALT}${DIGEST}", "1048577 KiB of memory"),
        (f"$argon2id$v=19$m={10**30},t=3,p=4${SALT}${DIGEST}", "complete"),
        (f"$argon2id$v=19$m=65536,t=0,p=4${SALT}${DIGEST}", "0 argon2 iterations"),
        (f"$argon2id$v=19$m=65536,t=101,p=4${SALT}${DIGEST}", "101 argon2 iterations"),
        (f"$argon2id$v=19$m=65536,t=3,p=0${SALT}${DIGEST}", "p=0"),
        (f"$argon2id$v=19$m=65536,t=3,p=65${SALT}${DIGEST}", "p=65"),
        (f"$argon2id$v=19$m=31,t=3,p=4${SALT}${DIGEST}", "too little"),
        (f"$argon2id$v=19$m=65536,t=3,p=4$c2FsdA${DIGEST}", "salt of 4 bytes"),
        (f"$argon2id$v=19$m=65536,t=3,p=4${SALT}$ZGln", "digest of 3 bytes"),
        (f"$argon2id$v=19$m=65536,t=3,p=4${SALT}xxx${DIGEST}", "not base64"),
        ("$scrypt$", "complete"),
        (f"$scrypt$ln=16,r=8,p=1${SALT}$", "complete"),
        (f"$scrypt$ln=16,r=8,p=1$${DIGEST}", "complete"),
        (f"$scrypt$ln=23,r=1,p=1${SALT}${DIGEST}", "ln=23"),
        (f"$scrypt$ln=0,r=8,p=1${SALT}${DIGEST}", "ln=0"),
        (f"$scrypt$ln=16,r=0,p=1${SALT}${DIGEST}", "r=0"),
        (f"$scrypt$ln=16,r=8,p=0${SALT}${DIGEST}", "p=0"),
        (f"$scrypt$ln=16,r=8,p=65${SALT}${DIGEST}", "p=65"),
        (f"$scrypt$ln=22,r=8,p=1${SALT}${DIGEST}", "4194305 KiB of memory"),
        (f"$scrypt$ln=1,r=9999999999,p=1${SALT}${DIGEST}", "KiB of memory"),
        (f"$scrypt$ln=16,r=8,p=1${SALT}$ZGln", "digest of 3 bytes"),
        (f"$scrypt$ln=16,r=8,p=1${'c2Fs' * 100}${DIGEST}", "salt of 300 bytes"),
        (f"$scrypt$ln=16,r=8,p=1${SALT}${'c2Fs' * 100}", "digest of 300 bytes"),
    ],
)
def test_what_is_malformed_or_costs_too_much_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_hash(text)
    started = time.process_time()
    assert not verify_hash(text, b"secret")
    assert time.process_time() - started < 0.5


def test_a_changed_hash_does_not_match() -> None:
    for made in (cheap_argon2(b"secret"), cheap_scrypt(b"secret")):
        assert verify_hash(made, b"secret")
        changed = made[:-4] + ("AAAA" if made[-4:] != "AAAA" else "BBBB")
        assert not verify_hash(changed, b"secret")


def test_bcrypt_goes_by_72_bytes() -> None:
    made = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert verify_hash(made, b"x" * 72)
    # Other programs cut longer passwords when they make the hash.
    assert verify_hash(made, b"x" * 100)
    assert not verify_hash(made, b"x" * 71)
    with pytest.raises(ValueError, match=r"first 72 bytes .* has 73"):
        hash_password(b"x" * 73, "bcrypt")
    assert len(hash_password(b"x" * 72, "bcrypt")) == 60


@pytest.mark.parametrize("algorithm", ["argon2", "scrypt"])
def test_the_others_go_by_all_bytes(algorithm: str) -> None:
    made = hash_password(b"x" * 73, algorithm)
    assert verify_hash(made, b"x" * 73)
    assert not verify_hash(made, b"x" * 72)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("password", [b"", b"a\0b", b"a\nb", b"\x7f"])
def test_passwords_that_nobody_can_send_are_not_hashed(algorithm: str, password: bytes) -> None:
    with pytest.raises(ValueError, match=r"empty|control character"):
        hash_password(password, algorithm)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="no such algorithm: md5"):
        hash_password(b"secret", "md5")


def test_salts_differ() -> None:
    assert len({hash_password(b"secret", "scrypt") for _ in range(3)}) == 3


@pytest.mark.parametrize("password", [b"", b"a\0b", b"\xff\xfe", b"x" * 100_000])
def test_any_bytes_can_be_verified(password: bytes) -> None:
    for made in (BCRYPT, cheap_argon2(b"secret"), cheap_scrypt(b"secret")):
        assert not verify_hash(made, password)
