"""The pump under every real driver: sockets on one side, an engine on the other, no decisions between."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import OpenStream, RelayOutcome, StartRelay
from smartproxy.core.records import AccessRecord, Level, Record
from smartproxy.core.stream import Ending
from smartproxy.core.timers import Timer
from smartproxy.drivers.datagram_rounds import DatagramRounds
from smartproxy.drivers.listeners import Listener, Listeners
from smartproxy.drivers.readiness import FAILED, HUNG_UP, READABLE, WRITABLE
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
)

if TYPE_CHECKING:
    from smartproxy.core.engine import Engine

MAX_EVENTS = 64
"""All of a batch are dealt with, so this and what one relay may move bound how long a turn can be."""
TURN_BUDGET_S = 0.005
"""After this long there is no further batch: the event loop's other tasks have their turn."""
ACCEPT_BURST = 64
ACCEPT_PAUSE_S = 0.1
"""How long nothing is accepted when the process has no descriptor left."""
LINGER_S = 30.0
"""How long a closed link's last bytes may find no room in the kernel before it is reset."""
LINGER_TOTAL_S = 600.0
"""How long they may take in all."""

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Pump(DatagramRounds):
    """Carries one engine's links over non-blocking sockets; `smartproxy.core.stream.Link` is the contract.

    All sockets hang on one readiness source. The event loop watches only that
    source's own descriptor, and calls `turn` when it is readable.
    """

    def __init__(
        self, engine: Engine, *, on_records: Callable[[list[Record | AccessRecord]], None] | None = None
    ) -> None:
        super().__init__(engine, on_records=on_records)
        self._listeners = Listeners(self._source)
        self._sockets: dict[int, StreamSocket] = {}
        self._relays: dict[int, Relay] = {}
        self._relay_buffers = RelayBuffers()
        self._accept_timer = Timer(partial(self._listeners.set_accepting, True))

    # What the other half of a driver adds.

    def _connect_ended(self, stream: StreamSocket, operation: OpenStream) -> None:
        raise NotImplementedError

    # What the event loop calls.

    def turn(self) -> None:
        """Handle what is ready, until nothing is or the loop's other tasks must have their turn."""
        poll = self._source.poll
        context = self._engine.context
        deadline = monotonic() + TURN_BUDGET_S
        while True:
            self._closed_fds.clear()
            events = poll(0, MAX_EVENTS)
            # One datagram, one TLS record and one system call for what several events make a session send.
            context.gathers_sends = len(events) > 1
            try:
                self._handle_ready(events)
            finally:
                context.gathers_sends = False
            if context.unflushed:
                self._drain()
            if not events or self._is_closed or monotonic() >= deadline:
                return

    def _handle_ready(self, events: list[tuple[int, int]]) -> None:
        sockets = self._sockets
        closed_fds = self._closed_fds
        for fd, mask in events:
            # An event of a socket that has been closed meanwhile is not for the one that got its number.
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
                    else:
                        self._handle_datagram_events(fd, mask)
            except Exception as error:
                self._survive(stream, error)

    # One socket.

    def _visit(self, stream: StreamSocket) -> None:
        """Bring a socket to where its link wants it (rules 1 to 5 of `Link`)."""
        if not stream.open:
            return
        link = stream.link
        ending = link.ending
        if ending and ending >= Ending.CLOSE:
            if ending == Ending.ABORT:
                self._reset(stream)
            else:
                self._close(stream)
            return
        if stream.failure is not None:
            if link.outgoing_bytes or stream.incoming_relay is not None:
                self._sending_failed(stream)
        elif link.outgoing_bytes and stream.unsent is None:
            self._send(stream)
        if (ending or link.notify_writable) and not stream.has_unsent and stream.failure is None:
            if ending and not stream.writing_shut_down and stream.incoming_relay is None:
                stream.shut_down_writing()
            if link.notify_writable:
                self._inputs.append(partial(self._tell_writable, stream))
        # What nearly every visit finds needs no closer look: all is sent, and the socket is watched for more.
        if (
            stream.registered != READABLE
            or stream.unsent is not None
            or link.outgoing_bytes
            or not link.reading
            or stream.incoming_relay is not None
        ):
            self._update_interest(stream)

    def _send(self, stream: StreamSocket) -> None:
        """Hand the kernel what the link has queued, as far as there is room."""
        relay = stream.incoming_relay
        if relay is not None and relay.piped_bytes:
            return
        link = stream.link
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
        """Tell the engine, unless an answer that came before the connection broke is still being read."""
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
            self._connect_ended(stream, stream.connecting)
            return
        if mask & WRITABLE:
            self._send_rest(stream)
            if stream.fd < 0:
                return
        if mask & ~WRITABLE:
            relay = stream.outgoing_relay
            if relay is None:
                if stream.link.reading and stream.open and not stream.eof_received:
                    self._receive(stream, mask)
                    return
            elif relay.wants_source and not stream.eof_received:
                self._move(relay)
                self._drain()
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
        if not data:
            self._receive_eof(stream)
            return
        size = len(data)
        if size == stream.receive_bytes:
            stream.receive_bytes = min(2 * size, MAX_RECEIVE_BYTES)
        elif size < RECEIVE_BYTES:
            stream.receive_bytes = RECEIVE_BYTES
        try:
            self._engine.handle_data(stream.link, data, monotonic())
        except Exception as error:
            self._report_bug(stream.link, error)
        self._drain()

    def _receive_eof(self, stream: StreamSocket) -> None:
        stream.eof_received = True
        if stream.failure is not None:
            self._tell_lost(stream, stream.failure)
        else:
            try:
                self._engine.handle_eof(stream.link, monotonic())
            except Exception as error:
                self._report_bug(stream.link, error)
        self._drain()

    def _ignore(self, stream: StreamSocket, mask: int) -> None:
        """Something came that nobody wants now: it must neither be lost nor reported for ever."""
        loss = stream.loss() if mask & FAILED else None
        if loss is not None:
            self._tell_lost(stream, loss)
            self._drain()
        elif mask & (FAILED | HUNG_UP):
            # These are reported whatever one asks for; what is left to read waits until reading resumes.
            self._source.unregister(stream.fd)
            stream.registered = NOT_REGISTERED
        elif stream.registered & READABLE:
            stream.registered &= ~READABLE
            self._source.modify(stream.fd, stream.registered)

    def _send_rest(self, stream: StreamSocket) -> None:
        """There is room in the kernel again."""
        unsent = stream.unsent
        if unsent is not None and stream.failure is None:
            try:
                sent = stream.sock.send(unsent)
            except BlockingIOError:
                return
            except OSError as error:
                stream.failure = lost_reason(error.errno)
                self._sending_failed(stream)
            else:
                stream.unsent = unsent[sent:] if sent < len(unsent) else None
                if stream.unsent is not None:
                    self._put_off_linger(stream)
                    return
        if not stream.open:
            self._finish_closing(stream)
            return
        self._visit(stream)
        relay = stream.incoming_relay
        if relay is not None and (relay.piped_bytes or relay.wants_source):
            self._move(relay)
        if self._inputs:
            self._drain()

    def _accept(self, listener: Listener) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                sock, sockaddr = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._pause_accepting(error)
                    return
                # The client left before it was accepted (ECONNABORTED), or may not connect (EPERM).
                continue
            try:
                prepare_accepted(sock)
                local = address_of(sock.getsockname())
            except OSError:
                sock.close()
                continue
            try:
                link = self._engine.handle_accepted(
                    listener.listening_port, address_of(sockaddr), local, monotonic()
                )
            except Exception as error:
                sock.close()
                self._report_bug(None, error)
            else:
                link.transport = stream = StreamSocket(sock, link)
                self._adopt(stream, READABLE)
            self._drain()
            if listener.fd < 0:
                return

    def _pause_accepting(self, error: OSError) -> None:
        self._listeners.set_accepting(False)
        self._set_timer(self._accept_timer, monotonic() + ACCEPT_PAUSE_S)
        fields: dict[str, object] = {"error": error.strerror, "pause_s": ACCEPT_PAUSE_S}
        self._report([Record("connection", "accepting_paused", Level.WARNING, fields)])

    # Inputs that may be found while outputs are drained.

    def _tell_writable(self, stream: StreamSocket) -> None:
        link = stream.link
        if stream.open and link.notify_writable and not stream.has_unsent:
            try:
                self._engine.handle_writable(link, monotonic())
            except Exception as error:
                self._report_bug(link, error)

    def _tell_lost(self, stream: StreamSocket, reason: LostReason) -> None:
        if not stream.open:
            self._destroy(stream)
            return
        stream.failure = stream.failure or reason
        link = stream.link
        is_relayed = stream.incoming_relay is not None or stream.outgoing_relay is not None
        self._destroy(stream)
        # A relay's outcome is the news of the loss already, see `Engine.handle_relay_ended`.
        if not is_relayed:
            try:
                self._engine.handle_lost(link, reason, monotonic())
            except Exception as error:
                self._report_bug(link, error)

    def _tell_relay_ended(self, operation: StartRelay, outcome: RelayOutcome) -> None:
        if self._relays.pop(operation.id, None) is not None:
            try:
                self._engine.handle_relay_ended(operation, outcome, monotonic())
            except Exception as error:
                self._report_bug(operation.source, error)
        self._visit_ends(operation)

    # Relays.

    def _move(self, relay: Relay) -> None:
        source, sink = relay.source, relay.sink
        outcome = relay.move()
        if outcome is None:
            self._update_interest(source)
            self._update_interest(sink)
        elif outcome is RelayOutcome.SINK_LOST:
            self._sending_failed(sink)
            self._update_interest(sink)
        elif source.failure is not None:
            self._tell_lost(source, source.failure)
        else:
            self._end_relay(relay, outcome)

    def _end_relay(self, relay: Relay, outcome: RelayOutcome) -> None:
        self._detach(relay)
        self._inputs.append(partial(self._tell_relay_ended, relay.operation, outcome))

    def _detach(self, relay: Relay) -> None:
        relay.source.outgoing_relay = None
        relay.sink.incoming_relay = None
        relay.release()

    def _visit_ends(self, operation: StartRelay) -> None:
        for link in (operation.source, operation.sink):
            if link.transport is not None:
                self._visit(link.transport)

    # The ends of a socket.

    def _adopt(self, stream: StreamSocket, mask: int) -> None:
        self._sockets[stream.fd] = stream
        self._source.register(stream.fd, mask)
        stream.registered = mask

    def _close(self, stream: StreamSocket) -> None:
        """The engine is done with the link; what it has written still goes out."""
        self._end_relays(stream)
        stream.open = False
        stream.linger_until = monotonic() + LINGER_TOTAL_S
        self._finish_closing(stream)

    def _finish_closing(self, stream: StreamSocket) -> None:
        if stream.unsent is None and stream.failure is None:
            self._send(stream)
        if stream.failure is not None or not stream.has_unsent:
            self._destroy(stream)
            return
        self._put_off_linger(stream)
        self._update_interest(stream)

    def _put_off_linger(self, stream: StreamSocket) -> None:
        if not stream.open:
            if stream.linger_timer is None:
                stream.linger_timer = Timer(partial(self._reset, stream))
            self._set_timer(stream.linger_timer, min(monotonic() + LINGER_S, stream.linger_until))

    def _reset(self, stream: StreamSocket) -> None:
        stream.failure = stream.failure or LostReason.ERROR
        self._destroy(stream, with_reset=True)

    def _destroy(self, stream: StreamSocket, *, with_reset: bool = False) -> None:
        fd = stream.fd
        if fd < 0:
            return
        self._end_relays(stream)
        if stream.linger_timer is not None:
            self._timers.cancel(stream.linger_timer)
        # Closing alone would leave it registered if a forked child holds the descriptor too.
        if stream.registered != NOT_REGISTERED:
            self._source.unregister(fd)
        del self._sockets[fd]
        self._closed_fds.add(fd)
        stream.fd = -1
        stream.open = False
        stream.link.transport = None
        if with_reset:
            close_with_reset(stream.sock)
        else:
            stream.sock.close()
        if not self._sockets:
            self._became_idle()

    def _end_relays(self, stream: StreamSocket) -> None:
        if stream.incoming_relay is not None:
            self._end_relay(stream.incoming_relay, RelayOutcome.SINK_LOST)
        if stream.outgoing_relay is not None:
            self._end_relay(stream.outgoing_relay, RelayOutcome.SOURCE_LOST)

    def _release_everything(self) -> None:
        """Close every descriptor there is; the engine is told nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._is_running = False
        for stream in list(self._sockets.values()):
            self._reset(stream)
        self._inputs.clear()
        self._relays.clear()
        self._listeners.close()
        self._close_datagram_sockets()
        self._relay_buffers.close()
        self._source.close()
        if self._awaits_idle:
            self._became_idle()
