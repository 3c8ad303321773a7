"""Conditions on header fields."""

from __future__ import annotations

import pytest

from smartproxy.core.http.messages import Fields
from smartproxy.core.routing.conditions import FieldCondition


@pytest.mark.parametrize(
    ("spec", "matching", "other"),
    [
        ("v1", [b"v1"], [b"V1", b"v12", b"", b" v1"]),
        ("", [b""], [b"a"]),
        ("/", [b"/"], [b"a"]),
        ("//", [b"//"], [b"a"]),
        ("a.c", [b"a.c"], [b"abc"]),
        ("v*", [b"v", b"v1", b"v\xff"], [b"av"]),
        ("*", [b"", b"x"], []),
        ("*/json*", [b"application/json", b"text/json; a=b"], [b"text/html"]),
        ("v?", [b"v1", b"v\xff"], [b"v", b"v12"]),
        ("a.*(", [b"a.b("], [b"abb("]),
        (r"\*/\*", [b"*/*"], [b"a/b", rb"\*/\*"]),
        (r"\?\\*", [b"?\\", b"?\\x"], [b"a\\"]),
        (r"a\b*", [rb"a\b", rb"a\bc"], [b"ab"]),
        ("ü*", ["ü".encode(), "über".encode()], [b"u"]),
        ("/^v[12]$/", [b"v1", b"v2"], [b"v3", b"xv1"]),
        ("/bot/", [b"a robot", b"bot"], [b"Bot"]),
        ("/(?i)bot/", [b"BOT"], [b"bo"]),
        ("/a.b/", [b"a\xffb"], [b"ab"]),
    ],
)
def test_a_condition_fits_what_it_says(spec: str, matching: list[bytes], other: list[bytes]) -> None:
    condition = FieldCondition.compile("X-Thing", spec)
    assert [value for value in matching if not condition.matches([(b"x-thing", value)])] == []
    assert [value for value in other if condition.matches([(b"x-thing", value)])] == []
    assert not condition.matches([])
    assert not condition.matches([(b"x-other", value) for value in matching])


@pytest.mark.parametrize(
    ("name", "spec", "reason"),
    [
        ("", "a", "is not a header name"),
        ("x y", "a", "is not a header name"),
        (":path", "a", "is not a header name"),
        (b"x\xff", "a", "is not a header name"),
        ("Host", "a", "matched with domains"),
        ("x", "/(/", "'/(/' is not a regular expression"),
        ("x", "/(a)\\1/", "is not a regular expression"),
        ("x", "/(?=a)/", "is not a regular expression"),
        ("x", "/((a{100}){100}){100}/", "is not a regular expression"),
    ],
)
def test_a_bad_condition_is_refused_with_a_reason(name: str | bytes, spec: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        FieldCondition.compile(name, spec)
    assert reason in str(caught.value)


def test_lines_of_one_field_are_one_value_however_they_are_cut() -> None:
    together: Fields = [(b"accept", b"text/html, text/plain"), (b"cookie", b"a=1; b=2")]
    apart: Fields = [
        (b"accept", b"text/html"),
        (b"cookie", b"a=1"),
        (b"x", b"y"),
        (b"accept", b"text/plain"),
        (b"cookie", b"b=2"),
    ]
    for name, spec in [
        ("accept", "text/html, text/plain"),
        ("cookie", "a=1; b=2"),
        ("cookie", "/(^|; )b=2(;|$)/"),
    ]:
        condition = FieldCondition.compile(name, spec)
        assert condition.matches(together)
        assert condition.matches(apart)
    assert not FieldCondition.compile("accept", "text/html").matches(apart)


def test_conditions_are_equal_when_written_alike() -> None:
    assert FieldCondition.compile("X-A", "1*") == FieldCondition.compile(b"x-a", "1*")
    assert FieldCondition.compile("X-A", "1*") != FieldCondition.compile("X-A", "1")
    assert FieldCondition.compile("X-A", "1") != ("x-a", "1")
    assert len({FieldCondition.compile("X-A", "1"), FieldCondition.compile("x-a", "1")}) == 1
    assert repr(FieldCondition.compile("X-A", "/1/")) == "<FieldCondition x-a: /1/>"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("spec", ["*a" * 30 + "b", "/(x+x+)+y/", "/(a|a)*b/", "/(.*)(.*)(.*)(.*)c$/"])
def test_no_value_makes_a_pattern_take_its_time(spec: str) -> None:
    condition = FieldCondition.compile("x", spec)
    assert not condition.matches([(b"x", b"a" * 60_000)])
    assert not condition.matches([(b"x", b"x" * 60_000)])
