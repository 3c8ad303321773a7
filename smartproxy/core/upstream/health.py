"""Which hosts of a target can be used: what requests show (passive), and what probes show (active)."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Literal

from smartproxy.core.configuration import HealthCheck

FIRST_EJECTION_S = 5.0
LONGEST_EJECTION_S = 300.0
_MOST_DOUBLINGS = 6

FORGIVENESS_S = 60.0
"""One earlier ejection is forgotten for each such span in good standing."""

TRIAL_INTERVAL_S = 1.0
"""While it must prove itself and others can serve, a host gets one request in this time."""

LAST_RESORT_S = 1.0
"""How long an ejection holds where no other host can serve: an outage must not outlast its cause."""

HostChange = Literal["host_ejected", "host_returned"]
ProbeChange = Literal["became_healthy", "became_unhealthy"]


class Host:
    """One host of a target.

    Who gives it a request or connection adds 1 to `in_flight`, and takes it away at
    the end. `closed_until` is the time before which it is not chosen in the
    ordinary way; everything else says why.
    """

    __slots__ = (
        "closed_until",
        "connect_failures",
        "current_weight",
        "ejected_at",
        "ejected_for_errors",
        "ejected_until",
        "ejection_count",
        "in_flight",
        "name",
        "on_trial",
        "passes_probes",
        "proven_at",
        "seed",
        "server_errors",
        "server_errors_since",
        "weight",
    )

    def __init__(self, name: str, weight: int = 1, seed: int = 0) -> None:
        self.name = name
        self.weight = weight
        #: Tells hosts apart in consistent hashing.
        self.seed = seed
        self.in_flight = 0
        #: What smooth weighted round-robin owes the host.
        self.current_weight = 0
        self.closed_until = -inf
        self.passes_probes = True
        self.ejected_at = -inf
        self.ejected_until = -inf
        #: Whether it was ejected for its responses rather than for not being reachable.
        self.ejected_for_errors = False
        #: Whether it has yet to prove itself after its latest ejection.
        self.on_trial = False
        self.proven_at = -inf
        self.ejection_count = 0
        self.connect_failures = 0
        self.server_errors = 0
        self.server_errors_since = -inf

    def __repr__(self) -> str:
        return f"<Host {self.name} weight {self.weight}, {self.in_flight} in flight>"

    def is_ejected(self, now: float) -> bool:
        return now < self.ejected_until

    def eject(self, now: float, *, for_errors: bool) -> None:
        """Close the host for a time that doubles with each ejection not yet forgiven."""
        if not self.on_trial:
            forgiven = (now - self.proven_at) / FORGIVENESS_S
            self.ejection_count = max(0, self.ejection_count - int(min(forgiven, self.ejection_count)))
        doublings = min(self.ejection_count, _MOST_DOUBLINGS)
        self.ejection_count = doublings + 1
        self.ejected_at = now
        self.ejected_until = now + min(FIRST_EJECTION_S * 2.0**doublings, LONGEST_EJECTION_S)
        self.ejected_for_errors = for_errors
        self.on_trial = True
        self.connect_failures = 0
        self.server_errors = 0
        self.current_weight = 0
        self._settle()

    def end_ejection(self, now: float) -> None:
        """Let the host be tried again now; it stays on trial."""
        self.ejected_until = min(self.ejected_until, now)
        self._settle()

    def pass_trial(self, now: float) -> None:
        """The host has proven itself."""
        self.on_trial = False
        self.proven_at = now
        self._settle()

    def note_probes(self, *, passed: bool) -> None:
        """What the active checks have come to think of the host."""
        self.passes_probes = passed
        self._settle()

    def _settle(self) -> None:
        self.closed_until = self.ejected_until if self.passes_probes else inf


class _ProbeSchedule:
    """One host's probes."""

    __slots__ = ("failures", "host", "next_probe_at", "probing", "successes")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.next_probe_at = 0.0
        self.probing = False
        self.successes = 0
        self.failures = 0


class ActiveHealth:
    """When each host is due for a probe, and what the probes' results mean. It probes nothing itself.

    A host counts as healthy until `unhealthy_threshold` probes in a row have
    failed, and again once `healthy_threshold` in a row succeeded. The first probes
    are spread over one interval, so that hosts are never probed all at once.
    """

    __slots__ = ("_check", "_schedules", "_started")

    def __init__(self, check: HealthCheck, hosts: Iterable[Host]) -> None:
        self._check = check
        self._schedules = {host: _ProbeSchedule(host) for host in hosts}
        self._started = False

    def due(self, now: float) -> list[Host]:
        """The hosts to probe now. The first call starts the schedule."""
        schedules = self._schedules.values()
        if not self._started:
            self._started = True
            for position, schedule in enumerate(schedules):
                schedule.next_probe_at = now + position * self._check.interval_s / len(self._schedules)
        return [s.host for s in schedules if not s.probing and s.next_probe_at <= now]

    def next_due(self) -> float:
        """When `due` has something to say next; `inf` while every host is being probed."""
        times = [s.next_probe_at for s in self._schedules.values() if not s.probing]
        return min(times, default=inf)

    def probe_started(self, host: Host, now: float) -> None:
        """`host` is being probed; it is not due again before `probe_finished`."""
        schedule = self._schedules.get(host)
        if schedule is not None:
            schedule.probing = True
            schedule.next_probe_at = now + self._check.interval_s

    def probe_given_up(self, host: Host) -> None:
        """The probe of `host` ended without a verdict."""
        schedule = self._schedules.get(host)
        if schedule is not None:
            schedule.probing = False

    def probe_finished(self, host: Host, ok: bool, now: float) -> ProbeChange | None:
        """The probe of `host` succeeded or failed (a timeout is a failure). Says if that changed anything."""
        schedule = self._schedules.get(host)
        if schedule is None or not schedule.probing:
            return None
        schedule.probing = False
        schedule.next_probe_at = max(schedule.next_probe_at, now)
        if ok:
            schedule.successes += 1
            schedule.failures = 0
            if not host.passes_probes and schedule.successes >= self._check.healthy_threshold:
                # The probes know more than an ejection from before they did.
                host.end_ejection(now)
                host.note_probes(passed=True)
                return "became_healthy"
        else:
            schedule.failures += 1
            schedule.successes = 0
            if host.passes_probes and schedule.failures >= self._check.unhealthy_threshold:
                host.note_probes(passed=False)
                return "became_unhealthy"
        return None
