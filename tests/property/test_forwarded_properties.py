"""Forwarded and X-Forwarded-For: what is written is read back, and noise is refused."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.wire.forwarded import (
    ForwardedElement,
    ForwardedError,
    ForwardedNode,
    format_forwarded_element,
    format_node,
    parse_forwarded,
    parse_node,
    parse_x_forwarded_for,
)
from smartproxy.testing.strategies.proxy_protocol import ip_addresses

ports = st.none() | st.integers(0, 0xFFFF)
obfuscated = st.text("abcXYZ019._-", min_size=1, max_size=10).map(lambda text: "_" + text)
node_names = st.one_of(ip_addresses(), st.just("unknown"), obfuscated)
nodes = st.builds(ForwardedNode, node_names, ports)
hosts = st.tuples(
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True) | ip_addresses(6).map(lambda ip: f"[{ip}]"),
    st.sampled_from(["", ":", ":80", ":65535"]),
).map("".join)
protos = st.from_regex(r"[a-z][a-z0-9+.-]{0,8}", fullmatch=True)
elements = st.builds(
    ForwardedElement,
    for_=nodes,
    by=st.none() | nodes,
    host=st.none() | hosts,
    proto=st.none() | protos,
)


def written(element: ForwardedElement) -> bytes:
    assert element.for_ is not None
    return format_forwarded_element(
        for_=_node_bytes(element.for_),
        by=None if element.by is None else _node_bytes(element.by),
        host=None if element.host is None else element.host.encode(),
        proto=None if element.proto is None else element.proto.encode(),
    )


def _node_bytes(node: ForwardedNode) -> bytes:
    assert not isinstance(node.port, str)
    return format_node(node.name, node.port)


@given(st.lists(elements, max_size=6), st.sampled_from([b",", b", ", b"\t,, "]))
def test_what_is_written_is_read_back(chain: list[ForwardedElement], comma: bytes) -> None:
    assert parse_forwarded(comma.join(map(written, chain))) == chain


def has_control_bytes(value: bytes) -> bool:
    return any(byte == 0x7F or (byte < 0x20 and byte != 0x09) for byte in value)


@given(st.binary(max_size=30))
def test_no_host_breaks_out_of_its_quotes(host: bytes) -> None:
    try:
        element = format_forwarded_element(for_=b"192.0.2.1", host=host)
    except ForwardedError:
        assert has_control_bytes(host)
        return
    assert not has_control_bytes(element)
    # Under another name, so that the rules for hosts do not refuse what is in the quotes.
    renamed = element.replace(b";host=", b";anything=", 1) + b";last=1"
    expected = (("anything", host.decode("latin-1")), ("last", "1"))
    assert parse_forwarded(renamed) == [ForwardedElement(ForwardedNode("192.0.2.1"), extensions=expected)]


@given(
    st.binary(max_size=60),
    st.lists(st.tuples(st.text("abcd", min_size=1), st.binary(max_size=8)), max_size=3),
)
def test_extensions_of_any_content_are_read_back(seed: bytes, pairs: list[tuple[str, bytes]]) -> None:
    quotable = {
        name: bytes(byte for byte in value + seed if byte == 9 or 32 <= byte != 127) for name, value in pairs
    }
    wire = b";".join(
        name.encode() + b'="' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        for name, value in quotable.items()
    )
    extensions = tuple((name, value.decode("latin-1")) for name, value in quotable.items())
    assert parse_forwarded(wire) == ([ForwardedElement(extensions=extensions)] if quotable else [])


noise = st.one_of(
    st.binary(max_size=80),
    st.text('for=by;host,"[]\\:.1_ \t\n', max_size=60).map(str.encode),
    st.lists(elements.map(written), max_size=3).flatmap(
        lambda parts: st.tuples(st.just(b", ".join(parts)), st.integers(0, 60), st.binary(max_size=3)).map(
            lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + 1 :]
        )
    ),
)


@given(noise)
def test_noise_is_refused_or_means_nodes_that_can_be_written(value: bytes) -> None:
    try:
        parsed = parse_forwarded(value)
    except ForwardedError:
        return
    for element in parsed:
        for node in (element.for_, element.by):
            if node is not None and not isinstance(node.port, str):
                assert parse_node(format_node(node.name, node.port).decode().strip('"')) == node


@st.composite
def listed_addresses(draw: st.DrawFn) -> tuple[str, str]:
    """An address and one of the ways it is written in X-Forwarded-For."""
    ip = draw(ip_addresses())
    with_port = f"[{ip}]:443" if ":" in ip else f"{ip}:443"
    bare = draw(st.sampled_from([ip, ip.upper(), f"[{ip}]"])) if ":" in ip else ip
    return ip, draw(st.sampled_from([bare, with_port]))


@given(st.lists(listed_addresses(), max_size=8), st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_x_forwarded_for_names_its_addresses(addresses: list[tuple[str, str]], comma: str) -> None:
    value = comma.join(text for _, text in addresses)
    assert parse_x_forwarded_for(value.encode()) == [ip for ip, _ in addresses]


@given(noise | st.text("0123456789abf.:[], ", max_size=60).map(str.encode))
def test_x_forwarded_for_is_refused_or_names_addresses_alone(value: bytes) -> None:
    try:
        addresses = parse_x_forwarded_for(value)
    except ForwardedError:
        return
    for address in addresses:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    assert parse_x_forwarded_for(", ".join(addresses).encode()) == addresses
