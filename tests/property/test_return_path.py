"""Whatever was asked for, the redirect stays on the site."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smartproxy.core.security.challenge.return_path import return_path, without_query

SITE = "https://site.example/some/page?q#f"

# What browsers, frameworks and parsers have tripped over.
pieces = st.sampled_from(
    [
        *(b"/", b"//", b"\\", b"/\\", b"\\/", b"\t", b"\r", b"\n", b"\r\n", b" ", b"\0", b"\x7f", b"\xff"),
        *(b"%2f", b"%2F", b"%5c", b"%0d%0a", b"%", b"%%", b"%2", b"%zz", b"%00"),
        *(b".", b"..", b"/./", b"/../", b";", b"?", b"#", b"[::1]", b"[", b"]", b"<", b'"', b"a"),
        *(b"\xc3\xa9", b"\xe3\x80\x82", b"\xef\xbc\x8f", b"Set-Cookie: x=y"),
        *(b"evil.example", b"user@evil.example", b"user:pw@", b"@", b":", b":443"),
        *(b"https:", b"http://", b"javascript:"),
    ]
)
targets = st.lists(pieces, max_size=8).map(b"".join) | st.binary(max_size=60)
IN_PATH_OR_QUERY = re.compile(r"/(?:[0-9A-Za-z\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*")


def browser_host(location: str, site: str = "site.example") -> str:
    """The host a browser goes to (WHATWG URL §4.4, for http and https), or why it goes nowhere."""
    text = location.strip("".join(map(chr, range(33))))
    text = re.sub("[\t\r\n]", "", text).replace("\\", "/")
    if re.match("[A-Za-z][A-Za-z0-9+.-]*:", text):
        return "another scheme"
    if text.startswith("//"):
        return re.split("[/?#]", text.lstrip("/"))[0].rpartition("@")[2]
    return site


def test_the_browser_of_these_tests_can_be_led_astray() -> None:
    for location in (
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "\\\\x@evil.example",
        " //evil.example",
    ):
        assert browser_host(location) == "evil.example"
    assert browser_host("javascript:alert(1)") == "another scheme"


@given(target=targets)
@example(b"//evil.example")
@example(b"/\\evil.example")
@example(b"/\t/evil.example")
@example(b"https://site.example//evil.example")
@example(b"https://site.example\\@evil.example")
@example(b"\\\\evil.example")
def test_redirect_never_leaves_the_site(target: bytes) -> None:
    location = return_path(target)
    assert IN_PATH_OR_QUERY.fullmatch(location)
    assert not location.startswith("//")
    joined = urlsplit(urljoin(SITE, location))
    assert (joined.scheme, joined.netloc) == ("https", "site.example")
    assert joined.fragment == ""
    assert browser_host(location) == "site.example"
    # Also for who decodes it before looking at it, or hands it on: it is a path of the request's own site.
    assert return_path(location.encode("ascii")) == location
    path = without_query(location)
    assert "?" not in path
    assert return_path(path.encode("ascii")) == path


@given(
    path=st.from_regex(
        r"\A(?:/(?:[0-9A-Za-z\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)+(?:\?[0-9a-z=&/?:@%41]*)?\Z"
    )
)
def test_ordinary_targets_stay_as_they_are(path: str) -> None:
    if re.search("%(?![0-9A-Fa-f]{2})", path) is None:
        assert return_path(path.encode("ascii")) == path
        assert return_path(b"https://site.example" + path.encode("ascii")) == path


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"/", "/"),
        (b"", "/"),
        (b"*", "/"),
        (b"site.example:443", "/"),
        (b"?x", "/"),
        (b"http://site.example", "/"),
        (b"http://site.example?x=1", "/?x=1"),
        (b"HTTP://user@site.example:80/a?b#c", "/a?b"),
        (b"//evil.example/a", "/evil.example/a"),
        (b"///evil.example/a", "/evil.example/a"),
        (b"/\\evil.example", "/evil.example"),
        (b"\\\\evil.example", "/evil.example"),
        (b"/\t/evil.example", "/evil.example"),
        (b"/\r\n/evil.example", "/evil.example"),
        (b"/%2f%2fevil.example", "/%2f%2fevil.example"),
        (b"/%5cevil.example", "/%5cevil.example"),
        (b"/a\\b", "/a%5Cb"),
        (b"/a//b", "/a//b"),
        (b"/a#b", "/a"),
        (b"/a%zz%4", "/a%25zz%254"),
        (b"/caf\xc3\xa9?q=\xe2\x82\xac&a[]=1", "/caf%C3%A9?q=%E2%82%AC&a%5B%5D=1"),
        (b"/a\r\nSet-Cookie: x=y", "/a%0D%0ASet-Cookie:%20x=y"),
        (b"/a b\0", "/a%20b%00"),
    ],
)
def test_spellings(target: bytes, location: str) -> None:
    assert return_path(target) == location
