"""Basic authentication (RFC 7617): credentials, what they cost, and what the backend gets."""

from __future__ import annotations

import base64

import pytest
from authentication_by_hand import (
    ByHand,
    basic,
    basic_policy,
    challenges,
    hmac_policy,
    sign,
)

from smartproxy.core.failure import FailureCode, FailureSource
from smartproxy.core.security.authentication import basic as limits
from smartproxy.core.security.authentication.remembered import MAX_REMEMBERED
from smartproxy.core.security.verdict import Passed, Refusal, Waiting

# What they are does not matter here: the test answers in place of `verify_hash`.
BOBS_HASH = "$2b$12$bob"
ANNS_HASH = "$argon2id$ann"
PLAIN = {"bob": "secret", "ann": "", "üser": "pässword: 秘密"}
HASHED = {"bob": BOBS_HASH, "ann": ANNS_HASH}


def verify(hash: str, password: bytes) -> bool:
    return password == {BOBS_HASH: b"secret", ANNS_HASH: b"other"}[hash]


def hashed(**more: object) -> ByHand:
    return ByHand(basic_policy(HASHED, verify_hash=verify, **more))


@pytest.mark.parametrize("credentials", ["bob:secret", "ann:", "üser:pässword: 秘密"])
def test_the_right_credentials_pass(credentials: str) -> None:
    proxy = ByHand(basic_policy(PLAIN))
    first = proxy.passes((b"accept", b"*/*"), basic(credentials))
    assert proxy.passes(basic(credentials)) is first
    assert first == Passed()
    assert proxy.calls() == []


@pytest.mark.parametrize("scheme", [b"basic", b"BASIC", b"bAsIc", b"Basic  "])
def test_the_scheme_is_case_insensitive(scheme: bytes) -> None:
    ByHand(basic_policy(PLAIN)).passes(basic("bob:secret", scheme))


@pytest.mark.parametrize(
    "credentials",
    ["bob:Secret", "bob:", "bob:secret ", " bob:secret", "Bob:secret", "eve:secret", ":", "ann:x"],
)
def test_wrong_credentials_are_refused(credentials: str) -> None:
    proxy = ByHand(basic_policy(PLAIN))
    refusal = proxy.refuses(basic(credentials))
    assert refusal.status == 401
    assert refusal.failure.source is FailureSource.CLIENT
    assert refusal.failure.code is FailureCode.AUTHENTICATION_FAILED
    # Nothing tells which of the two is wrong.
    assert refusal == ByHand(basic_policy(PLAIN)).refuses(basic("bob:wrong"))
    assert refusal.failure.detail == "wrong user name or password"


@pytest.mark.parametrize(
    "value",
    [
        b"Basic",
        b"Basic ",
        b"Basic !!!!",
        b"Basic Ym9iOnNlY3JldA",
        b"Basic Ym9iOnNlY3JldA=",
        b"Basic Ym9iOnNlY3JldA===",
        b"Basic Ym9i OnNlY3JldA==",
        b"Basic Ym9iOnNlY3JldA==x",
        b"Basic Ym9iOnNlY3JldA==, Basic Ym9iOnNlY3JldA==",
        b"Basic Ym9iOnNlY3JldA__",
        b"Basic \xff\xfe",
        b"Basic " + base64.b64encode(b"bob secret"),
        b"Basic " + base64.b64encode(b"bob:sec\0ret"),
        b"Basic " + base64.b64encode(b"bob\r\n:secret"),
        b"Basic " + base64.b64encode(b"bob:" + b"x" * 8192),
        b"Basic " + b"A" * 1_000_000,
    ],
)
def test_malformed_credentials_are_refused(value: bytes) -> None:
    for proxy in (ByHand(basic_policy(PLAIN)), hashed()):
        refusal = proxy.refuses((b"authorization", value))
        assert refusal.status == 401
        assert refusal.failure.detail == "malformed credentials"
        assert proxy.calls() == []


@pytest.mark.parametrize("value", [b"", b"Bearer x", b"Digest username=bob", b"Basicx", b"Ym9iOnNlY3JldA=="])
def test_no_credentials_of_that_kind(value: bytes) -> None:
    proxy = ByHand(basic_policy(PLAIN))
    refusal = proxy.refuses((b"authorization", value), (b"cookie", b"a=b"))
    assert refusal == proxy.refuses()
    assert challenges(refusal) == ['Basic realm="Restricted", charset="UTF-8"']
    assert refusal.failure.detail == "no credentials"


def test_credentials_that_come_twice_are_refused() -> None:
    proxy = ByHand(basic_policy(PLAIN))
    refusal = proxy.refuses(basic("bob:secret"), basic("bob:secret"))
    assert refusal.status == 401
    assert refusal.failure.detail == "credentials twice"


@pytest.mark.parametrize(
    ("realm", "quoted"),
    [
        ("Members", b'"Members"'),
        ('a "b" \\c', b'"a \\"b\\" \\\\c"'),
        ("Büro", '"Büro"'.encode()),
        ("a\r\nset-cookie: x", b'"a??set-cookie: x"'),
    ],
)
def test_the_realm_is_quoted(realm: str, quoted: bytes) -> None:
    [(name, value)] = ByHand(basic_policy(PLAIN, realm=realm)).refuses().fields
    assert name == b"www-authenticate"
    assert value == b"Basic realm=" + quoted + b', charset="UTF-8"'


def test_the_backend_is_told_the_user() -> None:
    proxy = ByHand(basic_policy(PLAIN, user_header=b"x_user"))
    passed = proxy.passes(basic("üser:pässword: 秘密"), (b"x-user", b"root"))
    assert passed.removed_fields == {b"x-user"}
    assert passed.added_fields == [(b"x_user", "üser".encode())]


@pytest.mark.parametrize("name", [" bob", "bob ", "x" * 5000])
def test_a_user_that_no_field_can_name_is_not_told(name: str) -> None:
    passed = ByHand(basic_policy({name: "x"}, user_header=b"x-user")).passes(basic(f"{name}:x"))
    assert passed.removed_fields == {b"x-user"}
    assert passed.added_fields == []


def test_credentials_are_kept_from_the_backend() -> None:
    assert ByHand(basic_policy(PLAIN)).passes(basic("bob:secret")).removed_fields == set()
    passed = ByHand(basic_policy(PLAIN, strip=True)).passes(basic("bob:secret"))
    assert passed.removed_fields == {b"authorization"}


# Hashes.


def test_a_hash_is_verified_in_a_thread() -> None:
    proxy = hashed(user_header=b"x-user")
    proxy.waits(basic("bob:secret"))
    [call] = proxy.calls()
    assert call.function is verify
    assert call.arguments == (BOBS_HASH, b"secret")
    proxy.run(call)
    [passed] = proxy.late
    assert isinstance(passed, Passed)
    assert passed.added_fields == [(b"x-user", b"bob")]


@pytest.mark.parametrize("credentials", ["bob:wrong", "eve:secret", "bob:", ":"])
def test_wrong_credentials_cost_a_verification_too(credentials: str) -> None:
    proxy = hashed()
    proxy.waits(basic(credentials))
    [call] = proxy.calls()
    proxy.run(call)
    [refusal] = proxy.late
    assert isinstance(refusal, Refusal)
    assert refusal == ByHand(basic_policy(PLAIN)).refuses(basic("bob:wrong"))


def test_what_stands_in_for_an_unknown_user_lets_nobody_in() -> None:
    proxy = hashed()
    for name in ("eve", "mallory", "trent", "x", "y", "z"):
        for password in ("secret", "other"):
            proxy.waits(basic(f"{name}:{password}"))
    calls = proxy.calls()
    assert {call.arguments[0] for call in calls} == set(HASHED.values())
    assert {call.function(*call.arguments) for call in calls} == {True, False}
    for call in calls:
        proxy.run(call)
    assert len(proxy.late) == 12
    assert all(isinstance(verdict, Refusal) for verdict in proxy.late)
    # One name always costs the same.
    proxy.waits(basic("eve:a"))
    proxy.waits(basic("eve:b"))
    first, second = proxy.calls()
    assert first.arguments[0] == second.arguments[0]


def test_a_plain_password_among_hashes_is_not_told_by_the_time_it_takes() -> None:
    proxy = ByHand(basic_policy({"plain": "easy", **HASHED}, verify_hash=verify))
    proxy.passes(basic("plain:easy"))
    assert proxy.calls() == []
    proxy.waits(basic("plain:secret"))
    proxy.waits(basic("plain:other"))
    for call in proxy.calls():
        proxy.run(call)
    assert [verdict.status for verdict in proxy.late if isinstance(verdict, Refusal)] == [401, 401]


def test_a_hash_is_no_password() -> None:
    proxy = hashed()
    proxy.waits(basic(f"bob:{BOBS_HASH}"))
    [call] = proxy.calls()
    proxy.run(call)
    assert isinstance(proxy.late[0], Refusal)


def test_success_is_remembered_for_a_while() -> None:
    proxy = hashed()
    proxy.waits(basic("bob:secret"))
    proxy.run(proxy.calls()[0])
    proxy.pass_time(limits.REMEMBERED_FOR_S - 1)
    assert proxy.passes(basic("bob:secret")) is proxy.late[0]
    # Using them does not prolong it.
    proxy.pass_time(1)
    proxy.waits(basic("bob:secret"))
    assert len(proxy.calls()) == 1


def test_failure_is_not_remembered() -> None:
    proxy = hashed()
    for _ in range(2):
        proxy.waits(basic("bob:wrong"))
        [call] = proxy.calls()
        proxy.run(call)
    assert len(proxy.late) == 2


def test_what_is_remembered_is_bounded_and_the_least_used_goes_first() -> None:
    users = {f"user{number}": BOBS_HASH for number in range(MAX_REMEMBERED + 1)}
    proxy = ByHand(basic_policy(users, verify_hash=verify))
    for name in users:
        proxy.waits(basic(f"{name}:secret"))
        [call] = proxy.calls()
        proxy.run(call)
        proxy.passes(basic("user0:secret"))
    proxy.passes(basic(f"user{MAX_REMEMBERED}:secret"))
    proxy.waits(basic("user1:secret"))


def test_the_same_credentials_share_a_verification() -> None:
    proxy = hashed()
    for _ in range(3):
        proxy.waits(basic("bob:secret"))
    proxy.waits(basic("bob:Secret"))
    first, second = proxy.calls()
    proxy.run(first)
    assert len(proxy.late) == 3
    assert len({id(verdict) for verdict in proxy.late}) == 1
    proxy.run(second)
    assert isinstance(proxy.late[3], Refusal)


def test_verifications_are_bounded() -> None:
    proxy = hashed()
    for number in range(limits.MAX_VERIFICATIONS):
        proxy.waits(basic(f"bob:{number}"))
    refusal = proxy.refuses(basic("bob:secret"))
    assert refusal.status == 503
    assert refusal.retry_after_s == 1
    assert refusal.failure.source is FailureSource.PROXY
    # Those under way are still shared, and the next one has room again.
    proxy.waits(basic("bob:0"))
    proxy.run(proxy.calls()[0])
    assert len(proxy.late) == 2
    proxy.waits(basic("bob:secret"))


def test_waiting_requests_are_bounded() -> None:
    proxy = hashed()
    for _ in range(limits.MAX_WAITING_REQUESTS):
        proxy.waits(basic("bob:secret"))
    assert proxy.refuses(basic("bob:secret")).status == 503
    [call] = proxy.calls()
    proxy.run(call)
    assert len(proxy.late) == limits.MAX_WAITING_REQUESTS
    proxy.passes(basic("bob:secret"))


def test_who_leaves_is_not_told_and_its_verification_still_counts() -> None:
    proxy = hashed()
    waiting = [proxy.waits(basic(f"bob:{number}")) for number in range(limits.MAX_VERIFICATIONS)]
    for each in waiting:
        each.cancel()
        each.cancel()
    # Threads cannot be stopped: leaving and coming back must not queue ever more of them.
    assert proxy.cancelled() == []
    assert proxy.refuses(basic("bob:secret")).status == 503
    for call in proxy.calls():
        proxy.run(call)
    assert proxy.late == []
    proxy.waits(basic("bob:secret"))


def test_who_leaves_while_others_are_told_is_not_told() -> None:
    proxy = hashed()
    told: list[str] = []
    waiting: list[Waiting] = []

    def wait(name: str) -> None:
        def on_verdict(_: Passed | Refusal) -> None:
            told.append(name)
            for each in waiting:
                each.cancel()

        verdict = proxy.authentication.check([basic("bob:secret")], on_verdict)
        assert isinstance(verdict, Waiting)
        waiting.append(verdict)

    wait("first")
    wait("second")
    proxy.run(proxy.calls()[0])
    assert told == ["first"]


def test_a_verdict_may_bring_the_next_request() -> None:
    proxy = hashed()
    verdicts: list[object] = []

    def again(verdict: Passed | Refusal) -> None:
        verdicts.append(verdict)
        if len(verdicts) < 3:
            verdicts.append(proxy.authentication.check([basic("bob:wrong")], again))

    proxy.authentication.check([basic("bob:wrong")], again)
    [first] = proxy.calls()
    proxy.run(first)
    [second] = proxy.calls()
    proxy.run(second)
    assert [type(verdict).__name__ for verdict in verdicts] == ["Refusal", "Waiting", "Refusal"]


@pytest.mark.parametrize("value", [1, "yes", None, object()])
def test_only_true_is_a_match(value: object) -> None:
    proxy = hashed()
    proxy.waits(basic("bob:secret"))
    proxy.answer(proxy.calls()[0], value)
    assert isinstance(proxy.late[0], Refusal)
    proxy.waits(basic("bob:secret"))


def test_a_verification_that_fails_lets_nobody_in() -> None:
    proxy = hashed()
    proxy.waits(basic("bob:secret"))
    proxy.fail(proxy.calls()[0])
    [refusal] = proxy.late
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503
    assert proxy.records("authentication_unavailable") == [{"reason": "a password could not be verified"}]
    proxy.waits(basic("bob:secret"))


def test_nothing_told_has_a_password_in_it() -> None:
    proxy = ByHand(basic_policy(HASHED, verify_hash=verify), hmac_policy())
    proxy.waits(basic("bob:a password of mine"))
    proxy.run(proxy.calls()[0])
    proxy.refuses((b"authorization", b"Basic a password of mine"))
    proxy.refuses((b"authorization", b"Bearer " + sign({"sub": "a password of mine"}, b"another secret" * 3)))
    told = repr([*proxy.context.records, *proxy.late])
    assert "password" in told
    assert "mine" not in told
    assert base64.b64encode(b"a password of mine").decode().rstrip("=") not in told
