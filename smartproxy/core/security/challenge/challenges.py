"""Browser challenges of one engine: who is cleared, who is challenged, and who has answered."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import Fields
from smartproxy.core.security.challenge.flow import Flow, redirect
from smartproxy.core.security.challenge.issuer import Issuer
from smartproxy.core.security.challenge.pending import Pending
from smartproxy.core.security.challenge.provider import ChallengeProvider
from smartproxy.core.security.challenge.request import ChallengedRequest
from smartproxy.core.security.challenge.return_path import return_path, without_query
from smartproxy.core.security.challenge.scope import is_navigation
from smartproxy.core.security.challenge.submission import read_submission
from smartproxy.core.security.policies import ChallengeSettings
from smartproxy.core.security.verdict import Refusal, Verdict, Waiting

__all__ = ["ChallengedRequest", "Challenges"]


class Challenges:
    """Providers and signed state; both outlive configurations."""

    __slots__ = ("_context", "_issuer", "_providers", "_reserved_prefix")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._issuer = Issuer(context.env.entropy)
        self._providers: dict[str, ChallengeProvider] = {}
        self._reserved_prefix = self._issuer.settings.reserved_path_prefix.encode("ascii")

    def configure(self, settings: ChallengeSettings) -> None:
        """Obey `settings`. Without signing keys one is made, which holds for the engine's life.

        Raises ValueError for more than 8 signing keys or an empty one.
        """
        self._issuer.configure(settings)
        self._reserved_prefix = settings.reserved_path_prefix.encode("ascii")

    def register(self, provider_id: str, provider: ChallengeProvider) -> None:
        """Ask `provider` wherever a route names `provider_id`, in place of whoever was asked before."""
        self._providers[provider_id] = provider

    def unregister(self, provider_id: str) -> None:
        """Routes that name it refuse with 503 from now on. An unknown one is nothing to do."""
        self._providers.pop(provider_id, None)

    def has_provider(self, provider_id: str) -> bool:
        return provider_id in self._providers

    def own_cookie_names(self, fields: Fields) -> tuple[bytes, ...]:
        """The names of the request's cookies that challenges have set, for whichever of the host's routes."""
        return self._issuer.own_cookie_names(fields)

    # Protected requests.

    def cleared_until(self, request: ChallengedRequest) -> float:
        """Until when a clearance covers the request, in seconds since the Unix epoch; 0.0: none does."""
        return self._issuer.cleared_until(request, self._context.env.wall_clock())

    def challenge(self, request: ChallengedRequest, on_verdict: Callable[[Verdict], None]) -> Waiting:
        """Challenge a request that has no clearance.

        `on_verdict`, which is never called before this returns, gets `Passed` where the provider
        wants no challenge, a page or a redirect, or a refusal: 403 from the provider, 503 where it
        failed. Coming back to the page that was asked for is an answer, and so is the visit of
        another of the route's pages; what a page loads besides is not.
        """
        issuer = self._issuer
        now = self._context.env.wall_clock()
        flow = self._flow(request, on_verdict)
        pending = issuer.find_pending(request, now)
        if pending is None:
            flow.assess()
            return Waiting(flow.cancel)
        path = return_path(request.target)
        if is_navigation(request.method, request.fields):
            set_cookie = None
            if path != pending.return_path:
                moved = issuer.pending_cookie(request, pending.returning_to(path), now)
                if moved is not None:
                    pending, set_cookie = moved
            flow.verify(pending, {}, set_cookie)
        elif pending.return_path in (path, without_query(path)):
            flow.verify(pending, {})
        else:
            flow.render(pending)
        return Waiting(flow.cancel)

    # Submitted answers.

    def is_reserved(self, target: bytes) -> bool:
        """Whether a request's target, in origin-form, is where answers are submitted."""
        return target.startswith(self._reserved_prefix) and (
            target[len(self._reserved_prefix) : len(self._reserved_prefix) + 1] in (b"", b"/", b"?")
        )

    def find_pending(self, fields: Fields, target: bytes) -> Pending | None:
        """The challenge that a request for a reserved target answers, by the browser's signed cookie.

        Its `route_name` tells the route to whose access rules the request is subject, and
        `asked_by` the policy. It is not yet looked at whether it is expired, or another client's.
        """
        path = target.partition(b"?")[0]
        challenge_id = path[len(self._reserved_prefix) + 1 :].decode("latin-1")
        return self._issuer.find_pending_by_id(fields, challenge_id) if challenge_id else None

    def verify_submission(
        self,
        request: ChallengedRequest,
        pending: Pending,
        body: bytes,
        on_verdict: Callable[[Verdict], None],
    ) -> Verdict | Waiting:
        """Judge the answer to `pending` that `request`, with its route's name and policy, submits.

        A verdict that is returned does not come to `on_verdict` too. A right answer is redirected
        to the page that was asked for, and so is one that comes too late or again, which finds
        another challenge there.
        """
        issuer = self._issuer
        payload = read_submission(request.method, request.target, request.fields, body)
        if isinstance(payload, Refusal):
            return payload
        if not issuer.belongs(pending, request):
            self._record_refused(request, pending, "begun by another client or on another host")
            return _not_yours()
        now = self._context.env.wall_clock()
        no_pending = [issuer.no_pending_cookie(request)]
        if issuer.cleared_until(request, now):
            return redirect(pending.return_path, no_pending)
        if not issuer.is_open(pending, request, now):
            self._record_refused(request, pending, "expired, solved before, or not asked any more")
            return redirect(pending.return_path, no_pending)
        flow = self._flow(request, on_verdict)
        flow.verify(pending, payload)
        return Waiting(flow.cancel)

    def without_pending(self) -> Refusal:
        """For a request for a reserved target that answers no challenge, as far as its cookies tell."""
        failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_DENIED, "no challenge is pending")
        return Refusal(403, failure, _START_AGAIN)

    def _flow(self, request: ChallengedRequest, on_verdict: Callable[[Verdict], None]) -> Flow:
        provider = self._providers.get(request.policy.provider_id)
        return Flow(self._context, self._issuer, provider, request, on_verdict)

    def _record_refused(self, request: ChallengedRequest, pending: Pending, reason: str) -> None:
        self._context.record(
            "security",
            "challenge_refused",
            provider=pending.provider_id,
            challenge_type=pending.challenge_type,
            route=pending.route_name,
            client_ip=request.client_ip,
            over_rate_limit=pending.over_rate_limit,
            challenge_id=pending.challenge_id,
            reason=reason,
        )


_START_AGAIN = (
    "This browser has no check to finish here: it may have taken too long, or not have kept the cookie "
    "that the check needs. Allow cookies for this site, and open the page that you wanted again."
)


def _not_yours() -> Refusal:
    failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_DENIED, "another client's challenge")
    return Refusal(403, failure, _START_AGAIN)
