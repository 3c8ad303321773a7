"""Forwarded and X-Forwarded-For: the RFC's examples, what is refused, and the bounds."""

from __future__ import annotations

import pytest

from smartproxy.core.wire.forwarded import (
    MAX_ELEMENTS,
    MAX_VALUE_BYTES,
    ForwardedElement,
    ForwardedError,
    ForwardedNode,
    format_forwarded_element,
    format_node,
    parse_forwarded,
    parse_node,
    parse_x_forwarded_for,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 7239 §4, §6.3, §7.1
        (b'for="_gazonk"', [ForwardedElement(ForwardedNode("_gazonk"))]),
        (b'For="[2001:db8:cafe::17]:4711"', [ForwardedElement(ForwardedNode("2001:db8:cafe::17", 4711))]),
        (
            b"for=192.0.2.60;proto=http;by=203.0.113.43",
            [ForwardedElement(ForwardedNode("192.0.2.60"), ForwardedNode("203.0.113.43"), proto="http")],
        ),
        (
            b"for=192.0.2.43, for=198.51.100.17",
            [ForwardedElement(ForwardedNode("192.0.2.43")), ForwardedElement(ForwardedNode("198.51.100.17"))],
        ),
        (
            b"for=_hidden, for=_SEVKISEK",
            [ForwardedElement(ForwardedNode("_hidden")), ForwardedElement(ForwardedNode("_SEVKISEK"))],
        ),
        (
            b'for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown',
            [
                ForwardedElement(ForwardedNode("192.0.2.43")),
                ForwardedElement(ForwardedNode("2001:db8:cafe::17")),
                ForwardedElement(ForwardedNode("unknown")),
            ],
        ),
        (
            b'for=192.0.2.43, for="[2001:db8:cafe::17]:_p";secret=egah2CGj55fSJFs',
            [
                ForwardedElement(ForwardedNode("192.0.2.43")),
                ForwardedElement(
                    ForwardedNode("2001:db8:cafe::17", "_p"), extensions=(("secret", "egah2CGj55fSJFs"),)
                ),
            ],
        ),
        # What senders write beside the grammar's letter.
        (
            b'  For=UNKNOWN ;\tHOST="a.example:80"; PROTO=HTTPS;',
            [ForwardedElement(ForwardedNode("unknown"), host="a.example:80", proto="https")],
        ),
        (b",, for=192.0.2.1 ,", [ForwardedElement(ForwardedNode("192.0.2.1"))]),
        (b"", []),
        (b" , ", []),
        (b";", [ForwardedElement()]),
        (b'x="a\\"\\\\, for=1.2.3.4"', [ForwardedElement(extensions=(("x", 'a"\\, for=1.2.3.4'),))]),
        (b'for="[2001:DB8:0:0::1]"', [ForwardedElement(ForwardedNode("2001:db8::1"))]),
        (b'host="[::1]:80"', [ForwardedElement(host="[::1]:80")]),
    ],
)
def test_elements(value: bytes, expected: list[ForwardedElement]) -> None:
    assert parse_forwarded(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"for",
        b"for=",
        b"=1.2.3.4",
        b"for =1.2.3.4",
        b"for= 1.2.3.4",
        b"for=1.2.3.4 for=1.2.3.5",
        b"for=1.2.3.4;for=1.2.3.5",
        b"for=1.2.3.4;FOR=1.2.3.4",
        b"for=1.2.3.4:80",
        b"for=[::1]",
        b"for=::1",
        b'for="::1"',
        b'for="[1.2.3.4]"',
        b'for="[::1"',
        b'for="[::1%eth0]"',
        b'for="1.2.3.4:65536"',
        b'for="1.2.3.4:"',
        b'for="1.2.3.4:123456"',
        b"for=01.2.3.4",
        b"for=1.2.3",
        b"for=example.com",
        b"for=_",
        b'for="_a b"',
        b'for=""',
        b'for="1.2.3.4',
        b'for="1.2.3.4"x',
        b'for="1.2.3.4\\"',
        b"for=1.2.3.4\r\nHost: x",
        b'for="1.2.3.4\0"',
        b'x="\n"',
        b'host="a b"',
        b'host="a/b"',
        b'host="a@b"',
        b'host="[zz]"',
        b'host="[::1::]"',
        b'host=""',
        b"proto=1http",
        b'proto="ht tp"',
        b"for=1.2.3.4 x",
    ],
)
def test_what_is_refused(value: bytes) -> None:
    with pytest.raises(ForwardedError):
        parse_forwarded(value)


def test_bounds() -> None:
    assert len(parse_forwarded(b",".join([b"for=1.2.3.4"] * MAX_ELEMENTS))) == MAX_ELEMENTS
    with pytest.raises(ForwardedError, match="more than"):
        parse_forwarded(b",".join([b"for=1.2.3.4"] * (MAX_ELEMENTS + 1)))
    with pytest.raises(ForwardedError, match="bytes"):
        parse_forwarded(b'x="' + b"a" * MAX_VALUE_BYTES + b'"')
    assert len(parse_x_forwarded_for(b",".join([b"1.2.3.4"] * MAX_ELEMENTS))) == MAX_ELEMENTS
    with pytest.raises(ForwardedError, match="more than"):
        parse_x_forwarded_for(b",".join([b"1.2.3.4"] * (MAX_ELEMENTS + 1)))
    with pytest.raises(ForwardedError, match="bytes"):
        parse_x_forwarded_for(b"," * (MAX_VALUE_BYTES + 1))


def test_nodes_tell_whether_they_are_addresses() -> None:
    assert parse_node("192.0.2.1:80").ip == "192.0.2.1"
    assert parse_node("[::1]").ip == "::1"
    assert parse_node("unknown").ip is None
    assert parse_node("_hidden:_port").ip is None


@pytest.mark.parametrize(
    ("ip", "port", "expected"),
    [
        ("192.0.2.1", None, b"192.0.2.1"),
        ("192.0.2.1", 80, b'"192.0.2.1:80"'),
        ("2001:db8::1", None, b'"[2001:db8::1]"'),
        ("2001:db8::1", 443, b'"[2001:db8::1]:443"'),
        ("unknown", None, b"unknown"),
        ("_secret", None, b"_secret"),
    ],
)
def test_format_node(ip: str, port: int | None, expected: bytes) -> None:
    assert format_node(ip, port) == expected


@pytest.mark.parametrize(
    "name", ["", "a.example", "/run/socket", "1.2.3.4\r\n", '1.2.3.4"', "_a b", "::1%eth0"]
)
def test_names_that_are_no_nodes_are_not_written(name: str) -> None:
    with pytest.raises(ForwardedError):
        format_node(name)


def test_format_element() -> None:
    assert format_forwarded_element(for_=format_node("192.0.2.1")) == b"for=192.0.2.1"
    assert (
        format_forwarded_element(
            for_=format_node("::1"), by=format_node("_edge"), host=b"example.com:8443", proto=b"https"
        )
        == b'for="[::1]";by=_edge;host="example.com:8443";proto=https'
    )
    assert format_forwarded_element(for_=b"_a", host=b'x"\\') == b'for=_a;host="x\\"\\\\"'


@pytest.mark.parametrize("host", [b"a\r\nb", b"a\0", b"\x7f", b"\n"])
def test_no_line_is_broken(host: bytes) -> None:
    with pytest.raises(ForwardedError):
        format_forwarded_element(for_=b"_a", host=host)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", []),
        (b"192.0.2.1", ["192.0.2.1"]),
        (b"192.0.2.1, 2001:DB8::1 ,198.51.100.2:8080", ["192.0.2.1", "2001:db8::1", "198.51.100.2"]),
        (b"[2001:db8::1], [2001:db8::2]:443", ["2001:db8::1", "2001:db8::2"]),
        (b",192.0.2.1,,", ["192.0.2.1"]),
        (b"::ffff:192.0.2.1", ["::ffff:192.0.2.1"]),
        (b"::1", ["::1"]),
    ],
)
def test_x_forwarded_for(value: bytes, expected: list[str]) -> None:
    assert parse_x_forwarded_for(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"unknown",
        b"_hidden",
        b"example.com",
        b"192.0.2.1 192.0.2.2",
        b"192.0.2.256",
        b"192.0.2.01",
        b"192.0.2.1:x",
        b"192.0.2.1:_port",
        b"192.0.2.1:65536",
        b"[192.0.2.1]",
        b"[::1",
        b"[::1]x",
        b"::1%eth0",
        b"1::2::3",
        b"192.0.2.1\n",
        b'"192.0.2.1"',
        b"for=192.0.2.1",
        b"\xff",
    ],
)
def test_x_forwarded_for_refuses_the_rest(value: bytes) -> None:
    with pytest.raises(ForwardedError):
        parse_x_forwarded_for(b"192.0.2.9, " + value)
