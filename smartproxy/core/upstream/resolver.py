"""Host names to addresses: literals at once, names by an operation, answers kept for a moment."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.ops import Resolved, ResolveHost, Result
from smartproxy.core.security.ip_rules import ip_number

CACHE_S = 5.0
"""The system's resolver tells no TTL; so short that a changed record is soon seen."""
CACHE_ENTRIES = 1024

OnResolved = Callable[[tuple[str, ...], Failure | None], None]


def is_ip_literal(host: str) -> bool:
    """Whether `host` needs no look-up."""
    try:
        ip_number(host)
    except ValueError:
        return False
    return True


class Lookup:
    """One waiter for a name; `cancel` makes it unheard of."""

    __slots__ = ("on_resolved",)

    def __init__(self, on_resolved: OnResolved | None) -> None:
        self.on_resolved = on_resolved

    def cancel(self) -> None:
        self.on_resolved = None


class Resolver:
    """A cache of look-ups, bounded, with one operation per name under way whoever waits for it."""

    __slots__ = ("_answers", "_context", "_waiting")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._answers: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._waiting: dict[str, list[Lookup]] = {}

    def resolve(self, host: str, on_resolved: OnResolved) -> Lookup | None:
        """Call `on_resolved(addresses, failure)`, at once (then None is returned) or later."""
        if is_ip_literal(host):
            on_resolved((host,), None)
            return None
        cached = self._answers.get(host)
        if cached is not None and self._context.now < cached[0]:
            on_resolved(cached[1], None)
            return None
        lookup = Lookup(on_resolved)
        waiting = self._waiting.get(host)
        if waiting is not None:
            waiting.append(lookup)
            return lookup
        self._waiting[host] = [lookup]
        self._context.start(
            ResolveHost(self._context.next_operation_id(), host),
            lambda result: self._answered(host, result),
        )
        return lookup

    def _answered(self, host: str, result: Result) -> None:
        waiting = self._waiting.pop(host)
        addresses: tuple[str, ...] = ()
        failure = None
        if isinstance(result, Resolved):
            addresses = result.addresses
            self._remember(host, addresses)
        else:
            reason = getattr(result, "reason", LostReason.ERROR)
            code = FailureCode.DNS_TIMEOUT if reason is LostReason.TIMED_OUT else FailureCode.DNS_ERROR
            detail = getattr(result, "detail", "")
            failure = Failure(FailureSource.BACKEND, code, f"{host}: {detail}", retryable=True)
        for lookup in waiting:
            if lookup.on_resolved is not None:
                lookup.on_resolved(addresses, failure)

    def _remember(self, host: str, addresses: tuple[str, ...]) -> None:
        answers = self._answers
        answers.pop(host, None)
        if len(answers) >= CACHE_ENTRIES:
            del answers[next(iter(answers))]
        answers[host] = (self._context.now + CACHE_S, addresses)
