"""What proves work, held against leading zero bits as counted one by one."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.challenges.proof_of_work import proves_work

CHALLENGE_IDS = st.text("ABCXYZabcxyz0123456789-_", max_size=90)
DIFFICULTIES = st.integers(1, 32)


def leading_zero_bits(digest: bytes) -> int:
    count = 0
    for byte in digest:
        for bit in range(7, -1, -1):
            if byte >> bit & 1:
                return count
            count += 1
    return count


@given(CHALLENGE_IDS, st.integers(0, 10**20 - 1), DIFFICULTIES)
def test_a_nonce_proves_as_much_as_its_digest_has_zeros(
    challenge_id: str, nonce: int, difficulty: int
) -> None:
    digest = hashlib.sha256(f"{challenge_id}:{nonce}".encode()).digest()
    assert proves_work(challenge_id, str(nonce), difficulty) is (leading_zero_bits(digest) >= difficulty)


@given(CHALLENGE_IDS, st.integers(0, 10**15), st.integers(1, 9))
def test_the_zeros_it_has_are_proven_and_no_more(challenge_id: str, start: int, wanted: int) -> None:
    nonce = start
    while True:
        zeros = leading_zero_bits(hashlib.sha256(f"{challenge_id}:{nonce}".encode()).digest())
        if zeros >= wanted:
            break
        nonce += 1
    assert proves_work(challenge_id, str(nonce), zeros)
    assert not proves_work(challenge_id, str(nonce), zeros + 1)


@given(CHALLENGE_IDS, st.text(max_size=40), DIFFICULTIES)
def test_only_digits_prove_anything(challenge_id: str, nonce: str, difficulty: int) -> None:
    if proves_work(challenge_id, nonce, difficulty):
        assert set(nonce) <= set("0123456789")
        assert 1 <= len(nonce) <= 20
