"""Virtual sockets, whose bytes travel in order, in pieces, late, and not always all the way."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import Address
from smartproxy.drivers.simulation.clock import Clock, Event
from smartproxy.drivers.simulation.faults import Faults, log_uniform

DRIZZLE_SEGMENTS = 200


class SocketObserver(Protocol):
    """Who holds a socket is told what it may do. Never called from within a call of its own."""

    def readable(self) -> None:
        """There may be bytes, an end-of-file or an error to receive."""

    def writable(self) -> None:
        """The send buffer has room again, after it had none."""


class Pipe:
    """One direction of a connection, from `source` to `target`."""

    __slots__ = (
        "_arrived",
        "_clock",
        "_delivered_bytes",
        "_event",
        "_faults",
        "_fin_arrival",
        "_last_arrival",
        "_random",
        "_segments",
        "_segments_sent",
        "_trigger",
        "_trigger_at_bytes",
        "arrived_bytes",
        "broken",
        "eof",
        "in_flight_bytes",
        "longest_segment_bytes",
        "source",
        "target",
        "wants_room",
    )

    def __init__(self, clock: Clock, faults: Faults, random: Random) -> None:
        self._clock = clock
        self._faults = faults
        self._random = random
        self.source: VirtualSocket
        self.target: VirtualSocket
        self._segments: deque[tuple[float, bytes]] = deque()
        self._segments_sent = 0
        self._arrived: deque[bytes] = deque()
        self._event: Event | None = None
        self._last_arrival = 0.0
        self._fin_arrival: float | None = None
        self._delivered_bytes = 0
        self._trigger: Callable[[], None] | None = None
        self._trigger_at_bytes = 0
        self.in_flight_bytes = 0
        self.arrived_bytes = 0
        self.eof = False
        self.broken = False
        self.wants_room = False
        low, high = faults.segment_bytes
        self.longest_segment_bytes = log_uniform(random, low, high)

    @property
    def room_bytes(self) -> int:
        return self._faults.send_buffer_bytes - self.in_flight_bytes

    def trigger_after_bytes(self, count: int, trigger: Callable[[], None]) -> None:
        """Call `trigger` once `count` bytes have arrived, before any further one does."""
        self._trigger_at_bytes = count
        self._trigger = trigger

    def latency_s(self) -> float:
        return self._random.uniform(*self._faults.latency_s)

    def happens(self, probability: float) -> bool:
        return probability > 0.0 and self._random.random() < probability

    def send(self, data: bytes | memoryview) -> int:
        taken = min(len(data), self.room_bytes)
        if taken < len(data):
            self.wants_room = True
        if self.broken:
            self.in_flight_bytes += taken
            self._give_up_later()
            return taken
        position = 0
        while position < taken:
            size = log_uniform(self._random, self._faults.segment_bytes[0], self.longest_segment_bytes)
            self._segments_sent += 1
            if self._segments_sent == DRIZZLE_SEGMENTS:
                # A long transfer in ever so small pieces would show nothing new, slowly.
                self.longest_segment_bytes = self._faults.segment_bytes[1]
            segment = bytes(data[position : min(position + size, taken)])
            self._segments.append((self._arrival_time(len(segment)), segment))
            position += len(segment)
        self.in_flight_bytes += taken
        self._schedule()
        return taken

    def send_fin(self) -> None:
        if self.broken:
            self._give_up_later()
        elif self._fin_arrival is None:
            self._fin_arrival = self._arrival_time(0)
            self._schedule()

    def stall_until(self, time: float) -> None:
        """Deliver nothing before `time`."""
        self._last_arrival = max(self._last_arrival, time)
        self._segments = deque((max(arrival, time), segment) for arrival, segment in self._segments)
        if self._fin_arrival is not None:
            self._fin_arrival = max(self._fin_arrival, time)
        if self._event is not None:
            self._event.cancel()
            self._event = None
        self._schedule()

    def lose(self) -> None:
        """Lose everything in flight; what has arrived stays readable."""
        self._segments.clear()
        self.in_flight_bytes = 0
        self._fin_arrival = None
        self._trigger = None
        if self._event is not None:
            self._event.cancel()
            self._event = None

    def break_silently(self) -> None:
        """Lose everything in flight and all that will be sent; the sender times out waiting for it."""
        unacknowledged_bytes = self.in_flight_bytes
        self.lose()
        self.broken = True
        if unacknowledged_bytes:
            self.in_flight_bytes = unacknowledged_bytes
            self._give_up_later()

    def _give_up_later(self) -> None:
        if self._event is None:
            give_up_at = self._clock.now + self._faults.give_up_s
            self._event = self._clock.call_at(give_up_at, lambda: self.source.fail(LostReason.TIMED_OUT))

    def discard_arrived(self) -> None:
        self._arrived.clear()
        self.arrived_bytes = 0

    def take(self, max_bytes: int) -> bytes:
        """Up to `max_bytes` of what has arrived; at least one byte must have."""
        arrived = self._arrived
        if len(arrived[0]) > max_bytes:
            data = arrived[0][:max_bytes]
            arrived[0] = arrived[0][max_bytes:]
        else:
            pieces = [arrived.popleft()]
            size = len(pieces[0])
            while arrived and size + len(arrived[0]) <= max_bytes:
                size += len(arrived[0])
                pieces.append(arrived.popleft())
            data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        self.arrived_bytes -= len(data)
        self._schedule()
        return data

    def last_arrival_time(self) -> float:
        """When what has been sent until now will have arrived, if the receiver has room."""
        return max(self._last_arrival, self._clock.now)

    def _arrival_time(self, size: int) -> float:
        departure = self._clock.now
        bandwidth = self._faults.bandwidth_bytes_per_s
        arrival = max(self._last_arrival, departure + self.latency_s())
        if bandwidth is not None:
            arrival += size / bandwidth
        self._last_arrival = arrival
        return arrival

    def _schedule(self) -> None:
        if self._event is not None or self.broken:
            return
        if self._segments:
            if self.arrived_bytes < self._faults.receive_buffer_bytes or self.target.closed:
                self._event = self._clock.call_at(self._segments[0][0], self._deliver)
        elif self._fin_arrival is not None and not self.eof:
            self._event = self._clock.call_at(self._fin_arrival, self._deliver)

    def _deliver(self) -> None:
        self._event = None
        target, source = self.target, self.source
        if target.closed:
            # Data for a closed socket is answered by a reset (RFC 9293 §3.10.7.1); its FIN is not.
            if self._segments:
                self.lose()
                target.answer_with_reset()
            else:
                self.eof = True
            return
        had_room = not self.wants_room
        arrived = self._take_due_segments()
        if not self._segments and self._fin_arrival is not None and self._fin_arrival <= self._clock.now:
            self.eof = True
        self._schedule()
        trigger = self._trigger
        if trigger is not None and self._delivered_bytes >= self._trigger_at_bytes:
            self._trigger = None
            trigger()
        if (arrived or self.eof) and not target.closed:
            target.observer.readable()
        if arrived and not had_room and not source.closed:
            self.wants_room = False
            source.observer.writable()

    def _take_due_segments(self) -> int:
        now, segments = self._clock.now, self._segments
        taken = 0
        while segments and segments[0][0] <= now:
            arrival, segment = segments.popleft()
            room = self._faults.receive_buffer_bytes - self.arrived_bytes
            if self._trigger is not None:
                room = min(room, self._trigger_at_bytes - self._delivered_bytes)
            if len(segment) > room:
                segments.appendleft((arrival, segment[room:]))
                segment = segment[:room]
            if not segment:
                break
            taken += len(segment)
            self._arrived.append(segment)
            self.arrived_bytes += len(segment)
            self.in_flight_bytes -= len(segment)
            self._delivered_bytes += len(segment)
            if self._random.random() >= self._faults.coalesce_probability:
                break
        return taken


class VirtualSocket:
    """One end of a connection, with the manners of a non-blocking socket."""

    __slots__ = ("_clock", "_faults", "_inbound", "_outbound", "closed", "error", "local", "observer", "peer")

    def __init__(
        self, clock: Clock, faults: Faults, local: Address, peer: Address, inbound: Pipe, outbound: Pipe
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._inbound = inbound
        self._outbound = outbound
        inbound.target = self
        outbound.source = self
        self.local = local
        self.peer = peer
        self.closed = False
        self.error: LostReason | None = None
        self.observer: SocketObserver = UNOBSERVED

    def __repr__(self) -> str:
        return f"<VirtualSocket {self.local} - {self.peer}>"

    @property
    def room_bytes(self) -> int:
        """Bytes that `send` would take now."""
        return max(0, self._outbound.room_bytes)

    @property
    def unread_bytes(self) -> int:
        """Bytes that have arrived and were not received yet."""
        return self._inbound.arrived_bytes

    def has_input(self) -> bool:
        """Whether `receive` would give bytes, end-of-file or an error."""
        return self._inbound.arrived_bytes > 0 or self._inbound.eof or self.error is not None

    def send(self, data: bytes | memoryview) -> int:
        """Take what the send buffer has room for, and return how many bytes that was.

        Raises ConnectionResetError or TimeoutError once the connection is lost.
        """
        self._raise_error()
        return self._outbound.send(data)

    def receive(self, max_bytes: int) -> bytes | None:
        """Up to `max_bytes`; b"" at end-of-file; None when nothing has arrived yet.

        Raises ConnectionResetError or TimeoutError once the connection is lost
        and what had arrived before is read.
        """
        if self._inbound.arrived_bytes:
            return self._inbound.take(max_bytes)
        if self._inbound.eof:
            return b""
        self._raise_error()
        return None

    def notify_when_writable(self) -> None:
        """Tell the observer once the send buffer, now full, has room."""
        self._outbound.wants_room = True

    def send_eof(self) -> None:
        """Send no more: the peer sees end-of-file after the last byte."""
        if self.error is None and not self.closed:
            self._outbound.send_fin()

    def close(self) -> None:
        """Send what is in the send buffer, then end-of-file; or a reset when something was left unread."""
        if self.closed:
            return
        self.closed = True
        if self.error is not None:
            return
        if self._inbound.arrived_bytes:
            self.answer_with_reset()
        else:
            self._outbound.send_fin()

    def reset(self) -> None:
        """Lose what is in flight both ways and reset the connection."""
        if self.closed:
            return
        self.closed = True
        if self.error is None:
            self.lose_both_directions()
            self._fail_peer_at(self._clock.now + self._outbound.latency_s(), LostReason.RESET)

    def answer_with_reset(self) -> None:
        """Reset the peer, behind everything sent to it before."""
        self._inbound.lose()
        self._fail_peer_at(self._outbound.last_arrival_time() + self._outbound.latency_s(), LostReason.RESET)

    def lose_both_directions(self) -> None:
        self._inbound.lose()
        self._outbound.lose()

    def fail(self, reason: LostReason) -> None:
        """The connection is gone; whoever uses this end will be told when they do."""
        if self.closed or self.error is not None:
            return
        self.error = reason
        self._outbound.lose()
        self._inbound.lose()
        if not self._inbound.eof and self._inbound.happens(self._faults.reset_discards_received_probability):
            self._inbound.discard_arrived()
        self.observer.readable()
        if not self.closed and self._outbound.wants_room:
            self._outbound.wants_room = False
            self.observer.writable()

    def _fail_peer_at(self, time: float, reason: LostReason) -> None:
        if not self._outbound.broken:
            peer = self._outbound.target
            self._clock.call_at(time, lambda: peer.fail(reason))

    def _raise_error(self) -> None:
        if self.error is LostReason.TIMED_OUT:
            raise TimeoutError(errno.ETIMEDOUT, "connection timed out")
        if self.error is not None:
            raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")


class _Unobserved:
    def readable(self) -> None: ...
    def writable(self) -> None: ...


UNOBSERVED = _Unobserved()
