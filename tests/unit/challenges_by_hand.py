"""Challenges without an engine: a clock to turn, providers to write in a line, answers to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from smartproxy.core.context import Context
from smartproxy.core.env import Env
from smartproxy.core.failure import LostReason
from smartproxy.core.http.messages import Fields
from smartproxy.core.ops import CallFunction, CancelOperation, OperationFailed, Returned
from smartproxy.core.records import Record
from smartproxy.core.security.challenge.challenges import ChallengedRequest, Challenges
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.core.security.policies import ChallengeClearance, ChallengePolicy, ChallengeSettings
from smartproxy.core.security.verdict import OwnAnswer, Refusal, Verdict, Waiting

EPOCH_S = 1_800_000_000.0
NAVIGATION: Fields = [(b"accept", b"text/html,*/*;q=0.8")]


class FakeProvider:
    """Does as it is told: what `on_*` returns, or raises, it returns, or raises."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.payloads: list[dict[str, str]] = []
        self.requests: list[ChallengeRequest] = []
        self.pendings: list[PendingChallenge] = []
        self.on_assess: Callable[[], object] = lambda: Assessment(Decision.CHALLENGE, {"n": 1})
        self.on_render: Callable[[], object] = lambda: ChallengePage("<p>Wait.")
        self.on_verify: Callable[[], object] = lambda: Verification(False)

    def assess(self, request: ChallengeRequest) -> Any:
        self.calls.append("assess")
        self.requests.append(request)
        return self.on_assess()

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> Any:
        self.calls.append("render")
        self.pendings.append(pending)
        return self.on_render()

    def verify(self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]) -> Any:
        self.calls.append("verify")
        self.requests.append(request)
        self.pendings.append(pending)
        self.payloads.append(dict(payload))
        return self.on_verify()


class Desk:
    """One engine's challenges, and the browser in front of them: it keeps the cookies it is set."""

    def __init__(self, **settings: Any) -> None:
        self.wall_s = EPOCH_S
        self._drawn = 0
        self.context = Context(Env(self._entropy, lambda: self.wall_s))
        self.challenges = Challenges(self.context)
        self.challenges.configure(ChallengeSettings(**settings))
        self.provider = FakeProvider()
        self.challenges.register("fake", self.provider)
        self.jar: dict[bytes, bytes] = {}
        self.set_cookies: list[bytes] = []

    def _entropy(self, length: int) -> bytes:
        self._drawn += 1
        return sha256(b"%d" % self._drawn).digest()[:length]

    # Requests.

    def request(
        self,
        target: bytes = b"/page?x=1",
        *,
        policy: ChallengePolicy | None = None,
        route: str = "shop",
        host: str = "site.example",
        ip: str = "192.0.2.7",
        method: bytes = b"GET",
        fields: Fields = NAVIGATION,
        is_tls: bool = True,
        over_rate_limit: bool = False,
    ) -> ChallengedRequest:
        """A request of the browser, with all of its cookies."""
        lines = list(fields)
        if self.jar:
            lines.append((b"cookie", b"; ".join(b"%s=%s" % each for each in self.jar.items())))
        return ChallengedRequest(
            policy=policy or POLICY,
            route_name=route,
            method=method,
            host=host,
            path=target.partition(b"?")[0].decode("latin-1"),
            target=target,
            fields=lines,
            client_ip=ip,
            client_number=ip_number(ip),
            is_tls=is_tls,
            over_rate_limit=over_rate_limit,
        )

    def visit(self, target: bytes = b"/page?x=1", **about: Any) -> Verdict | None:
        """What a protected request gets; None: it has its clearance, and passes."""
        request = self.request(target, **about)
        if self.challenges.cleared_until(request):
            return None
        verdicts: list[Verdict] = []
        waiting = self.challenges.challenge(request, verdicts.append)
        assert isinstance(waiting, Waiting)
        assert verdicts == []
        return self._settled(verdicts)

    def submit(
        self,
        target: bytes,
        body: bytes = b"",
        *,
        method: bytes = b"GET",
        content_type: bytes = b"",
        fields: Fields = NAVIGATION,
        **about: Any,
    ) -> Verdict:
        """What an answer to a reserved target gets."""
        assert self.challenges.is_reserved(target)
        lines = [*fields, *([(b"content-type", content_type)] if content_type else [])]
        request = self.request(target, method=method, fields=lines, **about)
        pending = self.challenges.find_pending(request.fields, target)
        if pending is None:
            return self.challenges.without_pending()
        verdicts: list[Verdict] = []
        verdict = self.challenges.verify_submission(request, pending, body, verdicts.append)
        if isinstance(verdict, Waiting):
            return self._settled(verdicts)
        assert verdicts == []
        return self._kept(verdict)

    def _settled(self, verdicts: list[Verdict]) -> Verdict:
        self.run_calls()
        assert len(verdicts) == 1, "one verdict, and no call left"
        assert not self.context.pending_operations
        assert self.context.timers.next_deadline() == float("inf")
        return self._kept(verdicts[0])

    def _kept(self, verdict: Verdict) -> Verdict:
        self.set_cookies = cookies_of(verdict)
        for cookie in self.set_cookies:
            pair, _, attributes = cookie.partition(b"; ")
            name, _, value = pair.partition(b"=")
            if b"Max-Age=0;" in attributes:
                self.jar.pop(name, None)
            else:
                self.jar[name] = value
        return verdict

    def run_calls(self) -> None:
        """Answer the calls that wait for a driver, as a driver does, and those that come of it."""
        while self.context.operations:
            operation = self.context.operations.pop(0)
            if isinstance(operation, CancelOperation):
                continue
            assert isinstance(operation, CallFunction)
            assert not operation.in_thread
            on_result = self.context.pending_operations.pop(operation.id, None)
            if on_result is None:
                continue
            try:
                value = operation.function(*operation.arguments)
            except Exception as error:
                on_result(OperationFailed(LostReason.ERROR, repr(error)))
            else:
                on_result(Returned(value))

    # Looking.

    def records(self, event: str) -> list[dict[str, object]]:
        return [r.fields for r in self.context.records if isinstance(r, Record) and r.event == event]

    @property
    def pending(self) -> PendingChallenge:
        """The challenge last spoken of to the provider."""
        return self.provider.pendings[-1]

    @property
    def verify_target(self) -> bytes:
        return self.pending.verify_path.encode("ascii")

    def solve(self) -> None:
        self.provider.on_verify = lambda: Verification(True)


POLICY = ChallengePolicy(provider_id="fake", challenge_type="plain")


def bound(**clearance: Any) -> ChallengePolicy:
    """A policy whose clearance is bound otherwise than by default."""
    return ChallengePolicy("fake", "plain", clearance=ChallengeClearance(**clearance))


def cookies_of(verdict: Verdict) -> list[bytes]:
    assert not isinstance(verdict, OwnAnswer) or all(len(value) <= 4096 for _, value in verdict.fields)
    return (
        [value for name, value in verdict.fields if name == b"set-cookie"]
        if isinstance(verdict, OwnAnswer)
        else []
    )


def field(verdict: Verdict, name: bytes) -> bytes:
    """The one value of a field of an answer; empty for none."""
    assert isinstance(verdict, OwnAnswer)
    values = [value for field_name, value in verdict.fields if field_name == name]
    assert len(values) <= 1
    return values[0] if values else b""


def shown(verdict: Verdict | None) -> OwnAnswer:
    assert isinstance(verdict, OwnAnswer)
    assert verdict.status in (403, 429)
    assert field(verdict, b"cache-control") == b"no-store"
    assert field(verdict, b"content-length") == b"%d" % len(verdict.body)
    return verdict


def redirected(verdict: Verdict | None, location: bytes) -> OwnAnswer:
    assert isinstance(verdict, OwnAnswer)
    assert verdict.status == 303
    assert field(verdict, b"location") == location
    assert field(verdict, b"cache-control") == b"no-store"
    return verdict


def refused(verdict: Verdict | None, status: int) -> Refusal:
    assert isinstance(verdict, Refusal)
    assert verdict.status == status
    assert verdict.explanation
    return verdict
