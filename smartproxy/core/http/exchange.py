"""One request and its response, from the route to the last byte, whatever the versions on either side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.configuration import ForwardAction, HandlerAction, Route
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.access_log import exchange_record
from smartproxy.core.http.backend_request import asks_for_websocket, backend_request
from smartproxy.core.http.errors import error_response, status_for
from smartproxy.core.http.handlers import handler_response
from smartproxy.core.http.hop_by_hop import end_to_end_fields, without_length
from smartproxy.core.http.messages import NO_BODY, Fields, RequestHead, ResponseHead
from smartproxy.core.http.request_route import RequestRefused, route_request
from smartproxy.core.http.request_values import RequestValues, route_context
from smartproxy.core.http.server_stream import ServerStream
from smartproxy.core.http.upgrade import join_upgraded
from smartproxy.core.records import Level
from smartproxy.core.stream import HIGH_WATER_BYTES
from smartproxy.core.upstream.pool import Ticket
from smartproxy.core.upstream.selection import Choice, RouteContext, Selection, find_target
from smartproxy.core.wire.http1 import LocalProtocolError

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection
    from smartproxy.core.http.http1_client import Http1Client

IDEMPOTENT_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""RFC 9110 §9.2.2."""

RELAY_LEAST_BYTES = 128 * 1024
"""A body with less than this left is copied: handing it to the driver would cost more than it saves."""


class Exchange:
    """Carries one request to one backend, or answers it here.

    It hears from the client's side (`request_*`, `client_gone`, `response_writable`),
    from the backend's (`response_*`, `request_writable`) and from the pool
    (`connection_*`), and ends exactly once, in `_finish`.
    """

    __slots__ = (
        "_backend",
        "_choice",
        "_client_bytes",
        "_connection",
        "_context",
        "_failure",
        "_head",
        "_holds_host",
        "_last_activity",
        "_path",
        "_relay_candidate",
        "_request_bytes",
        "_response_begun",
        "_response_bytes",
        "_retried",
        "_route",
        "_seen_sent_bytes",
        "_selection",
        "_server",
        "_started_at",
        "_status",
        "_ticket",
        "_upload_may_relay",
        "_values",
        "_window_request_bytes",
        "_window_started_at",
        "params",
    )

    def __init__(self, connection: ClientConnection, server: ServerStream, head: RequestHead) -> None:
        self._connection = connection
        self._context = connection.context
        self._server = server
        self._head = head
        self._started_at = connection.context.now
        self._last_activity = self._started_at
        self._route: Route | None = None
        self._path = ""
        self.params: dict[str, str] = {}
        self._values: RequestValues | None = None
        self._selection: Selection | None = None
        self._choice: Choice | None = None
        self._holds_host = False
        self._ticket: Ticket | None = None
        self._backend: Http1Client | None = None
        self._response_begun = False
        self._relay_candidate = False
        self._upload_may_relay = False
        self._retried = False
        self._status = 0
        self._request_bytes = 0
        self._window_request_bytes = 0
        self._window_started_at = self._started_at
        self._response_bytes = 0
        self._seen_sent_bytes = 0
        self._failure: Failure | None = None

    # Deciding.

    def begin(self) -> None:
        """Route the request and start on its answer. May finish before it returns."""
        connection = self._connection
        try:
            hit, path = route_request(connection, self._head)
        except RequestRefused as refusal:
            self._refuse(refusal.status, refusal.failure, refusal.explanation)
            return
        route = self._route = hit.route
        self._path = path
        self.params = hit.params
        action = route.action
        if isinstance(action, HandlerAction):
            self._answer_here(action)
            return
        limit = connection.limits.body_bytes
        if limit is not None and self._head.body_length_bytes > limit:
            self._refuse_body(limit)
            return
        if self._head.upgrade and not action.websocket.enabled and asks_for_websocket(self._head):
            failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_DENIED, "WebSocket is off")
            self._refuse(403, failure, "WebSocket is not enabled on this route.")
            return
        self._forward(action)

    def _forward(self, action: ForwardAction) -> None:
        connection = self._connection
        head = self._head
        generation = connection.generation
        state = find_target(
            action, generation.targets, connection.local_port, self._path, head.method, head.fields
        )
        if state is None:
            failure = Failure(FailureSource.PROXY, FailureCode.DESTINATION_NOT_FOUND, "no target matches")
            self._refuse(404, failure, "The route that matches has no target for this request.")
            return
        if state.asks_functions:
            # They have their time too.
            self._arm(connection.timeouts.connection_s + 1.0)
        self._selection = Selection(
            self._context,
            generation.pools,
            state,
            connection.client_key,
            connection.local_port,
            self,
        )
        self._selection.choose()

    def host_chosen(self, choice: Choice) -> None:
        self._choice = choice
        self._holds_host = True
        choice.host.in_flight += 1
        version = choice.state.target.send_proxy_protocol
        if not version and not self._retried:
            backend = choice.pool.take_idle()
            if backend is not None:
                self.connection_ready(backend)
                return
        # The dial has its own deadline; this one only catches a place in the queue.
        self._arm(self._connection.timeouts.connection_s + 1.0)
        preamble = self._connection.proxy_preamble(version) if version else b""
        ticket = choice.pool.open(self, preamble, needs_new=self._retried)
        # It may have failed already, and another host may have been chosen since.
        if self._choice is choice:
            self._ticket = ticket

    def route_context(self) -> RouteContext:
        route_name = self._route.name if self._route is not None else ""
        return route_context(self._connection, self._head, self.params, route_name)

    def value_of(self, name: str) -> str:
        """A template variable's value for this request."""
        if self._values is None:
            route_name = self._route.name if self._route is not None else ""
            self._values = RequestValues(self._connection, self._head, self.params, route_name)
        return self._values.value_of(name)

    # From the pool.

    def connection_ready(self, connection: Http1Client) -> None:
        self._ticket = None
        self._failure = None
        self._backend = connection
        choice = self._choice
        route = self._route
        assert choice is not None
        assert route is not None
        action = route.action
        assert isinstance(action, ForwardAction)
        try:
            request = backend_request(self._connection, self._head, route, action, choice, self.value_of)
            connection.send_request(request, self)
        except LocalProtocolError as error:
            # What was accepted here cannot be written safely there.
            self._backend = None
            connection.cancel()
            self._release_host()
            failure = Failure(FailureSource.PROXY, FailureCode.HTTP_REQUEST_ERROR, error.reason)
            self._refuse(400, failure, "The request cannot be forwarded.")
            return
        self._last_activity = self._window_started_at = self._context.now
        self._arm(self._connection.timeouts.socket_s)
        if not self._server.request_ended:
            self._upload_may_relay = self._head.body_length_bytes > RELAY_LEAST_BYTES
            self._server.want_request_body()

    def connection_failed(self, failure: Failure) -> None:
        self._ticket = None
        choice = self._choice
        selection = self._selection
        assert choice is not None
        assert selection is not None
        self._release_host()
        if failure.source is FailureSource.BACKEND:
            self._note_health(choice.group.report_connect_failure(choice.host, self._context.now), choice)
            # Nothing was sent, so another host may have the request (RFC 9110 §9.2.2).
            if selection.exclude(choice.host):
                self._failure = failure
                selection.choose()
                return
        self._unavailable(failure)

    # From the client.

    def request_data(self, data: bytes) -> None:
        backend = self._backend
        if backend is None:
            return
        self._request_bytes += len(data)
        limit = self._connection.limits.body_bytes
        if limit is not None and self._request_bytes > limit:
            self._refuse_body(limit)
            return
        backend.send_data(data)
        stream = backend.stream
        if stream.outgoing_bytes > HIGH_WATER_BYTES:
            self._server.pause_request_body()
            stream.notify_writable = True
            self._last_activity = self._context.now
            self._seen_sent_bytes = backend.link.bytes_sent
        elif self._upload_may_relay and stream is backend.link:
            self._upload_may_relay = False
            self._server.relay_request_body(backend.link, RELAY_LEAST_BYTES)

    def request_relayed(self, byte_count: int) -> None:
        """`byte_count` bytes of the request's content went to the backend past us."""
        self._request_bytes += byte_count

    def request_end(self, trailers: Fields) -> None:
        if self._backend is not None:
            self._last_activity = self._context.now
            self._arm(self._connection.timeouts.socket_s)
            self._backend.send_end(trailers)

    def request_failed(self, failure: Failure, status: int) -> None:
        """The request broke off in a way the client can still be told of."""
        self._drop_backend()
        if self._response_begun:
            self._abort(failure)
        else:
            self._refuse(status, failure, failure.detail)

    def client_gone(self, failure: Failure) -> None:
        """The client's side is lost; there is nobody to answer."""
        self._abort(failure)

    def response_writable(self) -> None:
        self._last_activity = self._context.now
        if self._backend is not None:
            self._backend.stream.resume_reading()

    # From the backend.

    def request_writable(self) -> None:
        # The client could not send while it was not read from, so its pace is measured anew.
        self._last_activity = self._window_started_at = self._context.now
        self._window_request_bytes = self._request_bytes
        self._server.resume_request_body()

    def response_informational(self, head: ResponseHead) -> None:
        self._last_activity = self._context.now
        fields = without_length(end_to_end_fields(head.fields, head.connection_options))
        self._server.send_informational(ResponseHead(head.status, fields, reason=head.reason))
        self._mind_client()

    def response_head(self, head: ResponseHead) -> None:
        backend = self._backend
        choice = self._choice
        route = self._route
        assert backend is not None
        assert choice is not None
        assert route is not None
        self._last_activity = self._context.now
        self._status = head.status
        change = choice.group.report_response(choice.host, head.status, self._context.now)
        if change is not None:
            self._note_health(change, choice)
        if head.status == 101:
            self._switch_protocols(head)
            return
        fields = end_to_end_fields(head.fields, head.connection_options)
        if head.status == 204:
            fields = without_length(fields)
        if route.response_fields is not None:
            fields = route.response_fields.apply(fields, self.value_of)
        response_rules = choice.state.target.response_fields
        if response_rules is not None:
            fields = response_rules.apply(fields, self.value_of)
        head.fields = fields
        try:
            self._server.send_head(head)
        except LocalProtocolError as error:
            self._drop_backend()
            failure = Failure(FailureSource.BACKEND, FailureCode.HTTP_PROTOCOL_ERROR, error.reason)
            self._refuse(502, failure, "The backend's response cannot be passed on.")
            return
        self._response_begun = True
        self._relay_candidate = head.body_length_bytes > RELAY_LEAST_BYTES

    def response_data(self, data: bytes) -> None:
        backend = self._backend
        assert backend is not None
        server = self._server
        self._response_bytes += len(data)
        self._last_activity = self._context.now
        server.send_data(data)
        if self._relay_candidate:
            self._relay_candidate = False
            link = server.link
            if link is not None and backend.relay_body(link, RELAY_LEAST_BYTES):
                return
        if self._connection.stream.outgoing_bytes > HIGH_WATER_BYTES:
            self._mind_client()

    def _mind_client(self) -> None:
        """Take no more from the backend than the client reads."""
        connection = self._connection
        stream = connection.stream
        backend = self._backend
        if stream.outgoing_bytes > HIGH_WATER_BYTES and backend is not None:
            backend.stream.pause_reading()
            stream.notify_writable = True
            self._seen_sent_bytes = connection.link.bytes_sent

    def response_relayed(self, byte_count: int) -> None:
        self._response_bytes += byte_count
        self._last_activity = self._context.now

    def response_end(self, trailers: Fields) -> None:
        self._server.stop_request_relay()
        self._backend = None
        self._release_host()
        self._finish()
        self._server.send_end(trailers)

    def response_failed(self, failure: Failure) -> None:
        self._server.stop_request_relay()
        self._backend = None
        choice = self._choice
        self._release_host()
        if self._response_begun:
            self._abort(failure)
            return
        if (
            failure.retryable
            and not self._retried
            and self._head.body_length_bytes == NO_BODY
            and self._head.method in IDEMPOTENT_METHODS
        ):
            self._retried = True
            self._context.record(
                "http", "request_retried", Level.INFO, backend=str(choice.pool.endpoint) if choice else ""
            )
            assert self._selection is not None
            self._selection.choose()
            return
        if choice is not None and not failure.retryable:
            self._note_health(choice.group.report_response(choice.host, 502, self._context.now), choice)
        self._unavailable(failure)

    # Upgrades (RFC 9110 §7.8): from here on the bytes are not HTTP.

    def _switch_protocols(self, head: ResponseHead) -> None:
        backend = self._backend
        assert backend is not None
        if not asks_for_websocket(self._head) or head.upgrade != b"websocket":
            self._drop_backend()
            failure = Failure(FailureSource.BACKEND, FailureCode.HTTP_UPGRADE_FAILED, "unasked-for upgrade")
            self._refuse(502, failure, "The backend switched to a protocol nobody asked for.")
            return
        self._backend = None
        self._response_begun = True
        join_upgraded(self._connection, self._server, backend, head, self._tunnel_ended)

    def _tunnel_ended(self, failure: Failure | None) -> None:
        tunnel = self._connection.tunnel
        assert tunnel is not None
        self._request_bytes += tunnel.from_client.moved_bytes
        self._response_bytes += tunnel.from_backend.moved_bytes
        self._failure = failure
        self._release_host()
        self._finish()
        self._connection.ended()

    # Answers of the proxy's own.

    def _answer_here(self, action: HandlerAction) -> None:
        answer = handler_response(action, self._head, self.value_of)
        if answer is None:
            self._status = 0
            self._finish()
            self._server.abort_response()
            return
        head, body = answer
        route = self._route
        if route is not None and route.response_fields is not None:
            head.fields = route.response_fields.apply(head.fields, self.value_of)
        self._send_own(head, body)

    def _refuse_body(self, limit: int) -> None:
        failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_DENIED, "body too large")
        self._drop_backend()
        if self._response_begun:
            self._abort(failure)
        else:
            self._refuse(413, failure, f"The request body may be at most {limit} bytes.")

    def selection_failed(self, failure: Failure) -> None:
        # That no other host is left tells less than why this one could not be had.
        self._unavailable(self._failure or failure)

    def _unavailable(self, failure: Failure) -> None:
        self._refuse(status_for(failure), failure, "")

    def _refuse(self, status: int, failure: Failure | None, explanation: str) -> None:
        """Answer with an error of the proxy's own."""
        self._failure = failure
        retry_after_s = None
        if status == 503 and self._selection is not None:
            retry_after_s = self._selection.retry_after_s()
        head, body = error_response(
            status,
            failure,
            proxy_name=self._connection.generation.configuration.server_name,
            explanation=explanation,
            accept=b", ".join([value for name, value in self._head.fields if name == b"accept"]),
            retry_after_s=retry_after_s,
        )
        self._send_own(head, body)

    def _send_own(self, head: ResponseHead, body: bytes) -> None:
        server = self._server
        self._status = head.status
        server.discard_request_body()
        if not server.request_ended:
            server.close_after_response()
        head.fields.append((b"date", self._connection.http_date()))
        if self._head.method == b"HEAD":
            head.body_length_bytes = NO_BODY
            body = b""
        server.send_head(head)
        if body:
            server.send_data(body)
            self._response_bytes += len(body)
        self._finish()
        server.send_end([])

    # Deadlines.

    def _arm(self, delay_s: float) -> None:
        self._context.set_timer(self._connection.timer, delay_s)

    def deadline_passed(self) -> None:
        """Someone has been silent too long, or only slow: see who."""
        connection = self._connection
        now = self._context.now
        socket_s = connection.timeouts.socket_s
        backend = self._backend
        if backend is None:
            failure = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TIMEOUT, "no connection in time")
            self._withdraw()
            self._unavailable(failure)
            return
        self._note_progress(backend)
        if not self._server.request_ended and not backend.stream.notify_writable:
            window_ends_at = self._window_started_at + socket_s
            if now < window_ends_at:
                self._context.timers.set(connection.timer, window_ends_at)
                return
            request_bytes = self._request_bytes + self._server.relayed_request_bytes
            received = request_bytes - self._window_request_bytes
            if received >= connection.limits.body_rate_bytes_per_s * socket_s:
                self._window_request_bytes = request_bytes
                self._window_started_at = self._last_activity = now
            elif not self._response_begun:
                # A body that trickles is a client holding a backend connection (Slowloris).
                self._drop_backend()
                failure = Failure(FailureSource.CLIENT, FailureCode.CONNECTION_READ_TIMEOUT, "body too slow")
                self._refuse(408, failure, "The request body did not arrive in time.")
                return
        silent_until = self._last_activity + socket_s
        if now < silent_until:
            self._context.timers.set(connection.timer, silent_until)
        else:
            self._time_out()

    def _note_progress(self, backend: Http1Client) -> None:
        """Count what went on out of the exchange's sight as activity."""
        sent = self._seen_sent_bytes
        if backend.relayed_bytes:
            sent = backend.relayed_bytes
        elif self._connection.stream.notify_writable:
            sent = self._connection.link.bytes_sent
        elif backend.stream.notify_writable:
            sent = backend.link.bytes_sent
        if sent != self._seen_sent_bytes:
            self._seen_sent_bytes = sent
            self._last_activity = self._context.now

    def _time_out(self) -> None:
        client_stalls = self._connection.stream.notify_writable
        choice = self._choice
        self._drop_backend()
        if client_stalls:
            self._abort(
                Failure(FailureSource.CLIENT, FailureCode.CONNECTION_WRITE_TIMEOUT, "client does not read")
            )
            return
        if choice is not None and self._server.request_ended and not self._response_begun:
            # Anything else that stands still may be a client's doing, who must not get a host ejected.
            self._note_health(choice.group.report_response(choice.host, 504, self._context.now), choice)
        if self._response_begun:
            self._abort(Failure(FailureSource.BACKEND, FailureCode.HTTP_RESPONSE_TIMEOUT, "body stalled"))
        else:
            self._unavailable(
                Failure(FailureSource.BACKEND, FailureCode.HTTP_RESPONSE_TIMEOUT, "no response in time")
            )

    # Ends.

    def _withdraw(self) -> None:
        if self._selection is not None:
            self._selection.cancel()
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
        self._release_host()

    def _drop_backend(self) -> None:
        self._server.stop_request_relay()
        backend, self._backend = self._backend, None
        if backend is not None:
            self._response_bytes += backend.relayed_bytes
            backend.cancel()
        self._withdraw()

    def _release_host(self) -> None:
        if self._holds_host:
            assert self._choice is not None
            self._holds_host = False
            self._choice.host.in_flight -= 1

    def _abort(self, failure: Failure) -> None:
        self._failure = failure
        self._drop_backend()
        self._finish()
        self._server.abort_response()

    def _note_health(self, change: str | None, choice: Choice) -> None:
        if change is not None:
            self._context.record(
                "upstream", change, Level.WARNING, backend=str(choice.pool.endpoint), host=choice.host.name
            )

    def _finish(self) -> None:
        """The exchange is over; say so in the access log."""
        if self._context.wants_access_records:
            choice = self._choice
            self._context.records.append(
                exchange_record(
                    self._connection,
                    self._head,
                    route=self._route.name if self._route is not None else "",
                    backend=str(choice.pool.endpoint) if choice is not None else "",
                    started_at=self._started_at,
                    bytes_received=self._request_bytes,
                    bytes_sent=self._response_bytes,
                    status=self._status,
                    failure=self._failure,
                )
            )
