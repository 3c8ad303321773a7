"""Alternative services that origins advertised, and which of them have failed (RFC 7838 §2.2, §2.4).

    cache = AltSvcCache()
    origin = Origin("https", "example.com", 443)
    cache.learn(origin, parse_alt_svc(value), now)
    for alternative in cache.lookup(origin, now):   # in the server's order; connect, then:
        cache.mark_working(origin, alternative)     # or cache.mark_broken(origin, alternative, now)

Advertisement and failure are kept apart: what is marked broken stays so however often it is
advertised again, cleared or expired in between. `now` is any clock that only runs on, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from smartproxy.core.upstream.suppression import (
    FIRST_SUPPRESSION_S,
    LONGEST_SUPPRESSION_S,
    Availability,
    Suppression,
)
from smartproxy.core.wire.alt_svc import AltSvcHeader

MAX_ORIGINS = 1024
MAX_ALTERNATIVES_PER_ORIGIN = 8
"""Those further down the server's list are not remembered."""
MAX_BROKEN_PER_ORIGIN = 16


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose alternatives they are (RFC 6454 §4). `scheme` and `host` in lower case.

    `partition` keeps apart what may not share knowledge, such as two TLS identities
    towards one address.
    """

    scheme: str
    host: str
    port: int
    partition: str = ""


@dataclass(frozen=True, slots=True)
class AlternativeService:
    """Somewhere else to reach an origin (RFC 7838 §2).

    Whatever `host` is, who answers there must present a certificate valid for
    `certificate_name`, the origin's host (§2.1).
    """

    protocol_id: bytes
    host: str
    port: int
    certificate_name: str

    @property
    def on_other_host(self) -> bool:
        """Whether only that certificate says that it belongs to the origin."""
        return self.host != self.certificate_name

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol_id.decode('latin-1')}={host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LearnedChange:
    """What an advertisement changed. Both are empty when it said what was known."""

    discovered: tuple[AlternativeService, ...] = ()
    dropped: tuple[AlternativeService, ...] = ()


@dataclass(frozen=True, slots=True)
class AlternativeState:
    """One fresh alternative as it stands. `suppressed_until` is `-inf` if it did not fail since it worked."""

    alternative: AlternativeService
    expires_at: float
    persist: bool
    availability: Availability
    suppressed_until: float
    failure_count: int


class _Advertised:
    __slots__ = ("alternative", "expires_at", "persist")

    def __init__(self, alternative: AlternativeService, expires_at: float, persist: bool) -> None:
        self.alternative = alternative
        self.expires_at = expires_at
        self.persist = persist


class _OriginState:
    __slots__ = ("advertised", "broken")

    def __init__(self) -> None:
        self.advertised: list[_Advertised] = []
        self.broken: dict[AlternativeService, Suppression] = {}

    def availability(self, alternative: AlternativeService, now: float) -> Availability:
        suppression = self.broken.get(alternative)
        return Availability.READY if suppression is None else suppression.availability(now)


class AltSvcCache:
    """What `max_origins` origins (default 1024) advertised; beyond it the least recently used is forgotten.

    `first_suppression_s` (default 5) and `longest_suppression_s` (default 600) bound
    how long a broken alternative is left alone.
    """

    __slots__ = ("_origins", "first_suppression_s", "longest_suppression_s", "max_origins")

    def __init__(
        self,
        max_origins: int = MAX_ORIGINS,
        *,
        first_suppression_s: float = FIRST_SUPPRESSION_S,
        longest_suppression_s: float = LONGEST_SUPPRESSION_S,
    ) -> None:
        self.max_origins = max_origins
        self.first_suppression_s = first_suppression_s
        self.longest_suppression_s = longest_suppression_s
        #: The least recently used first.
        self._origins: dict[Origin, _OriginState] = {}

    def __len__(self) -> int:
        return len(self._origins)

    def learn(
        self,
        origin: Origin,
        header: AltSvcHeader,
        now: float,
        *,
        authenticated: bool = True,
        response_age_s: float = 0.0,
    ) -> LearnedChange:
        """Replace what `origin` advertised (RFC 7838 §3.1). Not for a 421 response (§6).

        `authenticated`: whether the response came with a certificate verified for the
        origin. Without, and for any scheme but `https`, alternatives on other hosts
        are not believed (§2.1). `response_age_s` is the response's Age.
        """
        may_leave_host = authenticated and origin.scheme == "https"
        advertised: list[_Advertised] = []
        named: list[AlternativeService] = []
        for entry in header.entries:
            expires_at = now + entry.max_age_s - response_age_s
            alternative = AlternativeService(
                entry.protocol_id, entry.host or origin.host, entry.port, origin.host
            )
            if (
                expires_at <= now
                or alternative in named
                or (alternative.on_other_host and not may_leave_host)
            ):
                continue
            named.append(alternative)
            advertised.append(_Advertised(alternative, expires_at, entry.persist))
            if len(advertised) == MAX_ALTERNATIVES_PER_ORIGIN:
                break
        state = self._used(origin)
        if state is None:
            if not advertised:
                return LearnedChange()
            state = self._add(origin)
        before = [known.alternative for known in state.advertised if now < known.expires_at]
        state.advertised = advertised
        self._forget_if_empty(origin, state)
        return LearnedChange(
            discovered=tuple(alternative for alternative in named if alternative not in before),
            dropped=tuple(alternative for alternative in before if alternative not in named),
        )

    def lookup(self, origin: Origin, now: float) -> list[AlternativeService]:
        """What may be used now, in the server's order: fresh, and neither broken nor on trial.

        One whose trial is due is among them; who wants to be alone with it claims it first.
        """
        state = self._used(origin)
        if state is None:
            return []
        return [
            known.alternative
            for known in state.advertised
            if now < known.expires_at
            and state.availability(known.alternative, now) in (Availability.READY, Availability.TRIAL_DUE)
        ]

    def expire(self, origin: Origin, now: float) -> list[AlternativeService]:
        """Forget what is no longer fresh, and say what that was. `lookup` never returns it anyway."""
        state = self._origins.get(origin)
        if state is None or all(now < known.expires_at for known in state.advertised):
            return []
        expired = [known.alternative for known in state.advertised if now >= known.expires_at]
        state.advertised = [known for known in state.advertised if now < known.expires_at]
        self._forget_if_empty(origin, state)
        return expired

    def forget(self, origin: Origin, alternative: AlternativeService) -> bool:
        """Drop one alternative, as after its 421 response (RFC 7838 §6). False if it was not known."""
        state = self._origins.get(origin)
        if state is None:
            return False
        kept = [known for known in state.advertised if known.alternative != alternative]
        was_known = len(kept) < len(state.advertised)
        state.advertised = kept
        self._forget_if_empty(origin, state)
        return was_known

    def network_changed(self) -> None:
        """Drop what lacks `persist=1` (RFC 7838 §2.2), and every failure: here it may work."""
        for origin, state in list(self._origins.items()):
            state.advertised = [known for known in state.advertised if known.persist]
            state.broken.clear()
            self._forget_if_empty(origin, state)

    # Whether they work.

    def mark_broken(self, origin: Origin, alternative: AlternativeService, now: float) -> Suppression | None:
        """It failed: leave it alone, each time for longer. None if that is being done already."""
        state = self._used(origin) or self._add(origin)
        suppression = state.broken.get(alternative)
        if suppression is None:
            if len(state.broken) >= MAX_BROKEN_PER_ORIGIN:
                # An origin that names ever new ones harms only itself.
                del state.broken[min(state.broken, key=lambda known: state.broken[known].until)]
            suppression = Suppression(self.first_suppression_s, self.longest_suppression_s)
            state.broken[alternative] = suppression
        return suppression if suppression.failed(now) else None

    def mark_connected(self, origin: Origin, alternative: AlternativeService) -> None:
        """A connection was made: everybody may use it, but its failures still count until it has worked."""
        suppression = self._suppression(origin, alternative)
        if suppression is not None:
            suppression.recovered()

    def mark_working(self, origin: Origin, alternative: AlternativeService) -> None:
        """A response came by it: its failures are forgotten."""
        state = self._origins.get(origin)
        if state is not None and state.broken and state.broken.pop(alternative, None) is not None:
            self._forget_if_empty(origin, state)

    def claim_trial(self, origin: Origin, alternative: AlternativeService, now: float) -> bool:
        """After it was left alone: be the one who tries it, until a `mark_…`, `release_trial` or 10 s."""
        suppression = self._suppression(origin, alternative)
        return suppression is not None and suppression.claim_trial(now)

    def release_trial(self, origin: Origin, alternative: AlternativeService) -> None:
        """The claimed trial ended without telling anything."""
        suppression = self._suppression(origin, alternative)
        if suppression is not None:
            suppression.release_trial()

    def states(self, origin: Origin, now: float) -> list[AlternativeState]:
        """Every fresh alternative of `origin` as it stands, in the server's order."""
        return list(self._states(origin, now))

    def _states(self, origin: Origin, now: float) -> Iterator[AlternativeState]:
        state = self._origins.get(origin)
        for known in state.advertised if state is not None else ():
            if state is None or now >= known.expires_at:
                continue
            suppression = state.broken.get(known.alternative)
            yield AlternativeState(
                known.alternative,
                known.expires_at,
                known.persist,
                state.availability(known.alternative, now),
                -inf if suppression is None else suppression.until,
                0 if suppression is None else suppression.failure_count,
            )

    def _suppression(self, origin: Origin, alternative: AlternativeService) -> Suppression | None:
        state = self._origins.get(origin)
        return None if state is None else state.broken.get(alternative)

    def _used(self, origin: Origin) -> _OriginState | None:
        state = self._origins.pop(origin, None)
        if state is not None:
            self._origins[origin] = state
        return state

    def _add(self, origin: Origin) -> _OriginState:
        while self._origins and len(self._origins) >= self.max_origins:
            del self._origins[next(iter(self._origins))]
        state = self._origins[origin] = _OriginState()
        return state

    def _forget_if_empty(self, origin: Origin, state: _OriginState) -> None:
        if not state.advertised and not state.broken:
            self._origins.pop(origin, None)
