"""A request as its backend gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.configuration import ForwardAction, Route
from smartproxy.core.http.field_rules import ValueOf
from smartproxy.core.http.hop_by_hop import end_to_end_fields
from smartproxy.core.http.messages import NO_BODY, Fields, RequestHead
from smartproxy.core.ops import UNIX_PORT
from smartproxy.core.upstream.selection import Choice

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection


def asks_for_websocket(head: RequestHead) -> bool:
    """Whether the request is an RFC 6455 handshake (§4.1). Any other upgrade is not passed on."""
    return head.upgrade == b"websocket" and head.method == b"GET" and head.body_length_bytes == NO_BODY


def _passed_on_fields(connection: ClientConnection, head: RequestHead) -> Fields:
    """What of a client's fields goes on, and the forwarding fields, before any rules; a new list."""
    if head.fields is not connection.last_fields:
        options = head.connection_options
        # Only a client that nominates TE may have meant it for us (RFC 9110 §10.1.4).
        fields = end_to_end_fields(head.fields, options, keep_te_trailers=b"te" in options)
        connection.last_passed_on_fields = connection.forwarding.apply(fields, head.authority)
        connection.last_fields = head.fields
    return connection.last_passed_on_fields.copy()


def backend_request(
    connection: ClientConnection,
    head: RequestHead,
    route: Route,
    action: ForwardAction,
    choice: Choice,
    value_of: ValueOf,
) -> RequestHead:
    """The head for the backend of `choice`, with the forwarding fields and what rules say."""
    options = head.connection_options
    fields = _passed_on_fields(connection, head)
    if action.add_via:
        version = b"1.0 " if head.version == 10 else b"1.1 "
        fields.append((b"via", version + connection.generation.configuration.server_name.encode()))
    if route.request_fields is not None:
        fields = route.request_fields.apply(fields, value_of)
    target_rules = choice.state.target.request_fields
    if target_rules is not None:
        fields = target_rules.apply(fields, value_of)
    keeps_te = b"te" in options and (b"te", b"trailers") in fields
    if head.upgrade and asks_for_websocket(head):
        fields.append((b"connection", b"upgrade, te" if keeps_te else b"upgrade"))
        fields.append((b"upgrade", b"websocket"))
    elif keeps_te:
        fields.append((b"connection", b"te"))
    authority = head.authority
    if not action.preserve_host:
        endpoint = choice.pool.endpoint
        authority = b"localhost" if endpoint.port == UNIX_PORT else str(endpoint).encode()
    return RequestHead(
        head.method,
        head.target,
        authority,
        fields,
        body_length_bytes=head.body_length_bytes,
    )
