"""The listening sockets of a pump, by configured port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

from smartproxy.drivers.readiness import READABLE, ReadinessSource

BACKLOG = 4096
"""The kernel lowers it to its own maximum (net.core.somaxconn)."""


class Listener:
    """One listening socket of a configured port."""

    __slots__ = ("fd", "listening_port", "sock")

    def __init__(self, sock: socket.socket, listening_port: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        """-1 once it is closed."""
        self.listening_port = listening_port


def open_listener(host: str, port: int) -> socket.socket:
    """A non-blocking listening TCP socket. Raises OSError that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise OSError(error.errno, f"cannot listen on {shown}: {error.strerror or error}") from error
    return sock


def open_listeners(
    port: int, hosts: Sequence[str], open_one: Callable[[str, int], socket.socket] = open_listener
) -> list[socket.socket]:
    """One listener per host, all on the same port; port 0 lets the kernel pick one that all can have.

    A system without IPv6 is no error when another host could be bound and the
    one it lacks is `::`. Raises OSError; then none is left open.
    """
    if not hosts:
        raise OSError(errno.EINVAL, f"no address to listen on for port {port}")
    attempts = 8 if port == 0 else 1
    while True:
        attempts -= 1
        listeners: list[socket.socket] = []
        picked = port
        try:
            for host in sorted(hosts, key="::".__eq__):
                try:
                    sock = open_one(host, picked)
                except OSError as error:
                    if host == "::" and listeners and _lacks_ipv6(error.errno):
                        continue
                    raise
                listeners.append(sock)
                picked = sock.getsockname()[1]
        except OSError as error:
            for sock in listeners:
                sock.close()
            if error.errno == errno.EADDRINUSE and listeners and attempts:
                continue
            raise
        return listeners


def _lacks_ipv6(error_number: int | None) -> bool:
    return error_number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class Listeners:
    """What is listened on, and whether the readiness source watches it."""

    __slots__ = ("_accepting", "_ports", "_source", "by_fd")

    def __init__(self, source: ReadinessSource) -> None:
        self.by_fd: dict[int, Listener] = {}
        self._ports: dict[int, list[Listener]] = {}
        self._source = source
        self._accepting = True

    def listen(self, listening_port: int, hosts: Sequence[str]) -> int:
        """Bind every host; returns the port bound. Raises OSError, and then nothing new is bound."""
        listeners = self._ports.get(listening_port)
        if listeners is None:
            opened = open_listeners(listening_port, hosts)
            listeners = self._ports[listening_port] = [Listener(sock, listening_port) for sock in opened]
            for listener in listeners:
                self.by_fd[listener.fd] = listener
                self._source.register(listener.fd, READABLE if self._accepting else 0)
        return self._bound_port(listeners)

    @staticmethod
    def _bound_port(listeners: list[Listener]) -> int:
        port: int = listeners[0].sock.getsockname()[1]
        return port

    def stop_listening(self, listening_port: int) -> list[int]:
        """Close the port's sockets; returns their descriptors, which now are nobody's."""
        closed: list[int] = []
        for listener in self._ports.pop(listening_port, ()):
            self._source.unregister(listener.fd)
            del self.by_fd[listener.fd]
            listener.sock.close()
            closed.append(listener.fd)
            listener.fd = -1
        return closed

    def ports(self) -> dict[int, int]:
        """Each configured port and the one bound for it."""
        return {configured: self._bound_port(listeners) for configured, listeners in self._ports.items()}

    def set_accepting(self, accepting: bool) -> None:
        """Watch the sockets for connections, or leave those waiting in the kernel."""
        self._accepting = accepting
        for fd in self.by_fd:
            self._source.modify(fd, READABLE if accepting else 0)

    def close(self) -> None:
        for listening_port in list(self._ports):
            self.stop_listening(listening_port)
