"""Key sets that are fetched: when, which of their keys are used, and what happens while there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from authentication_by_hand import (
    EC_KEYS,
    ED25519_KEY,
    NOW,
    OTHER_RSA_KEY,
    PUBLIC_JWKS,
    RSA_KEY,
    SECRET,
    ByHand,
    base64url,
    basic,
    basic_policy,
    bearer,
    jwk,
    jwks_policy,
    key_set,
    sign,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt import PyJWS

from smartproxy.core.failure import FailureSource
from smartproxy.core.records import Level, Record
from smartproxy.core.security.authentication import key_source
from smartproxy.core.security.authentication.keys import MAX_KEYS, MAX_TRIED_KEYS, parse_key_set
from smartproxy.core.security.verdict import Passed, Refusal

OLD = jwk(RSA_KEY, "RS256", kid="old")
NEW = jwk(OTHER_RSA_KEY, "RS256", kid="new")
OLD_TOKEN = sign({}, RSA_KEY, "RS256", kid="old")
NEW_TOKEN = sign({}, OTHER_RSA_KEY, "RS256", kid="new")


def with_keys(*keys: dict[str, Any], **policy: Any) -> ByHand:
    """A route that has fetched these."""
    proxy = ByHand(jwt=jwks_policy(*policy.pop("algorithms", ("RS256",)), **policy))
    proxy.waits(bearer(OLD_TOKEN))
    proxy.answer(proxy.calls()[0], key_set(*keys))
    proxy.late.clear()
    proxy.context.records.clear()
    return proxy


def verdict_of(proxy: ByHand, token: bytes) -> str:
    verdict = proxy.check(bearer(token))
    if isinstance(verdict, Refusal):
        return verdict.failure.detail
    return "passed" if isinstance(verdict, Passed) else "waits"


# When it is fetched.


def test_requests_wait_for_the_first_fetch_together() -> None:
    proxy = ByHand(jwt=jwks_policy())
    assert proxy.calls() == []
    for token in (OLD_TOKEN, OLD_TOKEN, NEW_TOKEN):
        proxy.waits(bearer(token))
    [call] = proxy.calls()
    assert call.arguments == ()
    proxy.answer(call, key_set(OLD))
    first, second, third = proxy.late
    assert isinstance(first, Passed)
    assert isinstance(second, Passed)
    assert isinstance(third, Refusal)
    assert third.failure.detail == "its key is not known"
    assert verdict_of(proxy, OLD_TOKEN) == "passed"
    assert proxy.records("jwks_fetched") == [{"url": PUBLIC_JWKS, "keys": 1, "keys_left_out": 0}]


@pytest.mark.parametrize("token", [b"x", sign({}), sign({}, alg="none"), b"e30.e30.e30"])
def test_nothing_is_fetched_for_what_is_no_token(token: bytes) -> None:
    proxy = ByHand(jwt=jwks_policy())
    assert proxy.refuses(bearer(token)).status == 401
    assert proxy.refuses().status == 401
    assert proxy.calls() == []


def test_an_old_set_is_renewed_behind_the_scenes() -> None:
    proxy = with_keys(OLD, refresh_s=3600)
    proxy.passes(bearer(OLD_TOKEN))
    proxy.pass_time(3599)
    proxy.passes(bearer(OLD_TOKEN))
    assert proxy.calls() == []
    proxy.pass_time(1)
    # Also by a token that is remembered.
    proxy.passes(bearer(OLD_TOKEN))
    proxy.passes(bearer(sign({"a": 1}, RSA_KEY, "RS256")))
    [call] = proxy.calls()
    proxy.answer(call, key_set(NEW))
    # What was verified with a key that is gone is forgotten.
    proxy.pass_time(30)
    assert verdict_of(proxy, OLD_TOKEN) == "waits"
    assert verdict_of(proxy, NEW_TOKEN) == "passed"


def test_a_set_that_is_the_same_keeps_what_is_remembered() -> None:
    proxy = with_keys(OLD, refresh_s=3600)
    passed = proxy.passes(bearer(OLD_TOKEN))
    proxy.pass_time(3600)
    proxy.passes(bearer(OLD_TOKEN))
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert proxy.passes(bearer(OLD_TOKEN)) is passed
    assert proxy.records("jwks_fetched") == []
    proxy.pass_time(3599)
    proxy.passes(bearer(OLD_TOKEN))
    assert proxy.calls() == []


def test_an_unknown_key_is_looked_for_seldom() -> None:
    proxy = with_keys(OLD, least_interval_s=30)
    assert verdict_of(proxy, NEW_TOKEN) == "its key is not known"
    proxy.pass_time(29)
    assert verdict_of(proxy, NEW_TOKEN) == "its key is not known"
    assert proxy.calls() == []
    proxy.pass_time(1)
    proxy.waits(bearer(NEW_TOKEN))
    proxy.waits(bearer(sign({}, RSA_KEY, "RS256", kid="unheard-of")))
    # Known ones do not wait for it.
    proxy.passes(bearer(OLD_TOKEN))
    [call] = proxy.calls()
    proxy.answer(call, key_set(OLD, NEW))
    passed, refused = proxy.late
    assert isinstance(passed, Passed)
    assert isinstance(refused, Refusal)
    assert refused.status == 401
    assert verdict_of(proxy, sign({}, RSA_KEY, "RS256", kid="unheard-of")) == "its key is not known"
    assert proxy.calls() == []


def test_a_wrong_signature_fetches_nothing() -> None:
    proxy = with_keys(OLD)
    proxy.pass_time(60)
    for token in (sign({}, OTHER_RSA_KEY, "RS256", kid="old"), sign({}, OTHER_RSA_KEY, "RS256")):
        assert verdict_of(proxy, token) == "its signature is wrong"
    assert proxy.calls() == []


# When it cannot be fetched.


def test_without_keys_nobody_passes() -> None:
    proxy = ByHand(jwt=jwks_policy())
    proxy.waits(bearer(OLD_TOKEN))
    proxy.fail(proxy.calls()[0], "OSError('the status is 500')")
    [refusal] = proxy.late
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503
    assert refusal.retry_after_s == 1
    assert refusal.failure.source is FailureSource.PROXY
    [record] = proxy.records("jwks_fetch_failed")
    assert record == {
        "url": PUBLIC_JWKS,
        "detail": "OSError('the status is 500')",
        "uses_older_keys": False,
        "retry_after_s": 1.0,
    }
    # Until the next try nobody waits for nothing.
    assert proxy.refuses(bearer(OLD_TOKEN)).status == 503
    assert proxy.calls() == []
    proxy.pass_time(1)
    proxy.waits(bearer(OLD_TOKEN))
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert isinstance(proxy.late[1], Passed)


def test_tries_become_seldom() -> None:
    proxy = ByHand(jwt=jwks_policy(least_interval_s=30))
    waits = []
    for _ in range(8):
        proxy.waits(bearer(OLD_TOKEN))
        proxy.fail(proxy.calls()[0])
        refusal = proxy.refuses(bearer(OLD_TOKEN))
        assert refusal.retry_after_s is not None
        waits.append(refusal.retry_after_s)
        proxy.pass_time(refusal.retry_after_s - 0.5)
        assert proxy.refuses(bearer(OLD_TOKEN)).retry_after_s == 1
        proxy.pass_time(0.5)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_an_older_set_stays_in_use() -> None:
    proxy = with_keys(OLD, refresh_s=3600)
    for _ in range(5):
        proxy.pass_time(3600)
        assert verdict_of(proxy, OLD_TOKEN) == "passed"
        proxy.fail(proxy.calls()[0])
    assert verdict_of(proxy, sign({"a": 1}, RSA_KEY, "RS256", kid="old")) == "passed"
    proxy.pass_time(3600)
    proxy.waits(bearer(NEW_TOKEN))
    proxy.fail(proxy.calls()[0])
    [refusal] = proxy.late
    assert isinstance(refusal, Refusal)
    assert refusal.failure.detail == "its key is not known"
    assert all(record["uses_older_keys"] for record in proxy.records("jwks_fetch_failed"))


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b"null",
        b'{"keys": {}}',
        b'{"keys": null}',
        b"\xff",
        b"[" * 100_000,
        b" " * (key_source.MAX_KEY_SET_BYTES + 1),
    ],
)
def test_what_is_no_key_set_is_a_failure(value: object) -> None:
    proxy = ByHand(jwt=jwks_policy())
    proxy.waits(bearer(OLD_TOKEN))
    proxy.answer(proxy.calls()[0], value)
    [refusal] = proxy.late
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503
    assert len(proxy.records("jwks_fetch_failed")) == 1


def test_a_fetch_that_never_ends_is_given_up() -> None:
    proxy = ByHand(jwt=jwks_policy())
    proxy.waits(bearer(OLD_TOKEN))
    [call] = proxy.calls()
    proxy.pass_time(key_source.FETCH_DEADLINE_S - 1)
    assert proxy.late == []
    proxy.pass_time(1)
    [refusal] = proxy.late
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503
    assert proxy.cancelled() == [call.id]
    assert proxy.records("jwks_fetch_failed")[0]["detail"] == "no answer in 15 s"
    proxy.pass_time(1)
    proxy.waits(bearer(OLD_TOKEN))
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert isinstance(proxy.late[1], Passed)
    proxy.pass_time(100)
    assert proxy.cancelled() == []
    assert proxy.context.pending_operations == {}


def test_waiting_requests_are_bounded() -> None:
    proxy = ByHand(jwt=jwks_policy())
    for _ in range(key_source.MAX_WAITING_REQUESTS):
        proxy.waits(bearer(OLD_TOKEN))
    refusal = proxy.refuses(bearer(OLD_TOKEN))
    assert refusal.status == 503
    assert refusal.retry_after_s == 1
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert len(proxy.late) == key_source.MAX_WAITING_REQUESTS
    proxy.pass_time(30)
    for _ in range(key_source.MAX_WAITING_REQUESTS):
        proxy.waits(bearer(NEW_TOKEN))
    # It may well be signed with a key that is on its way.
    assert proxy.refuses(bearer(NEW_TOKEN)).status == 503
    proxy.passes(bearer(OLD_TOKEN))


def test_who_leaves_is_not_told() -> None:
    proxy = ByHand(jwt=jwks_policy())
    first, _ = proxy.waits(bearer(OLD_TOKEN)), proxy.waits(bearer(OLD_TOKEN))
    first.cancel()
    first.cancel()
    assert proxy.cancelled() == []
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert len(proxy.late) == 1


def test_a_verdict_may_bring_the_next_request() -> None:
    proxy = ByHand(jwt=jwks_policy(least_interval_s=0))
    verdicts: list[object] = []

    def again(verdict: Passed | Refusal) -> None:
        verdicts.append(verdict)
        verdicts.append(proxy.authentication.check([bearer(NEW_TOKEN)], lambda _: None))

    proxy.authentication.check([bearer(NEW_TOKEN)], again)
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert [type(verdict).__name__ for verdict in verdicts] == ["Refusal", "Waiting"]
    assert len(proxy.calls()) == 1


def test_a_token_expires_while_keys_are_fetched() -> None:
    proxy = ByHand(jwt=jwks_policy())
    proxy.waits(bearer(sign({"exp": NOW + 5}, RSA_KEY, "RS256", kid="old")))
    proxy.pass_time(6)
    proxy.answer(proxy.calls()[0], key_set(OLD))
    [refusal] = proxy.late
    assert isinstance(refusal, Refusal)
    assert refusal.failure.detail == "it has expired"


# Which keys are used.


@pytest.mark.parametrize(
    ("algorithm", "private"),
    [("RS256", RSA_KEY), ("PS384", RSA_KEY), *EC_KEYS.items(), ("EdDSA", ED25519_KEY)],
)
@pytest.mark.parametrize("members", [{}, {"kid": "k"}, {"use": "sig"}, {"key_ops": ["verify"]}])
def test_keys_of_every_kind(algorithm: str, private: Any, members: dict[str, Any]) -> None:
    proxy = ByHand(jwt=jwks_policy(algorithm))
    token = sign({}, private, algorithm, kid=members.get("kid"))
    for named in (None, algorithm):
        proxy = ByHand(jwt=jwks_policy(algorithm))
        proxy.waits(bearer(token))
        proxy.answer(proxy.calls()[0], key_set(jwk(private, algorithm, alg=named, **members)))
        assert verdict_of(proxy, token) == "passed"


@pytest.mark.parametrize(
    "key",
    [
        None,
        "key",
        {},
        {"kty": "oct", "k": base64url(SECRET).decode()},
        {"kty": "oct", "k": base64url(SECRET).decode(), "alg": "RS256"},
        {**OLD, "kty": "oct"},
        {**OLD, "kty": "EC"},
        {**OLD, "kty": ["RSA"]},
        {**OLD, "alg": "RS512"},
        {**OLD, "alg": "HS256"},
        {**OLD, "alg": "RSA-OAEP"},
        {**OLD, "alg": 1},
        {**OLD, "use": "enc"},
        {**OLD, "use": None},
        {**OLD, "key_ops": ["sign"]},
        {**OLD, "key_ops": "verify"},
        {**OLD, "kid": 1},
        {**OLD, "n": None},
        {**OLD, "n": ""},
        {**OLD, "n": 5},
        {**OLD, "n": "!!!"},
        {**OLD, "n": "A" * 400},
        {**OLD, "n": "_" * 10_000},
        {**OLD, "e": "AA"},
        {**OLD, "e": "Ag"},
        jwk(rsa.generate_private_key(65537, 1024), "RS256", kid="old"),
        jwk(EC_KEYS["ES256"], "ES256", kid="old"),
        {**jwk(EC_KEYS["ES256"], "ES256"), "kty": "RSA"},
    ],
)
def test_keys_that_do_not_fit_are_left_out(key: Any) -> None:
    found, left_out = parse_key_set(json.dumps({"keys": [key, NEW]}).encode(), ("RS256",))
    assert (len(found), left_out) == (1, 1)
    proxy = with_keys(key)
    assert proxy.refuses(bearer(OLD_TOKEN)).status == 401


@pytest.mark.parametrize(
    "members",
    [
        {"crv": "P-384"},
        {"crv": "P-521"},
        {"crv": "secp256k1"},
        {"crv": None},
        {"crv": "unheard-of"},
        {"x": "AA"},
        {"y": "A" * 43},
        {"x": None},
    ],
)
def test_a_point_must_be_on_its_curve(members: dict[str, Any]) -> None:
    data = key_set(jwk(EC_KEYS["ES256"], "ES256", **members))
    found, left_out = parse_key_set(data, ("ES256", "ES384", "ES512", "ES256K"))
    assert (len(found), left_out) == (0, 1)


@pytest.mark.parametrize("x", ["", "AA", "A" * 44, None])
def test_an_edwards_key_must_have_its_length(x: str | None) -> None:
    found, _ = parse_key_set(key_set({"kty": "OKP", "crv": "Ed25519", "x": x}), ("EdDSA",))
    assert len(found) == 0


def test_the_private_half_of_a_key_is_not_looked_at() -> None:
    private = PyJWS().get_algorithm_by_name("RS256").to_jwk(RSA_KEY, as_dict=True)
    private = {**private, "key_ops": ["sign", "verify"], "kid": "old", "d": "nonsense"}
    assert verdict_of(with_keys(private), OLD_TOKEN) == "passed"


def test_the_secret_of_a_set_signs_nothing() -> None:
    """A public key set read as secrets would let anybody sign."""
    secret = {"kty": "oct", "kid": "old", "k": base64url(SECRET).decode()}
    with pytest.raises(ValueError, match="HS256 cannot be verified with a key set"):
        ByHand(jwt=jwks_policy("HS256"))
    proxy = with_keys(OLD, secret)
    assert verdict_of(proxy, sign({}, SECRET, "HS256", kid="old")) == "its algorithm is not allowed"
    forged = sign({}, SECRET, "HS256", kid="old", alg="RS256")
    assert verdict_of(proxy, forged) == "its signature is wrong"


def test_a_key_is_used_with_its_own_algorithm_only() -> None:
    key = jwk(RSA_KEY, "RS256", kid="old", alg="PS256")
    proxy = with_keys(key, algorithms=("RS256", "PS256"))
    assert verdict_of(proxy, sign({}, RSA_KEY, "PS256", kid="old")) == "passed"
    assert verdict_of(proxy, OLD_TOKEN) == "its key is not known"


def test_keys_of_one_name_are_all_tried() -> None:
    proxy = with_keys(jwk(OTHER_RSA_KEY, "RS256", kid="old"), OLD)
    assert verdict_of(proxy, OLD_TOKEN) == "passed"


def test_a_token_without_a_key_id_is_tried_with_a_few() -> None:
    token = sign({}, RSA_KEY, "RS256")
    others = [jwk(OTHER_RSA_KEY, "RS256", kid=str(number)) for number in range(MAX_TRIED_KEYS)]
    assert verdict_of(with_keys(*others[1:], OLD), token) == "passed"
    assert verdict_of(with_keys(*others, OLD), token) == "its signature is wrong"
    assert verdict_of(with_keys(*others, OLD), OLD_TOKEN) == "passed"


def test_the_number_of_keys_is_bounded() -> None:
    others = [jwk(OTHER_RSA_KEY, "RS256", kid=str(number)) for number in range(MAX_KEYS)]
    found, left_out = parse_key_set(key_set(*others, OLD), ("RS256",))
    assert (len(found), left_out) == (MAX_KEYS, 1)
    assert verdict_of(with_keys(*others, OLD), OLD_TOKEN) == "its key is not known"
    assert verdict_of(with_keys(*others[1:], OLD), OLD_TOKEN) == "passed"


def test_a_set_without_a_key_is_obeyed() -> None:
    """Whoever takes all keys back wants no token accepted."""
    proxy = with_keys(OLD, refresh_s=3600)
    proxy.pass_time(3600)
    proxy.passes(bearer(OLD_TOKEN))
    proxy.answer(proxy.calls()[0], key_set())
    assert verdict_of(proxy, OLD_TOKEN) == "its key is not known"
    [record] = [
        each for each in proxy.context.records if isinstance(each, Record) and each.event == "jwks_fetched"
    ]
    assert record.level is Level.WARNING
    assert record.fields["keys"] == 0


# Beside Basic.


def beside_basic() -> ByHand:
    policy = basic_policy({"bob": "$2b$bob"}, verify_hash=lambda _, password: password == b"secret")
    return ByHand(policy, jwks_policy(cookie="token"))


def test_basic_is_looked_at_when_the_keys_have_come() -> None:
    proxy = beside_basic()
    cookie = (b"cookie", b"token=" + NEW_TOKEN)
    proxy.waits(basic("bob:secret"), cookie)
    [fetch] = proxy.calls()
    proxy.answer(fetch, key_set(OLD))
    assert proxy.late == []
    [verification] = proxy.calls()
    proxy.run(verification)
    assert len(proxy.late) == 1
    assert isinstance(proxy.late[0], Passed)
    proxy.pass_time(30)
    proxy.waits(basic("bob:secret"), cookie)
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert len(proxy.late) == 2
    assert isinstance(proxy.late[1], Passed)


def test_a_token_that_passes_late_is_enough() -> None:
    proxy = beside_basic()
    proxy.waits(basic("bob:wrong"), (b"cookie", b"token=" + OLD_TOKEN))
    proxy.answer(proxy.calls()[0], key_set(OLD))
    assert isinstance(proxy.late[0], Passed)
    assert proxy.calls() == []


@pytest.mark.parametrize("leaves_after_keys", [False, True])
def test_who_leaves_between_the_two_is_not_told(leaves_after_keys: bool) -> None:
    proxy = beside_basic()
    waiting = proxy.waits(basic("bob:secret"), (b"cookie", b"token=" + NEW_TOKEN))
    if not leaves_after_keys:
        waiting.cancel()
    proxy.answer(proxy.calls()[0], key_set(OLD))
    calls = proxy.calls()
    assert len(calls) == int(leaves_after_keys)
    if leaves_after_keys:
        waiting.cancel()
        proxy.run(calls[0])
    assert proxy.late == []
