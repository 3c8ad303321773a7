"""The access log's record of one exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure
from smartproxy.core.http.messages import RequestHead
from smartproxy.core.records import AccessRecord

if TYPE_CHECKING:
    from smartproxy.core.downstream.client import ClientFacts

_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2", 30: "HTTP/3"}


def exchange_record(
    client: ClientFacts,
    head: RequestHead,
    *,
    route: str,
    backend: str,
    backend_version: int,
    started_at: float,
    bytes_received: int,
    bytes_sent: int,
    status: int,
    close_code: int,
    failure: Failure | None,
) -> AccessRecord:
    """What the log says of a request; `bytes_*` count its content and that of its response."""
    user_agent = referer = b""
    for name, value in head.fields:
        if name == b"user-agent":
            user_agent = value
        elif name == b"referer":
            referer = value
    return AccessRecord(
        client_ip=client.client_ip,
        client_port=client.client[1],
        protocol=_VERSIONS[head.version],
        route=route,
        duration_s=client.context.now - started_at,
        bytes_received=bytes_received,
        bytes_sent=bytes_sent,
        method=head.method.decode("latin-1"),
        scheme="https" if client.tls_version else "http",
        authority=head.authority.decode("latin-1"),
        target=head.target.decode("latin-1"),
        status=status,
        close_code=close_code,
        backend=backend,
        backend_protocol=_VERSIONS[backend_version] if backend_version else "",
        tls_version=client.tls_version,
        failure=failure.code.value if failure is not None else "",
        failure_detail=failure.detail if failure is not None else "",
        user_agent=user_agent.decode("latin-1"),
        referer=referer.decode("latin-1"),
    )
