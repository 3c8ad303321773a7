"""How much of a message's frame a peer may make us hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Http1Limits:
    """Limits of one decoder; content is not limited here, for it is never held."""

    header_bytes: int = 65536
    """A head with its start line, and as much again for a trailer section. Over it: 431."""
    header_count: int = 128
    """Field lines of a head, and of a trailer section. Over it: 431."""
    target_bytes: int = 16384
    """A request target. Over it: 414."""
    chunk_line_bytes: int = 1024
    """A chunk's size line with its extensions. Over it: 400."""
    chunk_overhead_bytes: int = 16384
    """What all chunk size lines of a message together may take beyond 16 bytes each and
    twice their content (the measure of Go's net/http). Over it: 400."""


DEFAULT_LIMITS = Http1Limits()
