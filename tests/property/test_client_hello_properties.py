"""ClientHellos: read the same however they are cut and recorded, as OpenSSL was told, and within bounds."""

from __future__ import annotations

import ssl

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.wire.client_hello import (
    RECORD_HEADER_BYTES,
    AlertDescription,
    ClientHello,
    ClientHelloDecoder,
    ClientHelloError,
    looks_like_tls,
    parse_client_hello_body,
)
from smartproxy.testing.strategies.client_hello import (
    ClientHelloExample,
    client_hellos,
    handshake_message,
    host_names,
    in_records,
    mutated_client_hellos,
    openssl_client_hello,
)
from smartproxy.testing.strategies.segmentation import segmentations

Outcome = ClientHello | int | None


def decode(segments: list[bytes], limit_bytes: int = 64 * 1024) -> Outcome:
    """What a decoder says of the segments: the hello, the alert, or None."""
    decoder = ClientHelloDecoder(limit_bytes)
    for number, segment in enumerate(segments):
        try:
            hello = decoder.receive_data(segment)
        except ClientHelloError as error:
            return error.alert
        assert decoder.buffered == b"".join(segments[: number + 1])
        if hello is not None:
            return hello
        assert len(decoder.buffered) < 2 * limit_bytes + RECORD_HEADER_BYTES
    return None


def parse(body: bytes) -> ClientHello | int:
    """What the parser says of a body: the hello or the alert."""
    try:
        return parse_client_hello_body(body)
    except ClientHelloError as error:
        return error.alert


@given(client_hellos(), st.binary(max_size=30), st.data())
def test_any_segmentation_and_any_records_give_the_same_hello(
    example: ClientHelloExample, early_data: bytes, data: st.DataObject
) -> None:
    assert decode(data.draw(segmentations(example.wire + early_data))) == example.expected


@given(client_hellos())
def test_the_body_alone_says_the_same(example: ClientHelloExample) -> None:
    hello = parse_client_hello_body(example.body)
    assert hello.raw_length_bytes == len(example.body)
    hello.raw_length_bytes = example.expected.raw_length_bytes
    assert hello == example.expected


@given(client_hellos(), st.data())
def test_an_unfinished_hello_is_waited_for(example: ClientHelloExample, data: st.DataObject) -> None:
    wire = example.wire
    cut_off = wire[: data.draw(st.integers(1, len(wire) - 1) | st.integers(1, 12))]
    assert decode(data.draw(segmentations(cut_off))) is None
    assert looks_like_tls(cut_off) is (True if len(cut_off) > 2 else None)


@given(
    host_names().filter(lambda name: all(0 < len(label) < 64 for label in name.split("."))),
    st.lists(st.sampled_from(["h2", "http/1.1", "acme-tls/1", "x"]), unique=True, max_size=3),
    st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
    st.data(),
)
def test_openssl_hellos_say_what_openssl_was_told(
    name: str, alpn: list[str], maximum_version: ssl.TLSVersion, data: st.DataObject
) -> None:
    wire = openssl_client_hello(name, alpn, maximum_version=maximum_version)
    hello = decode(data.draw(segmentations(wire, max_cuts=4)))
    assert isinstance(hello, ClientHello)
    assert hello.server_name == name.lower()
    assert hello.alpn_protocols == tuple(protocol.encode() for protocol in alpn)
    assert hello.max_version == ("TLSv1.3" if maximum_version == ssl.TLSVersion.TLSv1_3 else "TLSv1.2")
    assert hello.raw_length_bytes == len(wire)
    assert not hello.has_ech


@given(mutated_client_hellos(), st.sampled_from([200, 2000, 64 * 1024]), st.data())
def test_mutated_hellos_have_one_outcome_in_any_segmentation(
    wire: bytes, limit_bytes: int, data: st.DataObject
) -> None:
    whole = decode([wire] if wire else [], limit_bytes)
    assert decode(data.draw(segmentations(wire)), limit_bytes) == whole


@given(st.binary(max_size=600) | st.binary(max_size=600).map(lambda rest: b"\x16\x03\x01" + rest), st.data())
def test_any_bytes_have_one_outcome_in_any_segmentation(wire: bytes, data: st.DataObject) -> None:
    whole = decode([wire] if wire else [])
    assert decode(data.draw(segmentations(wire))) == whole
    if whole is None or isinstance(whole, ClientHello):
        assert looks_like_tls(wire) is not False
    elif looks_like_tls(wire) is False:
        assert whole == AlertDescription.UNEXPECTED_MESSAGE


@given(st.binary(max_size=300))
def test_any_body_is_parsed_or_refused(body: bytes) -> None:
    outcome = parse(body)
    if isinstance(outcome, ClientHello):
        assert outcome.legacy_version >> 8 == 3
    else:
        assert outcome in set(AlertDescription)


@given(mutated_client_hellos())
def test_the_record_layer_adds_nothing_to_a_body(wire: bytes) -> None:
    body = wire[9:]
    in_its_records = in_records(handshake_message(body))
    expected = parse(body)
    if isinstance(expected, ClientHello):
        expected.raw_length_bytes = len(in_its_records)
    assert decode([in_its_records]) == expected
