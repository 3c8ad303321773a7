"""Host names to addresses: literals at once, names by an operation, answers kept for a moment."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.ops import OperationFailed, Resolved, ResolveHost, Result
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
    """One waiter for a name; `cancel` makes it unheard of, and the last one's ends the look-up."""

    __slots__ = ("_host", "_resolver", "on_resolved")

    def __init__(self, resolver: Resolver, host: str, on_resolved: OnResolved) -> None:
        self._resolver = resolver
        self._host = host
        self.on_resolved: OnResolved | None = on_resolved

    def cancel(self) -> None:
        if self.on_resolved is not None:
            self.on_resolved = None
            self._resolver.lookup_cancelled(self._host)


class _Query:
    """A look-up under way, and who waits for it."""

    __slots__ = ("operation_id", "waiting")

    def __init__(self, operation_id: int, first: Lookup) -> None:
        self.operation_id = operation_id
        self.waiting = [first]


class Resolver:
    """A cache of look-ups, bounded, with one operation per name under way whoever waits for it."""

    __slots__ = ("_answers", "_context", "_queries")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._answers: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._queries: dict[str, _Query] = {}

    def resolve(self, host: str, on_resolved: OnResolved) -> Lookup | None:
        """Call `on_resolved(addresses, failure)`, at once (then None is returned) or later."""
        if is_ip_literal(host):
            on_resolved((host,), None)
            return None
        cached = self._answers.get(host)
        if cached is not None and self._context.now < cached[0]:
            on_resolved(cached[1], None)
            return None
        lookup = Lookup(self, host, on_resolved)
        query = self._queries.get(host)
        if query is not None:
            query.waiting.append(lookup)
            return lookup
        operation = ResolveHost(self._context.next_operation_id(), host)
        self._queries[host] = _Query(operation.id, lookup)
        self._context.start(operation, lambda result: self._answered(host, result))
        return lookup

    def lookup_cancelled(self, host: str) -> None:
        """A waiter has left. One look-up that hangs must not hold those who ask for the name later."""
        query = self._queries.get(host)
        if query is not None and all(lookup.on_resolved is None for lookup in query.waiting):
            del self._queries[host]
            self._context.cancel(query.operation_id)

    def _answered(self, host: str, result: Result) -> None:
        query = self._queries.pop(host)
        addresses: tuple[str, ...] = ()
        failure = None
        if isinstance(result, Resolved) and result.addresses:
            addresses = result.addresses
            self._remember(host, addresses)
        else:
            reason = result.reason if isinstance(result, OperationFailed) else LostReason.NAME_NOT_FOUND
            code = FailureCode.DNS_TIMEOUT if reason is LostReason.TIMED_OUT else FailureCode.DNS_ERROR
            detail = (result.detail if isinstance(result, OperationFailed) else "") or reason.value
            failure = Failure(FailureSource.BACKEND, code, f"{host}: {detail}", retryable=True)
        for lookup in query.waiting:
            on_resolved, lookup.on_resolved = lookup.on_resolved, None
            if on_resolved is not None:
                on_resolved(addresses, failure)

    def _remember(self, host: str, addresses: tuple[str, ...]) -> None:
        answers = self._answers
        answers.pop(host, None)
        if len(answers) >= CACHE_ENTRIES:
            del answers[next(iter(answers))]
        answers[host] = (self._context.now + CACHE_S, addresses)
