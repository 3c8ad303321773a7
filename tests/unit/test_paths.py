"""Paths: the decisions on every odd spelling, and the patterns."""

from __future__ import annotations

import pytest

from smartproxy.core.routing.paths import NO_PARAMETERS, PathIndex, PathPattern, normalise_path


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/a/b", "/a/b"),
        (b"/a/b/", "/a/b/"),
        (b"/a?b=/../c", "/a"),
        (b"/a?%zz", "/a"),
        (b"/%61%2Db", "/a-b"),
        (b"/a%20b/%C3%BC", "/a b/ü"),
        ("/ü".encode(), "/ü"),
        (b"/a%2Fb", "/a/b"),
        (b"/a%2fb/", "/a/b/"),
        (b"/%2Fa", "/a"),
        (b"/a/./b/../c", "/a/c"),
        (b"/a/%2e%2E/b", "/b"),
        (b"/a/.%2e", "/"),
        (b"/a/b/.", "/a/b/"),
        (b"/..a/...", "/..a/..."),
        (b"/.well-known/x", "/.well-known/x"),
        (b"//a///b//", "/a/b/"),
        (b"/a;v=1/b;w", "/a/b"),
        (b"/a;v=1/../b", "/b"),
        (b"/a%3Bb", "/a;b"),
        (b"/a%3Fb%23", "/a?b#"),
        (b"/100%25", "/100%"),
        (b"/100%25/ab", "/100%/ab"),
        (b"/a+b", "/a+b"),
        (b"*", "*"),
        (b"", ""),
    ],
)
def test_a_target_means_one_path(target: bytes, path: str) -> None:
    assert normalise_path(target) == path


@pytest.mark.parametrize(
    "target",
    [
        b"a", b"?a", b"http://example.com/", b"**", b"\xff",
        # Above the root.
        b"/..", b"/../a", b"/a/../..", b"/%2e%2e/a", b"/./../a",
        # Two decodings.
        b"/%2561", b"/a%252fb", b"/%25%32%46", b"/%2500",
        # Malformed escapes and text that is not UTF-8.
        b"/%", b"/%4", b"/%zz", b"/%+1", b"/%c0%af", b"/%c0%ae%c0%ae/", b"/%e0%80%af", b"/%ff", b"/\xe9",
        b"/%ed%a0%80", b"/%f4%90%80%80",
        # Separators by another name.
        b"/a\\b", b"/a%5cb", b"/a%5C..%5Cb",
        # Which comes first?
        b"/a/..%2fb", b"/a%2f../b", b"/a%2f./b", b"/a//../b", b"/a/b//../../c", b"/%2fa/..",
        b"/..;/a", b"/a/.;v=1/b", b"/a/%2e%2e;/b", b"/a;v=1%2f../b",
        # What has no place in a path.
        b"/a%00", b"/a\x00b", b"/a%0d%0ab", b"/a\tb", b"/a%7f", b"/a#b", b"/a;%00", b"/a;v=%", b"/a;\\/b",
    ],
)  # fmt: skip
def test_a_target_of_two_meanings_is_refused(target: bytes) -> None:
    assert normalise_path(target) is None
    assert normalise_path(target + b"?query") is None or target == b"?a"


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/", "/", {}),
        ("/", "/a", None),
        ("/exact", "/exact", {}),
        ("/exact", "/exact/", None),
        ("/exact", "/Exact", None),
        ("/users/:id", "/users/7", {"id": "7"}),
        ("/users/:id", "/users/", None),
        ("/users/:id", "/users/7/", None),
        ("/users/:id", "/users/7/x", None),
        ("/:a/x/:b_2", "/1/x/2", {"a": "1", "b_2": "2"}),
        ("/users/:id/*", "/users/7/", {"id": "7"}),
        ("/users/:id/*", "/users/7/a/b", {"id": "7"}),
        ("/users/:id/*", "/users/7", None),
        ("/users/:id/v*", "/users/7/v1/x", {"id": "7"}),
        ("/users/:id/v*", "/users/7/x", None),
        ("/api/*", "/api/", {}),
        ("/api/*", "/api/a/b", {}),
        ("/api/*", "/api", None),
        ("/api/*", "/apix", None),
        ("/api*", "/api", {}),
        ("/api*", "/apix/y", {}),
        ("/api*", "/ap", None),
        ("/*", "/", {}),
        ("/*", "*", None),
        ("/a%20b", "/a b", {}),
        ("/%2A/%3Ax", "/*/:x", {}),
        ("/ü", "/ü", {}),
        ("/v1/thing:verb", "/v1/thing:verb", {}),
        ("/files/*", "/files/a\nb", {}),
    ],
)
def test_a_pattern_matches(pattern: str, path: str, params: dict[str, str] | None) -> None:
    compiled = PathPattern.compile(pattern)
    assert compiled.match(path) == params
    index: PathIndex[str] = PathIndex()
    index.add(compiled, "item")
    assert index.find(path) == ([["item"]] if params is not None else [])
    assert repr(compiled) == f"<PathPattern {pattern}>"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "begins with a slash"),
        ("*", "begins with a slash"),
        ("api/*", "begins with a slash"),
        ("/a/*/b", "only at the end"),
        ("/a/**", "only at the end"),
        ("/a?b", "a query"),
        ("/a#b", "a query"),
        ("/a;b", "a query"),
        ("/a/:", "is not a parameter"),
        ("/a/:b-c", "is not a parameter"),
        ("/a/:1", "is not a parameter"),
        ("/:a/:a", "stands there twice"),
        ("/a/:b*", "a parameter is a whole segment"),
        ("/a//b", "removed before rules are matched"),
        ("//*", "removed before rules are matched"),
        ("/a/../b", "removed before rules are matched"),
        ("/a/.", "removed before rules are matched"),
        ("/a%2Fb", "in no path that reaches a rule"),
        ("/a\\b", "in no path that reaches a rule"),
        ("/a%00", "in no path that reaches a rule"),
        ("/a%2541", "in no path that reaches a rule"),
        ("/a%", "in no path that reaches a rule"),
        ("/\udc80", ""),
    ],
)
def test_a_pattern_that_could_never_match_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        PathPattern.compile(pattern)
    assert reason in str(caught.value)
    assert repr(pattern) in str(caught.value)


def test_dot_files_may_be_asked_for() -> None:
    assert PathPattern.compile("/.*").match("/.git/config") == {}
    assert PathPattern.compile("/a/..*").match("/a/..b") == {}


def test_patterns_are_ordered_from_the_most_specific() -> None:
    patterns = [
        "/users/me",
        "/users/:id/posts",
        "/users/:id/*",
        "/users/:id",
        "/users/*",
        "/users*",
        "/:a",
        "/*",
    ]
    compiled = [PathPattern.compile(pattern) for pattern in patterns]
    in_order = sorted(compiled, key=lambda pattern: pattern.specificity, reverse=True)
    assert [pattern.text for pattern in in_order] == patterns


def test_a_match_without_parameters_shares_one_dict() -> None:
    assert PathPattern.compile("/a").match("/a") is NO_PARAMETERS
    assert NO_PARAMETERS == {}


def test_a_pattern_of_a_thousand_segments_does_not_exhaust_the_stack() -> None:
    index: PathIndex[str] = PathIndex()
    index.add(PathPattern.compile("/a" * 2000 + "/*"), "literal")
    index.add(PathPattern.compile("".join(f"/:p{n}" for n in range(2000)) + "/*"), "parameters")
    assert sorted(index.find("/a" * 2000 + "/x")) == [["literal"], ["parameters"]]


def test_a_path_of_many_segments_is_not_split_further_than_any_pattern_goes() -> None:
    index: PathIndex[str] = PathIndex()
    index.add(PathPattern.compile("/a/:b/*"), "item")
    assert index.find("/a" * 8000) == [["item"]]
