"""One vocabulary for clients, backends and proxies, on asyncio, on trio, and in the simulation.

A body is `async def body(net: Network)`. `@on_every_network` makes one test of it
for each network there is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import pytest

from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.ops import Address
from smartproxy.core.records import AccessRecord, Record

Routes = Iterable[Mapping[str, Any]]

RECEIVE_BYTES = 64 * 1024

T = TypeVar("T")


class Connection(ABC):
    """One end of a stream, in a body's hands."""

    def __init__(self) -> None:
        self._read_ahead = b""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send all of `data`, waiting for room. Raises ConnectionError once the connection is lost."""

    @abstractmethod
    def send_some(self, data: bytes) -> int:
        """Send what there is room for now, and say how much; 0 for none."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Send no more; receiving goes on."""

    @abstractmethod
    def reset(self) -> None:
        """Drop the connection; the other end sees a reset."""

    @abstractmethod
    def close(self) -> None:
        """Close both directions."""

    @abstractmethod
    async def _receive_some(self, max_bytes: int) -> bytes: ...

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """At least one byte, or b"" at end-of-file. Raises ConnectionResetError."""
        if self._read_ahead:
            data, self._read_ahead = self._read_ahead[:max_bytes], self._read_ahead[max_bytes:]
            return data
        return await self._receive_some(max_bytes)

    async def receive_exactly(self, count: int) -> bytes:
        """`count` bytes. Raises EOFError when the stream ends before."""
        received = bytearray()
        while len(received) < count:
            data = await self.receive(count - len(received))
            if not data:
                raise EOFError(f"end of stream after {bytes(received[-200:])!r}")
            received += data
        return bytes(received)

    async def receive_until(self, separator: bytes) -> bytes:
        """Everything up to and including `separator`. Raises EOFError when the stream ends before it."""
        received = bytearray()
        while separator not in received:
            data = await self.receive()
            if not data:
                raise EOFError(f"end of stream after {bytes(received[-200:])!r}")
            received += data
        end = received.index(separator) + len(separator)
        self._read_ahead = bytes(received[end:]) + self._read_ahead
        return bytes(received[:end])

    async def receive_all(self) -> bytes:
        """Everything until end-of-file. Raises ConnectionResetError."""
        received = bytearray()
        while data := await self.receive():
            received += data
        return bytes(received)


class Listener(ABC):
    """A backend's listening socket."""

    host: str
    port: int

    @abstractmethod
    async def accept(self) -> Connection: ...

    @abstractmethod
    def close(self) -> None: ...


class UdpSocket(ABC):
    """A UDP socket on loopback, in a body's hands."""

    address: Address

    @abstractmethod
    async def send_to(self, data: bytes, address: Address) -> None:
        """Send one datagram."""

    @abstractmethod
    async def receive_from(self) -> tuple[bytes, Address]:
        """The next datagram, and where it came from."""

    @abstractmethod
    def close(self) -> None: ...


class CarryingDriver(Protocol):
    """What every driver offers to a program that carries its engine on it."""

    def apply(self, engine_input: Callable[[float], T], /) -> T: ...
    def listen(self, listening_port: int, hosts: Sequence[str], /) -> int: ...
    def listen_udp(self, listening_port: int, hosts: Sequence[str], bind_port: int | None = None) -> int: ...
    def stop_listening_udp(self, listening_port: int) -> None: ...
    def listening_udp_ports(self) -> dict[int, int]: ...


class ProxyHandle(ABC):
    """A running proxy."""

    records: list[Record | AccessRecord]

    @property
    @abstractmethod
    def ports(self) -> dict[int, int]:
        """Configured port → bound port."""

    @property
    def port(self) -> int:
        """The port bound for the configured port 0."""
        return self.ports[0]

    @abstractmethod
    async def update_routes(self, routes: Routes) -> None:
        """Replace the routes; the options stay. Raises ConfigError, and then nothing has changed."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop listening, let what is under way finish, then close the rest."""

    @abstractmethod
    def buffered_bytes(self) -> int:
        """What the proxy itself holds for its sockets, outside of the kernel."""

    @property
    def access_records(self) -> list[AccessRecord]:
        return [record for record in self.records if isinstance(record, AccessRecord)]

    def events(self) -> list[str]:
        return [record.event for record in self.records if isinstance(record, Record)]


class Network(ABC):
    """Where a body's clients and backends, and the proxies between them, live."""

    name: str

    @abstractmethod
    async def connect(self, port: int, host: str = "127.0.0.1") -> Connection:
        """Raises ConnectionRefusedError."""

    @abstractmethod
    async def listen(self) -> Listener: ...

    @abstractmethod
    async def udp_socket(self, host: str = "127.0.0.1", port: int = 0) -> UdpSocket: ...

    @abstractmethod
    async def carry(self, make_engine: Callable[[Env], Engine]) -> CarryingDriver:
        """An engine on a started driver of its own, closed at the end of the body."""

    @abstractmethod
    def refused_port(self) -> int:
        """A port on which nobody listens."""

    @abstractmethod
    async def start_proxy(self, routes: Routes, **options: Any) -> ProxyHandle:
        """A proxy with these routes; `options` are the configuration's other keys. Raises ConfigError."""

    @abstractmethod
    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        """Run all side by side until all are done."""


Body = Callable[[Network], Coroutine[Any, Any, None]]


def check_records(records: Iterable[Record | AccessRecord]) -> None:
    """No body may meet a bug of the engine's, whatever else it looks at."""
    bugs = [record for record in records if isinstance(record, Record) and record.event == "internal_error"]
    assert not bugs, bugs[0].fields["traceback"]


def _run_on_asyncio(body: Body) -> None:
    from asyncio_network import run

    run(body)


def _run_on_trio(body: Body) -> None:
    from trio_network import run

    run(body)


def _run_in_simulation(body: Body) -> None:
    from simulation_network import run

    run(body)


NETWORKS: dict[str, Callable[[Body], None]] = {"asyncio": _run_on_asyncio, "trio": _run_on_trio}
if find_spec("simulation_network") is not None:
    NETWORKS["simulation"] = _run_in_simulation


def run_on(network: str, body: Body) -> None:
    """Run `body` on the network of that name, and check that nothing is left behind."""
    NETWORKS[network](body)


def on_every_network(body: Body) -> Callable[[str], None]:
    """Make a test of `body` for each network."""

    @pytest.mark.parametrize("network", NETWORKS)
    def test(network: str) -> None:
        run_on(network, body)

    test.__name__ = body.__name__
    test.__doc__ = body.__doc__
    return test


def forward(*backends: Listener, ports: int = 0, **match: Any) -> dict[str, Any]:
    """A route that forwards a port to backends."""
    targets = [{"host": backend.host, "port": backend.port} for backend in backends]
    return {"match": {"ports": ports, **match}, "action": {"type": "forward", "targets": targets}}


def forward_raw(*backends: Listener, ports: int = 0) -> dict[str, Any]:
    """A route that forwards a port's bytes as they are."""
    return forward(*backends, ports=ports, protocol="tcp")


__all__ = [
    "NETWORKS",
    "CarryingDriver",
    "Connection",
    "Listener",
    "Network",
    "ProxyHandle",
    "UdpSocket",
    "check_records",
    "forward",
    "forward_raw",
    "on_every_network",
    "run_on",
]
