"""Cookies read by name, left out, and set."""

from __future__ import annotations

from http.cookies import SimpleCookie
from math import inf

import pytest

from smartproxy.core.http.messages import Fields
from smartproxy.core.security.challenge.cookies import (
    cookie_names,
    cookie_values,
    deleted_cookie,
    set_cookie,
    without_cookies,
)


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        ([], []),
        ([b""], []),
        ([b"n=1"], [b"1"]),
        ([b"a=b; n=1; c=d"], [b"1"]),
        ([b"a=b;n=1;c=d"], [b"1"]),
        ([b"a=b;\tn=1"], [b"1"]),
        ([b"a=b", b"n=1", b"n=2"], [b"1", b"2"]),
        ([b"n=1; n=2"], [b"1", b"2"]),
        ([b'n="1"'], [b"1"]),
        ([b'n="1'], [b'"1']),
        ([b'n="'], [b'"']),
        ([b'n=""'], [b""]),
        ([b"n="], [b""]),
        ([b"n"], [b""]),
        ([b"n=a=b"], [b"a=b"]),
        ([b"xn=1; nx=2; N=3; x=n=4"], []),
        ([b"=n; ;; n=1;"], [b"1"]),
        ([b"; ".join(b"n=%d" % number for number in range(20))], [b"%d" % number for number in range(8)]),
    ],
)
def test_values(lines: list[bytes], values: list[bytes]) -> None:
    fields: Fields = [(b"accept", b"n=no"), *((b"cookie", line) for line in lines)]
    assert cookie_values(fields, b"n") == values


def test_names_by_their_beginning() -> None:
    fields = [(b"cookie", b"own_1=a; x=own_2; own_3=b"), (b"cookie", b"own_1=c; Own_4=d"), (b"x", b"own_5=e")]
    assert cookie_names(fields, b"own_") == [b"own_1", b"own_3"]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (b"n=1", None),
        (b"n=1; m=2", None),
        (b"n", None),
        (b"n=1;", None),
        (b"", None),
        (b" ", None),
        (b"a=b;  c=d;", b"a=b;  c=d;"),
        (b"a=b;  n=1;c=d;", b"a=b; c=d"),
        (b"a=b; n =1", b"a=b"),
        (b"xn=1; x=n", b"xn=1; x=n"),
        (b'n="1"; a=b; n=2', b"a=b"),
    ],
)
def test_left_out(line: bytes, left: bytes | None) -> None:
    fields: Fields = [(b"accept", b"n=1"), (b"cookie", line), (b"x", b"y")]
    before = list(fields)
    expected = [each for each in fields if each[0] != b"cookie"]
    if left is not None:
        expected.insert(1, (b"cookie", left))
    found = without_cookies(fields, (b"n", b"m"))
    assert found == expected
    assert fields == before
    assert cookie_values(found, b"n") == []


def test_left_out_of_several_lines() -> None:
    fields = [(b"cookie", b"n=1"), (b"cookie", b"a=b"), (b"cookie", b"m=2; c=d")]
    assert without_cookies(fields, [b"n", b"m"]) == [(b"cookie", b"a=b"), (b"cookie", b"c=d")]
    assert without_cookies(fields, []) == fields


def test_set_and_taken_back() -> None:
    value = set_cookie(b"n", b"v-_.1", max_age_s=1.2, is_secure=True)
    assert value == b"n=v-_.1; Path=/; Max-Age=2; HttpOnly; SameSite=Lax; Secure"
    read = SimpleCookie(value.decode("ascii"))["n"]
    assert (read.value, read["path"], read["max-age"], read["samesite"]) == ("v-_.1", "/", "2", "Lax")
    assert b"Secure" not in set_cookie(b"n", b"v", max_age_s=1, is_secure=False)
    assert b"Max-Age=34560000;" in set_cookie(b"n", b"v", max_age_s=inf, is_secure=False)
    assert deleted_cookie(b"n", is_secure=False) == b"n=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
