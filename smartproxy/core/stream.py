"""Byte streams as the core sees them: `Link` is one connection whose socket a driver holds."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from smartproxy.core.failure import Failure
from smartproxy.core.ops import Address

if TYPE_CHECKING:
    from smartproxy.core.context import Context

HIGH_WATER_BYTES = 256 * 1024
"""A writer whose sink holds more than this stops reading its own source."""

PULL_BYTES = 128 * 1024
"""The most that one pull hands to the driver."""


class StreamHandler(Protocol):
    """The session on top of a stream. None of its methods may raise for what a peer sent."""

    def receive_data(self, data: bytes) -> None:
        """Bytes arrived; never empty."""

    def receive_eof(self) -> None:
        """The peer will send no more; the other direction may go on."""

    def stream_writable(self) -> None:
        """Everything written has been handed to the transport (asked for by `notify_writable`)."""

    def stream_lost(self, failure: Failure) -> None:
        """The stream is gone, in both directions; nothing more will come."""


class ByteStream(Protocol):
    """What a session may do with the stream below it: a `Link`, or TLS over one."""

    handler: StreamHandler
    notify_writable: bool

    @property
    def outgoing_bytes(self) -> int:
        """Bytes written here that the driver has not taken yet."""

    def write(self, data: bytes) -> None:
        """Queue `data`; never blocks. A writer minds `outgoing_bytes`."""

    def pause_reading(self) -> None:
        """Take no more from the peer; what is under way (one read) may still come."""

    def resume_reading(self) -> None:
        """Take data from the peer again."""

    def shut_down_writing(self) -> None:
        """End our direction once everything queued is out; reading goes on."""

    def close(self) -> None:
        """Close both directions once everything queued is out. No more handler calls."""

    def abort(self) -> None:
        """Drop what is queued and reset the connection. No more handler calls."""


class Ending(IntEnum):
    """How far a link's end has been asked for."""

    OPEN = 0
    SHUT_DOWN_WRITING = 1
    CLOSE = 2
    ABORT = 3


class _Deaf:
    """The handler of a link that nobody listens to any more."""

    def receive_data(self, data: bytes) -> None: ...
    def receive_eof(self) -> None: ...
    def stream_writable(self) -> None: ...
    def stream_lost(self, failure: Failure) -> None: ...


DEAF = _Deaf()


class Link:
    """One TCP or unix connection: the core's half of a socket.

    The driver keeps its own half in `transport`, and after each input visits every
    link in `Engine.poll_dirty_links()`:

    1. `ending == ABORT`: reset the connection now and forget it.
    2. Else, while the socket takes bytes: `pull()` and send; keep a remainder and
       pull no more until it is gone.
    3. Once all is sent: `SHUT_DOWN_WRITING` shuts down the sending side, once;
       `CLOSE` closes the socket and forgets the link.
    4. Read from the socket only while `reading` is true.
    5. Once all is sent and `notify_writable` is true: `Engine.handle_writable(link, now)`.

    After `CLOSE` or `ABORT` the driver sends no more inputs for the link.
    """

    __slots__ = (
        "_outgoing",
        "bytes_received",
        "bytes_sent",
        "context",
        "ending",
        "handler",
        "id",
        "is_dirty",
        "local",
        "notify_writable",
        "outgoing_bytes",
        "peer",
        "reading",
        "transport",
    )

    def __init__(self, context: Context, link_id: int, peer: Address, local: Address) -> None:
        self.context = context
        self.id = link_id
        self.peer = peer
        self.local = local
        self.handler: StreamHandler = DEAF
        self.transport: Any = None
        self.reading = True
        self.ending = Ending.OPEN
        self.notify_writable = False
        self.outgoing_bytes = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self._outgoing: list[bytes] = []
        self.is_dirty = False

    def __repr__(self) -> str:
        return f"<Link {self.id} {self.peer}>"

    def _mark_dirty(self) -> None:
        if not self.is_dirty:
            self.is_dirty = True
            self.context.dirty_links.append(self)

    # The session's side.

    def write(self, data: bytes) -> None:
        if not data or self.ending:
            return
        self._outgoing.append(data)
        self.outgoing_bytes += len(data)
        if not self.is_dirty:
            self.is_dirty = True
            self.context.dirty_links.append(self)

    def pause_reading(self) -> None:
        if self.reading:
            self.reading = False
            self._mark_dirty()

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            self._mark_dirty()

    def shut_down_writing(self) -> None:
        if self.ending < Ending.SHUT_DOWN_WRITING:
            self.ending = Ending.SHUT_DOWN_WRITING
            self._mark_dirty()

    def close(self) -> None:
        self.handler = DEAF
        if self.ending < Ending.CLOSE:
            self.ending = Ending.CLOSE
            self.reading = False
            self.notify_writable = False
            self._mark_dirty()

    def abort(self) -> None:
        self.handler = DEAF
        if self.ending < Ending.ABORT:
            self.ending = Ending.ABORT
            self.reading = False
            self.notify_writable = False
            self._outgoing.clear()
            self.outgoing_bytes = 0
            self._mark_dirty()

    # The driver's side.

    def pull(self) -> bytes:
        """Take up to about `PULL_BYTES` of what is queued (whole writes); b"" when nothing is."""
        outgoing = self._outgoing
        if len(outgoing) == 1:
            data = outgoing[0]
            outgoing.clear()
            self.outgoing_bytes = 0
        elif self.outgoing_bytes <= PULL_BYTES:
            data = b"".join(outgoing)
            outgoing.clear()
            self.outgoing_bytes = 0
        else:
            count = total = 0
            for chunk in outgoing:
                if count and total + len(chunk) > PULL_BYTES:
                    break
                total += len(chunk)
                count += 1
            data = b"".join(outgoing[:count])
            del outgoing[:count]
            self.outgoing_bytes -= total
        self.bytes_sent += len(data)
        return data

    def clear_dirty(self) -> None:
        """The driver is about to visit this link."""
        self.is_dirty = False
