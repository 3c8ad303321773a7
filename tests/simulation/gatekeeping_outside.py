"""What a gate asks outside of itself, as unreliable as it may be: providers, hashes, key sets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from gatekeeping_policies import ALICES, BOBS, BOBS_HASH, key_set

from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)
from smartproxy.drivers.simulation import Simulation

T = TypeVar("T")

HANGS_S = 400.0
"""Longer than every deadline, and shorter than what the end of a scenario waits for."""


class Outside:
    """Functions that answer at once or late, fail, hang, or, those of providers, return nonsense."""

    def __init__(self, sim: Simulation, *, has_moods: bool) -> None:
        self._sim = sim
        self.has_moods = has_moods
        self.served_keys = ["first"]
        self.passed_tags: set[str] = set()
        """Of the requests that the provider wanted no challenge of."""

    def answer(self, value: T) -> T | Awaitable[T]:
        """`value`, in the mood of the moment. Raises OSError."""
        random = self._sim.random
        mood = random.random() if self.has_moods else 1.0
        if mood < 0.06:
            raise OSError("a bad day")
        if mood < 0.1:
            return self._later(value, HANGS_S)
        if mood < 0.25:
            return self._later(value, random.random() * 6.0)
        if mood < 0.5:
            return self._later(value, random.random() * 0.05)
        return value

    async def _later(self, value: T, delay_s: float) -> T:
        await self._sim.sleep(delay_s)
        if self.has_moods and self._sim.random.random() < 0.05:
            raise OSError("a bad day, after some thought")
        return value

    # In the places of what a configuration compiles in.

    def verify_hash(self, hash: str, password: bytes) -> Any:
        """Stands for `smartproxy.passwords.verify_hash`, and costs nothing."""
        assert password != ALICES.encode() or hash == BOBS_HASH
        return self.answer(hash == BOBS_HASH and password == BOBS.encode())

    def make_fetch(self, url: str) -> Callable[[], Any]:
        """Stands for `smartproxy.jwks.make_fetch`."""

        def fetch() -> Any:
            if self.has_moods and self._sim.random.random() < 0.3:
                raise OSError("no key set today")
            return self.answer(key_set(*self.served_keys))

        return fetch


class ScriptedProvider:
    """Its challenge is a number, to be given back one greater."""

    def __init__(self, sim: Simulation, outside: Outside) -> None:
        self._sim = sim
        self._outside = outside

    def _answer(self, value: T) -> Any:
        if self._outside.has_moods and self._sim.random.random() < 0.03:
            return "nonsense"
        return self._outside.answer(value)

    def assess(self, request: ChallengeRequest) -> Any:
        assert request.challenge_type == "sum"
        mood = request.headers.get("x-mood", "")
        if mood == "pass":
            self._outside.passed_tags.add(request.headers["x-tag"])
            return self._answer(Assessment(Decision.ALLOW))
        if mood == "deny":
            return self._answer(Assessment(Decision.DENY))
        return self._answer(Assessment(Decision.CHALLENGE, {"number": self._sim.random.randrange(1000)}))

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> Any:
        page = f"{pending.verify_path} number={pending.state['number']}."
        return self._answer(ChallengePage(page, content_type="text/plain"))

    def verify(self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]) -> Any:
        return self._answer(Verification(payload.get("number") == str(pending.state["number"] + 1)))
