"""The learner through any history, against a small model of what it may know and must leave alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smartproxy.core.configuration import BackendProtocol
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.upstream.alt_svc_cache import AltSvcCache, Origin
from smartproxy.core.upstream.attempts import ALPN_HTTP1, Attempt, AttemptTransport
from smartproxy.core.upstream.protocol_choice import ProtocolChooser
from smartproxy.core.upstream.suppression import TRIAL_CLAIM_S
from smartproxy.core.wire.alt_svc import CLEAR, AltSvcEntry, AltSvcHeader, format_alt_svc

FIRST_S, LONGEST_S = 5.0, 600.0
ORIGIN = Origin("https", "backend.example", 443)

entries = st.builds(
    AltSvcEntry,
    protocol_id=st.sampled_from([b"h3", b"h3", b"h3", b"h2"]),
    host=st.sampled_from(["", "", "edge.example"]),
    port=st.integers(1, 2),
    max_age_s=st.sampled_from([0, 3, 86400, 86400]),
)
headers = st.one_of(
    st.just(CLEAR), st.lists(entries, min_size=1, max_size=4).map(lambda some: AltSvcHeader(tuple(some)))
)
backend_codes = st.sampled_from(
    [
        FailureCode.CONNECTION_TIMEOUT,
        FailureCode.CONNECTION_REFUSED,
        FailureCode.TLS_ALERT_RECEIVED,
        FailureCode.HTTP_PROTOCOL_ERROR,
    ]
)
failures = st.one_of(
    st.builds(Failure, st.just(FailureSource.BACKEND), backend_codes),
    st.just(Failure(FailureSource.PROXY, FailureCode.CONNECTION_LIMIT_REACHED)),
)


class ModelledMark:
    """What a failed alternative is owed."""

    def __init__(self) -> None:
        self.until = 0.0
        self.failure_count = 0
        self.needs_trial = False
        self.claimed_by: Attempt | None = None
        self.claimed_at = 0.0


class ChooserLife(RuleBasedStateMachine):
    """One backend in auto mode. Times only run on; whoever gets an attempt may report anything about it."""

    chooser: ProtocolChooser

    @initialize()
    def start(self) -> None:
        self.now = 1000.0
        self.cache = AltSvcCache(first_suppression_s=FIRST_S, longest_suppression_s=LONGEST_S)
        self.chooser = ProtocolChooser(ORIGIN, self.cache)
        self.open: list[Attempt] = []
        self.connections: list[Attempt] = []
        self.responded: set[Attempt] = set()
        #: Fresh until; h3 alone, in the server's order.
        self.advertised: dict[str, float] = {}
        self.marks: dict[str, ModelledMark] = {}

    # The model.

    def mark_failed(self, attempt: Attempt) -> None:
        mark = self.marks.setdefault(str(attempt.alternative), ModelledMark())
        if self.now < mark.until:
            return
        mark.until = self.now + min(FIRST_S * 2.0**mark.failure_count, LONGEST_S)
        mark.failure_count += 1
        mark.needs_trial = True
        mark.claimed_by = None

    def may_use(self, alternative: str) -> bool:
        mark = self.marks.get(alternative)
        if mark is None:
            return True
        if self.now < mark.until:
            return False
        claimed = mark.claimed_by is not None and self.now < mark.claimed_at + TRIAL_CLAIM_S
        return not (mark.needs_trial and claimed)

    def usable(self) -> list[str]:
        return [name for name, until in self.advertised.items() if self.now < until and self.may_use(name)]

    def check_events(self) -> None:
        for event in self.chooser.poll_events():
            if event.name == "h3_marked_broken":
                mark = self.marks[str(event.fields["alternative"])]
                assert event.fields["failure_count"] == mark.failure_count
                assert event.fields["suppressed_for_s"] == round(mark.until - self.now, 3)

    # What happens.

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 4.9, 5.0, 11.0, 700.0, 90000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: any(self.now < mark.until for mark in self.marks.values()))
    @rule()
    def wait_out_a_back_off(self) -> None:
        self.now = min(mark.until for mark in self.marks.values() if self.now < mark.until)

    @rule(header=headers)
    def advertise(self, header: AltSvcHeader) -> None:
        # What is repeated within a second changes nothing, not even for how long it holds.
        self.now += 1.0
        self.chooser.alt_svc_seen(format_alt_svc(header), self.now)
        self.advertised = {}
        for entry in header.entries:
            name = f"h3={entry.host or ORIGIN.host}:{entry.port}"
            if entry.protocol_id == b"h3" and entry.max_age_s and name not in self.advertised:
                self.advertised[name] = self.now + entry.max_age_s

    @rule(value=st.binary(max_size=8))
    def advertise_nonsense(self, value: bytes) -> None:
        before = self.usable()
        self.chooser.alt_svc_seen(b"=" + value, self.now)
        assert self.usable() == before

    @rule(for_websocket=st.booleans())
    def plan(self, for_websocket: bool) -> None:
        usable = self.usable()
        plan = self.chooser.plan(self.now, for_websocket=for_websocket)
        assert plan
        assert plan[-1].transport is AttemptTransport.TLS
        assert plan[-1].alpn == (ALPN_HTTP1,)
        quic = [attempt for attempt in plan if attempt.transport is AttemptTransport.QUIC]
        assert [str(attempt.alternative) for attempt in quic] == usable[:1]
        for attempt in quic:
            assert attempt is plan[0]
            assert attempt.head_start_s > 0
            assert attempt.certificate_name == ORIGIN.host
            mark = self.marks.get(str(attempt.alternative))
            assert attempt.is_trial == (mark is not None and mark.needs_trial)
            if mark is not None and mark.needs_trial:
                mark.claimed_by, mark.claimed_at = attempt, self.now
        self.open += plan
        assert len(plan) <= 3

    @precondition(lambda self: self.usable())
    @rule(failure=failures)
    def plan_and_fail(self, failure: Failure) -> None:
        self.plan(for_websocket=True)
        self.open.pop()
        self.report_failure(self.open.pop(), failure)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), failure=failures)
    def fail(self, data: st.DataObject, failure: Failure) -> None:
        self.report_failure(self.open.pop(data.draw(st.integers(0, len(self.open) - 1))), failure)

    def report_failure(self, attempt: Attempt, failure: Failure) -> None:
        if attempt.alternative is not None:
            if failure.source is FailureSource.BACKEND:
                self.mark_failed(attempt)
            else:
                self.release(attempt)
        self.chooser.attempt_failed(attempt, failure, self.now)
        self.check_events()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        attempt = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.release(attempt)
        self.chooser.attempt_abandoned(attempt)

    def release(self, attempt: Attempt) -> None:
        mark = self.marks.get(str(attempt.alternative))
        if mark is not None and attempt.is_trial:
            mark.claimed_by = None

    @precondition(lambda self: self.open)
    @rule(data=st.data(), alpn=st.sampled_from([b"h2", b"http/1.1", None, b"h3", b"spdy/1"]))
    def succeed(self, data: st.DataObject, alpn: bytes | None) -> None:
        attempt = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if attempt.alternative is not None and not alpn:
            # QUIC without ALPN does not connect (RFC 9001 §8.1): whoever leaves it out means h3.
            alpn = b"h3"
        protocol = self.chooser.attempt_succeeded(attempt, self.now, alpn)
        assert protocol is attempt.protocol_for(alpn)
        if protocol is None:
            self.open.append(attempt)
            return
        self.connections.append(attempt)
        mark = self.marks.get(str(attempt.alternative))
        if mark is not None:
            mark.until, mark.needs_trial = 0.0, False

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def overtake(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.open))
        if attempt.alternative is not None:
            self.chooser.attempt_overtaken(attempt)

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), status=st.sampled_from([200, 503, 421]))
    def respond(self, data: st.DataObject, status: int) -> None:
        attempt = data.draw(st.sampled_from(self.connections))
        name = str(attempt.alternative)
        if status == 421:
            if attempt.alternative is not None:
                self.advertised.pop(name, None)
                if attempt not in self.responded:
                    self.mark_failed(attempt)
        elif attempt not in self.responded:
            self.responded.add(attempt)
            self.marks.pop(name, None)
        self.chooser.response_received(attempt, status, None, self.now)
        self.check_events()

    @precondition(lambda self: self.connections)
    @rule(data=st.data(), failure=st.one_of(st.none(), failures))
    def lose(self, data: st.DataObject, failure: Failure | None) -> None:
        attempt = self.connections.pop(data.draw(st.integers(0, len(self.connections) - 1)))
        if attempt.alternative is not None and failure and failure.source is FailureSource.BACKEND:
            self.mark_failed(attempt)
        self.chooser.connection_lost(attempt, failure, self.now)
        self.check_events()

    @invariant()
    def what_is_shown_agrees(self) -> None:
        before = len(self.cache)
        snapshot = self.chooser.snapshot(self.now)
        shown = {str(state.alternative): state for state in snapshot.alternatives}
        assert list(shown) == [name for name, until in self.advertised.items() if self.now < until]
        for name, state in shown.items():
            mark = self.marks.get(name)
            assert state.failure_count == (0 if mark is None else mark.failure_count)
            assert (self.now < state.suppressed_until) == (mark is not None and self.now < mark.until)
        assert len(self.cache) == before <= 1


TestChooserLife = ChooserLife.TestCase


@given(
    st.sampled_from([BackendProtocol.HTTP1, BackendProtocol.HTTP2, BackendProtocol.HTTP3]),
    st.sampled_from(["http", "https"]),
    st.lists(st.tuples(headers, failures, st.booleans()), max_size=6),
)
def test_the_hard_modes_never_have_a_second_way(
    mode: BackendProtocol, scheme: str, history: list[tuple[AltSvcHeader, Failure, bool]]
) -> None:
    chooser = ProtocolChooser(Origin(scheme, "backend.example", 443), AltSvcCache(), mode=mode)
    for second, (header, failure, succeeds) in enumerate(history):
        (attempt,) = chooser.plan(float(second))
        assert (attempt.host, attempt.port) == ("backend.example", 443)
        assert (attempt.connect_timeout_s == 3.0) == (mode is BackendProtocol.HTTP3)
        if succeeds:
            chooser.attempt_succeeded(attempt, float(second), attempt.alpn[0] if attempt.alpn else None)
            chooser.response_received(attempt, 200, format_alt_svc(header), float(second))
            chooser.connection_lost(attempt, failure, float(second))
        else:
            chooser.attempt_failed(attempt, failure, float(second))
    assert len(chooser.plan(99.0)) == 1
    assert chooser.snapshot(99.0).alternatives == ()


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), headers), max_size=60), st.integers(1, 8))
def test_the_cache_is_bounded_whatever_origins_say(
    history: list[tuple[int, bool, AltSvcHeader]], max_origins: int
) -> None:
    cache = AltSvcCache(max_origins)
    for second, (number, breaks, header) in enumerate(history):
        origin = Origin("https", f"{number}.example", 443)
        cache.learn(origin, header, float(second))
        alternatives = cache.lookup(origin, float(second))
        for alternative in alternatives:
            if breaks:
                cache.mark_broken(origin, alternative, float(second))
        assert not (breaks and cache.lookup(origin, float(second)))
        assert len(cache) <= max_origins
