"""One request at its route's gate: each check in turn, until one refuses or all have passed."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import Fields, RequestHead
from smartproxy.core.records import Level
from smartproxy.core.security.authentication.refusals import NO_CREDENTIALS
from smartproxy.core.security.challenge.challenges import ChallengedRequest, Challenges
from smartproxy.core.security.challenge.scope import applies
from smartproxy.core.security.gatekeeper import RouteGate
from smartproxy.core.security.policies import ChallengePolicy, RateLimitPolicy
from smartproxy.core.security.rate_limit import (
    RateLimitDecision,
    RateLimitStore,
    rate_limit_fields,
    request_key,
    retry_after_s,
)
from smartproxy.core.security.verdict import ASKED_NOTHING, Passed, Refusal, Verdict, Waiting


class RequestGate:
    """Rate limit, then challenge, then authentication (SPEC: Security).

    `check` answers at once where it can; else it returns `Waiting`, and the verdict comes to
    `on_verdict`. A `Passed` may be shared and is not to be changed. `response_fields` are for
    whatever is answered, also when a later check refuses.
    """

    __slots__ = (
        "_challenges",
        "_client",
        "_decision",
        "_gate",
        "_head",
        "_on_verdict",
        "_path",
        "_route_name",
        "_waiting",
        "response_fields",
    )

    def __init__(
        self,
        client: ClientFacts,
        gate: RouteGate,
        head: RequestHead,
        path: str,
        route_name: str,
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        self._client = client
        self._gate = gate
        self._head = head
        self._path = path
        self._route_name = route_name
        self._on_verdict = on_verdict
        self._challenges: Challenges = client.generation.gatekeeper.challenges
        self._decision: RateLimitDecision | None = None
        self._waiting: Waiting | None = None
        self.response_fields: Fields = []

    def check(self) -> Verdict | Waiting:
        """Begin; a verdict given here is not given to `on_verdict` too."""
        gate = self._gate
        rule = gate.policy.rate_limit
        if rule is not None and gate.limiter is not None:
            verdict = self._check_rate(rule, gate.limiter)
            if verdict is not None:
                return verdict
        challenge = gate.policy.challenge
        if challenge is not None and self._applies(challenge):
            request = self._uncleared(challenge)
            if request is not None:
                return self._wait(self._challenges.challenge(request, self._challenge_answered))
        return self._authenticate()

    def cancel(self) -> None:
        """Nobody wants the verdict any more."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _applies(self, policy: ChallengePolicy) -> bool:
        head = self._head
        return applies(policy, head.method, self._path, head.fields)

    def _uncleared(
        self, policy: ChallengePolicy, *, over_rate_limit: bool = False
    ) -> ChallengedRequest | None:
        """The request as challenges know it; None: it has a clearance."""
        client = self._client
        head = self._head
        known = client.clearances.get(policy)
        if (
            known is not None
            and known[0] is head.fields
            and known[1] == head.authority
            and known[2] == self._route_name
            and client.context.env.wall_clock() < known[3]
        ):
            return None
        request = challenged_request(
            client, policy, head, self._path, self._route_name, over_rate_limit=over_rate_limit
        )
        until = self._challenges.cleared_until(request)
        if not until:
            return request
        client.clearances[policy] = (head.fields, head.authority, self._route_name, until)
        return None

    def _wait(self, waiting: Waiting) -> Waiting:
        self._waiting = waiting
        return waiting

    # Rate limit.

    def _check_rate(self, rule: RateLimitPolicy, limiter: RateLimitStore) -> Verdict | Waiting | None:
        """None: there is room."""
        client = self._client
        challenge = rule.over_limit_challenge
        request: ChallengedRequest | None = None
        if challenge is not None and self._applies(challenge):
            request = self._uncleared(challenge, over_rate_limit=True)
            if request is None and rule.clearance_bypasses:
                return None
        key = request_key(rule, client.client_number, self._path, self._head.fields)
        ahead, client.counted_ahead = client.counted_ahead, None
        if ahead is not None and ahead[0] is limiter and ahead[1] == key:
            # A client that was silent at first has been counted as a connection already.
            decision = ahead[2]
        else:
            decision = limiter.take(key, client.context.now)
        self._decision = decision
        self.response_fields = rate_limit_fields(decision, rule)
        if decision.allowed:
            return None
        # Who has a clearance that exempts from nothing would gain nothing by another one.
        if request is not None:
            return self._wait(self._challenges.challenge(request, self._limit_challenge_answered))
        return self._over_limit()

    def _over_limit(self) -> Refusal:
        rule = self._gate.policy.rate_limit
        decision = self._decision
        assert rule is not None
        assert decision is not None
        return Refusal(
            429,
            Failure(FailureSource.CLIENT, FailureCode.RATE_LIMITED, f"route {self._route_name}"),
            rule.error_message,
            retry_after_s=retry_after_s(decision),
        )

    def _limit_challenge_answered(self, verdict: Verdict) -> None:
        self._waiting = None
        # No challenge is wanted of this request, so nothing stands between it and the limit.
        self._on_verdict(self._over_limit() if isinstance(verdict, Passed) else verdict)

    # Challenge.

    def _challenge_answered(self, verdict: Verdict) -> None:
        self._waiting = None
        if isinstance(verdict, Passed):
            # The provider wants no challenge of this request; what comes after is asked all the same.
            after = self._authenticate()
            if isinstance(after, Waiting):
                return
            verdict = after
        self._on_verdict(verdict)

    # Authentication.

    def _authenticate(self) -> Verdict | Waiting:
        authentication = self._gate.authentication
        if authentication is None:
            return ASKED_NOTHING
        answer = authentication.check(self._head.fields, self._authenticated)
        if isinstance(answer, Waiting):
            return self._wait(answer)
        if isinstance(answer, Refusal):
            self._record_unauthenticated(answer)
        return answer

    def _authenticated(self, verdict: Passed | Refusal) -> None:
        self._waiting = None
        if isinstance(verdict, Refusal):
            self._record_unauthenticated(verdict)
        self._on_verdict(verdict)

    def _record_unauthenticated(self, refusal: Refusal) -> None:
        if refusal.failure.code is not FailureCode.AUTHENTICATION_FAILED:
            return
        client = self._client
        reason = refusal.failure.detail
        client.context.record(
            "security",
            "authentication_failed",
            # A browser's first request never has any.
            Level.DEBUG if reason == NO_CREDENTIALS else Level.INFO,
            client_ip=client.client_ip,
            route=self._route_name,
            reason=reason,
        )


def challenged_request(
    client: ClientFacts,
    policy: ChallengePolicy,
    head: RequestHead,
    path: str,
    route_name: str,
    *,
    over_rate_limit: bool = False,
) -> ChallengedRequest:
    """What challenges go by, of a request that has been routed: so its host is known to be valid."""
    return ChallengedRequest(
        policy=policy,
        route_name=route_name,
        method=head.method,
        host=client.host_of(head.authority),
        path=path,
        target=head.target,
        fields=head.fields,
        client_ip=client.client_ip,
        client_number=client.client_number,
        is_tls=bool(client.tls_version),
        over_rate_limit=over_rate_limit,
    )
