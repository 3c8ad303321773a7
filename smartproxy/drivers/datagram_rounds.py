"""UDP sockets between an engine and a readiness source: bound, connected, received from, sent to, closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from smartproxy.core.datagrams import DatagramLink
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import OpenDatagrams
from smartproxy.core.records import AccessRecord, Record
from smartproxy.drivers.datagrams import MAX_DATAGRAM_BYTES, DatagramSocket, open_bound, open_connected
from smartproxy.drivers.listeners import open_listeners
from smartproxy.drivers.readiness import READABLE, WRITABLE, readiness_source
from smartproxy.drivers.rounds import Rounds
from smartproxy.drivers.sockets import address_of

if TYPE_CHECKING:
    from smartproxy.core.engine import Engine


class DatagramRounds(Rounds):
    """Carries an engine's UDP links; `smartproxy.core.datagrams.DatagramLink` is the contract."""

    def __init__(
        self, engine: Engine, *, on_records: Callable[[list[Record | AccessRecord]], None] | None = None
    ) -> None:
        super().__init__(engine, on_records=on_records)
        self._source = readiness_source()
        self._closed_fds: set[int] = set()
        """Closed while a batch of events is dealt with."""
        self._is_closed = False
        self._datagram_sockets: dict[int, DatagramSocket] = {}
        self._datagram_ports: dict[int, list[DatagramSocket]] = {}
        self._datagram_buffer = bytearray(MAX_DATAGRAM_BYTES)

    # The program's side.

    def listen_udp(self, listening_port: int, hosts: Sequence[str], bind_port: int | None = None) -> int:
        """Bind a UDP socket for `listening_port` of the configuration on every address of `hosts`, now.

        `bind_port` is the port to bind where it is another, such as the one that
        TCP has got for port 0. Returns the port bound; for 0 the kernel picks one,
        the same on all addresses. Sockets that the engine has no use for are closed
        again. A system without IPv6 is forgiven `::` beside another address.
        Raises OSError that names the address; then nothing is left bound.
        """
        bound = self._datagram_ports.get(listening_port)
        if bound:
            return bound[0].link.local[1]
        opened = open_listeners(listening_port if bind_port is None else bind_port, hosts, open_bound)
        port: int = opened[0].getsockname()[1]
        try:
            while opened:
                local = address_of(opened[-1].getsockname())
                link = self._engine.handle_udp_bound(listening_port, local, monotonic())
                sock = opened.pop()
                if link is None:
                    sock.close()
                else:
                    held = DatagramSocket(sock, link, self._datagram_buffer, listening_port)
                    self._datagram_ports.setdefault(listening_port, []).append(held)
                    self._adopt_datagrams(held)
        finally:
            for sock in opened:
                sock.close()
            self._drain()
        return port

    def stop_listening_udp(self, listening_port: int) -> None:
        """Tell the engine that the port's UDP sockets are lost, send what it says to that, and close them.

        To let their clients finish, have the engine close the links instead.
        """
        for held in self._datagram_ports.pop(listening_port, ()):
            self._tell_datagrams_lost(held, LostReason.ERROR)
            held.link.close()
        self._drain()

    def listening_udp_ports(self) -> dict[int, int]:
        """Each configured port that UDP sockets are bound for, and the port bound for it."""
        return {configured: held[0].link.local[1] for configured, held in self._datagram_ports.items()}

    # Operations.

    def _open_datagrams(self, operation: OpenDatagrams) -> None:
        """Open a connected socket. Raises OSError, and then there is none."""
        sock = open_connected(operation.address)
        link = operation.link
        link.local = address_of(sock.getsockname())
        self._adopt_datagrams(DatagramSocket(sock, link, self._datagram_buffer))
        # What was sent before there was a socket.
        self._visit_datagrams(link)

    def _adopt_datagrams(self, held: DatagramSocket) -> None:
        held.link.transport = held
        self._datagram_sockets[held.fd] = held
        self._source.register(held.fd, READABLE)
        held.registered = READABLE

    # One socket.

    def _handle_datagram_events(self, fd: int, mask: int) -> None:
        held = self._datagram_sockets.get(fd)
        if held is None:
            return
        try:
            if mask & WRITABLE:
                self._send_datagrams(held)
            if mask & ~WRITABLE and held.fd >= 0:
                self._receive_datagrams(held)
        except Exception as error:
            self._survive_datagrams(held, error)
        self._drain()

    def _receive_datagrams(self, held: DatagramSocket) -> None:
        link = held.link
        datagrams, failure = held.receive_burst()
        if datagrams:
            try:
                self._engine.handle_datagrams(link, datagrams, monotonic())
            except Exception as error:
                self._report_bug(link, error)
        if failure is not None:
            self._inputs.append(partial(self._tell_datagrams_lost, held, failure))

    def _visit_datagrams(self, link: DatagramLink) -> None:
        held = link.transport
        if held is None:
            return
        try:
            if link.closing:
                held.send_burst()
                self._close_datagrams(held)
            elif not held.registered & WRITABLE:
                self._send_datagrams(held)
        except Exception as error:
            self._survive_datagrams(held, error)

    def _send_datagrams(self, held: DatagramSocket) -> None:
        failure = held.send_burst()
        if failure is not None:
            self._inputs.append(partial(self._tell_datagrams_lost, held, failure))
        if held.has_unsent:
            wanted = READABLE | WRITABLE
        else:
            wanted = READABLE
            if held.link.notify_writable:
                self._inputs.append(partial(self._tell_datagrams_writable, held))
        if wanted != held.registered:
            self._source.modify(held.fd, wanted)
            held.registered = wanted

    def _survive_datagrams(self, held: DatagramSocket, error: Exception) -> None:
        """A bug of the driver's own: what it choked on is dropped."""
        held.unsent = []
        held.sent_count = 0
        self._report_bug(held.link, error)

    # Inputs that may be found while outputs are drained.

    def _tell_datagrams_writable(self, held: DatagramSocket) -> None:
        link = held.link
        if held.fd >= 0 and link.notify_writable and not held.has_unsent:
            try:
                self._engine.handle_datagrams_writable(link, monotonic())
            except Exception as error:
                self._report_bug(link, error)

    def _tell_datagrams_lost(self, held: DatagramSocket, reason: LostReason) -> None:
        link = held.link
        if held.fd >= 0 and not link.closing:
            try:
                self._engine.handle_datagrams_lost(link, reason, monotonic())
            except Exception as error:
                self._report_bug(link, error)

    # The ends of a socket.

    def _close_datagrams(self, held: DatagramSocket) -> None:
        fd = held.fd
        if fd < 0:
            return
        self._source.unregister(fd)
        del self._datagram_sockets[fd]
        self._closed_fds.add(fd)
        held.fd = -1
        held.link.transport = None
        held.sock.close()
        if held.listening_port is not None:
            others = self._datagram_ports.get(held.listening_port, [])
            if held in others:
                others.remove(held)
                if not others:
                    del self._datagram_ports[held.listening_port]

    def _close_datagram_sockets(self) -> None:
        for held in list(self._datagram_sockets.values()):
            self._close_datagrams(held)
