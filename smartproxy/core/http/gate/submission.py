"""A request that submits the answer to a challenge, on the reserved path."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.configuration import Route
from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.http.gate.request_gate import challenged_request
from smartproxy.core.http.messages import RequestHead
from smartproxy.core.http.request_route import RequestRefused, check_access, request_host
from smartproxy.core.routing.paths import normalise_path
from smartproxy.core.security.challenge.submission import (
    MAX_SUBMISSION_BYTES,
    answer_too_large,
    refuse_submission,
)
from smartproxy.core.security.verdict import Verdict, Waiting


class ChallengeSubmission:
    """Reads the answer, finds the challenge it belongs to and has it judged.

    The verdict comes to `on_verdict`, once, unless this is cancelled first. A rate limit does not
    hold here: who is over it must be able to answer.
    """

    __slots__ = ("_body", "_client", "_head", "_is_over", "_on_verdict", "_waiting", "route")

    def __init__(self, client: ClientFacts, head: RequestHead, on_verdict: Callable[[Verdict], None]) -> None:
        self._client = client
        self._head = head
        self._on_verdict = on_verdict
        self._body = bytearray()
        self._waiting: Waiting | None = None
        self._is_over = False
        #: The one whose challenge is answered, once it is known.
        self.route: Route | None = None

    def begin(self) -> bool:
        """Look at the head; False: it has been refused by that alone."""
        head = self._head
        refusal = refuse_submission(head.method, head.fields, head.body_length_bytes)
        if refusal is not None:
            self._decide(refusal)
        return refusal is None

    def request_data(self, data: bytes) -> None:
        """Content of the answer."""
        if self._is_over or self._waiting is not None:
            return
        self._body += data
        if len(self._body) > MAX_SUBMISSION_BYTES:
            self._body.clear()
            self._decide(answer_too_large())

    def request_end(self) -> None:
        """The answer is complete."""
        if self._is_over or self._waiting is not None:
            return
        verdict = self._judge()
        if isinstance(verdict, Waiting):
            self._waiting = verdict
        else:
            self._decide(verdict)

    def cancel(self) -> None:
        """Nobody wants the verdict any more."""
        self._is_over = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _decide(self, verdict: Verdict) -> None:
        if not self._is_over:
            self._is_over = True
            self._waiting = None
            self._on_verdict(verdict)

    def _judge(self) -> Verdict | Waiting:
        client, head = self._client, self._head
        challenges = client.generation.gatekeeper.challenges
        pending = challenges.find_pending(head.fields, head.target)
        route = client.plan.route_named(pending.route_name) if pending is not None else None
        policy = pending.asked_by(route.request_policy) if pending is not None and route is not None else None
        if pending is None or route is None or policy is None:
            return challenges.without_pending()
        try:
            request_host(client, head)
            self.route = route
            check_access(client, route)
        except RequestRefused as refused:
            return refused.refusal
        request = challenged_request(
            client,
            policy,
            head,
            normalise_path(head.target) or "",
            route.name,
            over_rate_limit=pending.over_rate_limit,
        )
        return challenges.verify_submission(request, pending, bytes(self._body), self._decide)
