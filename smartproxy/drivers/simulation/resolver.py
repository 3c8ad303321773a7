"""The zone the engine's look-ups are answered from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import OperationFailed, Resolved, Result
from smartproxy.drivers.simulation.clock import Clock, Event
from smartproxy.drivers.simulation.network import Network

Answer = Sequence[str] | LostReason


class SimulatedResolver:
    """Host names and their answers: addresses in order, or the reason there are none.

    `resolver["app.internal"] = ["10.0.0.1", "10.0.0.2"]`. A name not in the zone
    fails with `NAME_NOT_FOUND`. Names in `unanswered` get no answer at all.
    """

    __slots__ = ("_clock", "_network", "_note", "_random", "_zone", "unanswered")

    def __init__(self, clock: Clock, network: Network, random: Random, note: Callable[[str], None]) -> None:
        self._clock = clock
        self._network = network
        self._random = random
        self._note = note
        self._zone: dict[str, Answer] = {}
        self.unanswered: set[str] = set()

    def __setitem__(self, host: str, answer: Answer) -> None:
        if not isinstance(answer, LostReason) and (isinstance(answer, str) or not answer):
            raise ValueError(f"the answer for {host} must be a non-empty list of addresses, not {answer!r}")
        self._zone[host.lower()] = answer

    def __delitem__(self, host: str) -> None:
        del self._zone[host.lower()]

    def look_up(self, host: str, on_result: Callable[[Result], None]) -> Event:
        """Answer later; cancelling the event given back withdraws the question."""
        faults = self._network.faults
        answer = self._zone.get(host.lower(), LostReason.NAME_NOT_FOUND)
        if self._random.random() < faults.dns_failure_probability:
            self._note(f"look-up of {host} fails")
            answer = LostReason.NAME_LOOKUP_FAILED
        result: Result
        if isinstance(answer, LostReason):
            result = OperationFailed(answer, host)
        else:
            result = Resolved(tuple(answer))
        if host in self.unanswered:
            return Event(self._clock.now, lambda: on_result(result))
        delay_s = self._random.uniform(*faults.dns_latency_s)
        return self._clock.call_at(self._clock.now + delay_s, lambda: on_result(result))
