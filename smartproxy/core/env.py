"""What a pure engine must be given from outside: entropy and the wall clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Env:
    """The engine's only sources of randomness and of calendar time.

    `entropy(n)` returns n bytes; a driver passes `os.urandom`, a simulation a
    seeded generator. `wall_clock()` returns seconds since the Unix epoch and is
    used for what leaves the process (log fields, certificate dates), never for
    deadlines: those are counted in the monotonic `now` that comes with each input.
    """

    entropy: Callable[[int], bytes]
    wall_clock: Callable[[], float]
