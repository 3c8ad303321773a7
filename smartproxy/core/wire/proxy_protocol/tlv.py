"""Version 2's type-length-value vectors (§2.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from smartproxy.core.wire.proxy_protocol.errors import ProxyProtocolError

Tlv = tuple[int, bytes]
"""A vector's type and value."""

TLV_HEAD_BYTES = 3
CRC32C_BYTES = 4
MAX_UNIQUE_ID_BYTES = 128


class TlvType(IntEnum):
    """Registered types; those from SSL_VERSION to SSL_CLIENT_CERT occur inside SSL."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    SSL_GROUP = 0x26
    SSL_SIG_SCHEME = 0x27
    SSL_CLIENT_CERT = 0x28
    NETNS = 0x30


CLIENT_SSL = 0x01
CLIENT_CERT_CONN = 0x02
CLIENT_CERT_SESS = 0x04

_TEXT_ENCODINGS: dict[int, str] = {
    TlvType.AUTHORITY: "utf-8",
    TlvType.NETNS: "ascii",
    TlvType.SSL_VERSION: "ascii",
    TlvType.SSL_CN: "utf-8",
    TlvType.SSL_CIPHER: "ascii",
    TlvType.SSL_SIG_ALG: "ascii",
    TlvType.SSL_KEY_ALG: "ascii",
    TlvType.SSL_GROUP: "ascii",
    TlvType.SSL_SIG_SCHEME: "ascii",
}


def find_tlv(tlvs: Iterable[Tlv], wanted_type: int) -> bytes | None:
    """The value of the first vector of this type."""
    for tlv_type, value in tlvs:
        if tlv_type == wanted_type:
            return value
    return None


@dataclass(slots=True)
class SslTlv:
    """The SSL vector (§2.2.6). `tlvs` are its nested vectors, unknown ones included."""

    client_flags: int
    """Bits `CLIENT_SSL`, `CLIENT_CERT_CONN`, `CLIENT_CERT_SESS`."""
    verify: int
    """0 when the client's certificate was presented and verified."""
    tlvs: tuple[Tlv, ...] = ()

    def encode(self) -> bytes:
        """The vector's value, to be sent under `TlvType.SSL`."""
        return bytes((self.client_flags,)) + self.verify.to_bytes(4, "big") + encode_tlvs(self.tlvs)

    @property
    def over_tls(self) -> bool:
        """The client connected over TLS."""
        return bool(self.client_flags & CLIENT_SSL)

    @property
    def client_certificate_on_connection(self) -> bool:
        """The client sent a certificate over this connection."""
        return bool(self.client_flags & CLIENT_CERT_CONN)

    @property
    def client_certificate_in_session(self) -> bool:
        """The client sent a certificate at least once in the TLS session."""
        return bool(self.client_flags & CLIENT_CERT_SESS)

    @property
    def client_certificate_verified(self) -> bool:
        """A certificate was presented, and it verified; `verify` alone does not say the first."""
        return self.verify == 0 and bool(self.client_flags & (CLIENT_CERT_CONN | CLIENT_CERT_SESS))

    @property
    def version(self) -> str | None:
        """The TLS version, such as "TLSv1.3"."""
        return self._text(TlvType.SSL_VERSION)

    @property
    def cn(self) -> str | None:
        """The common name in the client certificate."""
        return self._text(TlvType.SSL_CN)

    @property
    def cipher(self) -> str | None:
        """The cipher in use, such as "TLS_AES_256_GCM_SHA384"."""
        return self._text(TlvType.SSL_CIPHER)

    @property
    def sig_alg(self) -> str | None:
        """The algorithm that signed the upstream proxy's certificate, such as "RSA-SHA256"."""
        return self._text(TlvType.SSL_SIG_ALG)

    @property
    def key_alg(self) -> str | None:
        """The key of the upstream proxy's certificate, such as "RSA2048"."""
        return self._text(TlvType.SSL_KEY_ALG)

    @property
    def group(self) -> str | None:
        """The key-exchange group, such as "X25519MLKEM768"."""
        return self._text(TlvType.SSL_GROUP)

    @property
    def sig_scheme(self) -> str | None:
        """The signature scheme of the handshake, such as "rsa_pss_rsae_sha256"."""
        return self._text(TlvType.SSL_SIG_SCHEME)

    @property
    def client_certificate(self) -> bytes | None:
        """The client's certificate, DER."""
        return find_tlv(self.tlvs, TlvType.SSL_CLIENT_CERT)

    def _text(self, tlv_type: TlvType) -> str | None:
        value = find_tlv(self.tlvs, tlv_type)
        return None if value is None else value.decode(_TEXT_ENCODINGS[tlv_type])


def split_tlvs(data: bytes, position: int, end: int) -> tuple[Tlv, ...]:
    """The vectors in `data[position:end]`. Raises ProxyProtocolError unless they fill it exactly."""
    tlvs: list[Tlv] = []
    while position < end:
        value_start = position + TLV_HEAD_BYTES
        if value_start > end:
            raise ProxyProtocolError("a TLV is cut off in its type and length")
        tlv_type = data[position]
        position = value_start + (data[position + 1] << 8 | data[position + 2])
        if position > end:
            raise ProxyProtocolError(f"TLV 0x{tlv_type:02x} is longer than what is left for it")
        tlvs.append((tlv_type, data[value_start:position]))
    return tuple(tlvs)


def check_tlv_values(tlvs: Iterable[Tlv]) -> None:
    """Raise ProxyProtocolError if a registered vector's value is malformed."""
    for tlv_type, value in tlvs:
        if tlv_type == TlvType.SSL:
            parse_ssl(value)
        elif tlv_type == TlvType.CRC32C:
            if len(value) != CRC32C_BYTES:
                raise ProxyProtocolError(f"the CRC32C TLV has {len(value)} bytes, not 4")
        elif tlv_type == TlvType.UNIQUE_ID:
            if len(value) > MAX_UNIQUE_ID_BYTES:
                raise ProxyProtocolError(f"the unique ID has {len(value)} bytes, more than 128")
        elif tlv_type in _TEXT_ENCODINGS:
            _check_text(tlv_type, value)


def _check_text(tlv_type: int, value: bytes) -> None:
    try:
        value.decode(_TEXT_ENCODINGS[tlv_type])
    except UnicodeDecodeError as error:
        raise ProxyProtocolError(f"TLV 0x{tlv_type:02x} is not text: {error.reason}") from None


def parse_ssl(value: bytes) -> SslTlv:
    """The SSL vector's content. Raises ProxyProtocolError when it is malformed."""
    if len(value) < 5:
        raise ProxyProtocolError(f"the SSL TLV has {len(value)} bytes, fewer than 5")
    nested = split_tlvs(value, 5, len(value))
    for tlv_type, nested_value in nested:
        if tlv_type in _TEXT_ENCODINGS:
            _check_text(tlv_type, nested_value)
    return SslTlv(value[0], int.from_bytes(value[1:5], "big"), nested)


def encode_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """The vectors' wire form. Raises ValueError for a value over 65,535 bytes or a type over 255."""
    parts = []
    for tlv_type, value in tlvs:
        if len(value) > 0xFFFF:
            raise ValueError(f"the value of TLV 0x{tlv_type:02x} has {len(value)} bytes, more than 65535")
        parts.append(bytes((tlv_type, len(value) >> 8, len(value) & 0xFF)))
        parts.append(value)
    return b"".join(parts)
