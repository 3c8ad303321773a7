"""What may go wrong on the virtual network, and how often."""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random


@dataclass(frozen=True, slots=True)
class Faults:
    """The weather of a virtual network. The default is calm: short latencies, whole segments, no failure.

    Every `*_probability` is a chance from 0 to 1, drawn once for each connection
    (or look-up) when it is made, and for each datagram when it is sent. Every pair
    is an inclusive range. A connection that is to stall, be reset or vanish does so
    after a number of bytes of one direction up to `fault_within_bytes`, or at a time within `fault_within_s`.
    """

    latency_s: tuple[float, float] = (0.0002, 0.002)
    """One way, drawn for each segment. Bytes of one direction stay in order."""
    segment_bytes: tuple[int, int] = (1460, 65536)
    """How long a piece of the stream may be; small and large ones are equally likely by magnitude."""
    coalesce_probability: float = 0.5
    """For each segment: that it is read together with the next, when that has arrived too."""
    bandwidth_bytes_per_s: float | None = None
    """Of each direction of each connection; None for no limit."""
    send_buffer_bytes: int = 64 * 1024
    receive_buffer_bytes: int = 64 * 1024

    stall_probability: float = 0.0
    stall_s: tuple[float, float] = (1.0, 90.0)
    """How long one direction of a stalled connection delivers nothing."""
    reset_probability: float = 0.0
    """Bytes in flight are lost; both ends learn of it."""
    vanish_probability: float = 0.0
    """Bytes in flight are lost and neither end is told; who has sent gives up after `give_up_s`."""
    give_up_s: float = 900.0
    reset_discards_received_probability: float = 0.0
    """That a reset also takes bytes that had arrived but were not read yet (RFC 9112 §9.6)."""
    fault_within_bytes: int = 64 * 1024
    fault_within_s: float = 30.0

    refuse_probability: float = 0.0
    black_hole_probability: float = 0.0
    """A connect that nobody answers; it fails after `connect_give_up_s`."""
    connect_give_up_s: float = 127.0
    slow_connect_probability: float = 0.0
    slow_connect_s: tuple[float, float] = (0.1, 20.0)

    dns_failure_probability: float = 0.0
    dns_latency_s: tuple[float, float] = (0.0005, 0.05)

    datagram_loss_probability: float = 0.0
    datagram_duplicate_probability: float = 0.0
    """The second comes up to `datagram_delay_s` later."""
    datagram_reorder_probability: float = 0.0
    """That one is late by `datagram_delay_s`, and others overtake it; else a flow stays in order."""
    datagram_delay_s: tuple[float, float] = (0.0005, 0.05)

    clock_jump_probability: float = 0.0
    """For each connection made: that the wall clock jumps then."""
    clock_jump_s: tuple[float, float] = (-86400.0, 86400.0)
    timer_lateness_s: tuple[float, float] = (0.0, 0.005)
    """How late the driver's timer fires; never early."""

    def __post_init__(self) -> None:
        """Raises ValueError for a probability outside 0 to 1, a reversed range or an empty buffer."""
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name.endswith("_probability") and not 0.0 <= value <= 1.0:
                raise ValueError(f"{each.name} must be from 0 to 1, not {value!r}")
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"{each.name} must be (low, high), not {value!r}")
        if self.segment_bytes[0] < 1:
            raise ValueError(f"segment_bytes must be at least 1, not {self.segment_bytes!r}")
        if min(self.send_buffer_bytes, self.receive_buffer_bytes, self.fault_within_bytes) < 1:
            raise ValueError("buffers and fault_within_bytes must be at least 1 byte")

    @staticmethod
    def rough() -> Faults:
        """Bad weather, as the sweeps use it: everything goes wrong now and then."""
        return Faults(
            latency_s=(0.0001, 0.08),
            segment_bytes=(1, 16384),
            send_buffer_bytes=16 * 1024,
            receive_buffer_bytes=16 * 1024,
            stall_probability=0.08,
            reset_probability=0.08,
            fault_within_bytes=32 * 1024,
            refuse_probability=0.05,
            black_hole_probability=0.03,
            slow_connect_probability=0.1,
            dns_failure_probability=0.05,
            datagram_loss_probability=0.03,
            datagram_duplicate_probability=0.02,
            datagram_reorder_probability=0.05,
            clock_jump_probability=0.1,
            timer_lateness_s=(0.0, 0.05),
        )


def log_uniform(random: Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, every order of magnitude as likely as every other."""
    if low >= high:
        return low
    drawn: float = low * (high / low) ** random.random()
    return min(high, max(low, round(drawn)))
