"""Opening handshakes of HTTP/1.1 (RFC 6455 §4), HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220), and between them.

    request = parse_websocket_request(head)                     # from the client, any version
    key = websocket_key(entropy(16))
    to_backend = upgrade_request(head, key)                     # or connect_request(head, 20, b"https")
    negotiated = check_websocket_response(response, request, key)
    to_client = accept_response(response, head.version, request.key)

Fields that only one generation has are made and dropped here; all others are carried over as
they are, so a head's connection-specific fields are to be removed first (RFC 9110 §7.6.1).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.websocket.errors import HandshakeError, LocalProtocolError
from smartproxy.core.wire.websocket.extensions import extension_names, parse_subprotocols

KEY_ENTROPY_BYTES = 16
VERSION = b"13"

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")

_KEY_FIELD = b"sec-websocket-key"
_ACCEPT_FIELD = b"sec-websocket-accept"
_VERSION_FIELD = b"sec-websocket-version"
_SUBPROTOCOL_FIELD = b"sec-websocket-protocol"
_EXTENSIONS_FIELD = b"sec-websocket-extensions"

_OF_ONE_GENERATION = frozenset(
    (
        b"connection",
        b"upgrade",
        b"keep-alive",
        b"transfer-encoding",
        b"content-length",
        b"http2-settings",
        _KEY_FIELD,
        _ACCEPT_FIELD,
    )
)


@dataclass(frozen=True, slots=True)
class WebSocketRequest:
    """What a client asked for. `key` is empty for HTTP/2 and HTTP/3, which have none (RFC 8441 §5)."""

    key: bytes
    subprotocols: tuple[bytes, ...]
    """In its order of preference."""
    extensions: tuple[bytes, ...]
    """Their names, lower case."""
    origin: bytes | None
    """The Origin field; None: there was none."""


@dataclass(frozen=True, slots=True)
class NegotiatedWebSocket:
    """What a backend agreed to. Both are empty where it chose none; `extensions` is the field's value."""

    subprotocol: bytes = b""
    extensions: bytes = b""


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers `key` (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def websocket_key(entropy: bytes) -> bytes:
    """The Sec-WebSocket-Key made of 16 random bytes. Raises LocalProtocolError for another number of them."""
    if len(entropy) != KEY_ENTROPY_BYTES:
        raise LocalProtocolError("a key is made of 16 bytes")
    return base64.b64encode(entropy)


def is_websocket_request(head: RequestHead) -> bool:
    """Whether a client means to open a WebSocket, well or badly: `parse_websocket_request` says which."""
    return head.protocol == b"websocket" or (head.version == 11 and b"websocket" in _upgrades(head.upgrade))


def _upgrades(upgrade: bytes) -> list[bytes]:
    return [protocol.strip(b" \t") for protocol in upgrade.split(b",")]


def parse_websocket_request(head: RequestHead) -> WebSocketRequest:
    """Check a client's handshake of any generation (RFC 6455 §4.2.1, RFC 8441 §5).

    Raises HandshakeError 400; for another Sec-WebSocket-Version with the one spoken
    here among its fields (RFC 6455 §4.4), and on HTTP/1.1 as a 426.
    """
    if head.version < 20:
        _check_upgrade_control_data(head)
    else:
        _check_connect_control_data(head)
    values = _values_of(head.fields)
    versions = values.get(_VERSION_FIELD, [])
    if versions != [VERSION]:
        raise _other_version(head, len(versions) == 1)
    key = b""
    if head.version < 20:
        keys = values.get(_KEY_FIELD, [])
        if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
            raise HandshakeError(400, "invalid Sec-WebSocket-Key")
        key = keys[0]
    origins = values.get(b"origin", [])
    if len(origins) > 1:
        raise HandshakeError(400, "repeated Origin")
    try:
        subprotocols = parse_subprotocols(b",".join(values.get(_SUBPROTOCOL_FIELD, [])))
        extensions = extension_names(b",".join(values.get(_EXTENSIONS_FIELD, [])))
    except ValueError as error:
        raise HandshakeError(400, str(error)) from None
    return WebSocketRequest(key, subprotocols, extensions, origins[0] if origins else None)


def _other_version(head: RequestHead, is_well_formed: bool) -> HandshakeError:
    fields: Fields = [(_VERSION_FIELD, VERSION)]
    if head.version >= 20 or not is_well_formed:
        # RFC 9110 §15.5.22: a 426 has an Upgrade field, which HTTP/2 and HTTP/3 do not have.
        return HandshakeError(400, "unsupported WebSocket version", fields)
    fields += ((b"upgrade", b"websocket"), (b"connection", b"upgrade"))
    return HandshakeError(426, "unsupported WebSocket version", fields)


def _check_upgrade_control_data(head: RequestHead) -> None:
    if head.method != b"GET":
        raise HandshakeError(400, "WebSocket upgrade without GET")
    if head.version != 11 or b"websocket" not in _upgrades(head.upgrade):
        raise HandshakeError(400, "no WebSocket upgrade")
    if head.body_length_bytes != NO_BODY:
        # Content before the frames: two readers would disagree on where they begin.
        raise HandshakeError(400, "WebSocket upgrade with content")


def _check_connect_control_data(head: RequestHead) -> None:
    if head.method != b"CONNECT" or head.protocol != b"websocket":
        raise HandshakeError(400, "no WebSocket CONNECT")
    if head.scheme not in (b"http", b"https") or not head.authority or not head.target.startswith(b"/"):
        # RFC 8441 §4: an extended CONNECT has them all.
        raise HandshakeError(400, "extended CONNECT without scheme, authority or path")
    if any(name == b"content-length" for name, _ in head.fields):
        raise HandshakeError(400, "WebSocket CONNECT with content")


def _values_of(fields: Fields) -> dict[bytes, list[bytes]]:
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name == b"origin" or name.startswith(b"sec-websocket-"):
            values.setdefault(name, []).append(value)
    return values


def upgrade_request(head: RequestHead, key: bytes) -> RequestHead:
    """The HTTP/1.1 request for what `head`, of any generation, asks (RFC 6455 §4.1)."""
    fields = _carried_over(head.fields)
    fields += (
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (_KEY_FIELD, key),
        (_VERSION_FIELD, VERSION),
    )
    return RequestHead(
        b"GET",
        head.target,
        head.authority,
        fields,
        scheme=head.scheme,
        version=11,
        body_length_bytes=NO_BODY,
        upgrade=b"websocket",
        connection_options=frozenset((b"upgrade",)),
    )


def connect_request(head: RequestHead, version: int, scheme: bytes) -> RequestHead:
    """The extended CONNECT for what `head`, of any generation, asks: `version` 20 (RFC 8441), 30 (RFC 9220).

    `scheme` is `https` where the backend connection is encrypted, else `http`.
    """
    fields = _carried_over(head.fields)
    fields.append((_VERSION_FIELD, VERSION))
    return RequestHead(
        b"CONNECT",
        head.target,
        head.authority,
        fields,
        scheme=scheme,
        version=version,
        body_length_bytes=UNKNOWN_LENGTH,
        protocol=b"websocket",
    )


def _carried_over(fields: Fields) -> Fields:
    return [line for line in fields if line[0] not in _OF_ONE_GENERATION and line[0] != _VERSION_FIELD]


def accepts_websocket(head: ResponseHead) -> bool:
    """Whether a final response opens the tunnel, well or badly: 101 on HTTP/1.1, any 2xx above it."""
    return head.status == 101 if head.version < 20 else 200 <= head.status < 300


def check_websocket_response(
    head: ResponseHead, request: WebSocketRequest, key: bytes = b""
) -> NegotiatedWebSocket:
    """Check a backend's acceptance against what was asked (RFC 6455 §4.1, RFC 8441 §5).

    `key` is the one sent to the backend; not used above HTTP/1.1. Raises
    HandshakeError 502: close the backend's connection or stream.
    """
    if not accepts_websocket(head):
        raise HandshakeError(502, "the backend did not accept")
    values = _values_of(head.fields)
    if head.version < 20:
        if head.version != 11 or head.upgrade != b"websocket":
            raise HandshakeError(502, "the backend switched to something else")
        if values.get(_ACCEPT_FIELD) != [accept_key(key)]:
            raise HandshakeError(502, "wrong Sec-WebSocket-Accept")
    chosen = values.get(_SUBPROTOCOL_FIELD, [])
    if len(chosen) > 1 or (chosen and chosen[0] not in request.subprotocols):
        raise HandshakeError(502, "the backend chose a subprotocol nobody offered")
    extensions = b", ".join(values.get(_EXTENSIONS_FIELD, []))
    try:
        names = extension_names(extensions)
    except ValueError as error:
        raise HandshakeError(502, str(error)) from None
    if not set(names) <= set(request.extensions):
        raise HandshakeError(502, "the backend chose an extension nobody offered")
    return NegotiatedWebSocket(chosen[0] if chosen else b"", extensions)


def accept_response(head: ResponseHead, client_version: int, client_key: bytes = b"") -> ResponseHead:
    """What tells the client that the backend accepted with `head`: 101 on HTTP/1.1, 200 above it.

    `client_key` is its `WebSocketRequest.key`.
    """
    fields = [line for line in head.fields if line[0] not in _OF_ONE_GENERATION]
    if client_version >= 20:
        return ResponseHead(200, fields, version=client_version)
    fields += (
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (_ACCEPT_FIELD, accept_key(client_key)),
    )
    return ResponseHead(
        101,
        fields,
        version=11,
        body_length_bytes=NO_BODY,
        upgrade=b"websocket",
        connection_options=frozenset((b"upgrade",)),
    )


def refusal_status(status: int, client_version: int) -> int:
    """The status for a client whose backend answered `status` instead of accepting.

    A success of the backend's, as when it knows no WebSockets, must not reach an
    HTTP/2 or HTTP/3 client: to a CONNECT it would say that the tunnel is open.
    """
    return 502 if client_version >= 20 and status < 300 else status


def restrict_subprotocols(fields: Fields, offered: Collection[bytes], allowed: Collection[bytes]) -> Fields:
    """`fields` with only those of the `offered` subprotocols that are `allowed`, in the client's order."""
    kept = b", ".join(subprotocol for subprotocol in offered if subprotocol in allowed)
    others = [line for line in fields if line[0] != _SUBPROTOCOL_FIELD]
    return [*others, (_SUBPROTOCOL_FIELD, kept)] if kept else others
