"""What a 101 begins: from there on the bytes are not HTTP (RFC 9110 §7.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure
from smartproxy.core.http.hop_by_hop import end_to_end_fields, without_length
from smartproxy.core.http.http1_client import Http1Client
from smartproxy.core.http.messages import ResponseHead
from smartproxy.core.http.server_stream import ServerStream
from smartproxy.core.relay.tunnel import Tunnel

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection


def join_upgraded(
    connection: ClientConnection,
    server: ServerStream,
    backend: Http1Client,
    head: ResponseHead,
    on_end: Callable[[Failure | None], None],
) -> None:
    """Pass on the backend's 101 to a WebSocket handshake, and join the two connections."""
    fields = without_length(end_to_end_fields(head.fields, head.connection_options))
    fields.append((b"connection", b"upgrade"))
    fields.append((b"upgrade", b"websocket"))
    from_backend = backend.take_over()
    from_client = server.switch_protocols(ResponseHead(101, fields, reason=head.reason))
    tunnel = connection.tunnel = Tunnel(
        connection.context,
        connection.stream,
        backend.stream,
        timer=connection.timer,
        idle_s=connection.inactivity_s,
        on_end=on_end,
    )
    if from_backend:
        tunnel.from_backend.receive_data(from_backend)
    if from_client:
        tunnel.from_client.receive_data(from_client)
    if server.client_ended:
        tunnel.from_client.receive_eof()
