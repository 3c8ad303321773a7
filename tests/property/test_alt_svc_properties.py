"""Alt-Svc: what is written is read, and nothing raises anything but AltSvcError."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.wire.alt_svc import (
    LONGEST_MAX_AGE_S,
    MAX_ALTERNATIVES,
    AltSvcEntry,
    AltSvcError,
    AltSvcHeader,
    format_alt_svc,
    parse_alt_svc,
)
from smartproxy.core.wire.ip_text import canonical_ip

labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
addresses = st.one_of(
    st.ip_addresses(v=4).map(lambda address: str(IPv4Address(address))),
    st.ip_addresses(v=6).map(lambda address: canonical_ip(str(IPv6Address(address)))),
)
hosts = st.one_of(st.just(""), names, addresses)
entries = st.builds(
    AltSvcEntry,
    protocol_id=st.one_of(st.sampled_from([b"h3", b"h2", b"http/1.1"]), st.binary(min_size=1, max_size=40)),
    host=hosts,
    port=st.integers(1, 65535),
    max_age_s=st.integers(0, LONGEST_MAX_AGE_S),
    persist=st.booleans(),
)
headers = st.one_of(
    st.just(AltSvcHeader(clear=True)),
    st.lists(entries, min_size=1, max_size=8).map(lambda some: AltSvcHeader(tuple(some))),
)
blanks = st.text(" \t", max_size=2).map(str.encode)
values = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"h3", b"=", b'"', b":443", b'":443"', b";", b",", b" ", b"ma", b"=5", b"persist=1", b"clear",
             b"\\", b"[::1]", b"%2F", b"%", b"example.com", b'h3=":443"', b"; ma=60", b"\xff"]
        ),
        max_size=14,
    ).map(b"".join),
)  # fmt: skip


@given(headers)
def test_what_is_written_is_read(header: AltSvcHeader) -> None:
    value = format_alt_svc(header)
    assert parse_alt_svc(value) == header
    assert value.isascii()
    assert b"\r" not in value
    assert b"\n" not in value


@given(values)
def test_whatever_is_read_can_be_written(value: bytes) -> None:
    try:
        header = parse_alt_svc(value)
    except AltSvcError:
        return
    assert len(header.entries) <= MAX_ALTERNATIVES
    assert not (header.clear and header.entries)
    if header.clear or header.entries:
        assert parse_alt_svc(format_alt_svc(header)) == header


@given(st.lists(entries, min_size=1, max_size=5), st.data())
def test_blanks_empty_elements_and_unknown_parameters_mean_nothing(
    some: list[AltSvcEntry], data: st.DataObject
) -> None:
    elements = []
    for entry in some:
        written = format_alt_svc(AltSvcHeader((entry,)))
        unknown = data.draw(st.sampled_from([b"", b"; v=1", b';\tx="a,b;\\"c"', b";mad=1;persisted=2"]))
        elements.append(data.draw(blanks) + written.replace(b"; ", b" ;\t") + unknown + data.draw(blanks))
        elements.extend(data.draw(st.lists(blanks, max_size=2)))
    assert parse_alt_svc(b",".join(elements)) == AltSvcHeader(tuple(some))


@given(
    st.lists(entries, max_size=4),
    st.sampled_from([b'h2=":0"', b'h2="a b:1"', b'%68=":1"', b'h2=":1";ma=x', b'h2="[::g]:1"']),
    st.integers(0, 4),
)
def test_one_that_cannot_be_used_takes_no_other_with_it(
    some: list[AltSvcEntry], unusable: bytes, place: int
) -> None:
    elements = [format_alt_svc(AltSvcHeader((entry,))) for entry in some]
    elements.insert(place, unusable)
    assert parse_alt_svc(b", ".join(elements)) == AltSvcHeader(tuple(some))


@given(headers, st.integers(0, 400), st.binary(max_size=3))
def test_a_damaged_value_is_read_or_refused(header: AltSvcHeader, place: int, damage: bytes) -> None:
    value = bytearray(format_alt_svc(header))
    value[place : place + 1] = damage
    try:
        damaged = parse_alt_svc(bytes(value))
    except AltSvcError:
        return
    assert len(damaged.entries) <= MAX_ALTERNATIVES
