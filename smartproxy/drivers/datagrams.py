"""The driver's half of a UDP link: bursts in and out, with segmentation offload where the kernel has it."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from smartproxy.core.datagrams import Datagram
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import Address
from smartproxy.drivers.sockets import lost_reason

if TYPE_CHECKING:
    from smartproxy.core.datagrams import DatagramLink

BURST_DATAGRAMS = 32
"""No further read begins once so many were read in one go, so that other sockets have their turn."""
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
"""Asked for; the kernel lowers it to its own maximum (net.core.rmem_max, wmem_max)."""
MAX_DATAGRAM_BYTES = 65_535
MAX_GROUP_DATAGRAMS = 64
MAX_GROUP_BYTES = 65_000
MAX_SEGMENTATION_REFUSALS = 3
MAX_REPLY_SOURCES = 16 * 1024

_IS_LINUX = sys.platform == "linux"
# Linux's, which the standard library does not name.
_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_IP_PKTINFO = 8

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_LINK_LOCAL = b"\xfe\x80"
_ANCILLARY_BYTES = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)

_LOST_ON_THE_WAY = (errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.EINVAL)
"""Why a datagram was not sent that says nothing about its peer: it is lost, as on any network."""

_SEGMENTATION_REFUSED = (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT)
"""A segment does not fit the path, or the interface cannot do it; alone each may still be sent."""

Ancillary = tuple[int, int, bytes]


def end_of_group(datagrams: Sequence[Datagram], start: int) -> int:
    """Where the datagrams end that one segmented send can carry, from `start` on.

    They go to one address and have one length, but for a shorter last one; they
    are 64 and 65,000 bytes at most, unless one alone is longer.
    """
    first, address = datagrams[start]
    size = total = len(first)
    end = start + 1
    if not size:
        return end
    last = min(len(datagrams), start + MAX_GROUP_DATAGRAMS)
    while end < last:
        data, to = datagrams[end]
        length = len(data)
        total += length
        if length > size or not length or total > MAX_GROUP_BYTES or (to is not address and to != address):
            break
        end += 1
        if length < size:
            break
    return end


class DatagramSocket:
    """A non-blocking UDP socket and the `DatagramLink` it carries."""

    __slots__ = (
        "_buffer",
        "_refusals",
        "_reply_sources",
        "_segments",
        "_view",
        "fd",
        "link",
        "listening_port",
        "registered",
        "sent_count",
        "sock",
        "unsent",
    )

    def __init__(
        self, sock: socket.socket, link: DatagramLink, buffer: bytearray, listening_port: int | None = None
    ) -> None:
        self.sock = sock
        self.link = link
        self.fd = sock.fileno()
        """-1 once it is closed."""
        self.listening_port = listening_port
        """The configured port of a listening socket; None for a connected one."""
        self.registered = 0
        """The events asked of the readiness source."""
        self.unsent: list[Datagram] = []
        """The last pull, as long as the kernel had no room for all of it."""
        self.sent_count = 0
        """How many of `unsent` are sent all the same."""
        self._buffer = buffer
        """For what is being received; one buffer serves all sockets."""
        self._view = memoryview(buffer)
        self._segments = _segments(sock)
        self._refusals = 0
        self._reply_sources: OrderedDict[Address, Ancillary] | None = None
        """Of a socket bound to all addresses: which one each peer has sent to, the latest peers last."""
        if listening_port is not None and _tells_destination(sock):
            self._reply_sources = OrderedDict()

    # Receiving.

    def receive_burst(self) -> tuple[list[Datagram], LostReason | None]:
        """What has arrived, up to a burst, and what the network reported about a connected peer."""
        received: list[Datagram] = []
        failure: LostReason | None = None
        receive = self.sock.recvmsg_into
        buffers = [self._buffer]
        peer = self.link.peer
        # As many reads as datagrams at most: errors are read, too.
        for _ in range(BURST_DATAGRAMS):
            try:
                size, ancillary, _, sockaddr = receive(buffers, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                # A listening socket hears here of what became of one peer's datagrams.
                if peer is not None and error.errno not in _LOST_ON_THE_WAY:
                    failure = lost_reason(error.errno)
                continue
            address = (sockaddr[0], sockaddr[1]) if peer is None else peer
            segment_bytes = self._read_ancillary(ancillary, address) if ancillary else 0
            if segment_bytes and segment_bytes < size:
                view = self._view
                for start in range(0, size, segment_bytes):
                    received.append((bytes(view[start : min(start + segment_bytes, size)]), address))
            else:
                received.append((bytes(self._view[:size]), address))
            if len(received) >= BURST_DATAGRAMS:
                break
        return received, failure

    def _read_ancillary(self, ancillary: list[Ancillary], address: Address) -> int:
        """Keep where it was sent to; the length of its segments if it is several in one, else 0."""
        segment_bytes = 0
        for level, kind, data in ancillary:
            if level == _SOL_UDP and kind == _UDP_GRO:
                segment_bytes = int.from_bytes(data[:4], sys.byteorder)
            elif self._reply_sources is not None:
                self._keep_reply_source(address, level, kind, data)
        return segment_bytes

    def _keep_reply_source(self, address: Address, level: int, kind: int, data: bytes) -> None:
        sources = self._reply_sources
        assert sources is not None
        if level == socket.IPPROTO_IPV6:
            # An interface is needed for an address that every interface has; elsewhere routing decides.
            interface = data[16:20] if data[:2] == _LINK_LOCAL else bytes(4)
            source = (level, kind, data[:16] + interface)
        else:
            # struct in_pktinfo: interface, local address, destination in the header.
            source = (level, kind, bytes(4) + data[4:8] + bytes(4))
        sources[address] = source
        sources.move_to_end(address)
        if len(sources) > MAX_REPLY_SOURCES:
            sources.popitem(last=False)

    # Sending.

    @property
    def has_unsent(self) -> bool:
        """Datagrams wait here or in the link for room in the kernel."""
        return self.sent_count < len(self.unsent) or self.link.outgoing_count > 0

    def send_burst(self) -> LostReason | None:
        """Send what is queued, as far as there is room, and say what the network reported about a peer.

        Of a connected peer only: others are not to suffer from one that cannot be reached.
        """
        link = self.link
        failure: LostReason | None = None
        while True:
            datagrams, start = self.unsent, self.sent_count
            if start == len(datagrams):
                self.unsent, self.sent_count = [], 0
                if not link.outgoing_count:
                    return failure
                datagrams, start = link.pull(), 0
                self.unsent = datagrams
            one_by_one_until = 0
            while start < len(datagrams):
                grouped = self._segments and start >= one_by_one_until
                end = end_of_group(datagrams, start) if grouped else start + 1
                try:
                    self._send(datagrams, start, end)
                except BlockingIOError:
                    self.sent_count = start
                    return failure
                except OSError as error:
                    if end - start > 1 and error.errno in _SEGMENTATION_REFUSED:
                        self._refusals += 1
                        self._segments = self._refusals < MAX_SEGMENTATION_REFUSALS
                        one_by_one_until = end
                        continue
                    if link.peer is not None and error.errno not in _LOST_ON_THE_WAY:
                        failure = lost_reason(error.errno)
                else:
                    if end - start > 1:
                        self._refusals = 0
                start = end
            self.sent_count = start

    def _send(self, datagrams: list[Datagram], start: int, end: int) -> None:
        data, address = datagrams[start]
        is_connected = self.link.peer is not None
        source = None if self._reply_sources is None else self._reply_sources.get(address)
        if end - start == 1:
            if is_connected:
                self.sock.send(data)
            elif source is None:
                self.sock.sendto(data, address)
            else:
                self.sock.sendmsg([data], [source], 0, address)
            return
        ancillary: list[Ancillary] = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", len(data)))]
        if source is not None:
            ancillary.append(source)
        payloads = [each for each, _ in datagrams[start:end]]
        if is_connected:
            self.sock.sendmsg(payloads, ancillary)
        else:
            self.sock.sendmsg(payloads, ancillary, 0, address)


def _segments(sock: socket.socket) -> bool:
    """Whether the kernel cuts one long send into datagrams (UDP_SEGMENT, Linux 4.18)."""
    if not _IS_LINUX:
        return False
    try:
        sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True


def _tells_destination(sock: socket.socket) -> bool:
    """Have a socket that is bound to all addresses tell which one each datagram was sent to."""
    if sock.getsockname()[0] not in _WILDCARDS:
        return False
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif _IS_LINUX:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            return False
    except OSError:
        return False
    return True


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        except OSError:
            # Some systems refuse what is above their maximum: then it stays as it was.
            continue
    if _IS_LINUX:
        try:
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError:
            # Before Linux 5.0: every datagram is received by itself.
            return


def open_connected(address: Address) -> socket.socket:
    """A UDP socket that sends to `address` and hears only from there. Raises OSError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        _prepare(sock)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def open_bound(host: str, port: int) -> socket.socket:
    """A UDP socket bound to an address. Raises OSError that names it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _prepare(sock)
        sock.bind((host, port))
    except OSError as error:
        if sock is not None:
            sock.close()
        raise OSError(error.errno, f"cannot bind UDP {shown}: {error.strerror or error}") from error
    return sock
