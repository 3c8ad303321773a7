"""Which requests a challenge is asked of."""

from __future__ import annotations

import pytest

from smartproxy.core.http.messages import Fields
from smartproxy.core.routing.paths import PathPattern
from smartproxy.core.security.challenge.scope import applies, is_navigation
from smartproxy.core.security.policies import ChallengePolicy


def policy(
    *, methods: frozenset[bytes] = frozenset(), paths: tuple[str, ...] = (), navigations: bool = False
) -> ChallengePolicy:
    return ChallengePolicy(
        "p",
        "t",
        methods=methods,
        paths=tuple(map(PathPattern.compile, paths)),
        browser_navigations_only=navigations,
    )


@pytest.mark.parametrize(
    ("asked", "method", "path", "expected"),
    [
        (policy(), b"DELETE", "/any", True),
        (policy(), b"OPTIONS", "*", True),
        (policy(methods=frozenset({b"GET", b"POST"})), b"POST", "/", True),
        (policy(methods=frozenset({b"GET"})), b"get", "/", False),
        (policy(methods=frozenset({b"GET"})), b"HEAD", "/", False),
        (policy(paths=("/login", "/admin/*")), b"GET", "/login", True),
        (policy(paths=("/login", "/admin/*")), b"GET", "/admin/users", True),
        (policy(paths=("/login", "/admin/*")), b"GET", "/login/", False),
        (policy(paths=("/users/:id",)), b"GET", "/users/7", True),
        (policy(paths=("/users/:id",)), b"GET", "/users/7/x", False),
        (policy(paths=("/a",), methods=frozenset({b"GET"})), b"POST", "/a", False),
        (policy(navigations=True), b"GET", "/", False),
    ],
)
def test_methods_and_paths(asked: ChallengePolicy, method: bytes, path: str, expected: bool) -> None:
    assert applies(asked, method, path, []) is expected


HTML: Fields = [(b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")]


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        (b"GET", [(b"sec-fetch-mode", b"navigate")], True),
        (b"POST", [(b"sec-fetch-mode", b"navigate")], True),
        (b"GET", [*HTML, (b"sec-fetch-mode", b"cors")], False),
        (b"GET", [*HTML, (b"sec-fetch-mode", b"")], False),
        (b"GET", [(b"sec-fetch-mode", b"no-cors"), *HTML], False),
        (b"GET", HTML, True),
        (b"HEAD", HTML, True),
        (b"POST", HTML, False),
        (b"GET", [], False),
        (b"GET", [(b"accept", b"*/*")], False),
        (b"GET", [(b"accept", b"text/*")], False),
        (b"GET", [(b"accept", b"TEXT/HTML")], True),
        (b"GET", [(b"accept", b"text/html;q=0")], False),
        (b"GET", [(b"accept", b"text/html ; Q=0.000, */*")], False),
        (b"GET", [(b"accept", b"text/html;q=0.001")], True),
        (b"GET", [(b"accept", b"text/html;level=1;q=0")], False),
        (b"GET", [(b"accept", b"application/x-text/html, text/html-not")], False),
        (b"GET", [(b"accept", b"image/*"), (b"accept", b"text/html")], True),
        (b"GET", [(b"accept", b"text/html;q=0"), (b"accept", b"text/html")], True),
    ],
)
def test_navigations(method: bytes, fields: Fields, expected: bool) -> None:
    assert is_navigation(method, fields) is expected
    assert applies(policy(navigations=True), method, "/", fields) is expected
    assert applies(policy(), method, "/", fields)
