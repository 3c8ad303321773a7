"""One simulated world: its clock, its network, its scripts, and the programs under test."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from smartproxy.core.env import Env
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import UNIX_PORT
from smartproxy.drivers.simulation.clock import Clock
from smartproxy.drivers.simulation.driver import SansIoEngine, SimulationDriver
from smartproxy.drivers.simulation.faults import Faults
from smartproxy.drivers.simulation.http_scripts import Respond, serve_http
from smartproxy.drivers.simulation.network import Network
from smartproxy.drivers.simulation.resolver import SimulatedResolver
from smartproxy.drivers.simulation.scripts import ByteConnection, Connection, Listener, UdpSocket
from smartproxy.drivers.simulation.sockets import VirtualSocket
from smartproxy.drivers.simulation.tasks import ScriptCancelled, Signal, Task
from smartproxy.drivers.simulation.transcript import LabelledTranscript, Transcript

if TYPE_CHECKING:
    from smartproxy.config import ProxyConfig
    from smartproxy.drivers.simulation.proxy import SimulatedProxy

T = TypeVar("T")

START_S = 1000.0
WALL_CLOCK_START_S = 1_767_225_600.0
"""2026-01-01T00:00:00Z."""

MAX_EVENTS = 5_000_000
TRANSCRIPT_LINES = 10_000
CLIENT_IP = "198.51.100.7"

WEATHER_ERRORS = (ConnectionError, TimeoutError, EOFError)
"""What a script meets on a faulty network without anybody being at fault."""


class SimulationError(Exception):
    """A simulated run went wrong; the message begins with the seed that replays it."""


class SimulationDeadlock(SimulationError):
    """Scripts are waiting, and nothing will ever happen again."""


class SimulationOverrun(SimulationError):
    """More events than allowed: something goes round in circles."""


class ScriptFailed(SimulationError):
    """A script raised, and no other was waiting for it. `__cause__` is what it raised."""


class ProgramFailed(SimulationError):
    """The program under test raised out of an input. `__cause__` is what it raised."""


class Simulation:
    """A deterministic world, made of its seed alone.

    Everything that happens follows from `seed`: two runs of the same scripts with
    the same seed are the same, event by event. Time is virtual and costs nothing.
    `faults` is the weather on the network (default: calm); `transcript_lines` how
    many lines of transcript are kept (None: all).

    `random` is for scripts; the network's weather and the engine's entropy come
    from generators of their own, so a script that draws once more changes neither.
    """

    def __init__(
        self, seed: int, *, faults: Faults | None = None, transcript_lines: int | None = TRANSCRIPT_LINES
    ) -> None:
        self.seed = seed
        self.random = Random(f"{seed}/scripts")  # noqa: S311 - replayable
        self.clock = Clock(START_S, WALL_CLOCK_START_S)
        self.transcript = Transcript(self.clock, transcript_lines)
        self.network = Network(self.clock, seed, faults or Faults(), self.transcript.weather)
        self.resolver = SimulatedResolver(
            self.clock,
            self.network,
            Random(f"{seed}/resolver"),  # noqa: S311 - replayable
            self.transcript.weather,
        )
        self.env = Env(Random(f"{seed}/entropy").randbytes, self.clock.wall_clock)  # noqa: S311 - replayable
        self.drivers: list[SimulationDriver] = []
        self.events_run = 0
        self._tasks: list[Task[Any]] = []
        self._failure: Task[Any] | None = None

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every script that still waits."""
        for task in self._tasks:
            task.close()
        self._tasks.clear()

    @property
    def now(self) -> float:
        """Monotonic virtual time in seconds; it starts at 1000."""
        return self.clock.now

    @property
    def faults(self) -> Faults:
        """The weather for connections made from now on."""
        return self.network.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.network.faults = faults

    # Programs.

    def start_engine(self, engine: SansIoEngine) -> SimulationDriver:
        """Carry an engine on this network. Give it `env`, and listen on the driver.

        The transcript's lines of the second and later ones begin with their number: `[2] `.
        """
        number = len(self.drivers)
        driver = SimulationDriver(
            engine,
            self.clock,
            self.network,
            self.resolver,
            LabelledTranscript(self.transcript, f"[{number + 1}] ") if number else self.transcript,
            Random(f"{self.seed}/driver/{number}"),  # noqa: S311 - replayable
            lambda coroutine, name: self.spawn(coroutine, name=name, daemon=True),
        )
        self.drivers.append(driver)
        return driver

    def start_proxy(self, config: ProxyConfig | Mapping[str, Any]) -> SimulatedProxy:
        """Start a whole proxy from what a configuration file would say, listening on its ports.

        Raises ConfigError for a bad configuration, and OSError for a port in use.
        """
        from smartproxy.drivers.simulation.proxy import SimulatedProxy

        return SimulatedProxy(self, config)

    # Scripts.

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, name: str = "", daemon: bool = False) -> Task[T]:
        """Run a script beside the others. What it raises, unless another awaits it, fails the run.

        `run()` waits for every script that is not a daemon.
        """
        task = Task(
            self.clock,
            coroutine,
            name or getattr(coroutine, "__name__", "script"),
            daemon,
            self._script_failed,
        )
        self._tasks.append(task)
        if len(self._tasks) % 1024 == 0:
            self._tasks = [each for each in self._tasks if not each.done]
        return task

    def _script_failed(self, task: Task[Any]) -> None:
        if self._failure is None:
            self._failure = task

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        signal: Signal[None] = Signal()
        event = self.clock.call_at(self.clock.now + seconds, lambda: signal.succeed(None))
        try:
            await signal
        finally:
            event.cancel()

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run scripts beside each other and give what each returned.

        The first to raise has its error raised here, and the others are cancelled.
        """
        tasks = [self.spawn(coroutine) for coroutine in coroutines]
        finished: Signal[None] = Signal()

        def check(task: Task[T]) -> None:
            if task.error is not None:
                finished.fail(task.error)
            elif all(each.done for each in tasks):
                finished.succeed(None)

        for task in tasks:
            task.on_done(lambda task=task: check(task))  # type: ignore[misc]  # a default binds the loop's value
        try:
            if tasks:
                await finished
        finally:
            for task in tasks:
                task.cancel()
        return [task.value for task in tasks]

    async def wait_for(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """What `coroutine` returns. Raises TimeoutError, and cancels it, after `timeout_s`."""
        task = self.spawn(coroutine)
        timed_out = False

        def time_out() -> None:
            nonlocal timed_out
            timed_out = True
            task.cancel()

        event = self.clock.call_at(self.clock.now + timeout_s, time_out)
        try:
            return await task
        except ScriptCancelled:
            if timed_out:
                raise TimeoutError(f"not done within {timeout_s} s") from None
            raise
        finally:
            event.cancel()
            task.cancel()

    async def connect(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        peer_ip: str = CLIENT_IP,
        faults: Faults | None = None,
    ) -> Connection:
        """Connect a client script, from `peer_ip`. `faults` replaces the network's for this connection.

        Raises ConnectionRefusedError, TimeoutError or OSError (unreachable). For a
        unix socket give `UNIX_PORT` and its path as `host`.
        """
        signal: Signal[VirtualSocket | LostReason] = Signal()
        pending = self.network.connect(peer_ip, (host, port), signal.succeed, faults)
        try:
            outcome = await signal
        finally:
            pending.cancel()
        if isinstance(outcome, VirtualSocket):
            return Connection(outcome)
        if outcome is LostReason.REFUSED:
            raise ConnectionRefusedError(f"connection to {host}:{port} refused")
        if outcome is LostReason.TIMED_OUT:
            raise TimeoutError(f"connection to {host}:{port} timed out")
        raise OSError(f"connection to {host}:{port} failed: {outcome.value}")

    def listen(self, host: str, port: int = 0) -> Listener:
        """Accept connections in a script; port 0 picks a free one. Raises OSError (EADDRINUSE)."""
        listener = Listener(lambda: self.network.unbind(listener.address))
        listener.address = self.network.bind(host, port, listener.arrived)
        return listener

    def open_udp(self, host: str = CLIENT_IP, port: int = 0) -> UdpSocket:
        """A UDP socket for a script; port 0 picks a free one. Raises OSError (EADDRINUSE)."""
        return UdpSocket(self.network.datagrams.bind(host, port))

    def block_udp(self, host: str, port: int | None = None) -> None:
        """From now on lose every datagram to and from `host` without a word; those to one port, if given."""
        self.network.datagrams.blocked.add((host, port))

    def unblock_udp(self, host: str, port: int | None = None) -> None:
        """Let datagrams through again, after `block_udp` of the same."""
        self.network.datagrams.blocked.discard((host, port))

    def listen_unix(self, path: str) -> Listener:
        """Accept connections to a unix socket. Raises OSError (EADDRINUSE)."""
        return self.listen(path, UNIX_PORT)

    def backend(self, host: str, port: int, handler: Callable[[Connection], Awaitable[None]]) -> Listener:
        """Serve every connection to an address with a script of its own.

        A handler that meets the weather (`WEATHER_ERRORS`) just ends; whatever else
        it raises fails the run. Its connection is reset when it raised.
        """
        listener = self.listen(host, port)

        async def serve(connection: Connection) -> None:
            try:
                await handler(connection)
            except WEATHER_ERRORS:
                connection.reset()

        async def accept() -> None:
            while True:
                connection = await listener.accept()
                self.spawn(serve(connection), name=f"backend {host}:{port}", daemon=True)

        self.spawn(accept(), name=f"listener {host}:{port}", daemon=True)
        return listener

    def http_backend(self, host: str, port: int, respond: Respond) -> Listener:
        """Serve HTTP/1.1 at an address: `respond(request)` gives each response."""

        async def serve(connection: ByteConnection) -> None:
            await serve_http(connection, respond)

        return self.backend(host, port, serve)

    def echo_backend(self, host: str, port: int) -> Listener:
        """Send back every byte that comes, and end when the client does."""

        async def echo(connection: ByteConnection) -> None:
            while data := await connection.receive():
                await connection.send(data)
            await connection.send_eof()
            connection.close()

        return self.backend(host, port, echo)

    # Running.

    def run(self, *, until: float | None = None, max_events: int = MAX_EVENTS) -> None:
        """Run until nothing is left to happen, or until the virtual time `until`.

        Raises SimulationDeadlock when scripts still wait with nothing left to happen,
        ScriptFailed, ProgramFailed, and SimulationOverrun after `max_events`.
        """
        self._run(None, until, max_events)
        if until is None:
            waiting = [task.name for task in self._tasks if not (task.done or task.daemon)]
            if waiting:
                raise self._deadlock(waiting)

    def run_until_complete(self, coroutine: Coroutine[Any, Any, T], *, max_events: int = MAX_EVENTS) -> T:
        """Run until this script is done, and return what it returned. Raises as `run` does."""
        task = self.spawn(coroutine)
        self._run(task, None, max_events)
        if not task.done:
            raise self._deadlock([task.name])
        return task.value

    def _run(self, task: Task[Any] | None, until: float | None, max_events: int) -> None:
        clock = self.clock
        events_allowed = self.events_run + max_events
        while True:
            if self._failure is not None:
                error = self._failure.error
                assert error is not None
                raise ScriptFailed(
                    f"seed {self.seed}: script {self._failure.name}: {_tell(error)}"
                ) from error
            if task is not None and task.done:
                return
            time = clock.next_event_time()
            if time is None:
                return
            if until is not None and time > until:
                clock.now = max(clock.now, until)
                return
            self.events_run += 1
            if self.events_run > events_allowed:
                raise SimulationOverrun(
                    f"seed {self.seed}: {max_events} events and no end; the last:\n{self.transcript.tail()}"
                )
            try:
                clock.run_next_event()
            except Exception as error:
                message = f"seed {self.seed}: {_tell(error)}; the last before it:"
                raise ProgramFailed(f"{message}\n{self.transcript.tail()}") from error

    def _deadlock(self, waiting: list[str]) -> SimulationDeadlock:
        names = ", ".join(waiting)
        return SimulationDeadlock(
            f"seed {self.seed}: nothing will ever happen again, but these scripts wait: {names}; "
            f"the last that happened:\n{self.transcript.tail()}"
        )


def _tell(error: BaseException) -> str:
    """What was raised, and where: an assertion often says no more than its line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
