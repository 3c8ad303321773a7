"""Bearer tokens in requests: where they are looked for, what the backend gets, and Basic beside them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from authentication_by_hand import (
    ByHand,
    basic,
    basic_policy,
    bearer,
    challenges,
    hmac_policy,
    sign,
)

from smartproxy.core.security.authentication.remembered import MAX_REMEMBERED
from smartproxy.core.security.verdict import Passed

# Where tokens are.


@pytest.mark.parametrize("scheme", [b"bearer", b"BEARER", b"Bearer  "])
def test_the_scheme_is_case_insensitive(scheme: bytes) -> None:
    ByHand(jwt=hmac_policy()).passes(bearer(sign({}), scheme))


@pytest.mark.parametrize("value", [b"", b"Basic x", sign({}), b"Token " + sign({}), b"Bearerx " + sign({})])
def test_no_token(value: bytes) -> None:
    """RFC 6750 §3.1: then there is no error code."""
    proxy = ByHand(jwt=hmac_policy(realm='a "b"'))
    refusal = proxy.refuses((b"authorization", value))
    assert challenges(refusal) == ['Bearer realm="a \\"b\\""']
    assert refusal.status == 401
    assert refusal == proxy.refuses((b"cookie", b"token=" + sign({})))


@pytest.mark.parametrize("value", [sign({}), b"Bearer " + sign({}), b"bearer  " + sign({})])
def test_a_token_in_another_field(value: bytes) -> None:
    proxy = ByHand(jwt=hmac_policy(header=b"x-token", strip=True))
    assert proxy.passes((b"x-token", value)).removed_fields == {b"x-token"}
    assert challenges(proxy.refuses(bearer(sign({})))) == ['Bearer realm="Restricted"']
    assert proxy.refuses((b"x-token", value), (b"x-token", value)).failure.detail == "credentials twice"
    assert proxy.refuses((b"x-token", b"x")).failure.detail == "it is malformed"


@pytest.mark.parametrize(
    "cookies",
    [
        [b"token=%b"],
        [b"a=b; token=%b; c=d"],
        [b"a=b", b"token=%b", b"c=d"],
        [b'token="%b"'],
        [b"token=%b; token=%b"],
        [b"token=; token=%b"],
        [b" token=%b ;"],
    ],
)
def test_a_token_in_a_cookie(cookies: list[bytes]) -> None:
    proxy = ByHand(jwt=hmac_policy(cookie="token", strip=True))
    values = [cookie.replace(b"%b", sign({})) for cookie in cookies]
    passed = proxy.passes(*((b"cookie", value) for value in values))
    assert passed.removed_cookies == (b"token",)
    assert passed.removed_fields == set()


@pytest.mark.parametrize(
    "cookie", [b"", b"token", b"token=", b"tokens=%b", b"Token=%b", b"x=token=%b", b"a=%b; atoken=%b"]
)
def test_no_token_in_a_cookie(cookie: bytes) -> None:
    proxy = ByHand(jwt=hmac_policy(cookie="token"))
    assert challenges(proxy.refuses((b"cookie", cookie.replace(b"%b", sign({}))))) == [
        'Bearer realm="Restricted"'
    ]


def test_two_cookies_that_differ_are_refused() -> None:
    proxy = ByHand(jwt=hmac_policy(cookie="token"))
    both = b"token=" + sign({"sub": "a"}) + b"; token=" + sign({"sub": "b"})
    assert proxy.refuses((b"cookie", both)).failure.detail == "it is malformed"


def test_the_field_goes_before_the_cookie() -> None:
    proxy = ByHand(jwt=hmac_policy(cookie="token"))
    cookie = (b"cookie", b"token=" + sign({}))
    assert proxy.refuses(bearer(b"x"), cookie).failure.detail == "it is malformed"
    proxy.passes((b"authorization", b"Basic for-the-backend"), cookie)


def test_a_token_is_stripped_where_it_came_from() -> None:
    proxy = ByHand(jwt=hmac_policy(cookie="token", strip=True))
    token = sign({})
    in_cookie = proxy.passes((b"cookie", b"token=" + token), (b"authorization", b"Basic for-the-backend"))
    assert in_cookie.removed_fields == set()
    assert in_cookie.removed_cookies == (b"token",)
    in_field = proxy.passes(bearer(token))
    assert in_field.removed_fields == {b"authorization"}
    assert in_field.removed_cookies == (b"token",)
    other = ByHand(jwt=hmac_policy(cookie="token"))
    kept = other.passes((b"cookie", b"token=" + token))
    assert kept.removed_fields == set()
    assert kept.removed_cookies == ()


def test_the_same_text_in_field_and_cookie_is_told_apart() -> None:
    proxy = ByHand(jwt=hmac_policy(header=b"x-token", cookie="token", strip=True))
    token = sign({})
    for _ in range(2):
        assert proxy.passes((b"x-token", token)).removed_fields == {b"x-token"}
        assert proxy.passes((b"cookie", b"token=" + token)).removed_fields == {b"x-token"}


# What the backend gets.


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("bob", b"bob"),
        ("", b""),
        ("a, b", b"a, b"),
        ("Jürgen 秘密", "Jürgen 秘密".encode()),
        (17, b"17"),
        (1.5, b"1.5"),
        (10**40, b"1" + b"0" * 40),
        (True, b"true"),
        (False, b"false"),
        (["a", "b"], b"a,b"),
        ([], b""),
        (["a", None, 1, True, {"x": 1}, ["y", 2]], b'a,1,true,{"x":1},["y"%2C2]'),
        (["cn=a,dc=b", "100%"], b"cn=a%2Cdc=b,100%25"),
        ({"a": [1, "ü"]}, b'{"a":[1,"\\u00fc"]}'),
        ({"a": "\r\n"}, b'{"a":"\\r\\n"}'),
        ("x" * 4096, b"x" * 4096),
        ("秘" * 1365, "秘".encode() * 1365),
        (None, None),
        ("a\r\nx-admin: 1", None),
        ("a\0", None),
        ("\x7f", None),
        ("\x85", None),
        ("\ud800", None),
        (" bob", None),
        ("bob ", None),
        (["a", "b\n"], None),
        ("x" * 4097, None),
        ("秘" * 1366, None),
        ({"x": "y" * 4096}, None),
    ],
)
def test_claims_become_fields(claim: object, value: bytes | None) -> None:
    proxy = ByHand(jwt=hmac_policy(claims_to_headers={"claim": b"x-claim"}))
    passed = proxy.passes(bearer(sign({"claim": claim})), (b"x-claim", b"forged"))
    assert passed.removed_fields == {b"x-claim"}
    assert passed.added_fields == ([] if value is None else [(b"x-claim", value)])


@pytest.mark.parametrize("payload", [b'{"claim": 1e400}', b'{"claim": [1e400]}', b'{"claim": {"a": 1e400}}'])
def test_numbers_that_json_cannot_say_are_left_out(payload: bytes) -> None:
    proxy = ByHand(jwt=hmac_policy(claims_to_headers={"claim": b"x-claim"}))
    assert proxy.passes(bearer(sign(payload=payload))).added_fields == []


@pytest.mark.parametrize("depth", range(100, 1000, 100))
def test_deeply_nested_claims_are_written_or_left_out(depth: int) -> None:
    proxy = ByHand(jwt=hmac_policy(claims_to_headers={"claim": b"x-claim"}))
    payload = b'{"claim":' + b'{"a":' * depth + b"1" + b"}" * (depth + 1)
    verdict = proxy.check(bearer(sign(payload=payload)))
    if isinstance(verdict, Passed):
        assert verdict.added_fields in ([], [(b"x-claim", payload.removeprefix(b'{"claim":')[:-1])])
    else:
        assert depth > 500


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sub", b"bob"),
        ("realm.roles", b"a,b"),
        ("realm.inner.id", b"7"),
        ("https://a.example/roles", b"c"),
        ("https://a.example/app.name", b"d"),
        ("realm.with.dots", b"e"),
        ("missing", None),
        ("sub.x", None),
        ("realm.roles.0", None),
        ("realm.missing", None),
        (".", None),
        ("realm.", None),
    ],
)
def test_dots_reach_into_objects(path: str, value: bytes | None) -> None:
    claims = {
        "sub": "bob",
        "realm": {"roles": ["a", "b"], "inner": {"id": 7}, "with.dots": "e"},
        "https://a.example/roles": "c",
        "https://a.example/app": {"name": "d"},
    }
    proxy = ByHand(jwt=hmac_policy(claims_to_headers={path: b"x_claim"}))
    passed = proxy.passes(bearer(sign(claims)))
    # `Passed` has one name for both spellings.
    assert passed.removed_fields == {b"x-claim"}
    assert passed.added_fields == ([] if value is None else [(b"x_claim", value)])


# Memory.


def test_remembered_tokens_are_bounded() -> None:
    proxy = ByHand(jwt=hmac_policy(claims_to_headers={"n": b"x-n"}))
    first = sign({"n": 0})
    kept = proxy.passes(bearer(first))
    for number in range(1, MAX_REMEMBERED):
        proxy.passes(bearer(sign({"n": number})))
    assert proxy.passes(bearer(first)) is kept
    proxy.passes(bearer(sign({"n": MAX_REMEMBERED})))
    assert proxy.passes(bearer(first)) is kept
    for number in range(1, MAX_REMEMBERED + 1):
        proxy.passes(bearer(sign({"n": -number})))
    assert proxy.passes(bearer(first)) is not kept


# Beside Basic.

USERS = {"bob": "secret"}


def both(**more: Any) -> ByHand:
    return ByHand(
        basic_policy(USERS, user_header=b"x-user", strip=more.pop("strip_basic", False)),
        hmac_policy(claims_to_headers={"sub": b"x-sub"}, **more),
    )


def test_either_is_enough() -> None:
    proxy = both()
    # What identifies a user is the proxy's to say, whichever way the client has come in.
    passed = proxy.passes(basic("bob:secret"), (b"x-sub", b"root"))
    assert passed.removed_fields == {b"x-user", b"x-sub"}
    assert passed.added_fields == [(b"x-user", b"bob")]
    passed = proxy.passes(bearer(sign({"sub": "ann"})), (b"x-user", b"root"))
    assert passed.removed_fields == {b"x-user", b"x-sub"}
    assert passed.added_fields == [(b"x-sub", b"ann")]


def test_every_challenge_is_listed() -> None:
    offered = ['Bearer realm="Restricted"', 'Basic realm="Restricted", charset="UTF-8"']
    proxy = both()
    assert challenges(proxy.refuses()) == offered
    assert challenges(proxy.refuses(basic("bob:wrong"))) == offered
    assert challenges(proxy.refuses(bearer(b"x"))) == [
        'Bearer realm="Restricted", error="invalid_token", error_description="it is malformed"',
        offered[1],
    ]


def test_one_that_is_wrong_does_not_spoil_the_other() -> None:
    proxy = both(cookie="token")
    good, bad = (b"cookie", b"token=" + sign({"sub": "ann"})), (b"cookie", b"token=x")
    assert proxy.passes(basic("bob:wrong"), good).added_fields == [(b"x-sub", b"ann")]
    assert proxy.passes(basic("bob:secret"), bad).added_fields == [(b"x-user", b"bob")]
    assert proxy.passes(basic("bob:secret"), good).added_fields == [(b"x-sub", b"ann")]
    assert proxy.refuses(basic("bob:wrong"), bad).status == 401


def test_each_is_stripped_as_it_says() -> None:
    token = sign({})
    only_basic = both(strip_basic=True, cookie="token")
    assert b"authorization" in only_basic.passes(basic("bob:secret")).removed_fields
    assert b"authorization" not in only_basic.passes(bearer(token)).removed_fields
    in_cookie = only_basic.passes(basic("bob:wrong"), (b"cookie", b"token=" + token))
    assert b"authorization" in in_cookie.removed_fields
    assert in_cookie.removed_cookies == ()
    only_token = both(strip=True, cookie="token")
    passed = only_token.passes(basic("bob:secret"))
    assert b"authorization" not in passed.removed_fields
    assert passed.removed_cookies == (b"token",)
    assert b"authorization" in only_token.passes(bearer(token)).removed_fields
    elsewhere = both(strip_basic=True, strip=True, header=b"x-token")
    for fields in ([basic("bob:secret")], [(b"x-token", token)]):
        assert elsewhere.passes(*fields).removed_fields == {
            b"authorization", b"x-token", b"x-user", b"x-sub"
        }  # fmt: skip


def test_nothing_told_has_a_token_in_it() -> None:
    proxy = ByHand(jwt=hmac_policy())
    token = sign({"sub": "mine"}, b"another secret of thirty-two bytes")
    refusal = proxy.refuses(bearer(token))
    told = repr([refusal, *proxy.context.records]).encode()
    assert token not in told
    assert token.rpartition(b".")[2] not in told
    assert base64.b64encode(b"mine").rstrip(b"=") not in told
