"""Which HTTP version a backend is spoken to in, learned as browsers learn it (RFC 7838, RFC 7301).

    chooser = ProtocolChooser(Origin("https", "10.0.0.1", 8443), AltSvcCache())
    for attempt in chooser.plan(now):           # best first; see Attempt.head_start_s
        ...                                     # dial it, then one of
    chooser.attempt_succeeded(attempt, now, alpn=b"h2")
    chooser.attempt_failed(attempt, failure, now)
    chooser.response_received(attempt, 200, b'h3=":8443"', now)
    for event in chooser.poll_events(): ...

It dials nothing, reads no clock and writes no log. `now` is monotonic, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smartproxy.core.configuration import BackendProtocol
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.records import Level
from smartproxy.core.upstream.alt_svc_cache import (
    AlternativeService,
    AlternativeState,
    AltSvcCache,
    LearnedChange,
    Origin,
)
from smartproxy.core.upstream.attempts import (
    ALPN_HTTP1,
    ALPN_HTTP2,
    ALPN_HTTP3,
    HOST_ANSWERED,
    Attempt,
    AttemptTransport,
    HttpProtocol,
)
from smartproxy.core.upstream.suppression import Availability, Suppression
from smartproxy.core.wire.alt_svc import AltSvcError, AltSvcHeader, parse_alt_svc

HEAD_START_S = 0.3
"""How long TCP waits for a QUIC dial. RFC 8305 §5 gives one address 250 ms over the next."""
HTTP3_CONNECT_TIMEOUT_S = 3.0

MAX_EVENTS = 64
"""Events kept for a caller that does not take them; the oldest go first."""

_REFRESH_S = 1.0
_MISDIRECTED = 421


@dataclass(slots=True)
class ProtocolEvent:
    """Something learned or decided, for a log record: `name` is stable, `fields` are its facts.

    Names: alt_svc_discovered, alt_svc_cleared, alt_svc_expired, alt_svc_malformed,
    protocol_learned, fell_back, h3_marked_broken, h3_suppressed, h3_retry, h3_recovered,
    h2_marked_broken, h2_retry.
    """

    name: str
    level: Level = Level.INFO
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProtocolSnapshot:
    """One backend's state. `best` is what a new connection would be tried in first; None: ALPN will say.

    `learned` is what ALPN last chose. `http2` tells if HTTP/2 may be offered, until
    `http2_suppressed_until` not.
    """

    mode: BackendProtocol
    best: HttpProtocol | None
    learned: HttpProtocol | None
    http2: Availability
    http2_suppressed_until: float
    alternatives: tuple[AlternativeState, ...]


class ProtocolChooser:
    """What is known of one backend, and the order in which to try its protocols.

    `origin.scheme` is `https` for a backend behind TLS, `http` for a plain one, which
    is spoken to in HTTP/1.1 unless `mode` says otherwise. `cache` may be shared by
    many choosers. `quic_available` is False where no QUIC can be dialled (a Unix
    socket, no engine), `http2_available` False where HTTP/2 is not to be offered beside
    HTTP/1.1. `certificate_verified` is False where anybody's certificate
    would do: then no alternative on another host is believed. `certificate_name`
    (default: the origin's host) is who certificates must be valid for.
    """

    __slots__ = (
        "_alt_svc_header",
        "_alt_svc_refreshed_at",
        "_alt_svc_value",
        "_certificate_verified",
        "_events",
        "_http2",
        "_http2_available",
        "_learns_alternatives",
        "_may_have_alternatives",
        "_suppression_told",
        "cache",
        "certificate_name",
        "head_start_s",
        "http3_connect_timeout_s",
        "learned",
        "mode",
        "origin",
    )

    def __init__(
        self,
        origin: Origin,
        cache: AltSvcCache,
        *,
        mode: BackendProtocol = BackendProtocol.AUTO,
        certificate_name: str = "",
        quic_available: bool = True,
        http2_available: bool = True,
        certificate_verified: bool = True,
        head_start_s: float = HEAD_START_S,
        http3_connect_timeout_s: float = HTTP3_CONNECT_TIMEOUT_S,
    ) -> None:
        self.origin = origin
        self.cache = cache
        self.mode = mode
        self.certificate_name = certificate_name or origin.host
        self.head_start_s = head_start_s
        self.http3_connect_timeout_s = http3_connect_timeout_s
        #: What ALPN chose last; None before the first connection, and after a failed one.
        self.learned: HttpProtocol | None = None
        self._certificate_verified = certificate_verified
        self._learns_alternatives = (
            mode is BackendProtocol.AUTO and origin.scheme == "https" and quic_available
        )
        self._http2_available = http2_available
        #: False once a look-up has found none; what is seen here makes it True again.
        self._may_have_alternatives = self._learns_alternatives
        self._http2 = Suppression(cache.first_suppression_s, cache.longest_suppression_s)
        self._alt_svc_value = b""
        self._alt_svc_header: AltSvcHeader | None = None
        self._alt_svc_refreshed_at = 0.0
        self._suppression_told = False
        self._events: list[ProtocolEvent] = []

    @property
    def learns_alternatives(self) -> bool:
        """Whether the Alt-Svc fields of responses tell it anything."""
        return self._learns_alternatives

    # What to try.

    def plan(self, now: float, *, for_websocket: bool = False) -> list[Attempt]:
        """The connections to try for a request that found none to use, in order; never empty.

        Each follows when the one before it failed (if `is_worth_trying_after`) or
        has had its `head_start_s`. The modes other than `auto` have exactly one.
        An attempt with `is_trial` is handed out once: report on it, or abandon it.
        `for_websocket` falls back to HTTP/1.1 alone, which every WebSocket server speaks.
        """
        http3 = self.http3_attempt(now)
        tcp = self.tcp_attempts(now, for_websocket=for_websocket)
        return tcp if http3 is None else [http3, *tcp]

    def http3_available(self, now: float) -> bool:
        """Whether a plan would begin with HTTP/3. Claims no trial; cheap where none was ever advertised."""
        if self.mode is BackendProtocol.HTTP3:
            return True
        if not self._may_have_alternatives:
            return False
        if self._choose_alternative(now) is not None:
            return True
        self._may_have_alternatives = bool(self.cache.states(self.origin, now))
        return False

    def http3_attempt(self, now: float) -> Attempt | None:
        """The part of a plan that is QUIC."""
        if self.mode is BackendProtocol.HTTP3:
            return self._http3_attempt(None, 0.0)
        if not self._learns_alternatives:
            return None
        alternative = self._choose_alternative(now)
        if alternative is None:
            return None
        attempt = self._http3_attempt(alternative, self.head_start_s)
        attempt.is_trial = self._claims_http3_trial(alternative, now)
        return attempt

    def tcp_attempts(self, now: float, *, for_websocket: bool = False) -> list[Attempt]:
        """The part of a plan that is not; empty in the mode `http3`."""
        if self.mode is BackendProtocol.HTTP3:
            return []
        if self.mode is BackendProtocol.HTTP2:
            return [self._tcp_attempt((ALPN_HTTP2,), HttpProtocol.HTTP2)]
        http1 = self._tcp_attempt((ALPN_HTTP1,), HttpProtocol.HTTP1)
        if (
            self.mode is BackendProtocol.HTTP1
            or self.origin.scheme != "https"
            or for_websocket
            or not self._http2_available
        ):
            return [http1]
        is_trial = self._claims_http2_trial(now)
        if not is_trial and self._http2.availability(now) is not Availability.READY:
            return [http1]
        either = self._tcp_attempt((ALPN_HTTP2, ALPN_HTTP1), None)
        either.is_trial = is_trial
        http1.follows_only_an_answer = True
        return [either, http1]

    def _http3_attempt(self, alternative: AlternativeService | None, head_start_s: float) -> Attempt:
        return Attempt(
            AttemptTransport.QUIC,
            self.origin.host if alternative is None else alternative.host,
            self.origin.port if alternative is None else alternative.port,
            alpn=(ALPN_HTTP3,),
            protocol=HttpProtocol.HTTP3,
            certificate_name=self.certificate_name,
            head_start_s=head_start_s,
            connect_timeout_s=self.http3_connect_timeout_s,
            alternative=alternative,
        )

    def _tcp_attempt(self, alpn: tuple[bytes, ...], protocol: HttpProtocol | None) -> Attempt:
        is_tls = self.origin.scheme == "https"
        return Attempt(
            AttemptTransport.TLS if is_tls else AttemptTransport.TCP,
            self.origin.host,
            self.origin.port,
            alpn=alpn if is_tls else (),
            protocol=protocol,
            certificate_name=self.certificate_name if is_tls else "",
        )

    def _choose_alternative(self, now: float) -> AlternativeService | None:
        for expired in self.cache.expire(self.origin, now):
            self._tell("alt_svc_expired", alternative=str(expired))
        usable = self.cache.lookup(self.origin, now)
        if usable:
            return usable[0]
        if not self._suppression_told:
            for state in self.cache.states(self.origin, now):
                if state.availability is Availability.SUPPRESSED:
                    self._suppression_told = True
                    remaining_s = round(state.suppressed_until - now, 3)
                    self._tell("h3_suppressed", alternative=str(state.alternative), remaining_s=remaining_s)
        return None

    def _claims_http3_trial(self, alternative: AlternativeService, now: float) -> bool:
        if not self.cache.claim_trial(self.origin, alternative, now):
            return False
        self._tell("h3_retry", alternative=str(alternative))
        return True

    def _claims_http2_trial(self, now: float) -> bool:
        if not self._http2.claim_trial(now):
            return False
        self._tell("h2_retry")
        return True

    # What became of an attempt.

    def attempt_succeeded(
        self, attempt: Attempt, now: float, alpn: bytes | None = None
    ) -> HttpProtocol | None:
        """`attempt` is connected, TLS or QUIC included; ALPN chose `alpn`. What is spoken on it.

        None: the backend chose what this attempt does not allow; close the
        connection and report it with `attempt_failed`.
        """
        if attempt.transport is AttemptTransport.QUIC:
            alpn = alpn or ALPN_HTTP3
        protocol = attempt.protocol_for(alpn)
        if protocol is None or attempt.settled:
            return protocol
        attempt.settled = True
        attempt.protocol = protocol
        if attempt.alternative is not None:
            self.cache.mark_connected(self.origin, attempt.alternative)
            if attempt.is_trial:
                self._tell("h3_recovered", alternative=str(attempt.alternative))
        elif attempt.transport is AttemptTransport.TLS:
            self._learn(protocol, alpn)
            if attempt.is_trial:
                self._http2.recovered()
        return protocol

    def _learn(self, protocol: HttpProtocol, alpn: bytes | None) -> None:
        if protocol is not self.learned:
            self.learned = protocol
            self._tell("protocol_learned", protocol=protocol.value, alpn=(alpn or b"").decode("latin-1"))

    def attempt_failed(self, attempt: Attempt, failure: Failure, now: float) -> None:
        """`attempt` could not be connected. A failure of our own side tells nothing about the backend."""
        if attempt.settled:
            return
        if failure.source is not FailureSource.BACKEND:
            self.attempt_abandoned(attempt)
            return
        attempt.settled = True
        if attempt.alternative is not None:
            self._http3_failed(attempt.alternative, failure, now)
            if not attempt.overtaken:
                self._tell_fall_back(HttpProtocol.HTTP3, self.learned, failure.code.value)
            return
        self.learned = None
        if attempt.alpn_decides:
            if failure.code in HOST_ANSWERED:
                self._http2_failed(failure, now)
                self._tell_fall_back(HttpProtocol.HTTP2, HttpProtocol.HTTP1, failure.code.value)
            elif attempt.is_trial:
                self._http2.release_trial()

    def attempt_overtaken(self, attempt: Attempt) -> None:
        """TCP connected before this QUIC attempt. Its dial goes on, and may serve later requests."""
        if attempt.alternative is not None and not attempt.settled and not attempt.overtaken:
            attempt.overtaken = True
            self._tell_fall_back(HttpProtocol.HTTP3, self.learned, "slow")

    def attempt_abandoned(self, attempt: Attempt) -> None:
        """`attempt` was withdrawn, or never started: nothing is known. A trial is given back."""
        if attempt.settled:
            return
        attempt.settled = True
        if not attempt.is_trial:
            return
        if attempt.alternative is not None:
            self.cache.release_trial(self.origin, attempt.alternative)
        else:
            self._http2.release_trial()

    # What became of a connection.

    def response_received(
        self,
        attempt: Attempt,
        status: int,
        alt_svc: bytes | None,
        now: float,
        *,
        response_age_s: float = 0.0,
    ) -> None:
        """A final response came by the connection of `attempt`; `alt_svc` is its Alt-Svc field, if any."""
        if status == _MISDIRECTED:
            # RFC 7838 §6: the alternative does not serve this origin after all, and is not to say what does.
            if attempt.alternative is not None:
                self._drop_alternative(attempt.alternative)
                if not attempt.responded:
                    # Else the next response by TCP would bring it back, and every request be misdirected.
                    detail = "421 to the first request"
                    self._http3_failed(
                        attempt.alternative,
                        Failure(FailureSource.BACKEND, FailureCode.DESTINATION_UNAVAILABLE, detail),
                        now,
                    )
            return
        if not attempt.responded:
            # Only the first: a connection that goes on says nothing about making new ones.
            attempt.responded = True
            if attempt.alternative is not None:
                self.cache.mark_working(self.origin, attempt.alternative)
            elif attempt.protocol is HttpProtocol.HTTP2:
                self._http2.reset()
        if alt_svc is not None:
            over = attempt.protocol.value if attempt.protocol is not None else ""
            self.alt_svc_seen(alt_svc, now, received_over=over, response_age_s=response_age_s)

    def connection_lost(self, attempt: Attempt, failure: Failure | None, now: float) -> None:
        """The connection of `attempt` is gone; `failure` is None when it ended in good order."""
        if failure is None or failure.source is not FailureSource.BACKEND:
            return
        if attempt.alternative is not None:
            self._http3_failed(attempt.alternative, failure, now)
        elif attempt.alpn_decides and attempt.protocol is HttpProtocol.HTTP2 and not attempt.responded:
            self.learned = None
            if failure.code is FailureCode.HTTP_PROTOCOL_ERROR:
                self._http2_failed(failure, now)

    def earlier_version_required(self, attempt: Attempt, now: float) -> None:
        """The backend sent HTTP_1_1_REQUIRED (RFC 9113 §7) or H3_VERSION_FALLBACK (RFC 9114 §8.1)."""
        failure = Failure(FailureSource.BACKEND, FailureCode.HTTP_PROTOCOL_ERROR, "earlier version required")
        if attempt.alternative is not None:
            self._http3_failed(attempt.alternative, failure, now)
        elif attempt.alpn_decides and attempt.protocol is HttpProtocol.HTTP2:
            self._http2_failed(failure, now)

    def _http3_failed(self, alternative: AlternativeService, failure: Failure, now: float) -> None:
        suppression = self.cache.mark_broken(self.origin, alternative, now)
        if suppression is not None:
            self._suppression_told = False
            self._tell_broken("h3_marked_broken", suppression, failure, now, alternative=str(alternative))

    def _http2_failed(self, failure: Failure, now: float) -> None:
        self.learned = None
        if self._http2.failed(now):
            self._tell_broken("h2_marked_broken", self._http2, failure, now)

    # Alternative services.

    def alt_svc_seen(
        self, value: bytes, now: float, *, received_over: str = "", response_age_s: float = 0.0
    ) -> None:
        """A response had this Alt-Svc field. Most say what the one before said: that costs a comparison."""
        if not self._learns_alternatives:
            return
        if value != self._alt_svc_value:
            self._alt_svc_header = self._parse(value)
            self._alt_svc_value = value
        elif now - self._alt_svc_refreshed_at < _REFRESH_S:
            return
        self._alt_svc_refreshed_at = now
        header = self._alt_svc_header
        if header is None:
            return
        for expired in self.cache.expire(self.origin, now):
            self._tell("alt_svc_expired", alternative=str(expired))
        self._may_have_alternatives = True
        change = self.cache.learn(
            self.origin,
            header,
            now,
            authenticated=self._certificate_verified,
            response_age_s=response_age_s,
        )
        self._tell_change(change, "clear" if header.clear else "replaced", received_over)

    def _parse(self, value: bytes) -> AltSvcHeader | None:
        try:
            header = parse_alt_svc(value)
        except AltSvcError as error:
            # Once until one is well-formed: a backend may send a new one with every response.
            if self._alt_svc_header is not None or not self._alt_svc_value:
                self._tell("alt_svc_malformed", Level.WARNING, detail=str(error))
            return None
        spoken = tuple(entry for entry in header.entries if entry.protocol_id == ALPN_HTTP3)
        return AltSvcHeader(spoken, header.clear)

    def _drop_alternative(self, alternative: AlternativeService) -> None:
        # Advertised again, it is to be learned again.
        self._alt_svc_value = b""
        if self.cache.forget(self.origin, alternative):
            self._tell_change(LearnedChange(dropped=(alternative,)), "misdirected", "")

    def _tell_change(self, change: LearnedChange, reason: str, received_over: str) -> None:
        for dropped in change.dropped:
            self._tell("alt_svc_cleared", alternative=str(dropped), reason=reason)
        for discovered in change.discovered:
            self._tell("alt_svc_discovered", alternative=str(discovered), received_over=received_over)

    # What is told.

    def poll_events(self) -> list[ProtocolEvent]:
        """What happened since the last call, in order; the caller owns the list."""
        events = self._events
        if events:
            self._events = []
        return events

    def snapshot(self, now: float) -> ProtocolSnapshot:
        """The state as it would be shown to an operator. Changes nothing."""
        alternatives = tuple(self.cache.states(self.origin, now)) if self._learns_alternatives else ()
        usable = (Availability.READY, Availability.TRIAL_DUE)
        best = self.learned
        if self.mode is BackendProtocol.HTTP3 or any(a.availability in usable for a in alternatives):
            best = HttpProtocol.HTTP3
        elif self.mode is BackendProtocol.HTTP2:
            best = HttpProtocol.HTTP2
        elif self.mode is BackendProtocol.HTTP1 or self.origin.scheme != "https":
            best = HttpProtocol.HTTP1
        return ProtocolSnapshot(
            self.mode, best, self.learned, self._http2.availability(now), self._http2.until, alternatives
        )

    def _tell_broken(
        self, name: str, suppression: Suppression, failure: Failure, now: float, **fields: object
    ) -> None:
        self._tell(
            name,
            Level.WARNING,
            **fields,
            suppressed_for_s=round(suppression.until - now, 3),
            failure_count=suppression.failure_count,
            error=failure.code.value,
            detail=failure.detail,
        )

    def _tell_fall_back(self, given_up: HttpProtocol, taken: HttpProtocol | None, reason: str) -> None:
        self._tell(
            "fell_back",
            Level.WARNING,
            from_protocol=given_up.value,
            to_protocol="" if taken is None else taken.value,
            reason=reason,
        )

    def _tell(self, name: str, level: Level = Level.INFO, **fields: object) -> None:
        events = self._events
        if len(events) >= MAX_EVENTS:
            del events[0]
        events.append(ProtocolEvent(name, level, fields))
