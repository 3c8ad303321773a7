"""The virtual network: who listens where, who connects to whom, and what happens to it on the way."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import UNIX_PORT, Address
from smartproxy.drivers.simulation.clock import Clock, Event
from smartproxy.drivers.simulation.datagrams import DatagramNetwork
from smartproxy.drivers.simulation.faults import Faults, log_uniform
from smartproxy.drivers.simulation.sockets import Pipe, VirtualSocket

PROXY_IP = "192.0.2.1"
"""The address the proxy's own connections come from."""

FIRST_LISTENING_PORT = 20_000
FIRST_EPHEMERAL_PORT = 40_000
LAST_PORT = 65_535


def format_address(address: Address) -> str:
    """`192.0.2.1:80`, `[2001:db8::1]:80` or `unix:/path`."""
    host, port = address
    if port == UNIX_PORT:
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class PendingConnect:
    """A connect under way. Its result comes once, as a socket or as the reason there is none."""

    __slots__ = ("_event", "_on_result", "_socket")

    def __init__(self, on_result: Callable[[VirtualSocket | LostReason], None]) -> None:
        self._on_result: Callable[[VirtualSocket | LostReason], None] | None = on_result
        self._event: Event | None = None
        self._socket: VirtualSocket | None = None

    def continue_with(self, event: Event, socket: VirtualSocket | None = None) -> None:
        self._event = event
        self._socket = socket

    def finish(self, result: VirtualSocket | LostReason) -> None:
        on_result, self._on_result = self._on_result, None
        if on_result is not None:
            on_result(result)

    def cancel(self) -> None:
        """Give up: a side that had already accepted sees a reset."""
        if self._on_result is None:
            return
        self._on_result = None
        if self._socket is not None:
            self._socket.reset()
        if self._event is not None:
            self._event.cancel()


@dataclass(slots=True)
class _Listening:
    accept: Callable[[VirtualSocket], None]


class Network:
    """Addresses, listeners and connections of one simulation.

    `faults` holds for every connection; `host_faults` replaces it for connections
    to or from one host. Connects to an address in `unreachable` fail at once, and
    to one in `black_holes` never answer. A listener on `0.0.0.0` or `::` gets the
    connections to every address in `local_ips`.
    """

    __slots__ = (
        "_clock",
        "_connections_made",
        "_listening",
        "_next_ephemeral_port",
        "_next_listening_port",
        "_note",
        "_seed",
        "black_holes",
        "datagrams",
        "faults",
        "host_faults",
        "local_ips",
        "unreachable",
    )

    def __init__(self, clock: Clock, seed: int, faults: Faults, note: Callable[[str], None]) -> None:
        self._clock = clock
        self._seed = seed
        self._note = note
        self._listening: dict[Address, _Listening] = {}
        self._connections_made = 0
        self._next_listening_port = FIRST_LISTENING_PORT
        self._next_ephemeral_port = FIRST_EPHEMERAL_PORT
        self.faults = faults
        self.host_faults: dict[str, Faults] = {}
        self.unreachable: set[str] = set()
        self.black_holes: set[str] = set()
        self.datagrams = DatagramNetwork(clock, seed, self, note)
        """UDP, under the same weather."""
        self.local_ips = {"127.0.0.1", "::1", PROXY_IP, "2001:db8::1"}

    def bind(self, host: str, port: int, accept: Callable[[VirtualSocket], None]) -> Address:
        """Listen on an address; port 0 picks a free one.

        Raises OSError (EADDRINUSE) when somebody listens there already.
        """
        if port == 0:
            port = self.free_port()
        address = (host, port)
        if address in self._listening:
            raise OSError(errno.EADDRINUSE, f"address in use: {format_address(address)}")
        self._listening[address] = _Listening(accept)
        return address

    def unbind(self, address: Address) -> None:
        self._listening.pop(address, None)

    def free_port(self) -> int:
        """A port on which nobody listens."""
        self._next_listening_port += 1
        return self._next_listening_port

    def connect(
        self,
        source_ip: str,
        address: Address,
        on_result: Callable[[VirtualSocket | LostReason], None],
        faults: Faults | None = None,
    ) -> PendingConnect:
        """Connect from `source_ip` to `address`; `on_result` is called later, once."""
        if faults is None:
            faults = self.host_faults.get(address[0]) or self.host_faults.get(source_ip) or self.faults
        self._connections_made += 1
        random = Random(f"{self._seed}/connection/{self._connections_made}")  # noqa: S311 - replayable
        pending = PendingConnect(on_result)
        source = (source_ip, self._ephemeral_port()) if address[1] != UNIX_PORT else ("", UNIX_PORT)
        self._maybe_jump_wall_clock(faults, random)
        delay_s, failure = self._connect_fate(address, faults, random)
        if failure is not None:
            reason = failure
            event = self._clock.call_at(self._clock.now + delay_s, lambda: pending.finish(reason))
        else:
            event = self._clock.call_at(
                self._clock.now + delay_s, lambda: self._arrive(source, address, faults, random, pending)
            )
        pending.continue_with(event)
        return pending

    def _ephemeral_port(self) -> int:
        port = self._next_ephemeral_port
        self._next_ephemeral_port = port + 1 if port < LAST_PORT else FIRST_EPHEMERAL_PORT
        return port

    def _maybe_jump_wall_clock(self, faults: Faults, random: Random) -> None:
        if random.random() < faults.clock_jump_probability:
            seconds = random.uniform(*faults.clock_jump_s)
            self._clock.jump_wall_clock(seconds)
            self._note(f"wall clock jumps {seconds:+.1f} s")

    def _connect_fate(
        self, address: Address, faults: Faults, random: Random
    ) -> tuple[float, LostReason | None]:
        host = address[0]
        delay_s = random.uniform(*faults.latency_s)
        if host in self.unreachable:
            return delay_s, LostReason.UNREACHABLE
        if host in self.black_holes or random.random() < faults.black_hole_probability:
            self._note(f"connect to {format_address(address)} goes unanswered")
            return faults.connect_give_up_s, LostReason.TIMED_OUT
        if random.random() < faults.refuse_probability:
            self._note(f"connect to {format_address(address)} is refused")
            return delay_s + random.uniform(*faults.latency_s), LostReason.REFUSED
        if random.random() < faults.slow_connect_probability:
            delay_s += random.uniform(*faults.slow_connect_s)
        return delay_s, None

    def _listener(self, address: Address) -> _Listening | None:
        listening = self._listening.get(address)
        if listening is None and self.is_local(address[0]):
            wildcard = "::" if ":" in address[0] else "0.0.0.0"  # noqa: S104 - a virtual address
            listening = self._listening.get((wildcard, address[1]))
        return listening

    def is_local(self, ip: str) -> bool:
        """Whether a listener on all addresses has `ip`: one of `local_ips`, or of the loopback network."""
        return ip in self.local_ips or ip.startswith("127.")

    def _arrive(
        self, source: Address, address: Address, faults: Faults, random: Random, pending: PendingConnect
    ) -> None:
        back_at = self._clock.now + random.uniform(*faults.latency_s)
        listening = self._listener(address)
        if listening is None:
            pending.continue_with(self._clock.call_at(back_at, lambda: pending.finish(LostReason.REFUSED)))
            return
        towards = Pipe(self._clock, faults, random)
        back = Pipe(self._clock, faults, random)
        near = VirtualSocket(self._clock, faults, source, address, back, towards)
        far = VirtualSocket(self._clock, faults, address, source, towards, back)
        self._plan_faults(near, far, towards, back, faults, random)
        pending.continue_with(self._clock.call_at(back_at, lambda: pending.finish(near)), near)
        listening.accept(far)

    def _plan_faults(
        self,
        near: VirtualSocket,
        far: VirtualSocket,
        towards: Pipe,
        back: Pipe,
        faults: Faults,
        random: Random,
    ) -> None:
        name = f"{format_address(near.local)} - {format_address(far.local)}"

        def stall() -> None:
            pipe = random.choice((towards, back))
            seconds = random.uniform(*faults.stall_s)
            self._note(f"{name} delivers nothing to {format_address(pipe.target.local)} for {seconds:.3f} s")
            pipe.stall_until(self._clock.now + seconds)

        def reset() -> None:
            if near.closed and far.closed:
                return
            self._note(f"{name} is reset")
            # What either end sends before it hears of the reset is lost too.
            towards.break_silently()
            back.break_silently()
            for end, pipe in ((near, back), (far, towards)):
                self._fail_later(end, self._clock.now + pipe.latency_s())

        def vanish() -> None:
            self._note(f"{name} vanishes")
            towards.break_silently()
            back.break_silently()

        for probability, happen in (
            (faults.stall_probability, stall),
            (faults.reset_probability, reset),
            (faults.vanish_probability, vanish),
        ):
            if random.random() < probability:
                self._plan(happen, random.choice((towards, back)), faults, random)

    def _fail_later(self, end: VirtualSocket, time: float) -> None:
        self._clock.call_at(time, lambda: end.fail(LostReason.RESET))

    def _plan(self, happen: Callable[[], None], pipe: Pipe, faults: Faults, random: Random) -> None:
        if random.random() < 0.5:
            pipe.trigger_after_bytes(log_uniform(random, 1, faults.fault_within_bytes), happen)
        else:
            # The sixth power prefers the first moments, when there is most to break.
            delay_s = faults.fault_within_s * random.random() ** 6
            self._clock.call_at(self._clock.now + delay_s, happen)
