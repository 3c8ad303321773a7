"""Datagrams as the core sees them: `DatagramLink` is one UDP socket that a driver holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from smartproxy.core.failure import Failure
from smartproxy.core.ops import Address

if TYPE_CHECKING:
    from smartproxy.core.context import Context

Datagram = tuple[bytes, Address]
"""A UDP payload, and the address it came from or goes to."""

MAX_QUEUED_BYTES = 4 * 1024 * 1024
MAX_QUEUED_DATAGRAMS = 16 * 1024
PULL_BYTES = 256 * 1024
"""The most that one pull hands to the driver."""


class DatagramHandler(Protocol):
    """The session on top of a UDP socket. None of its methods may raise for what a peer sent."""

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        """A burst arrived, in the order it was received; never empty."""

    def datagrams_writable(self) -> None:
        """Everything sent has been handed to the transport (asked for by `notify_writable`)."""

    def datagrams_lost(self, failure: Failure) -> None:
        """The peer of a connected socket refuses or cannot be reached, or the socket is gone.

        What becomes of the link is the session's to decide, unless `link.closing` says that it is closed.
        """


class _Deaf:
    """The handler of a link that nobody listens to any more."""

    def receive_datagrams(self, datagrams: list[Datagram]) -> None: ...
    def datagrams_writable(self) -> None: ...
    def datagrams_lost(self, failure: Failure) -> None: ...


DEAF = _Deaf()


class DatagramLink:
    """One UDP socket: the core's half. `peer` is whom it is connected to, None for a listening socket.

    The driver keeps its own half in `transport`, and after each input visits every
    link in `Engine.poll_dirty_datagram_links()`:

    1. While the socket takes datagrams: `pull()` and send; keep a remainder and
       pull no more until it is gone. What the network refuses to carry is dropped.
    2. `closing`: close the socket, dropping what it did not take, and forget the link.
    3. Once all is sent and `notify_writable` is true: `Engine.handle_datagrams_writable(link, now)`.

    It always reads. After `closing` it sends no more inputs for the link.
    """

    __slots__ = (
        "_outgoing",
        "bytes_received",
        "bytes_sent",
        "closing",
        "context",
        "dropped_count",
        "handler",
        "id",
        "is_dirty",
        "local",
        "notify_writable",
        "outgoing_bytes",
        "outgoing_count",
        "peer",
        "transport",
    )

    def __init__(self, context: Context, link_id: int, peer: Address | None, local: Address) -> None:
        self.context = context
        self.id = link_id
        self.peer = peer
        self.local = local
        self.handler: DatagramHandler = DEAF
        self.transport: Any = None
        self.notify_writable = False
        self.closing = False
        self.outgoing_bytes = 0
        self.outgoing_count = 0
        self.dropped_count = 0
        """Datagrams never sent, because too much was queued."""
        self.bytes_received = 0
        self.bytes_sent = 0
        self._outgoing: list[Datagram] = []
        self.is_dirty = False

    def __repr__(self) -> str:
        return f"<DatagramLink {self.id} {self.local} {self.peer or 'listening'}>"

    def _mark_dirty(self) -> None:
        if not self.is_dirty:
            self.is_dirty = True
            self.context.dirty_datagram_links.append(self)

    # The session's side.

    def send(self, datagrams: list[Datagram]) -> None:
        """Queue datagrams, each with the address it goes to; never blocks.

        A connected socket sends to its peer, whatever the addresses. Beyond 4 MiB
        or 16,384 datagrams in the queue the newest are dropped, as a network would.
        """
        if not datagrams or self.closing:
            return
        size = 0
        for data, _ in datagrams:
            size += len(data)
        if (
            self.outgoing_bytes + size <= MAX_QUEUED_BYTES
            and self.outgoing_count + len(datagrams) <= MAX_QUEUED_DATAGRAMS
        ):
            self._outgoing += datagrams
            self.outgoing_bytes += size
            self.outgoing_count += len(datagrams)
        else:
            self._queue_what_fits(datagrams)
        if not self.is_dirty:
            self.is_dirty = True
            self.context.dirty_datagram_links.append(self)

    def _queue_what_fits(self, datagrams: list[Datagram]) -> None:
        for position, datagram in enumerate(datagrams):
            size = len(datagram[0])
            if self.outgoing_bytes + size > MAX_QUEUED_BYTES or self.outgoing_count == MAX_QUEUED_DATAGRAMS:
                self.dropped_count += len(datagrams) - position
                return
            self._outgoing.append(datagram)
            self.outgoing_bytes += size
            self.outgoing_count += 1

    def ask_for_writable(self) -> None:
        """Have `datagrams_writable` called once all that was sent is with the transport."""
        if not self.closing:
            self.notify_writable = True
            self._mark_dirty()

    def close(self) -> None:
        """Send what is queued as far as the socket takes it, and close. No more handler calls."""
        self.handler = DEAF
        if not self.closing:
            self.closing = True
            self.notify_writable = False
            self._mark_dirty()

    # The driver's side.

    def pull(self) -> list[Datagram]:
        """Take up to about `PULL_BYTES` of what is queued; an empty list when nothing is."""
        outgoing = self._outgoing
        if self.outgoing_bytes <= PULL_BYTES:
            self._outgoing = []
            self.bytes_sent += self.outgoing_bytes
            self.outgoing_bytes = self.outgoing_count = 0
            return outgoing
        count = total = 0
        for data, _ in outgoing:
            if count and total + len(data) > PULL_BYTES:
                break
            total += len(data)
            count += 1
        pulled = outgoing[:count]
        del outgoing[:count]
        self.outgoing_bytes -= total
        self.outgoing_count -= count
        self.bytes_sent += total
        return pulled
