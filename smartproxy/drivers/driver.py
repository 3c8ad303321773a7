"""What the drivers of all event loops share above the pump: the program's side, and operations."""

from __future__ import annotations

import errno
import inspect
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    CallFunction,
    OpenDatagrams,
    Opened,
    OpenStream,
    Operation,
    OperationFailed,
    RelayOutcome,
    Resolved,
    ResolveHost,
    Result,
    Returned,
    StartRelay,
)
from smartproxy.core.records import AccessRecord, Record
from smartproxy.core.timers import Timer
from smartproxy.drivers.pump import Pump
from smartproxy.drivers.readiness import WRITABLE
from smartproxy.drivers.relay import Relay
from smartproxy.drivers.sockets import StreamSocket, address_of, lost_reason, start_connecting

if TYPE_CHECKING:
    from smartproxy.core.engine import Engine

T = TypeVar("T")

MAX_WORKER_THREADS = 4
"""For `CallFunction.in_thread`, in each driver."""

_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


class Driver(Pump):
    """A pump that also carries out operations; a subclass lends it an event loop.

    `on_records` is called, after any input, with the records the engine had.
    """

    def __init__(
        self, engine: Engine, *, on_records: Callable[[list[Record | AccessRecord]], None] | None = None
    ) -> None:
        super().__init__(engine, on_records=on_records)
        self._operations: dict[int, Operation] = {}
        self._connecting: dict[int, StreamSocket] = {}

    # What an event loop adds.

    def _start_lookup(self, operation: ResolveHost) -> None:
        """Look the host up and call `answer`."""
        raise NotImplementedError

    def _start_awaiting(self, operation_id: int, awaitable: Awaitable[Any]) -> None:
        """Await what a user's function returned and call `answer`."""
        raise NotImplementedError

    def _start_in_thread(self, operation: CallFunction) -> None:
        """Run the function in a worker thread, at most `MAX_WORKER_THREADS` at a time, and call `answer`."""
        raise NotImplementedError

    def _stop_task(self, operation_id: int) -> None:
        """Cancel what one of those above has started, if it still runs; a thread is only abandoned."""
        raise NotImplementedError

    # The program's side.

    def listen(self, listening_port: int, hosts: Sequence[str]) -> int:
        """Bind `listening_port` of the configuration on every address of `hosts`, now.

        Returns the port bound; for 0 the kernel picks one, the same on all
        addresses. A system without IPv6 is forgiven `::` beside another address.
        Raises OSError that names the address; then nothing is left bound.
        """
        return self._listeners.listen(listening_port, hosts)

    def call_after(self, delay_s: float, function: Callable[[], None]) -> None:
        """Call `function` once, `delay_s` seconds from now, unless the driver is closed by then."""
        self._set_timer(Timer(function), monotonic() + delay_s)

    def stop_listening(self, listening_port: int) -> None:
        """Refuse new connections; those there are go on."""
        self._closed_fds.update(self._listeners.stop_listening(listening_port))

    def listening_ports(self) -> dict[int, int]:
        """Each configured listening port and the port bound for it."""
        return self._listeners.ports()

    def apply(self, engine_input: Callable[[float], T]) -> T:
        """Give the engine one input, `engine_input(now)`, and drain every output.

        Returns and raises what it does.
        """
        try:
            return engine_input(monotonic())
        finally:
            self._drain()

    def answer(self, operation_id: int, result: Result) -> None:
        """Give the engine the result of an operation, unless it has been cancelled."""
        self._tell_result(operation_id, result)
        self._drain()

    def _is_idle(self) -> bool:
        """No stream's socket is left but listening ones, nor a client: one of HTTP/3 has no socket."""
        return self._is_closed or not (self._sockets or self._engine.connection_count)

    # Operations.

    def _start(self, operation: Operation) -> None:
        if isinstance(operation, OpenStream):
            self._operations[operation.id] = operation
            self._open(operation)
        elif isinstance(operation, StartRelay):
            self._start_relay(operation)
        elif isinstance(operation, ResolveHost):
            self._operations[operation.id] = operation
            self._start_lookup(operation)
        elif isinstance(operation, CallFunction):
            self._operations[operation.id] = operation
            self._call(operation)
        elif isinstance(operation, OpenDatagrams):
            self._operations[operation.id] = operation
            self._open_udp(operation)
        else:
            self._cancel(operation.id)

    def _cancel(self, operation_id: int) -> None:
        relay = self._relays.pop(operation_id, None)
        if relay is not None:
            if relay.source.outgoing_relay is relay:
                self._detach(relay)
                self._visit_ends(relay.operation)
            return
        operation = self._operations.pop(operation_id, None)
        if isinstance(operation, OpenDatagrams):
            if operation.link.transport is not None:
                self._close_datagrams(operation.link.transport)
        elif operation is not None:
            stream = self._connecting.pop(operation_id, None)
            if stream is not None:
                self._destroy(stream)
            else:
                self._stop_task(operation_id)

    def _tell_result(self, operation_id: int, result: Result) -> None:
        operation = self._operations.pop(operation_id, None)
        if operation is not None:
            try:
                self._engine.handle_result(operation_id, result, monotonic())
            except Exception as error:
                link = operation.link if isinstance(operation, OpenStream | OpenDatagrams) else None
                self._report_bug(link, error)

    def _open(self, operation: OpenStream) -> None:
        try:
            sock = start_connecting(operation.address)
        except OSError as error:
            failed = OperationFailed(lost_reason(error.errno), error.strerror or str(error))
            self._inputs.append(partial(self._tell_result, operation.id, failed))
            return
        stream = StreamSocket(sock, operation.link)
        stream.connecting = operation
        stream.open = False
        self._connecting[operation.id] = stream
        self._adopt(stream, WRITABLE)

    def _open_udp(self, operation: OpenDatagrams) -> None:
        result: Result
        try:
            self._open_datagrams(operation)
            result = Opened(operation.link.local)
        except OSError as error:
            result = OperationFailed(lost_reason(error.errno), error.strerror or str(error))
        self._inputs.append(partial(self._tell_result, operation.id, result))

    def _connect_ended(self, stream: StreamSocket, operation: OpenStream) -> None:
        stream.connecting = None
        del self._connecting[operation.id]
        error_number = stream.pending_error()
        local = ("", 0)
        if not error_number:
            try:
                local = address_of(stream.sock.getsockname())
            except OSError as error:
                error_number = error.errno or errno.ENOTCONN
        if local == operation.address:
            # TCP's simultaneous open: the port is free, and happened to be picked for our own end.
            error_number = errno.ECONNREFUSED
        if error_number:
            self._destroy(stream)
            self.answer(operation.id, OperationFailed(lost_reason(error_number), os.strerror(error_number)))
            return
        stream.open = True
        link = operation.link
        link.transport = stream
        link.local = local
        self.answer(operation.id, Opened(local))
        # What was written before there was a socket.
        self._visit(stream)
        if self._inputs:
            self._drain()

    def _call(self, operation: CallFunction) -> None:
        if operation.in_thread:
            self._start_in_thread(operation)
            return
        try:
            value = operation.function(*operation.arguments)
        except Exception as error:
            self._inputs.append(partial(self._tell_result, operation.id, call_failed(error)))
            return
        if inspect.isawaitable(value):
            self._start_awaiting(operation.id, value)
        else:
            self._inputs.append(partial(self._tell_result, operation.id, Returned(value)))

    def _start_relay(self, operation: StartRelay) -> None:
        source, sink = operation.source.transport, operation.sink.transport
        for stream, outcome in ((source, RelayOutcome.SOURCE_LOST), (sink, RelayOutcome.SINK_LOST)):
            if stream is None or not stream.open:
                self._inputs.append(partial(self._tell_unstarted_relay, operation, outcome))
                return
        relay = Relay(operation, source, sink, self._relay_buffers)
        assert source.outgoing_relay is None
        assert sink.incoming_relay is None
        source.outgoing_relay = sink.incoming_relay = relay
        self._relays[operation.id] = relay
        # In its turn, behind what the sink has been given by the same input.
        self._inputs.append(partial(self._begin_relay, relay))

    def _tell_unstarted_relay(self, operation: StartRelay, outcome: RelayOutcome) -> None:
        try:
            self._engine.handle_relay_ended(operation, outcome, monotonic())
        except Exception as error:
            self._report_bug(operation.source, error)

    def _begin_relay(self, relay: Relay) -> None:
        if relay.source.outgoing_relay is relay:
            if relay.wants_source:
                self._move(relay)
            else:
                # The sink's own bytes go first; or it has failed, and its visit tells so.
                self._update_interest(relay.source)
                self._visit(relay.sink)


def host_to_look_up(host: str) -> bytes:
    """A host name as the resolver takes it, past every layer that would apply IDNA rules to it again.

    Raises UnicodeError for a name that is not ASCII.
    """
    return host.encode("ascii")


def resolved(found: Iterable[tuple[Any, ...]]) -> Result:
    """What `getaddrinfo` returned, as a result: each address once, in the resolver's order."""
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses:
        return OperationFailed(LostReason.NAME_NOT_FOUND, "no address")
    return Resolved(addresses)


def lookup_failed(error: OSError | UnicodeError) -> OperationFailed:
    """What `getaddrinfo` raised, as a result."""
    if isinstance(error, UnicodeError):
        return OperationFailed(LostReason.NAME_NOT_FOUND, str(error))
    no_such_name = isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME
    reason = LostReason.NAME_NOT_FOUND if no_such_name else LostReason.NAME_LOOKUP_FAILED
    return OperationFailed(reason, error.strerror or str(error))


def call_in_thread(operation: CallFunction) -> Result:
    """Call the function, in a worker thread."""
    try:
        return Returned(operation.function(*operation.arguments))
    # Not even SystemExit: a future would hand it to the event loop, and that would end.
    except BaseException as error:
        return call_failed(error)


def call_failed(error: BaseException) -> OperationFailed:
    """What a function raised, as a result."""
    return OperationFailed(LostReason.ERROR, repr(error))
