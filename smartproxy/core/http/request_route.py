"""Which route a request gets, and why it may get none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.configuration import Route
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import RequestHead
from smartproxy.core.routing.paths import normalise_path
from smartproxy.core.routing.table import FirstBytes, RouteHit
from smartproxy.core.security.verdict import Refusal

if TYPE_CHECKING:
    from smartproxy.core.downstream.client import ClientFacts


ROUTE_FULL_RETRY_S = 5
"""Retry-After of a route that has all the connections it may have."""


class RequestRefused(Exception):
    """The request is answered here, by `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.explanation)
        self.refusal = refusal


def _client_error(status: int, code: FailureCode, detail: str, explanation: str) -> RequestRefused:
    return RequestRefused(Refusal(status, Failure(FailureSource.CLIENT, code, detail), explanation))


def route_request(client: ClientFacts, head: RequestHead) -> tuple[RouteHit, str]:
    """The route of a request and its normalised path. Raises `RequestRefused`."""
    if head.method == b"CONNECT" or (head.protocol and head.protocol != b"websocket"):
        raise _client_error(501, FailureCode.HTTP_REQUEST_DENIED, "CONNECT", "CONNECT is not supported.")
    host = request_host(client, head) or None
    path = "*" if head.target == b"*" else normalise_path(head.target)
    if path is None:
        raise _client_error(
            400,
            FailureCode.HTTP_REQUEST_ERROR,
            "ambiguous path",
            "The path can be read in more than one way.",
        )
    plan = client.plan
    served_tls = client.served_tls
    hit = plan.match_request(
        client.client_number,
        host,
        path,
        head.method,
        head.fields,
        tls_version=client.tls_version or None,
        terminated_tls=served_tls is not None,
    )
    if hit is None:
        if served_tls is not None:
            _refuse_misdirected(client, host)
        elif plan.may_need_tls and not plan.may_need_http:
            raise _client_error(
                400,
                FailureCode.HTTP_REQUEST_ERROR,
                "plain HTTP on a TLS port",
                "This port speaks TLS, and the request came without it. Use https://.",
            )
        raise RequestRefused(
            Refusal(
                404,
                Failure(FailureSource.PROXY, FailureCode.NO_ROUTE, f"{host}{path}"),
                f"No route matches {head.method.decode('latin-1')} {path} on host "
                f"{host or '(none)'} and port {client.local_port}.",
            )
        )
    route = hit.route
    if (
        served_tls is not None
        and route is not client.route
        and client.certificates.lookup(host, route) is not served_tls
    ):
        raise _misdirected(host)
    check_access(client, route)
    return hit, path


def request_host(client: ClientFacts, head: RequestHead) -> str:
    """The host a request names, normalised; empty for none. Raises `RequestRefused`."""
    try:
        return client.host_of(head.authority)
    except ValueError as error:
        raise _client_error(
            400, FailureCode.HTTP_REQUEST_ERROR, str(error), "The request's host is not valid."
        ) from None


def check_access(client: ClientFacts, route: Route) -> None:
    """Let the client in by the route's connection limit and IP lists, and count its connection.

    Raises `RequestRefused`. Once it has been let in, a connection stays so: neither its address
    nor its configuration changes.
    """
    if route is client.entered_route:
        return
    if route.max_connections is not None and not client.has_room_on(route):
        raise RequestRefused(
            Refusal(
                503,
                Failure(FailureSource.PROXY, FailureCode.CONNECTION_LIMIT_REACHED, f"route {route.name}"),
                "Too many clients are connected. Try again later.",
                retry_after_s=ROUTE_FULL_RETRY_S,
            )
        )
    if not client.allowed_by(route):
        raise _client_error(
            403, FailureCode.ACCESS_DENIED, f"route {route.name}", "Access from your address is not allowed."
        )
    client.enter(route)


def _refuse_misdirected(client: ClientFacts, host: str | None) -> None:
    """Refuse a name that a route of another TLS serves, passthrough ones included (RFC 9110 §15.5.20)."""
    other = client.plan.match_connection(client.client_number, host, FirstBytes.TLS)
    if (
        other is not None
        and other is not client.route
        and client.certificates.lookup(host, other) is not client.served_tls
    ):
        raise _misdirected(host)


def _misdirected(host: str | None) -> RequestRefused:
    return _client_error(
        421,
        FailureCode.HTTP_REQUEST_DENIED,
        f"{host} on another name's connection",
        "This connection's TLS was not made for that host. Open a connection of its own for it.",
    )
