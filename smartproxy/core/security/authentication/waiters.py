"""Requests that wait for one answer together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from smartproxy.core.security.verdict import Waiting

AnswerT = TypeVar("AnswerT")


class Waiters(Generic[AnswerT]):
    """Who is to be called with an answer, once; any of them may leave before."""

    __slots__ = ("_callbacks", "_next_number")

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[AnswerT], None]] = {}
        self._next_number = 0

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, callback: Callable[[AnswerT], None]) -> Waiting:
        """One more; cancelling what is returned makes it unheard of."""
        number = self._next_number
        self._next_number += 1
        self._callbacks[number] = callback

        def leave() -> None:
            self._callbacks.pop(number, None)

        return Waiting(leave)

    def tell(self, answer: AnswerT) -> None:
        """Call all. One that leaves meanwhile is not called any more; one that comes meanwhile is not yet."""
        callbacks = self._callbacks
        for number in list(callbacks):
            callback = callbacks.pop(number, None)
            if callback is not None:
                callback(answer)
