"""A request on its way to its route: routed, then held at the route's gate until it may pass."""

from __future__ import annotations

from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.answer import Answer
from smartproxy.core.http.gate.passage import fields_for_backend
from smartproxy.core.http.gate.request_gate import RequestGate
from smartproxy.core.http.gate.submission import ChallengeSubmission
from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.http.request_route import RequestRefused, route_request
from smartproxy.core.http.server_stream import ServerStream
from smartproxy.core.security.verdict import ASKED_NOTHING, Passed, Refusal, Verdict, Waiting

GATE_DEADLINE_S = 30.0
"""The longest that a request waits for a verdict. Every check has a shorter deadline of its own; a
function of the operator's that never answers is caught by this one."""


class GatedAnswer(Answer):
    """Decides whether a request is served at all; a subclass serves it, in `_admitted`."""

    __slots__ = ("_asked", "_gate", "_passed", "_submission")

    def __init__(self, client: ClientFacts, server: ServerStream, head: RequestHead) -> None:
        #: The head as the client sent it. An extended CONNECT is routed and logged as the GET that it
        #: would have been in HTTP/1.1 (RFC 8441 §4).
        self._asked = head
        super().__init__(
            client, server, head.with_same_fields(b"GET", head.target) if head.protocol else head
        )
        self._gate: RequestGate | None = None
        self._passed = ASKED_NOTHING
        self._submission: ChallengeSubmission | None = None

    def begin(self) -> None:
        """Route the request and start on its answer. May finish before it returns."""
        client = self._client
        generation = client.generation
        head = self._head
        if generation.has_challenges and generation.gatekeeper.challenges.is_reserved(head.target):
            self._take_submission()
            return
        try:
            hit, path = route_request(client, head)
        except RequestRefused as refused:
            self._obey(refused.refusal)
            return
        route = self._route = hit.route
        self._path = path
        self.params = hit.params
        if route.request_policy is None:
            if generation.has_challenges:
                # A browser sends the whole site's cookies, other routes' clearances with them.
                self._obey(ASKED_NOTHING)
            else:
                self._admitted()
            return
        gate = self._gate = RequestGate(
            client, generation.gates[route], head, path, route.name, self._gate_decided
        )
        verdict = gate.check()
        self._own_fields = gate.response_fields
        if isinstance(verdict, Waiting):
            self._context.set_timer(self._server.timer, GATE_DEADLINE_S)
        else:
            self._obey(verdict)

    def _admitted(self) -> None:
        """The request may be served."""
        raise NotImplementedError

    def _gate_decided(self, verdict: Verdict) -> None:
        gate = self._gate
        assert gate is not None
        self._own_fields = gate.response_fields
        self._obey(verdict)

    def _obey(self, verdict: Verdict) -> None:
        self._gate = None
        if isinstance(verdict, Passed):
            self._passed = verdict
            if verdict.removed_fields or verdict.removed_cookies or self._client.generation.has_challenges:
                fields = fields_for_backend(self._client, self._head, verdict)
                if fields is not self._head.fields:
                    # The next request may share the head that was received.
                    is_asked = self._asked is self._head
                    self._head = self._head.with_fields(fields)
                    self._asked = self._head if is_asked else self._asked.with_fields(fields)
            self._admitted()
        elif isinstance(verdict, Refusal):
            self._refuse(
                verdict.status,
                verdict.failure,
                verdict.explanation,
                retry_after_s=verdict.retry_after_s,
                fields=verdict.fields,
            )
        else:
            self._failure = verdict.failure
            # A page of status 200 would be an open tunnel to who has asked for one.
            status = 403 if self._opens_tunnel_by(verdict.status) else verdict.status
            self._send_own(
                ResponseHead(status, verdict.fields, body_length_bytes=len(verdict.body)), verdict.body
            )

    # The answer to a challenge.

    def _take_submission(self) -> None:
        submission = self._submission = ChallengeSubmission(
            self._client, self._head, self._submission_decided
        )
        server = self._server
        if not submission.begin():
            return
        self._context.set_timer(server.timer, GATE_DEADLINE_S)
        if server.request_ended:
            submission.request_end()
            return
        if self._head.expects_continue:
            server.send_informational(ResponseHead(100, [], reason=b"Continue"))
        server.want_request_body()

    def _submission_decided(self, verdict: Verdict) -> None:
        submission, self._submission = self._submission, None
        if submission is not None and submission.route is not None:
            self._route = submission.route
        self._obey(verdict)

    # While a verdict is awaited.

    def request_data(self, data: bytes) -> None:
        """Content arrived."""
        if self._submission is not None:
            self._request_bytes += len(data)
            self._submission.request_data(data)

    def request_end(self, trailers: Fields) -> None:
        """The request is complete."""
        if self._submission is not None:
            self._submission.request_end()

    def _leave_gate(self) -> None:
        """Withdraw from the gate."""
        gate, self._gate = self._gate, None
        submission, self._submission = self._submission, None
        if gate is not None:
            gate.cancel()
        if submission is not None:
            submission.cancel()

    def _gate_too_slow(self) -> None:
        if self._submission is not None and not self._server.request_ended:
            failure = Failure(FailureSource.CLIENT, FailureCode.CONNECTION_READ_TIMEOUT, "body too slow")
            self._leave_gate()
            self._refuse(408, failure, "The request body did not arrive in time.")
            return
        self._leave_gate()
        # Who cannot be judged is not let in.
        failure = Failure(FailureSource.PROXY, FailureCode.PROXY_INTERNAL_ERROR, "no verdict in time")
        self._refuse(503, failure, "The request could not be checked in time.", retry_after_s=1)
