"""The PROXY protocol, versions 1 and 2: who a connection was made for, told by the proxy in front.

Decoding, over any segmentation:

    decoder = ProxyHeaderDecoder()
    header = decoder.receive_data(data)     # None until it is complete
    header.source                           # ("198.51.100.7", 50211)
    decoder.remainder                       # what the client itself sent

Encoding: `encode_proxy_v1(source, destination)`, `encode_proxy_v2(source, destination)`.

The specification is HAProxy's `doc/proxy-protocol.txt`; section numbers here are its own.
A header is to be demanded or refused by configuration and believed only from trusted
peers (§5): a decoder cannot know either.
"""

from __future__ import annotations

from smartproxy.core.wire.proxy_protocol.addresses import UNIX_PORT, ProxyAddress
from smartproxy.core.wire.proxy_protocol.decoder import DEFAULT_MAX_HEADER_BYTES, ProxyHeaderDecoder
from smartproxy.core.wire.proxy_protocol.errors import NotProxyProtocol, ProxyProtocolError
from smartproxy.core.wire.proxy_protocol.header import (
    AddressFamily,
    ProxyHeader,
    TransportProtocol,
)
from smartproxy.core.wire.proxy_protocol.tlv import SslTlv, Tlv, TlvType
from smartproxy.core.wire.proxy_protocol.v1 import MAX_V1_BYTES, encode_proxy_v1
from smartproxy.core.wire.proxy_protocol.v2 import SIGNATURE, encode_proxy_v2

__all__ = [
    "DEFAULT_MAX_HEADER_BYTES",
    "MAX_V1_BYTES",
    "SIGNATURE",
    "UNIX_PORT",
    "AddressFamily",
    "NotProxyProtocol",
    "ProxyAddress",
    "ProxyHeader",
    "ProxyHeaderDecoder",
    "ProxyProtocolError",
    "SslTlv",
    "Tlv",
    "TlvType",
    "TransportProtocol",
    "encode_proxy_v1",
    "encode_proxy_v2",
]
