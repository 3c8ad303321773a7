"""A server in a process of its own, and the ports and waits that go with it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_BPF_RETURN_CONSTANT = 0x06
_POLL_S = 0.02


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Return once `condition()` holds; raises TimeoutError, naming `what` was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {timeout_s} s: {what}")
        time.sleep(_POLL_S)


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on a TCP port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def all_dropped(*sockets: socket.socket) -> Iterator[None]:
    """Whatever arrives at these is dropped in the kernel, as by a firewall on the way: nobody is told.

    It holds for every process that has the socket.
    """
    # One BPF instruction: accept 0 bytes (socket(7), SO_ATTACH_FILTER).
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN_CONSTANT, 0, 0, 0))
    program = struct.pack("@HP", 1, ctypes.addressof(instruction))
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    try:
        yield
    finally:
        for sock in sockets:
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def datagram_socket_inodes(remote_port: int) -> set[str]:
    """The UDP sockets of this machine that are connected to 127.0.0.1:`remote_port` (proc(5))."""
    wanted = f"0100007F:{remote_port:04X}"
    lines = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return {fields[9] for fields in lines if fields[2] == wanted}


@contextmanager
def own_datagram_sockets(remote_port: int) -> Iterator[list[socket.socket]]:
    """Duplicates of those that this process has."""
    inodes = datagram_socket_inodes(remote_port)
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.removeprefix("socket:[").removesuffix("]") in inodes:
            found.append(socket.socket(fileno=os.dup(int(name))))
    try:
        yield found
    finally:
        for sock in found:
            sock.close()


class ServicePort:
    """A TCP and a UDP socket on one port of 127.0.0.1, for a server to inherit."""

    def __init__(self) -> None:
        self.tcp, self.udp = self._pair()
        self.tcp.listen(256)
        self.number: int = self.tcp.getsockname()[1]

    @staticmethod
    def _pair() -> tuple[socket.socket, socket.socket]:
        while True:
            tcp = socket.socket()
            udp = socket.socket(type=socket.SOCK_DGRAM)
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                tcp.close()
                udp.close()
            else:
                return tcp, udp

    @property
    def file_descriptors(self) -> tuple[int, int]:
        return self.tcp.fileno(), self.udp.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.tcp.close()
        self.udp.close()


class ServerProcess:
    """A server that listens on `port` once it is entered, and is terminated on leaving.

    What it prints is in `output_file`.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        port: int,
        *,
        inherits: Sequence[int] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = port
        self.output_file = folder / "output"
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=inherits,
                env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), **(environment or {})},
            )

    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.output()
        return accepts_connections(self.port)

    def __enter__(self) -> Self:
        try:
            wait_until(self._serves, f"{self.process.args!r} listens")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_by_itself = self.process.poll() is not None
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert not ended_by_itself, self.output()
