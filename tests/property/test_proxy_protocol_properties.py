"""PROXY headers: what is encoded is decoded, however it is cut, and what is malformed is refused."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.wire.ip_text import ip_text, pack_ip
from smartproxy.core.wire.proxy_protocol import (
    MAX_V1_BYTES,
    SIGNATURE,
    NotProxyProtocol,
    ProxyHeader,
    ProxyHeaderDecoder,
    ProxyProtocolError,
    SslTlv,
    TlvType,
)
from smartproxy.testing.strategies.proxy_protocol import (
    encode_header,
    ip_addresses,
    malformed_proxy_headers,
    proxy_headers,
    proxy_headers_v2,
    ssl_tlvs,
)
from smartproxy.testing.strategies.segmentation import segmentations

Outcome = ProxyHeader | type[ProxyProtocolError] | None


def decode(segments: list[bytes], max_header_bytes: int = 4096) -> tuple[Outcome, bytes]:
    """What a decoder says of the segments, and the bytes it leaves."""
    decoder = ProxyHeaderDecoder(max_header_bytes)
    for number, segment in enumerate(segments):
        try:
            header = decoder.receive_data(segment)
        except ProxyProtocolError as error:
            return type(error), b""
        if header is not None:
            return header, decoder.remainder + b"".join(segments[number + 1 :])
        assert len(decoder.buffered) < max(max_header_bytes, MAX_V1_BYTES)
        assert decoder.buffered == b"".join(segments[: number + 1])
    return None, decoder.buffered


@given(proxy_headers(), st.binary(max_size=40), st.data())
def test_what_is_encoded_is_decoded_in_any_segmentation(
    header: ProxyHeader, payload: bytes, data: st.DataObject
) -> None:
    segments = data.draw(segmentations(encode_header(header) + payload))
    assert decode(segments) == (header, payload)


@given(proxy_headers_v2(), st.data())
def test_the_checksum_is_written_and_verified(header: ProxyHeader, data: st.DataObject) -> None:
    wire = encode_header(header, crc32c=True)
    decoded, remainder = decode(data.draw(segmentations(wire)))
    assert isinstance(decoded, ProxyHeader)
    assert remainder == b""
    assert decoded.crc32c == int.from_bytes(wire[-4:], "big")
    assert decoded.tlvs[:-1] == header.tlvs
    assert encode_header(decoded, crc32c=True) == wire


@given(proxy_headers_v2(), st.data())
def test_a_flipped_bit_under_the_checksum_is_noticed(header: ProxyHeader, data: st.DataObject) -> None:
    wire = bytearray(encode_header(header, crc32c=True))
    # A flip in the fixed 16 bytes or in a vector's type and length changes what is read at all.
    block_end = len(encode_header(replace(header, tlvs=())))
    if block_end > 16:
        wire[data.draw(st.integers(16, block_end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        wire[-1] ^= 1
    assert decode([bytes(wire)])[0] is ProxyProtocolError


@given(proxy_headers(), st.data())
def test_an_unfinished_header_is_waited_for(header: ProxyHeader, data: st.DataObject) -> None:
    wire = encode_header(header)
    cut_off = wire[: data.draw(st.integers(0, len(wire) - 1))]
    assert decode([cut_off] if cut_off else []) == (None, cut_off)


@given(malformed_proxy_headers(), st.binary(max_size=200), st.data())
def test_malformed_headers_are_refused_in_any_segmentation(
    wire: bytes, rest: bytes, data: st.DataObject
) -> None:
    outcome, _ = decode(data.draw(segmentations(wire + b"\r\n" + rest)))
    assert outcome in (ProxyProtocolError, NotProxyProtocol)


starts = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", SIGNATURE])
version_2_starts = st.builds(
    lambda version, family, length: SIGNATURE + bytes((version, family)) + length.to_bytes(2, "big"),
    st.sampled_from([0x20, 0x21]),
    st.sampled_from([0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x77]),
    st.integers(0, 300),
)


@given(starts | version_2_starts, st.binary(max_size=400), st.data())
def test_any_bytes_have_one_outcome_in_any_segmentation(
    start: bytes, rest: bytes, data: st.DataObject
) -> None:
    wire = start + rest
    whole = decode([wire] if wire else [], 256)
    assert decode(data.draw(segmentations(wire)), 256) == whole


@given(proxy_headers(), st.data())
def test_mutated_headers_have_one_outcome_in_any_segmentation(
    header: ProxyHeader, data: st.DataObject
) -> None:
    wire = bytearray(encode_header(header, crc32c=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(wire)))
        wire[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    whole = decode([bytes(wire)] if wire else [])
    assert decode(data.draw(segmentations(bytes(wire)))) == whole
    if isinstance(whole[0], ProxyHeader):
        # What was accepted is a value that can be read in every part and sent on.
        for tlv in ("alpn", "authority", "crc32c", "unique_id", "ssl", "netns"):
            assert getattr(whole[0], tlv) is None or whole[0].tlvs
        again = encode_header(whole[0], crc32c=whole[0].crc32c is not None)
        assert isinstance(decode([again])[0], ProxyHeader)


@given(ssl_tlvs())
def test_the_ssl_vector_is_readable(ssl_tlv: SslTlv) -> None:
    header, _ = decode([b"\r\n\r\n\0\r\nQUIT\n\x20\0" + _vector_block(ssl_tlv.encode())])
    assert isinstance(header, ProxyHeader)
    assert header.ssl == ssl_tlv
    texts = [ssl_tlv.version, ssl_tlv.cn, ssl_tlv.cipher, ssl_tlv.sig_alg, ssl_tlv.key_alg, ssl_tlv.group]
    text_types = (0x21, 0x22, 0x23, 0x24, 0x25, 0x26)
    for text, tlv_type in zip(texts, text_types, strict=True):
        first = next((value for kind, value in ssl_tlv.tlvs if kind == tlv_type), None)
        assert (None if text is None else text.encode()) == first


def _vector_block(value: bytes) -> bytes:
    vector = bytes((TlvType.SSL,)) + len(value).to_bytes(2, "big") + value
    return len(vector).to_bytes(2, "big") + vector


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_addresses_are_spelled_as_the_kernel_spells_them(packed: bytes) -> None:
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    assert ip_text(packed) == socket.inet_ntop(family, packed)
    assert pack_ip(ip_text(packed)) == packed


@given(st.lists(st.sampled_from([0, 0, 0, 1, 0x10, 0xA0, 0xFFFF]), min_size=8, max_size=8))
def test_runs_of_zeros_are_shortened_as_the_kernel_shortens_them(groups: list[int]) -> None:
    packed = b"".join(group.to_bytes(2, "big") for group in groups)
    if any(groups[:6]):
        # `::a.b.c.d`, which RFC 4291 §2.5.5.1 deprecates, is where C libraries differ.
        assert ip_text(packed) == socket.inet_ntop(socket.AF_INET6, packed)
    assert pack_ip(ip_text(packed)) == packed


almost_addresses = st.one_of(
    st.text("0123456789.", max_size=16),
    st.text("0123456789abcF.:%", max_size=50),
    st.tuples(ip_addresses(), st.integers(0, 45), st.text("0.:%f\0 ", max_size=2)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
    ),
    st.text(max_size=20),
)


@given(almost_addresses)
def test_text_is_an_address_where_the_kernel_says_so(text: str) -> None:
    try:
        expected = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        with pytest.raises(ValueError):
            pack_ip(text)
    else:
        assert pack_ip(text) == expected
