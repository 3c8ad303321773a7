"""The scripts' own tiny scheduler: plain coroutines that await signals in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from smartproxy.drivers.simulation.clock import Clock

T = TypeVar("T")


class ScriptCancelled(BaseException):
    """Thrown into a script that was cancelled. Not an `Exception`, so that scripts do not swallow it."""


class Signal(Generic[T]):
    """Something that happens once; a script awaits it and gets its value or its error."""

    __slots__ = ("_callbacks", "_value", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: BaseException | None = None
        self._value: T | None = None
        self._callbacks: list[Callable[[], None]] = []

    @property
    def value(self) -> T:
        """What it succeeded with; raises what it failed with. Only once it is done."""
        assert self.done
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]  # None only where T allows it

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` once this is done; at once when it is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def succeed(self, value: T) -> None:
        """Give every waiter `value`. A signal that is done stays as it is."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Raise `error` in every waiter. A signal that is done stays as it is."""
        if not self.done:
            self.error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def __await__(self) -> Generator[Signal[T], None, T]:
        if not self.done:
            yield self
        return self.value


class Task(Signal[T]):
    """One running script. Awaiting it gives what it returned, or raises what it raised.

    When it raises and nobody awaits it, `on_unheard_failure(task)` is called.
    """

    __slots__ = ("_clock", "_coroutine", "_on_unheard_failure", "_waiting_for", "daemon", "name")

    def __init__(
        self,
        clock: Clock,
        coroutine: Coroutine[Any, Any, T],
        name: str,
        daemon: bool,
        on_unheard_failure: Callable[[Task[Any]], None],
    ) -> None:
        super().__init__()
        self._on_unheard_failure = on_unheard_failure
        self._clock = clock
        self._coroutine = coroutine
        self._waiting_for: Signal[Any] | None = None
        self.name = name
        self.daemon = daemon
        clock.call_soon(self._step)

    def __repr__(self) -> str:
        return f"<Task {self.name} {'done' if self.done else 'running'}>"

    def cancel(self) -> None:
        """Raise `ScriptCancelled` in the script where it stands."""
        if not self.done:
            self._waiting_for = None
            self._clock.call_soon(lambda: self._step(ScriptCancelled()))

    def close(self) -> None:
        """End the script without running another event."""
        if not self.done:
            self._waiting_for = None
            self._coroutine.close()
            self.fail(ScriptCancelled())

    def _step(self, error: BaseException | None = None) -> None:
        if self.done:
            return
        try:
            awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as stop:
            self.succeed(stop.value)
        except (Exception, ScriptCancelled) as raised:
            unheard = not self._callbacks
            self.fail(raised)
            if unheard and isinstance(raised, Exception):
                self._on_unheard_failure(self)
        else:
            if isinstance(awaited, Signal):
                self._wait_for(awaited)
            else:
                message = f"a simulation script awaited {awaited!r}, which no simulation can wake"
                self._clock.call_soon(lambda: self._step(TypeError(message)))

    def _wait_for(self, signal: Signal[Any]) -> None:
        self._waiting_for = signal

        def wake() -> None:
            if self._waiting_for is signal:
                self._waiting_for = None
                self._clock.call_soon(self._step)

        signal.on_done(wake)
