"""What a load generator says of the load that it made."""

from __future__ import annotations

from dataclasses import dataclass


class LoadFailed(Exception):
    """Some requests were not answered as they should; carries the generator's report."""


@dataclass(frozen=True, slots=True)
class Load:
    requests: int
    seconds: float
