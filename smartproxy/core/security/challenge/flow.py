"""One request's way through a provider: assess and render, or verify and then clear or render again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import Fields
from smartproxy.core.ops import CallFunction, OperationFailed, Result, Returned
from smartproxy.core.records import Level
from smartproxy.core.security.challenge.issuer import Issuer
from smartproxy.core.security.challenge.pending import Pending
from smartproxy.core.security.challenge.provider import (
    ChallengeProvider,
    ChallengeRequest,
    Decision,
    PendingChallenge,
)
from smartproxy.core.security.challenge.provider_answers import (
    BadAnswer,
    read_assessment,
    read_page,
    read_verification,
)
from smartproxy.core.security.challenge.request import ChallengedRequest
from smartproxy.core.security.verdict import ASKED_NOTHING, OwnAnswer, Refusal, Verdict
from smartproxy.core.timers import Timer

T = TypeVar("T")

_DETAIL_SHOWN = 200


class Flow:
    """The calls of one provider for one request, all within `relay_timeout_s`.

    `assess` or `verify` begins it, once. The verdict comes to `on_verdict`, never before they return.
    """

    __slots__ = (
        "_asked",
        "_context",
        "_issuer",
        "_on_verdict",
        "_operation_id",
        "_provider",
        "_request",
        "_timer",
    )

    def __init__(
        self,
        context: Context,
        issuer: Issuer,
        provider: ChallengeProvider | None,
        request: ChallengedRequest,
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        self._context = context
        self._issuer = issuer
        self._provider = provider
        self._request = request
        self._on_verdict = on_verdict
        self._asked = request.for_provider(context.env.wall_clock())
        self._operation_id = 0
        self._timer = Timer(self._too_slow)
        context.set_timer(self._timer, issuer.settings.relay_timeout_s)

    def cancel(self) -> None:
        """Nobody wants the verdict any more."""
        self._context.timers.cancel(self._timer)
        if self._operation_id:
            self._context.cancel(self._operation_id)
            self._operation_id = 0

    # A new challenge.

    def assess(self) -> None:
        """Ask whether the request needs a challenge; if so, the verdict is its page."""
        self._call(_assess, (self._asked,), self._assessed)

    def _assessed(self, result: Result) -> None:
        assessment = self._read(result, read_assessment)
        if assessment is None:
            return
        decision, state, reason = assessment
        if decision is Decision.ALLOW:
            self._finish(ASKED_NOTHING)
        elif decision is Decision.DENY:
            self._record("challenge_refused", reason=reason or "denied")
            failure = Failure(
                FailureSource.CLIENT,
                FailureCode.HTTP_REQUEST_DENIED,
                f"denied by challenge provider {self._request.policy.provider_id}",
            )
            self._finish(Refusal(403, failure, "Access was refused."))
        else:
            now = self._context.env.wall_clock()
            issued = self._issuer.pending_cookie(
                self._request, self._issuer.new_pending(self._request, state, now), now
            )
            if issued is None:
                self._fail("the pending challenge does not fit a cookie")
                return
            self._record("challenge_shown", challenge_id=issued[0].challenge_id, reason=reason)
            self.render(*issued)

    # An answer to one.

    def verify(self, pending: Pending, payload: Mapping[str, str], set_cookie: bytes | None = None) -> None:
        """Ask whether `payload` solves it; if not, the verdict is its page again, with `set_cookie`."""

        def verified(result: Result) -> None:
            self._verified(result, pending, set_cookie)

        self._call(_verify, (self._asked, self._told(pending), payload), verified)

    def _verified(self, result: Result, pending: Pending, set_cookie: bytes | None) -> None:
        verification = self._read(result, read_verification)
        if verification is None:
            return
        solved, reason = verification
        challenge_id = pending.challenge_id
        if not solved:
            self._record("challenge_refused", challenge_id=challenge_id, reason=reason or "not solved")
            self.render(pending, set_cookie)
            return
        now = self._context.env.wall_clock()
        cookies = [self._issuer.no_pending_cookie(self._request)]
        # Another request may have spent it while the provider was thinking about this one.
        if not self._issuer.spend(pending, now):
            self._record("challenge_refused", challenge_id=challenge_id, reason="solved before")
            self._finish(redirect(pending.return_path, cookies))
            return
        clearance = self._issuer.clearance_cookie(self._request, now)
        if clearance is None:
            self._fail("the clearance does not fit a cookie")
            return
        cookies.append(clearance)
        self._record("challenge_solved", challenge_id=challenge_id, reason=reason)
        self._finish(redirect(pending.return_path, cookies))

    # The page.

    def render(self, pending: Pending, set_cookie: bytes | None = None) -> None:
        """Show the challenge."""

        def rendered(result: Result) -> None:
            self._rendered(result, set_cookie)

        self._call(_render, (self._asked, self._told(pending)), rendered)

    def _rendered(self, result: Result, set_cookie: bytes | None) -> None:
        over_rate_limit = self._request.over_rate_limit
        answer = self._read(result, lambda value: read_page(value, over_rate_limit=over_rate_limit))
        if answer is None:
            return
        if set_cookie is not None:
            answer.fields.append((b"set-cookie", set_cookie))
        answer.failure = Failure(
            FailureSource.CLIENT,
            FailureCode.HTTP_REQUEST_DENIED,
            f"challenged by {self._request.policy.provider_id}",
        )
        self._finish(answer)

    # Calls.

    def _told(self, pending: Pending) -> PendingChallenge:
        return pending.for_provider(self._issuer.settings.reserved_path_prefix)

    def _call(
        self, function: Callable[..., object], arguments: tuple[Any, ...], on_result: Callable[[Result], None]
    ) -> None:
        if self._provider is None:
            function, arguments = _no_provider, (self._request.policy.provider_id,)
        else:
            arguments = (self._provider, *arguments)
        operation = CallFunction(self._context.next_operation_id(), function, arguments)
        self._operation_id = self._context.start(operation, on_result)

    def _read(self, result: Result, read: Callable[[Any], T]) -> T | None:
        """What was returned; None where that is no answer, and the verdict is given."""
        self._operation_id = 0
        if not isinstance(result, Returned):
            self._fail((isinstance(result, OperationFailed) and result.detail) or "its call failed")
            return None
        try:
            return read(result.value)
        except BadAnswer as error:
            self._fail(str(error))
        except Exception as error:
            # The value is the provider's, and so may be the code behind its attributes.
            self._fail(f"its answer raised {type(error).__name__}")
        return None

    def _too_slow(self) -> None:
        self._fail(f"no answer within {self._issuer.settings.relay_timeout_s:g} s")

    def _fail(self, detail: str) -> None:
        """Who cannot be judged is not let in."""
        detail = detail[:_DETAIL_SHOWN]
        provider_id = self._request.policy.provider_id
        self._context.record(
            "security",
            "challenge_provider_failed",
            Level.ERROR,
            provider=provider_id,
            route=self._request.route_name,
            detail=detail,
        )
        code = (
            FailureCode.PROXY_CONFIGURATION_ERROR
            if self._provider is None
            else FailureCode.PROXY_INTERNAL_ERROR
        )
        failure = Failure(FailureSource.PROXY, code, f"challenge provider {provider_id}: {detail}")
        self._finish(Refusal(503, failure, "Your browser could not be checked. Try again in a moment."))

    def _finish(self, verdict: Verdict) -> None:
        self.cancel()
        self._on_verdict(verdict)

    def _record(self, event: str, *, reason: str, challenge_id: str = "") -> None:
        request = self._request
        self._context.record(
            "security",
            event,
            provider=request.policy.provider_id,
            challenge_type=request.policy.challenge_type,
            route=request.route_name,
            client_ip=request.client_ip,
            over_rate_limit=request.over_rate_limit,
            challenge_id=challenge_id,
            reason=reason,
        )


def redirect(path: str, cookies: list[bytes]) -> OwnAnswer:
    """303 to a `return_path`, with these Set-Cookie values (RFC 9110 §15.4.4)."""
    fields: Fields = [
        (b"location", path.encode("ascii")),
        (b"content-length", b"0"),
        (b"cache-control", b"no-store"),
    ]
    fields += [(b"set-cookie", cookie) for cookie in cookies]
    return OwnAnswer(303, fields)


# Called by the driver, so that also what looking up a provider's method raises is an operation's failure.


def _assess(provider: ChallengeProvider, request: ChallengeRequest) -> object:
    return provider.assess(request)


def _render(provider: ChallengeProvider, request: ChallengeRequest, pending: PendingChallenge) -> object:
    return provider.render(request, pending)


def _verify(
    provider: ChallengeProvider,
    request: ChallengeRequest,
    pending: PendingChallenge,
    payload: Mapping[str, str],
) -> object:
    return provider.verify(request, pending, payload)


def _no_provider(provider_id: str) -> object:
    raise LookupError(f"no challenge provider is registered as {provider_id!r}")
