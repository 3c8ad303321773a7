"""The driver's half of a connection, and the socket calls that need more than one line."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from math import inf
from typing import TYPE_CHECKING

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import UNIX_PORT, Address, OpenStream

if TYPE_CHECKING:
    from smartproxy.core.stream import Link
    from smartproxy.core.timers import Timer
    from smartproxy.drivers.relay import Relay

RECEIVE_BYTES = 64 * 1024
MAX_RECEIVE_BYTES = 256 * 1024

NOT_REGISTERED = -1

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# Accepted sockets take TCP_NODELAY over from their listener on Linux.
_INHERITS_NODELAY = sys.platform == "linux"

_REASONS = {
    errno.ECONNRESET: LostReason.RESET,
    errno.EPIPE: LostReason.RESET,
    errno.ECONNABORTED: LostReason.RESET,
    errno.ENOTCONN: LostReason.RESET,
    errno.ECONNREFUSED: LostReason.REFUSED,
    errno.ETIMEDOUT: LostReason.TIMED_OUT,
    errno.EHOSTUNREACH: LostReason.UNREACHABLE,
    errno.ENETUNREACH: LostReason.UNREACHABLE,
    errno.EHOSTDOWN: LostReason.UNREACHABLE,
    errno.ENETDOWN: LostReason.UNREACHABLE,
    errno.EAFNOSUPPORT: LostReason.UNREACHABLE,
    errno.ENOENT: LostReason.UNREACHABLE,
    errno.EMFILE: LostReason.RESOURCE_EXHAUSTED,
    errno.ENFILE: LostReason.RESOURCE_EXHAUSTED,
    errno.ENOBUFS: LostReason.RESOURCE_EXHAUSTED,
    errno.ENOMEM: LostReason.RESOURCE_EXHAUSTED,
    errno.EADDRNOTAVAIL: LostReason.RESOURCE_EXHAUSTED,
    errno.EAGAIN: LostReason.RESOURCE_EXHAUSTED,
}


def lost_reason(error_number: int | None) -> LostReason:
    """The taxonomy's name for an errno."""
    return _REASONS.get(error_number or 0, LostReason.ERROR)


class StreamSocket:
    """The driver's half of a `Link`: its socket and what the kernel has not taken yet."""

    __slots__ = (
        "connecting",
        "eof_received",
        "failure",
        "fd",
        "incoming_relay",
        "linger_timer",
        "linger_until",
        "link",
        "open",
        "outgoing_relay",
        "receive_bytes",
        "registered",
        "sock",
        "unsent",
        "writing_shut_down",
    )

    def __init__(self, sock: socket.socket, link: Link) -> None:
        self.sock = sock
        self.link = link
        self.fd = sock.fileno()
        """-1 once it is closed."""
        self.open = True
        """The engine gets inputs for the link: it is connected, and neither lost nor closed nor aborted."""
        self.registered = NOT_REGISTERED
        """The events asked of the readiness source."""
        self.unsent: memoryview | None = None
        """The rest of the last pull, for which the kernel had no room."""
        self.failure: LostReason | None = None
        """Why sending failed; what has been received is still to be read."""
        self.eof_received = False
        self.writing_shut_down = False
        self.receive_bytes = RECEIVE_BYTES
        self.connecting: OpenStream | None = None
        """The operation to answer once the socket is connected or has failed to."""
        self.outgoing_relay: Relay | None = None
        """The relay that reads from this socket."""
        self.incoming_relay: Relay | None = None
        """The relay that writes to this socket."""
        self.linger_timer: Timer | None = None
        self.linger_until = inf

    def shut_down_writing(self) -> None:
        """Send end-of-file behind what the kernel has, once."""
        self.writing_shut_down = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            # Already disconnected (ENOTCONN): reading tells what became of it.
            pass

    @property
    def has_unsent(self) -> bool:
        """Bytes wait here or in the link for room in the kernel."""
        return self.unsent is not None or self.link.outgoing_bytes > 0

    def pending_error(self) -> int:
        """The socket's own error, cleared by asking; 0 for none."""
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def loss(self) -> LostReason | None:
        """Why a failed connection is gone; None while what arrived before it failed is still to be read."""
        try:
            if self.sock.recv(1, socket.MSG_PEEK):
                return None
        except BlockingIOError:
            pass
        except OSError as error:
            return lost_reason(error.errno)
        return lost_reason(self.pending_error())


def address_of(sockaddr: object) -> Address:
    """A socket address of the standard library as the core writes it."""
    if isinstance(sockaddr, tuple):
        return (sockaddr[0], sockaddr[1])
    return (sockaddr if isinstance(sockaddr, str) else "", UNIX_PORT)


def prepare_accepted(sock: socket.socket) -> None:
    """Make a socket fresh from `accept` one of ours."""
    sock.setblocking(False)
    if not _INHERITS_NODELAY:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def start_connecting(address: Address) -> socket.socket:
    """A non-blocking socket on its way to `address`; it is writable once it is there or has failed.

    Raises OSError when the connection failed at once; then no socket is left open.
    """
    host, port = address
    target: tuple[str, int] | str
    if port == UNIX_PORT:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target = host
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        target = address
    try:
        sock.setblocking(False)
        if port != UNIX_PORT:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error_number = sock.connect_ex(target)
        if error_number not in (0, errno.EINPROGRESS):
            raise OSError(error_number, os.strerror(error_number))
    except OSError:
        sock.close()
        raise
    return sock


def close_with_reset(sock: socket.socket) -> None:
    """Close a socket so that its peer sees a reset, and nothing stays in the kernel."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:
        # Already disconnected (EINVAL on some systems): there is nobody to reset.
        pass
    sock.close()
