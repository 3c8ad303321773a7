"""One request as its client sees it: what it is routed by, what is answered here, and what the log says."""

from __future__ import annotations

from collections.abc import Sequence

from smartproxy.core.configuration import HandlerAction, Route
from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.access_log import exchange_record
from smartproxy.core.http.errors import error_response
from smartproxy.core.http.handlers import handler_response
from smartproxy.core.http.messages import NO_BODY, Fields, RequestHead, ResponseHead
from smartproxy.core.http.request_values import RequestValues
from smartproxy.core.http.server_stream import ServerStream


class Answer:
    """The client's half of an exchange. It ends exactly once, in `_finish`."""

    __slots__ = (
        "_client",
        "_close_code",
        "_context",
        "_failure",
        "_head",
        "_own_fields",
        "_path",
        "_request_bytes",
        "_response_begun",
        "_response_bytes",
        "_route",
        "_server",
        "_started_at",
        "_status",
        "_values",
        "params",
    )

    def __init__(self, client: ClientFacts, server: ServerStream, head: RequestHead) -> None:
        self._client = client
        self._context = client.context
        self._server = server
        self._head = head
        self._started_at = client.context.now
        self._route: Route | None = None
        self._path = ""
        self.params: dict[str, str] = {}
        self._values: RequestValues | None = None
        self._response_begun = False
        self._status = 0
        self._request_bytes = 0
        self._response_bytes = 0
        #: Response fields of the proxy's own, whoever answers.
        self._own_fields: Fields = []
        #: Of a WebSocket whose frames were opened; 0 for unknown.
        self._close_code = 0
        self._failure: Failure | None = None

    def value_of(self, name: str) -> str:
        """A template variable's value for this request."""
        if self._values is None:
            route_name = self._route.name if self._route is not None else ""
            self._values = RequestValues(self._client, self._head, self.params, route_name)
        return self._values.value_of(name)

    def _answer_here(self, action: HandlerAction) -> None:
        answer = handler_response(action, self._head, self.value_of)
        if answer is None:
            self._status = 0
            self._finish()
            self._server.abort_response()
            return
        head, body = answer
        if self._opens_tunnel_by(head.status):
            failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_DENIED, "no WebSocket here")
            self._refuse(501, failure, "No WebSocket is served at this address.")
            return
        route = self._route
        if route is not None and route.response_fields is not None:
            head.fields = route.response_fields.apply(head.fields, self.value_of)
        self._send_own(head, body)

    def _opens_tunnel_by(self, status: int) -> bool:
        """Whether the client would take this status for an open tunnel (RFC 8441 §5)."""
        return bool(self._head.protocol) and 200 <= status < 300

    def _refuse(
        self,
        status: int,
        failure: Failure | None,
        explanation: str,
        *,
        retry_after_s: int | None = None,
        fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer with an error of the proxy's own."""
        self._failure = failure
        head, body = error_response(
            status,
            failure,
            proxy_name=self._client.generation.configuration.server_name,
            explanation=explanation,
            accept=b", ".join([value for name, value in self._head.fields if name == b"accept"]),
            retry_after_s=retry_after_s,
        )
        head.fields += fields
        self._send_own(head, body)

    def _send_own(self, head: ResponseHead, body: bytes) -> None:
        server = self._server
        self._status = head.status
        self._response_begun = True
        server.discard_request_body()
        if not server.request_ended:
            server.close_after_response()
        head.fields.append((b"date", self._client.http_date()))
        head.fields += self._own_fields
        self._advertise(head)
        if self._head.method == b"HEAD":
            head.body_length_bytes = NO_BODY
            body = b""
        server.send_head(head)
        if body:
            server.send_data(body)
            self._response_bytes += len(body)
        self._finish()
        server.send_end([])

    def _advertise(self, head: ResponseHead) -> None:
        """Tell a client that came by TCP that the same is to be had over HTTP/3 (RFC 7838 §3)."""
        route = self._route
        if route is not None and route.quic is not None and self._head.version < 30:
            policy = route.quic
            port = policy.alt_svc_port or self._client.local_port
            if not any(name == b"alt-svc" for name, _ in head.fields):
                head.fields.append((b"alt-svc", b'h3=":%d"; ma=%d' % (port, policy.alt_svc_max_age_s)))

    def _backend_name(self) -> str:
        """Who answered, for the log; empty when it was the proxy."""
        return ""

    def _backend_version(self) -> int:
        """The HTTP version the backend was spoken to in: 11, 20 or 30; 0 when it was not spoken to."""
        return 0

    def _finish(self) -> None:
        """The exchange is over; say so in the access log."""
        if self._context.wants_access_records:
            self._context.records.append(
                exchange_record(
                    self._client,
                    self._head,
                    route=self._route.name if self._route is not None else "",
                    backend=self._backend_name(),
                    backend_version=self._backend_version(),
                    started_at=self._started_at,
                    bytes_received=self._request_bytes,
                    bytes_sent=self._response_bytes,
                    status=self._status,
                    close_code=self._close_code,
                    failure=self._failure,
                )
            )
