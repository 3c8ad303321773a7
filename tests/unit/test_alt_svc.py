"""Alt-Svc values as servers send them, and as nobody may; and the example that obeys them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from smartproxy.core.wire.alt_svc import (
    CLEAR,
    LONGEST_MAX_AGE_S,
    MAX_ALTERNATIVES,
    MAX_VALUE_BYTES,
    AltSvcEntry,
    AltSvcError,
    AltSvcHeader,
    format_alt_svc,
    parse_alt_svc,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "alt_svc_client.py"


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        # Caddy.
        (b'h3=":443"; ma=2592000', [AltSvcEntry(b"h3", "", 443, 2592000)]),
        # A large site of 2021, with a comma inside a quoted parameter.
        (
            b'h3=":443"; ma=2592000,h3-29=":443"; ma=2592000,quic=":443"; ma=2592000; v="46,43"',
            [
                AltSvcEntry(b"h3", "", 443, 2592000),
                AltSvcEntry(b"h3-29", "", 443, 2592000),
                AltSvcEntry(b"quic", "", 443, 2592000),
            ],
        ),
        # RFC 7838 §3 and §3.1.
        (b'h2=":8000"', [AltSvcEntry(b"h2", "", 8000)]),
        (b'h2="new.example.org:80"', [AltSvcEntry(b"h2", "new.example.org", 80)]),
        (b'w%3Dx%3Ay#z=":443"', [AltSvcEntry(b"w=x:y#z")]),
        (b'x%25y=":443"', [AltSvcEntry(b"x%y")]),
        (
            b'h2="alt.example.com:8000", h2=":443"; ma=3600',
            [AltSvcEntry(b"h2", "alt.example.com", 8000), AltSvcEntry(b"h2", max_age_s=3600)],
        ),
        (b'h2=":443"; ma=2592000; persist=1', [AltSvcEntry(b"h2", max_age_s=2592000, persist=True)]),
        (b'h3=":443";persist=0', [AltSvcEntry(b"h3")]),
        (b'h3=":443";persist="1"', [AltSvcEntry(b"h3", persist=True)]),
        (b'h3=":443";MA=5', [AltSvcEntry(b"h3", max_age_s=5)]),
        (b'h3=":443";ma="5"', [AltSvcEntry(b"h3", max_age_s=5)]),
        (b'h3=":443"; ma=0', [AltSvcEntry(b"h3", max_age_s=0)]),
        (b'h3=":443"; ma=0000000000000000060', [AltSvcEntry(b"h3", max_age_s=60)]),
        (b'h3=":443"; ma=2147483649', [AltSvcEntry(b"h3", max_age_s=LONGEST_MAX_AGE_S)]),
        (b'h3=":443"; ma=' + b"9" * 5000, [AltSvcEntry(b"h3", max_age_s=LONGEST_MAX_AGE_S)]),
        (b'h3="[2001:DB8:0:0::1]:8443"', [AltSvcEntry(b"h3", "2001:db8::1", 8443)]),
        (b'h3="192.0.2.1:443"', [AltSvcEntry(b"h3", "192.0.2.1", 443)]),
        (b'h3="ALT.Example.COM.:443"', [AltSvcEntry(b"h3", "alt.example.com", 443)]),
        (b'h3="\\:4\\43"', [AltSvcEntry(b"h3")]),
        (b' ,, h3=":443" ,\t, h2=":444",', [AltSvcEntry(b"h3"), AltSvcEntry(b"h2", port=444)]),
    ],
)
def test_what_is_advertised_is_read(value: bytes, entries: list[AltSvcEntry]) -> None:
    assert parse_alt_svc(value) == AltSvcHeader(tuple(entries))


@pytest.mark.parametrize("value", [b"clear", b" clear ", b'clear, h3=":443"', b'h3=":443",clear', b",clear,"])
def test_clear_wins(value: bytes) -> None:
    assert parse_alt_svc(value) == CLEAR


@pytest.mark.parametrize(
    "alternative",
    [
        b'h2=":0"',
        b'h2=":65536"',
        b'h2=":0443"',
        b'h2=":443x"',
        b'h2="443"',
        b'h2=""',
        b'h2="a b:443"',
        b'h2="user@host:443"',
        b'h2="https://host:443"',
        b'h2="host..name:443"',
        b'h2=".:443"',
        b'h2="[192.0.2.1]:443"',
        b'h2="[::1%25eth0]:443"',
        b'h2="2001:db8::1:443"',
        b'h2="' + b"a" * 64 + b':443"',
        b'h2="' + b"a." * 127 + b'a:443"',
        # RFC 7838 §3: percent-encoding only where it must be, in upper case.
        b'%68%32=":443"',
        b'w%3dx=":443"',
        b'h%2=":443"',
        b'h%=":443"',
        b"a" * 256 + b'=":443"',
        b'h2=":443"; ma=-1',
        b'h2=":443"; ma=1.5',
        b'h2=":443"; ma=""',
        b'h2=":443"; ma=1; ma=2',
        b'h2=":443"; persist=1; persist=1',
    ],
)
def test_what_cannot_be_used_is_passed_over_alone(alternative: bytes) -> None:
    assert parse_alt_svc(alternative) == AltSvcHeader()
    beside = b'h3=":443", ' + alternative + b', h3=":444"'
    assert parse_alt_svc(beside) == AltSvcHeader((AltSvcEntry(b"h3"), AltSvcEntry(b"h3", port=444)))


@pytest.mark.parametrize(
    "value",
    [
        b"h3",
        b"Clear",
        b"clear=1",
        b"clearly",
        b"clear; ma=5",
        b"h3=:443",
        b"h3=443",
        b'h3 =":443"',
        b'h3= ":443"',
        b'=":443"',
        b'h3=":443',
        b'h3=":443\\"',
        b'h3=":443";',
        b'h3=":443"; ma',
        b'h3=":443"; ma=',
        b'h3=":443"; ma =5',
        b'h3=":443"; ma=5 6',
        b'h3=":443" h2=":444"',
        b'h3=":443"; v="46,43',
        b'h3=":443", \x00',
        b'h3=":4\n43"',
        b'h(3=":443"',
        ('h3=":443"; ma=' + chr(0x663)).encode(),
    ],
)
def test_what_leaves_the_grammar_is_refused_whole(value: bytes) -> None:
    with pytest.raises(AltSvcError):
        parse_alt_svc(value)
    with pytest.raises(AltSvcError):
        parse_alt_svc(b'h3=":443", ' + value)


@pytest.mark.parametrize("value", [b"", b" \t", b",,", b" , "])
def test_an_empty_value_is_refused(value: bytes) -> None:
    with pytest.raises(AltSvcError):
        parse_alt_svc(value)


def test_values_are_bounded() -> None:
    most = b", ".join([b'h3=":443"'] * MAX_ALTERNATIVES)
    assert len(parse_alt_svc(most).entries) == MAX_ALTERNATIVES
    with pytest.raises(AltSvcError):
        parse_alt_svc(most + b', h3=":443"')
    with pytest.raises(AltSvcError):
        parse_alt_svc(b'h3=":0",' * (MAX_ALTERNATIVES + 1))
    longest = b'h3=":443"' + b"," * (MAX_VALUE_BYTES - 9)
    assert parse_alt_svc(longest) == AltSvcHeader((AltSvcEntry(b"h3"),))
    with pytest.raises(AltSvcError):
        parse_alt_svc(longest + b",")


def test_what_is_advertised_is_written() -> None:
    assert format_alt_svc(CLEAR) == b"clear"
    header = AltSvcHeader(
        (
            AltSvcEntry(b"h3"),
            AltSvcEntry(b"w=x:y#z%", "2001:db8::1", 8443, 60, persist=True),
        )
    )
    assert format_alt_svc(header) == (
        b'h3=":443"; ma=86400, w%3Dx%3Ay#z%25="[2001:db8::1]:8443"; ma=60; persist=1'
    )


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [AltSvcEntry(b"h3")] * (MAX_ALTERNATIVES + 1),
        [AltSvcEntry(b"\x00" * 255)] * 11,
        [AltSvcEntry(b"")],
        [AltSvcEntry(b"h" * 256)],
        [AltSvcEntry(b"h3", port=0)],
        [AltSvcEntry(b"h3", port=65536)],
        [AltSvcEntry(b"h3", max_age_s=-1)],
        [AltSvcEntry(b"h3", max_age_s=LONGEST_MAX_AGE_S + 1)],
        [AltSvcEntry(b"h3", 'a"b')],
        [AltSvcEntry(b"h3", "a\r\nb")],
        [AltSvcEntry(b"h3", "A.example")],
        [AltSvcEntry(b"h3", "1:2")],
    ],
)
def test_what_could_not_be_read_back_is_not_written(entries: list[AltSvcEntry]) -> None:
    with pytest.raises(AltSvcError):
        format_alt_svc(AltSvcHeader(tuple(entries)))


def test_the_example_follows_the_advertisement_and_falls_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "/1 went to the origin",
        "/2 went to the alternative",
        "/3 went to the origin",
        "/4 went to the origin",
        "/5 went to the alternative",
    ]
