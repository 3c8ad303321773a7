"""A request as its backend gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.configuration import ForwardAction, Route
from smartproxy.core.http.field_rules import ValueOf
from smartproxy.core.http.hop_by_hop import end_to_end_fields
from smartproxy.core.http.messages import Fields, RequestHead
from smartproxy.core.ops import UNIX_PORT
from smartproxy.core.upstream.selection import Choice

if TYPE_CHECKING:
    from smartproxy.core.downstream.client import ClientFacts

_VIA = {10: b"1.0 ", 11: b"1.1 ", 20: b"2.0 ", 30: b"3.0 "}


def _passed_on_fields(client: ClientFacts, head: RequestHead) -> Fields:
    """What of a client's fields goes on, and the forwarding fields, before any rules; a new list."""
    if head.fields is not client.last_fields:
        fields = end_to_end_fields(head.fields, head.connection_options, keep_te_trailers=_may_keep_te(head))
        client.last_passed_on_fields = client.forwarding.apply(fields, head.authority)
        client.last_fields = head.fields
    return client.last_passed_on_fields.copy()


def _may_keep_te(head: RequestHead) -> bool:
    # Over HTTP/1.1 only a client that nominates TE may have meant it for us (RFC 9110 §10.1.4).
    return head.version >= 20 or b"te" in head.connection_options


def backend_request(
    client: ClientFacts,
    head: RequestHead,
    route: Route,
    action: ForwardAction,
    choice: Choice,
    version: int,
    value_of: ValueOf,
    added_fields: Fields,
) -> RequestHead:
    """The head for the backend of `choice`, spoken to in `version`: with forwarding fields, by the rules.

    `added_fields` are the proxy's own, which the client's Connection field cannot take away.
    """
    fields = _passed_on_fields(client, head)
    fields += added_fields
    if action.add_via:
        fields.append((b"via", _VIA[head.version] + client.generation.configuration.server_name.encode()))
    if route.request_fields is not None:
        fields = route.request_fields.apply(fields, value_of)
    target_rules = choice.state.target.request_fields
    if target_rules is not None:
        fields = target_rules.apply(fields, value_of)
    if version == 11 and _may_keep_te(head) and (b"te", b"trailers") in fields:
        fields.append((b"connection", b"te"))
    endpoint = choice.pool.endpoint
    authority = head.authority
    if not action.preserve_host:
        authority = b"localhost" if endpoint.port == UNIX_PORT else str(endpoint).encode()
    return RequestHead(
        head.method,
        head.target,
        authority,
        fields,
        scheme=b"http" if endpoint.tls is None else b"https",
        version=version,
        body_length_bytes=head.body_length_bytes,
    )
