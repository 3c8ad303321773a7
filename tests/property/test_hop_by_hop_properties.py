"""Removal of connection-specific fields, for any message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.http.hop_by_hop import end_to_end_fields
from smartproxy.core.http.messages import Fields

CONNECTION_SPECIFIC = [
    b"connection",
    b"http2-settings",
    b"keep-alive",
    b"proxy",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
]
PROTECTED = [
    b"authorization",
    b"content-length",
    b"cookie",
    b"forwarded",
    b"host",
    b"set-cookie",
    b"x-forwarded-for",
    b"x_forwarded_proto",
]

names = st.one_of(
    st.sampled_from(CONNECTION_SPECIFIC + PROTECTED),
    st.text("abcdexyz-_0", min_size=1, max_size=12).map(str.encode),
)
values = st.binary(max_size=12)
messages = st.lists(st.tuples(names, values), max_size=20)
options = st.frozensets(names, max_size=8)


@given(messages, options)
def test_nothing_connection_specific_goes_on(fields: Fields, nominated: frozenset[bytes]) -> None:
    kept = end_to_end_fields(fields, nominated)
    assert not {name for name, _ in kept} & set(CONNECTION_SPECIFIC)


@given(messages, options)
def test_a_nominated_field_goes_unless_every_recipient_needs_it(
    fields: Fields, nominated: frozenset[bytes]
) -> None:
    kept = {name for name, _ in end_to_end_fields(fields, nominated)}
    assert kept & nominated <= set(PROTECTED)
    sent = {name for name, _ in fields}
    assert sent & set(PROTECTED) <= kept


@given(messages, options)
def test_what_stays_keeps_its_order_and_its_bytes(fields: Fields, nominated: frozenset[bytes]) -> None:
    before = list(fields)
    kept = end_to_end_fields(fields, nominated)
    remaining = iter(fields)
    assert all(line in remaining for line in kept)
    assert fields == before
    assert kept is not fields


@given(messages, options)
def test_removal_is_idempotent(fields: Fields, nominated: frozenset[bytes]) -> None:
    kept = end_to_end_fields(fields, nominated)
    assert end_to_end_fields(kept, nominated) == kept


@given(messages, options)
def test_te_comes_back_as_trailers_alone_or_not_at_all(fields: Fields, nominated: frozenset[bytes]) -> None:
    without = end_to_end_fields(fields, nominated)
    with_te = end_to_end_fields(fields, nominated, keep_te_trailers=True)
    assert with_te in (without, [*without, (b"te", b"trailers")])
