"""What a check says of a request that it does not let pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smartproxy.core.failure import Failure
from smartproxy.core.http.messages import Fields


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of the proxy's own, in the form that the client prefers."""

    status: int
    failure: Failure
    explanation: str = ""
    """Shown to the client."""
    retry_after_s: int | None = None
    fields: Sequence[tuple[bytes, bytes]] = ()


@dataclass(slots=True)
class OwnAnswer:
    """A whole response, such as a challenge's page or a redirect."""

    status: int
    fields: Fields
    body: bytes = b""
    failure: Failure | None = None
    """For the access log."""


@dataclass(slots=True)
class Passed:
    """The request may go on."""

    removed_fields: frozenset[bytes] = frozenset()
    """Request fields that the backend must not get, in whichever spelling: all are here in `ONE_SPELLING`."""
    added_fields: Fields = field(default_factory=list)
    """Request fields for the backend, after the removal."""
    removed_cookies: tuple[bytes, ...] = ()
    """Names of cookies that the backend must not get."""


ASKED_NOTHING = Passed()
"""The request goes on as it came; one for all, since it is not to be changed."""


@dataclass(slots=True)
class Waiting:
    """The verdict comes later, to the callback that was given; unless it is withdrawn."""

    cancel: Callable[[], None]


Verdict = Passed | Refusal | OwnAnswer
