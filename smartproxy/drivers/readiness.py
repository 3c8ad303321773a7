"""One readiness source that any event loop can watch: an epoll, or a selector with its own descriptor."""

from __future__ import annotations

import select
import selectors
from typing import Protocol, cast

READABLE = 0x001
WRITABLE = 0x004
FAILED = 0x008
HUNG_UP = 0x010
"""The numbers are those of Linux's EPOLLIN, EPOLLOUT, EPOLLERR and EPOLLHUP."""


class ReadinessSource(Protocol):
    """Level-triggered readiness of many descriptors, itself a descriptor to wait on.

    A descriptor registered with no events at all still reports `FAILED` and
    `HUNG_UP` where the system can tell.
    """

    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def register(self, fd: int, eventmask: int) -> None: ...
    def modify(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]: ...


class SelectorSource:
    """A `ReadinessSource` on a selector of the standard library, for systems without epoll.

    Raises OSError if the selector has no descriptor of its own (poll, select).
    """

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        self._selector = selectors.DefaultSelector() if selector is None else selector
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            name = type(self._selector).__name__
            self._selector.close()
            raise OSError(f"smartproxy needs epoll or kqueue; this system only offers {name}")
        self._fileno: int = fileno()
        self._masks: dict[int, int] = {}

    def fileno(self) -> int:
        return self._fileno

    def close(self) -> None:
        self._selector.close()

    def register(self, fd: int, eventmask: int) -> None:
        if fd in self._masks:
            raise FileExistsError(f"descriptor {fd} is already registered")
        self._masks[fd] = 0
        self.modify(fd, eventmask)

    def modify(self, fd: int, eventmask: int) -> None:
        before = self._masks[fd]
        self._masks[fd] = eventmask
        events = 0
        if eventmask & READABLE:
            events |= selectors.EVENT_READ
        if eventmask & WRITABLE:
            events |= selectors.EVENT_WRITE
        if not events:
            if before:
                self._selector.unregister(fd)
        elif before:
            self._selector.modify(fd, events)
        else:
            self._selector.register(fd, events)

    def unregister(self, fd: int) -> None:
        if self._masks.pop(fd):
            self._selector.unregister(fd)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        ready: list[tuple[int, int]] = []
        for key, events in self._selector.select(timeout):
            mask = READABLE if events & selectors.EVENT_READ else 0
            if events & selectors.EVENT_WRITE:
                mask |= WRITABLE
            ready.append((key.fd, mask))
        # Level-triggered: what is left out here is reported again.
        return ready[:maxevents]


def readiness_source() -> ReadinessSource:
    """The best source this system has. Raises OSError where it has none that can be watched."""
    epoll = getattr(select, "epoll", None)
    return SelectorSource() if epoll is None else cast(ReadinessSource, epoll())
