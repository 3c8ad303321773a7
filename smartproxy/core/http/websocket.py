"""A WebSocket's opening handshake on its way through the proxy, whatever the HTTP versions on either side.

handshake = websocket_handshake(head, rules)                    # HandshakeError: 400, 403, 426
backend.send_request(handshake.request_for(backend.version, request, entropy), receiver)
if handshake.accepted_by(response):                             # HandshakeError: 502
    to_client = handshake.response(response)                    # HandshakeError: 502
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from smartproxy.core.configuration import WebSocketRules
from smartproxy.core.http.hop_by_hop import end_to_end_fields
from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.websocket import (
    KEY_ENTROPY_BYTES,
    HandshakeError,
    WebSocketRequest,
    accept_response,
    accepts_websocket,
    check_websocket_response,
    connect_request,
    is_websocket_request,
    parse_websocket_request,
    refusal_status,
    restrict_subprotocols,
    upgrade_request,
    websocket_key,
)


def asks_for_websocket(head: RequestHead) -> bool:
    """Whether a request is to be taken as a handshake, well-formed or not.

    Any extended CONNECT for a WebSocket is (RFC 8441 §4), and an HTTP/1.1 GET that names it
    in Upgrade; with any other method the Upgrade field may be ignored (RFC 9110 §7.8).
    """
    return is_websocket_request(head) and (bool(head.protocol) or head.method == b"GET")


def websocket_handshake(head: RequestHead, rules: WebSocketRules) -> Handshake:
    """Check a client's handshake, `head` as it was received, against RFC 6455 §4.2.1 and a route's `rules`.

    Raises HandshakeError, to be answered with its status and fields: 400 for what is
    malformed, 403 for what is not allowed, 426 for another version of WebSocket.
    """
    if not rules.enabled:
        raise HandshakeError(403, "WebSocket is off")
    asked = parse_websocket_request(head)
    if rules.allowed_origins is not None and not rules.allowed_origins.allows(asked.origin):
        raise HandshakeError(403, "origin not allowed")
    if rules.subprotocols is not None:
        allowed = tuple(name for name in asked.subprotocols if name in rules.subprotocols)
        asked = replace(asked, subprotocols=allowed)
    return Handshake(head.version, asked, restricts_subprotocols=rules.subprotocols is not None)


class Handshake:
    """One client's handshake: what its backend is asked, and what of the answer the client is told.

    `asked` is what the client offers, of which only allowed subprotocols are left.
    `subprotocol` and `extensions` are what `response` found negotiated; empty for none.
    """

    __slots__ = ("_key", "_restricts_subprotocols", "asked", "client_version", "extensions", "subprotocol")

    def __init__(
        self, client_version: int, asked: WebSocketRequest, *, restricts_subprotocols: bool = False
    ) -> None:
        self.client_version = client_version
        self.asked = asked
        self.subprotocol = b""
        self.extensions = b""
        self._restricts_subprotocols = restricts_subprotocols
        self._key = b""

    def request_for(self, version: int, request: RequestHead, entropy: Callable[[int], bytes]) -> RequestHead:
        """The handshake that a backend of `version` 11, 20 or 30 is sent.

        `request` is the client's request as it is prepared for the backend, without
        connection-specific fields; its `scheme` goes into an extended CONNECT, `https`
        if it has none. May be called again for another try; `response` goes by the last.
        """
        if self._restricts_subprotocols:
            request = request.with_same_fields(request.method, request.target)
            offered = self.asked.subprotocols
            request.fields = restrict_subprotocols(request.fields, offered, offered)
        if version >= 20:
            self._key = b""
            return connect_request(request, version, request.scheme or b"https")
        self._key = self.asked.key or websocket_key(entropy(KEY_ENTROPY_BYTES))
        return upgrade_request(request, self._key)

    def accepted_by(self, head: ResponseHead) -> bool:
        """Whether the backend's final response means to open the tunnel; else it is an ordinary response.

        Raises HandshakeError 502 for one that is neither and would tell the client that the
        tunnel is open: a success of HTTP/1.1 to a client of HTTP/2 or 3 (RFC 8441 §5), a stray 101.
        """
        if accepts_websocket(head):
            return True
        if head.status == 101 or refusal_status(head.status, self.client_version) != head.status:
            raise HandshakeError(502, "the backend did not accept")
        return False

    def response(self, head: ResponseHead) -> ResponseHead:
        """The client's 101 or 200, made of the backend's acceptance.

        Raises HandshakeError 502 if that is not what was asked for: the backend's
        connection or stream is to be closed.
        """
        negotiated = check_websocket_response(head, self.asked, self._key)
        self.subprotocol = negotiated.subprotocol
        self.extensions = negotiated.extensions
        end_to_end = ResponseHead(
            head.status, end_to_end_fields(head.fields, head.connection_options), version=head.version
        )
        return accept_response(end_to_end, self.client_version, self.asked.key)
