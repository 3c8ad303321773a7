"""One request and its response, from the route to the last byte, whatever the versions on either side."""

from __future__ import annotations

from smartproxy.core.configuration import ForwardAction, HandlerAction
from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.backend_request import backend_request
from smartproxy.core.http.client_stream import ClientStream
from smartproxy.core.http.errors import status_for
from smartproxy.core.http.gate.passage import trailers_for_backend
from smartproxy.core.http.gated_answer import GatedAnswer
from smartproxy.core.http.hop_by_hop import end_to_end_fields, without_length
from smartproxy.core.http.messages import NO_BODY, Fields, RequestHead, ResponseHead
from smartproxy.core.http.request_values import route_context
from smartproxy.core.http.server_stream import ServerStream
from smartproxy.core.http.websocket import Handshake, asks_for_websocket, websocket_handshake
from smartproxy.core.records import Level
from smartproxy.core.relay.tunnel import Tunnel
from smartproxy.core.relay.websocket_tunnel import join_websocket
from smartproxy.core.upstream.pool import Ticket
from smartproxy.core.upstream.selection import Choice, RouteContext, Selection, find_target
from smartproxy.core.wire.errors import LocalProtocolError
from smartproxy.core.wire.websocket import HandshakeError

IDEMPOTENT_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})
"""RFC 9110 §9.2.2."""

RELAY_LEAST_BYTES = 128 * 1024
"""A body with less than this left is copied: handing it to the driver would cost more than it saves."""


class Exchange(GatedAnswer):
    """Carries one request to one backend, or answers it here.

    It hears from the client's side (`request_*`, `client_gone`, `response_writable`),
    from the backend's (`response_*`, `request_writable`) and from the pool
    (`connection_*`), and ends exactly once, in `_finish`.
    """

    __slots__ = (
        "_backend",
        "_backend_is_full",
        "_backend_spoke",
        "_choice",
        "_client_is_full",
        "_handshake",
        "_holds_host",
        "_last_activity",
        "_relay_candidate",
        "_retried",
        "_seen_sent_bytes",
        "_selection",
        "_ticket",
        "_tunnel",
        "_upload_may_relay",
        "_websocket_rules",
        "_window_request_bytes",
        "_window_started_at",
    )

    def __init__(self, client: ClientFacts, server: ServerStream, head: RequestHead) -> None:
        super().__init__(client, server, head)
        self._last_activity = self._started_at
        self._handshake: Handshake | None = None
        self._selection: Selection | None = None
        self._choice: Choice | None = None
        self._holds_host = False
        self._ticket: Ticket | None = None
        self._backend: ClientStream | None = None
        #: The version it was spoken to in, for the log.
        self._backend_spoke = 0
        self._backend_is_full = False
        self._client_is_full = False
        self._relay_candidate = False
        self._upload_may_relay = False
        self._retried = False
        self._window_request_bytes = 0
        self._window_started_at = self._started_at
        self._seen_sent_bytes = 0
        self._tunnel: Tunnel | None = None

    # Deciding.

    def _admitted(self) -> None:
        client = self._client
        assert self._route is not None
        action = self._route.action
        if isinstance(action, HandlerAction):
            self._answer_here(action)
            return
        limit = client.limits.body_bytes
        if limit is not None and self._head.body_length_bytes > limit:
            self._refuse_body(limit)
            return
        self._forward(action)

    def _forward(self, action: ForwardAction) -> None:
        client = self._client
        head = self._head
        generation = client.generation
        state = find_target(
            action, generation.targets, client.local_port, self._path, head.method, head.fields
        )
        if state is None:
            failure = Failure(FailureSource.PROXY, FailureCode.DESTINATION_NOT_FOUND, "no target matches")
            self._refuse(404, failure, "The route that matches has no target for this request.")
            return
        if (head.upgrade or head.protocol) and asks_for_websocket(self._asked):
            self._websocket_rules = state.target.websocket or action.websocket
            if not self._shake_hands():
                return
        if state.asks_functions:
            # They have their time too.
            self._arm(client.timeouts.connection_s + 1.0)
        self._selection = Selection(
            self._context, generation.pools, state, client.client_key, client.local_port, self
        )
        self._selection.choose()

    def _shake_hands(self) -> bool:
        try:
            self._handshake = websocket_handshake(self._asked, self._websocket_rules)
        except HandshakeError as refusal:
            failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_DENIED, refusal.reason)
            explanation = f"The WebSocket handshake is refused: {refusal.reason}."
            self._refuse(refusal.status, failure, explanation, fields=refusal.fields)
            return False
        return True

    def host_chosen(self, choice: Choice) -> None:
        self._choice = choice
        self._holds_host = True
        choice.host.in_flight += 1
        version = choice.state.target.send_proxy_protocol
        for_websocket = self._handshake is not None
        if not version and not self._retried:
            backend = choice.pool.take(for_websocket=for_websocket)
            if backend is not None:
                self.connection_ready(backend)
                return
        # The dial has its own deadline; this one only catches a place in the queue.
        self._arm(self._client.timeouts.connection_s + 1.0)
        preamble = self._client.proxy_preamble(version) if version else b""
        ticket = choice.pool.open(self, preamble, needs_new=self._retried, for_websocket=for_websocket)
        # It may have failed already, and another host may have been chosen since.
        if self._choice is choice:
            self._ticket = ticket

    def route_context(self) -> RouteContext:
        route_name = self._route.name if self._route is not None else ""
        return route_context(self._client, self._head, self.params, route_name)

    # From the pool.

    def connection_ready(self, stream: ClientStream) -> None:
        self._ticket = None
        self._failure = None
        self._backend = stream
        self._backend_spoke = stream.version
        try:
            stream.send_request(self._request_for(stream.version), self)
        except LocalProtocolError as error:
            # What was accepted here cannot be written safely there.
            self._backend = None
            stream.cancel()
            self._release_host()
            failure = Failure(FailureSource.PROXY, FailureCode.HTTP_REQUEST_ERROR, error.reason)
            self._refuse(400, failure, "The request cannot be forwarded.")
            return
        self._last_activity = self._window_started_at = self._context.now
        self._arm(self._client.timeouts.socket_s)
        # A stream that is lost at once may have brought the answer already.
        if self._backend is stream and self._handshake is None and not self._server.request_ended:
            self._upload_may_relay = self._head.body_length_bytes > RELAY_LEAST_BYTES
            self._server.want_request_body()

    def _request_for(self, version: int) -> RequestHead:
        choice = self._choice
        route = self._route
        assert choice is not None
        assert route is not None
        action = route.action
        assert isinstance(action, ForwardAction)
        added = self._passed.added_fields
        request = backend_request(
            self._client, self._head, route, action, choice, version, self.value_of, added
        )
        if self._handshake is not None:
            return self._handshake.request_for(version, request, self._context.env.entropy)
        return request

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
        if (failure.source is FailureSource.BACKEND or failure.retryable) and selection.exclude(choice.host):
            self._failure = failure
            selection.choose()
            return
        self._unavailable(failure)

    # From the client.

    def request_data(self, data: bytes) -> None:
        backend = self._backend
        if backend is None:
            super().request_data(data)
            return
        self._request_bytes += len(data)
        limit = self._client.limits.body_bytes
        if limit is not None and self._request_bytes > limit:
            self._refuse_body(limit)
            return
        if backend.send_data(data):
            self._backend_is_full = True
            self._server.pause_request_body()
            self._last_activity = self._context.now
            self._seen_sent_bytes = backend.sent_bytes
        elif self._upload_may_relay:
            self._upload_may_relay = False
            sink = backend.request_sink
            if sink is not None:
                self._server.relay_request_body(sink, RELAY_LEAST_BYTES)

    def request_relayed(self, byte_count: int) -> None:
        """`byte_count` bytes of the request's content went to the backend past us."""
        self._request_bytes += byte_count

    def request_end(self, trailers: Fields) -> None:
        if self._backend is None:
            super().request_end(trailers)
        else:
            self._last_activity = self._context.now
            self._arm(self._client.timeouts.socket_s)
            try:
                self._backend.send_end(trailers_for_backend(trailers, self._passed))
            except LocalProtocolError as error:
                self.request_failed(
                    Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_ERROR, error.reason), 400
                )

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
        self._client_is_full = False
        self._last_activity = self._context.now
        if self._backend is not None:
            self._backend.resume_response()

    # From the backend.

    def request_writable(self) -> None:
        # The client could not send while it was not read from, so its pace is measured anew.
        self._backend_is_full = False
        self._last_activity = self._window_started_at = self._context.now
        self._window_request_bytes = self._request_bytes
        self._server.resume_request_body()

    def response_informational(self, head: ResponseHead) -> None:
        self._last_activity = self._context.now
        fields = without_length(end_to_end_fields(head.fields, head.connection_options))
        try:
            is_full = self._server.send_informational(ResponseHead(head.status, fields, reason=head.reason))
        except LocalProtocolError:
            # An interim response may be left out (RFC 9110 §15.2).
            return
        if is_full:
            self._hold_response()

    def response_head(self, head: ResponseHead) -> None:
        choice = self._choice
        route = self._route
        assert self._backend is not None
        assert choice is not None
        assert route is not None
        self._last_activity = self._context.now
        self._status = head.status
        change = choice.group.report_response(choice.host, head.status, self._context.now)
        if change is not None:
            self._note_health(change, choice)
        if (head.status == 101 or self._handshake is not None) and self._switch_protocols(head):
            return
        fields = end_to_end_fields(head.fields, head.connection_options)
        head.fields = without_length(fields) if head.status == 204 else fields
        if (
            route.response_fields is not None
            or choice.state.target.response_fields is not None
            or route.quic is not None
        ):
            self._apply_response_rules(head)
        if self._own_fields:
            head.fields += self._own_fields
        try:
            self._server.send_head(head)
        except LocalProtocolError as error:
            self._drop_backend()
            failure = Failure(FailureSource.BACKEND, FailureCode.HTTP_PROTOCOL_ERROR, error.reason)
            self._refuse(502, failure, "The backend's response cannot be passed on.")
            return
        self._response_begun = True
        self._relay_candidate = head.body_length_bytes > RELAY_LEAST_BYTES

    def _apply_response_rules(self, head: ResponseHead) -> None:
        """Make the end-to-end fields of a backend's response those that the client gets."""
        choice = self._choice
        route = self._route
        assert choice is not None
        assert route is not None
        if route.response_fields is not None:
            head.fields = route.response_fields.apply(head.fields, self.value_of)
        target_rules = choice.state.target.response_fields
        if target_rules is not None:
            head.fields = target_rules.apply(head.fields, self.value_of)
        if route.quic is not None:
            self._advertise(head)

    def response_data(self, data: bytes) -> None:
        backend = self._backend
        assert backend is not None
        server = self._server
        self._response_bytes += len(data)
        self._last_activity = self._context.now
        is_full = server.send_data(data)
        if self._relay_candidate:
            self._relay_candidate = False
            link = server.link
            if link is not None and backend.relay_body(link, RELAY_LEAST_BYTES):
                return
        if is_full:
            self._hold_response()

    def _hold_response(self) -> None:
        """Take no more from the backend than the client reads."""
        backend = self._backend
        if backend is not None:
            backend.pause_response()
            self._client_is_full = True
            self._seen_sent_bytes = self._server.sent_bytes

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
        if self._may_be_retried(failure):
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

    def _may_be_retried(self, failure: Failure) -> bool:
        """Whether nobody can have acted on the request, or acting twice does no harm (RFC 9110 §9.2.2)."""
        if self._retried or self._head.body_length_bytes != NO_BODY:
            return False
        return failure.unprocessed or (failure.retryable and self._head.method in IDEMPOTENT_METHODS)

    # Upgrades (RFC 9110 §7.8) and extended CONNECT (RFC 8441): from here on the bytes are not HTTP.

    def _switch_protocols(self, head: ResponseHead) -> bool:
        """Open the tunnel that the backend agrees to. False: it does not, by an ordinary response."""
        backend = self._backend
        handshake = self._handshake
        assert backend is not None
        try:
            if handshake is None:
                raise HandshakeError(502, "unasked-for upgrade")
            if not handshake.accepted_by(head):
                return False
            answer = handshake.response(head)
            self._apply_response_rules(answer)
            answer.fields += self._own_fields
            client_stream, from_client = self._server.open_tunnel(answer)
            self._status = answer.status
        except (HandshakeError, LocalProtocolError) as error:
            self._drop_backend()
            failure = Failure(FailureSource.BACKEND, FailureCode.HTTP_UPGRADE_FAILED, error.reason)
            self._refuse(502, failure, "The backend's answer to the WebSocket handshake is not a valid one.")
            return True
        self._backend = None
        self._response_begun = True
        backend_stream, from_backend = backend.take_over()
        tunnel = self._tunnel = join_websocket(
            self._context,
            client_stream,
            backend_stream,
            rules=self._websocket_rules,
            extensions=handshake.extensions,
            timer=self._server.timer,
            idle_s=self._websocket_rules.idle_timeout_s,
            on_end=self._tunnel_ended,
        )
        if from_backend:
            tunnel.from_backend.receive_data(from_backend)
        if from_client and not tunnel.finished:
            tunnel.from_client.receive_data(from_client)
        if self._server.client_ended and not tunnel.finished:
            tunnel.from_client.receive_eof()
        return True

    def _tunnel_ended(self, failure: Failure | None) -> None:
        tunnel = self._tunnel
        assert tunnel is not None
        self._request_bytes += tunnel.from_client.moved_bytes
        self._response_bytes += tunnel.from_backend.moved_bytes
        self._failure = failure
        self._close_code = tunnel.close_code or 0
        self._release_host()
        self._finish()
        self._server.tunnel_ended()

    # Answers of the proxy's own.

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
        status = status_for(failure)
        retry_after_s = None
        if status == 503 and self._selection is not None:
            retry_after_s = self._selection.retry_after_s()
        self._refuse(status, failure, "", retry_after_s=retry_after_s)

    # Deadlines.

    def _arm(self, delay_s: float) -> None:
        self._context.set_timer(self._server.timer, delay_s)

    def deadline_passed(self) -> None:
        """Someone has been silent too long, or only slow: see who."""
        if self._gate is not None or self._submission is not None:
            self._gate_too_slow()
            return
        client = self._client
        timer = self._server.timer
        now = self._context.now
        socket_s = client.timeouts.socket_s
        backend = self._backend
        if backend is None:
            failure = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TIMEOUT, "no connection in time")
            self._withdraw()
            self._unavailable(failure)
            return
        self._note_progress(backend)
        if not self._server.request_ended and not self._backend_is_full:
            window_ends_at = self._window_started_at + socket_s
            if now < window_ends_at:
                self._context.timers.set(timer, window_ends_at)
                return
            request_bytes = self._request_bytes + self._server.relayed_request_bytes
            received = request_bytes - self._window_request_bytes
            if received >= client.limits.body_rate_bytes_per_s * socket_s:
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
            self._context.timers.set(timer, silent_until)
        else:
            self._time_out()

    def _note_progress(self, backend: ClientStream) -> None:
        """Count what went on out of the exchange's sight as activity."""
        sent = self._seen_sent_bytes
        if backend.relayed_bytes:
            sent = backend.relayed_bytes
        elif self._client_is_full:
            sent = self._server.sent_bytes
        elif self._backend_is_full:
            sent = backend.sent_bytes
        if sent != self._seen_sent_bytes:
            self._seen_sent_bytes = sent
            self._last_activity = self._context.now

    def _time_out(self) -> None:
        client_stalls = self._client_is_full
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
        self._leave_gate()
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

    def _backend_name(self) -> str:
        return str(self._choice.pool.endpoint) if self._choice is not None else ""

    def _backend_version(self) -> int:
        return self._backend_spoke
