"""The pump that every real driver shares: sockets on one side, an engine on the other, no decisions between."""

from __future__ import annotations

import errno
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    CallFunction,
    CancelOperation,
    Opened,
    OpenStream,
    Operation,
    OperationFailed,
    RelayOutcome,
    ResolveHost,
    Result,
    Returned,
    StartRelay,
)
from smartproxy.core.records import AccessRecord, Level, Record
from smartproxy.core.stream import Ending
from smartproxy.core.timers import Timer, TimerHeap
from smartproxy.drivers.listeners import Listener, Listeners
from smartproxy.drivers.readiness import FAILED, HUNG_UP, READABLE, WRITABLE, readiness_source
from smartproxy.drivers.relay import Relay, RelayBuffers
from smartproxy.drivers.sockets import (
    MAX_RECEIVE_BYTES,
    NOT_REGISTERED,
    RECEIVE_BYTES,
    StreamSocket,
    address_of,
    close_with_reset,
    lost_reason,
    prepare_accepted,
    start_connecting,
)

if TYPE_CHECKING:
    from smartproxy.core.engine import Engine

T = TypeVar("T")

MAX_EVENTS = 256
TURN_BUDGET_S = 0.005
"""After this long the event loop's other tasks have their turn."""
ACCEPT_BURST = 64
ACCEPT_PAUSE_S = 0.1
"""How long nothing is accepted when the process has no descriptor left."""
LINGER_S = 30.0
"""How long a closed link's last bytes may wait for room in the kernel without any of them being taken."""

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = logging.getLogger("smartproxy.driver")


class Pump:
    """Carries one engine over non-blocking sockets (see `smartproxy.core.stream.Link` for the contract).

    All sockets hang on one readiness source. The event loop watches only that
    source's own descriptor, and calls `turn` when it is readable and `timer_fired`
    when the time given to `_arm_timer` has come. `on_records` is called with what
    `Engine.poll_records` had, after any input.
    """

    def __init__(
        self, engine: Engine, *, on_records: Callable[[list[Record | AccessRecord]], None] | None = None
    ) -> None:
        self._engine = engine
        self._on_records = on_records
        self._source = readiness_source()
        self._sockets: dict[int, StreamSocket] = {}
        self._listeners = Listeners(self._source)
        self._closed_fds: set[int] = set()
        self._operations: dict[int, Operation | StreamSocket | Relay] = {}
        self._relay_buffers = RelayBuffers()
        self._inputs: deque[Callable[[], None]] = deque()
        self._draining_outputs = False
        self._timers = TimerHeap()
        self._accept_timer = Timer(partial(self._listeners.set_accepting, True))
        self._armed_at = inf
        self._is_running = False
        self._is_closed = False

    # What a driver adds.

    def _arm_timer(self, deadline: float) -> None:
        """Call `timer_fired` at `deadline` (of `time.monotonic`), and at no earlier deadline given before."""
        raise NotImplementedError

    def _start_lookup(self, operation: ResolveHost) -> None:
        """Look the host up and call `answer`."""
        raise NotImplementedError

    def _start_awaiting(self, operation_id: int, awaitable: Awaitable[object]) -> None:
        """Await what a user's function returned and call `answer`."""
        raise NotImplementedError

    def _stop_task(self, operation_id: int) -> None:
        """Cancel what one of the two methods above started."""
        raise NotImplementedError

    def _became_idle(self) -> None:
        """The last socket is closed."""
        raise NotImplementedError

    # What the program calls.

    def listen(self, listening_port: int, hosts: Sequence[str]) -> int:
        """Bind `listening_port` of the configuration on every address of `hosts`, now.

        Returns the port bound; for 0 the kernel picks one, the same on all
        addresses. A system without IPv6 is forgiven `::` beside another address.
        Raises OSError that names the address; then nothing is left bound.
        """
        return self._listeners.listen(listening_port, hosts)

    def stop_listening(self, listening_port: int) -> None:
        """Refuse new connections; those there are go on."""
        self._closed_fds.update(self._listeners.stop_listening(listening_port))

    def listening_ports(self) -> dict[int, int]:
        """Each configured listening port and the port bound for it."""
        return self._listeners.ports()

    def apply(self, engine_input: Callable[[float], T]) -> T:
        """Give the engine one input, `engine_input(now)`, and drain every output. Returns and raises what it does."""
        try:
            return engine_input(monotonic())
        finally:
            self._drain()

    # What the event loop calls.

    def turn(self) -> None:
        """Handle what is ready, until nothing is or the others must have their turn."""
        poll = self._source.poll
        closed_fds = self._closed_fds
        sockets = self._sockets
        deadline = monotonic() + TURN_BUDGET_S
        while True:
            closed_fds.clear()
            events = poll(0, MAX_EVENTS)
            for fd, mask in events:
                # The event of a socket closed meanwhile is not for the one that has its number now.
                if closed_fds and fd in closed_fds:
                    continue
                stream = sockets.get(fd)
                try:
                    if stream is not None:
                        self._handle_events(stream, mask)
                    else:
                        listener = self._listeners.by_fd.get(fd)
                        if listener is not None:
                            self._accept(listener)
                except Exception as error:
                    self._survive(stream, error)
            if not events or self._is_closed or monotonic() >= deadline:
                return

    def timer_fired(self) -> None:
        """A deadline has come. Early or needless calls do no harm."""
        self._armed_at = inf
        now = monotonic()
        if self._engine.poll_timeout() <= now:
            try:
                self._engine.handle_timeout(now)
            except Exception as error:
                self._report_bug(None, error)
        self._timers.fire(now)
        self._drain()
        self._arm(self._timers.next_deadline())

    def answer(self, operation_id: int, result: Result) -> None:
        """The result of an operation, unless it has been cancelled."""
        self._tell_result(operation_id, result)
        self._drain()

    # Outputs.

    def _drain(self) -> None:
        if self._draining_outputs:
            self._inputs.append(_nothing)
            return
        self._draining_outputs = True
        engine = self._engine
        inputs = self._inputs
        try:
            while True:
                for operation in engine.poll_operations():
                    self._start(operation)
                for link in engine.poll_dirty_links():
                    stream = link.transport
                    if stream is not None:
                        self._visit(stream)
                records = engine.poll_records()
                if records:
                    self._report(records)
                if not inputs:
                    break
                inputs.popleft()()
        finally:
            self._draining_outputs = False
        self._arm(engine.poll_timeout())

    def _arm(self, deadline: float) -> None:
        if deadline < self._armed_at and self._is_running:
            self._armed_at = deadline
            self._arm_timer(deadline)

    def _set_timer(self, timer: Timer, delay_s: float) -> None:
        self._timers.set(timer, monotonic() + delay_s)
        self._arm(timer.deadline)

    def _report(self, records: list[Record | AccessRecord]) -> None:
        if self._on_records is not None:
            try:
                self._on_records(records)
            except Exception:
                _log.exception("the listener for records raised")

    def _report_bug(self, stream: StreamSocket | None, error: Exception) -> None:
        link = stream.link if stream is not None and stream.open else None
        try:
            self._engine.handle_bug(link, error, monotonic())
        except Exception:
            _log.exception("the engine could not take the report of a bug")
            if stream is not None:
                self._reset(stream)

    def _survive(self, stream: StreamSocket | None, error: Exception) -> None:
        """A bug of our own: its connection pays, everyone else goes on."""
        self._report_bug(stream, error)
        if stream is not None:
            self._reset(stream)
        try:
            self._drain()
        except Exception:
            _log.exception("an output could not be carried out")

    def _visit(self, stream: StreamSocket) -> None:
        """Bring a socket to where its link wants it (rules 1 to 5 of `Link`)."""
        link = stream.link
        ending = link.ending
        if not stream.open:
            return
        if ending == Ending.ABORT:
            self._reset(stream)
            return
        if link.outgoing_bytes and stream.unsent is None:
            self._send(stream)
        if ending == Ending.CLOSE:
            self._close(stream)
            return
        if (ending or link.notify_writable) and not stream.has_unsent and stream.failure is None:
            if ending and not stream.writing_shut_down and stream.incoming_relay is None:
                stream.shut_down_writing()
            if link.notify_writable:
                self._inputs.append(partial(self._tell_writable, stream))
        self._update_interest(stream)

    def _send(self, stream: StreamSocket) -> None:
        link = stream.link
        relay = stream.incoming_relay
        if relay is not None and relay.piped_bytes:
            return
        if stream.failure is not None:
            self._sending_failed(stream)
            return
        send = stream.sock.send
        data = b""
        try:
            while link.outgoing_bytes:
                data = link.pull()
                sent = send(data)
                if sent < len(data):
                    stream.unsent = memoryview(data)[sent:]
                    return
        except BlockingIOError:
            stream.unsent = memoryview(data)
        except OSError as error:
            stream.failure = lost_reason(error.errno)
            self._sending_failed(stream)

    def _sending_failed(self, stream: StreamSocket) -> None:
        """Tell the engine at once, unless an answer sent before the connection broke may still be read."""
        if stream.eof_received or (stream.outgoing_relay is None and not stream.link.reading):
            self._inputs.append(partial(self._tell_lost, stream, stream.failure or LostReason.ERROR))

    def _update_interest(self, stream: StreamSocket) -> None:
        """The one place that says what a socket is watched for."""
        wanted = 0
        incoming = stream.incoming_relay
        if stream.has_unsent or (incoming is not None and incoming.piped_bytes):
            wanted = WRITABLE if stream.failure is None else 0
        if stream.open and not stream.eof_received:
            outgoing = stream.outgoing_relay
            if stream.link.reading if outgoing is None else outgoing.wants_source:
                wanted |= READABLE
        registered = stream.registered
        # A pause in reading costs a system call only if something comes meanwhile: see _ignore.
        if wanted == registered or wanted | READABLE == registered:
            return
        if registered != NOT_REGISTERED:
            self._source.modify(stream.fd, wanted)
        elif wanted:
            self._source.register(stream.fd, wanted)
        else:
            return
        stream.registered = wanted

    # Events.

    def _handle_events(self, stream: StreamSocket, mask: int) -> None:
        if stream.connecting is not None:
            self._connected(stream, stream.connecting)
            return
        if mask & WRITABLE:
            self._send_rest(stream)
            if stream.fd < 0:
                return
        if mask & ~WRITABLE:
            relay = stream.outgoing_relay
            if relay is not None:
                if relay.wants_source and not stream.eof_received:
                    self._move(relay)
                    self._drain()
                    return
            elif stream.link.reading and stream.open and not stream.eof_received:
                self._receive(stream, mask)
                return
            self._ignore(stream, mask)

    def _receive(self, stream: StreamSocket, mask: int) -> None:
        try:
            data = stream.sock.recv(stream.receive_bytes)
        except BlockingIOError:
            if mask & FAILED:
                self._tell_lost(stream, lost_reason(stream.pending_error()))
                self._drain()
            return
        except OSError as error:
            self._tell_lost(stream, lost_reason(error.errno))
            self._drain()
            return
        try:
            if data:
                size = len(data)
                if size == stream.receive_bytes:
                    stream.receive_bytes = min(2 * size, MAX_RECEIVE_BYTES)
                elif size < RECEIVE_BYTES:
                    stream.receive_bytes = RECEIVE_BYTES
                self._engine.handle_data(stream.link, data, monotonic())
            elif stream.failure is not None:
                self._tell_lost(stream, stream.failure)
            else:
                stream.eof_received = True
                self._engine.handle_eof(stream.link, monotonic())
        except Exception as error:
            self._report_bug(stream, error)
        self._drain()

    def _ignore(self, stream: StreamSocket, mask: int) -> None:
        """Something came that nobody wants now: it must neither be lost nor reported for ever."""
        if mask & FAILED and not stream.has_unread():
            self._tell_lost(stream, lost_reason(stream.pending_error()))
            self._drain()
        elif mask & (FAILED | HUNG_UP):
            # These are reported whatever one asks for; what is left to read waits until reading resumes.
            self._source.unregister(stream.fd)
            stream.registered = NOT_REGISTERED
        else:
            stream.registered &= ~READABLE
            self._source.modify(stream.fd, stream.registered)

    def _send_rest(self, stream: StreamSocket) -> None:
        unsent = stream.unsent
        if unsent is not None:
            try:
                sent = stream.sock.send(unsent)
            except BlockingIOError:
                return
            except OSError as error:
                stream.failure = lost_reason(error.errno)
                if not stream.open:
                    self._destroy(stream)
                    return
                self._sending_failed(stream)
                self._update_interest(stream)
                self._drain()
                return
            stream.unsent = unsent[sent:] if sent < len(unsent) else None
            if stream.linger_timer is not None:
                self._set_timer(stream.linger_timer, LINGER_S)
        if stream.unsent is None:
            if not stream.open:
                self._finish_closing(stream)
                return
            relay = stream.incoming_relay
            if relay is not None and (relay.piped_bytes or relay.wants_source):
                self._move(relay)
            self._visit(stream)
            if self._inputs:
                self._drain()

    def _accept(self, listener: Listener) -> None:
        engine = self._engine
        for _ in range(ACCEPT_BURST):
            try:
                sock, sockaddr = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._pause_accepting(error)
                    return
                # The client left before it was accepted (ECONNABORTED), or the network said no (EPERM, EPROTO).
                continue
            try:
                prepare_accepted(sock)
                local = address_of(sock.getsockname())
                link = engine.handle_accepted(
                    listener.listening_port, address_of(sockaddr), local, monotonic()
                )
            except OSError:
                sock.close()
                continue
            except Exception as error:
                sock.close()
                self._report_bug(None, error)
                self._drain()
                continue
            stream = link.transport = StreamSocket(sock, link)
            self._adopt(stream, READABLE)
            self._drain()

    def _pause_accepting(self, error: OSError) -> None:
        self._listeners.set_accepting(False)
        self._set_timer(self._accept_timer, ACCEPT_PAUSE_S)
        fields: dict[str, object] = {"error": error.strerror, "pause_s": ACCEPT_PAUSE_S}
        self._report([Record("connection", "accepting_paused", Level.WARNING, fields)])

    # Inputs that are found while outputs are drained.

    def _tell_writable(self, stream: StreamSocket) -> None:
        link = stream.link
        if stream.open and link.notify_writable and not stream.has_unsent and link.ending < Ending.CLOSE:
            try:
                self._engine.handle_writable(link, monotonic())
            except Exception as error:
                self._report_bug(stream, error)

    def _tell_lost(self, stream: StreamSocket, reason: LostReason) -> None:
        if not stream.open:
            if stream.fd >= 0:
                self._destroy(stream)
            return
        stream.open = False
        stream.failure = stream.failure or reason
        relays = [relay for relay in (stream.incoming_relay, stream.outgoing_relay) if relay is not None]
        self._destroy(stream)
        # For this link the relay's outcome is the news of the loss (see `Engine.handle_relay_ended`).
        if not relays:
            try:
                self._engine.handle_lost(stream.link, reason, monotonic())
            except Exception as error:
                _log.debug("the engine failed over a lost link", exc_info=True)
                self._report_bug(None, error)

    def _tell_result(self, operation_id: int, result: Result) -> None:
        if self._operations.pop(operation_id, None) is not None:
            try:
                self._engine.handle_result(operation_id, result, monotonic())
            except Exception as error:
                self._report_bug(None, error)

    def _tell_relay_ended(self, relay: Relay, outcome: RelayOutcome) -> None:
        operation = relay.operation
        if self._operations.pop(operation.id, None) is not None:
            try:
                self._engine.handle_relay_ended(operation, outcome, monotonic())
            except Exception as error:
                self._report_bug(None, error)
        self._visit_ends(relay)

    # The ends of a socket.

    def _adopt(self, stream: StreamSocket, mask: int) -> None:
        self._sockets[stream.fd] = stream
        self._source.register(stream.fd, mask)
        stream.registered = mask

    def _close(self, stream: StreamSocket) -> None:
        """The engine is done with the link; what it has written still goes out."""
        stream.open = False
        self._detach_relays(stream)
        self._finish_closing(stream)

    def _finish_closing(self, stream: StreamSocket) -> None:
        if stream.unsent is None and stream.failure is None:
            self._send(stream)
        if stream.failure is not None or not stream.has_unsent:
            self._destroy(stream)
            return
        if stream.linger_timer is None:
            stream.linger_timer = Timer(partial(self._reset, stream))
            self._set_timer(stream.linger_timer, LINGER_S)
        self._update_interest(stream)

    def _reset(self, stream: StreamSocket) -> None:
        if stream.fd >= 0:
            stream.failure = stream.failure or LostReason.ERROR
            self._destroy(stream, close_with_reset)

    def _destroy(self, stream: StreamSocket, close: Callable[[StreamSocket], None] | None = None) -> None:
        ...
