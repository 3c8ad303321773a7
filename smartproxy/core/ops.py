"""Operations: what the engine asks the outside world to do, and the results that answer it.

Each operation carries an id. The driver answers it exactly once through
`Engine.handle_result(operation_id, result, now)`, unless the engine cancelled it
first with `CancelOperation`; an answer that crosses a cancellation is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from smartproxy.core.failure import LostReason

if TYPE_CHECKING:
    from smartproxy.core.datagrams import DatagramLink
    from smartproxy.core.stream import Link

Address = tuple[str, int]
"""An IP address as text and a port. A unix socket's address is `(path, -1)`."""

UNIX_PORT = -1


@dataclass(slots=True)
class ResolveHost:
    """Look up `host` (never an IP literal). Answer: `Resolved` or `OperationFailed`."""

    id: int
    host: str


@dataclass(slots=True)
class OpenStream:
    """Connect a TCP or unix stream to `address` and bind it to `link`.

    Answer: `Opened` once connected, or `OperationFailed`. When it is cancelled
    before its answer the socket is closed and `link` is never heard of again.
    """

    id: int
    link: Link
    address: Address


@dataclass(slots=True)
class OpenDatagrams:
    """Open a UDP socket connected to `address`, never a unix path, and bind it to `link`.

    Answer: `Opened`, or `OperationFailed`. That somebody is there it does not say.
    """

    id: int
    link: DatagramLink
    address: Address


@dataclass(slots=True)
class CallFunction:
    """Call a function from outside, sync or async. Answer: `Returned` or `OperationFailed`.

    With `in_thread` it is sync and slow, and everything else goes on meanwhile. When
    that is cancelled the thread is left to finish by itself.
    """

    id: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    in_thread: bool = False


class RelayOutcome(Enum):
    """How a relay ended. The bytes in `moved_bytes` have reached the sink's socket in every case."""

    COMPLETE = "complete"
    """`length_bytes` were moved."""
    SOURCE_EOF = "source_eof"
    SOURCE_LOST = "source_lost"
    SINK_LOST = "sink_lost"


@dataclass(slots=True)
class StartRelay:
    """Move bytes from one link straight to another, in the driver, without the engine seeing them.

    The sink's pulled bytes go first. `length_bytes` is how many bytes to move, or
    -1 for all until end-of-file. The driver adds to `moved_bytes` as it goes and
    ends with one `Engine.handle_relay_ended(relay, outcome, now)`. Until then it
    takes no other input from `source`. An outcome of `SOURCE_LOST` or `SINK_LOST`
    also stands for `handle_lost` on that link.
    """

    id: int
    source: Link
    sink: Link
    length_bytes: int = -1
    moved_bytes: int = 0


@dataclass(slots=True)
class CancelOperation:
    """Forget operation `id`. For a relay: stop it; the source's reads reach the engine again."""

    id: int


Operation = ResolveHost | OpenStream | OpenDatagrams | CallFunction | StartRelay | CancelOperation


@dataclass(slots=True)
class Resolved:
    """The addresses of a host, as IP text, in the resolver's order; never empty."""

    addresses: tuple[str, ...]


@dataclass(slots=True)
class Opened:
    """The stream or UDP socket is connected from `local`."""

    local: Address


@dataclass(slots=True)
class Returned:
    """What a function of the user's returned."""

    value: Any


@dataclass(slots=True)
class OperationFailed:
    """The operation failed. `detail` is for the log."""

    reason: LostReason
    detail: str = ""


Result = Resolved | Opened | Returned | OperationFailed
