"""What the networks on real sockets share: connections, listeners and proxies over loopback."""

from __future__ import annotations

import os
import socket
import struct
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from harness import (
    Body,
    CarryingDriver,
    Connection,
    Listener,
    Network,
    ProxyHandle,
    Routes,
    UdpSocket,
    check_records,
)

from smartproxy.config import compile_configuration, parse_config
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.ops import Address
from smartproxy.core.records import AccessRecord, Record
from smartproxy.drivers.driver import Driver
from smartproxy.drivers.relay import PIPE_BYTES

PATIENCE_S = 30.0
"""Only how long a body that hangs may do so."""


class RunnableDriver(Protocol):
    """The loop's half of a driver."""

    async def start(self) -> None: ...
    async def wait_idle(self, timeout_s: float) -> bool: ...
    async def aclose(self) -> None: ...


class RealConnection(Connection):
    """A non-blocking socket, waited on by its network."""

    def __init__(self, network: RealNetwork, sock: socket.socket) -> None:
        super().__init__()
        sock.setblocking(False)
        self._network = network
        self.sock = sock

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                await self._network.wait_writable(self.sock)

    def send_some(self, data: bytes) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    async def send_eof(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    async def _receive_some(self, max_bytes: int) -> bytes:
        while True:
            try:
                return self.sock.recv(max_bytes)
            except BlockingIOError:
                await self._network.wait_readable(self.sock)


class RealListener(Listener):
    def __init__(self, network: RealNetwork) -> None:
        self._network = network
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.host, self.port = self.sock.getsockname()

    async def accept(self) -> Connection:
        while True:
            try:
                sock, _ = self.sock.accept()
            except BlockingIOError:
                await self._network.wait_readable(self.sock)
            else:
                return self._network.keep(RealConnection(self._network, sock))

    def close(self) -> None:
        self.sock.close()


class RealUdpSocket(UdpSocket):
    def __init__(self, network: RealNetwork, host: str, port: int) -> None:
        self._network = network
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self.sock.bind((host, port))
        self.address = self.sock.getsockname()[:2]

    async def send_to(self, data: bytes, address: Address) -> None:
        while True:
            try:
                self.sock.sendto(data, address)
                return
            except BlockingIOError:
                await self._network.wait_writable(self.sock)

    async def receive_from(self) -> tuple[bytes, Address]:
        while True:
            try:
                data, source = self.sock.recvfrom(65_535)
                return data, source[:2]
            except BlockingIOError:
                await self._network.wait_readable(self.sock)

    def close(self) -> None:
        self.sock.close()


class RealProxy(ProxyHandle):
    """An engine on a driver, without the class that programs use."""

    def __init__(self, make_driver: Callable[..., Driver], routes: Routes, options: dict[str, Any]) -> None:
        self._options = {"listen": ["127.0.0.1"], **options}
        configuration = self._compile(routes)
        self.engine = Engine(configuration, Env(entropy=os.urandom, wall_clock=time.time))
        self.records: list[Record | AccessRecord] = []
        self.driver = make_driver(self.engine, on_records=self.records.extend)
        self._draining = False
        for port in configuration.table.listening_ports():
            self.driver.listen(port, configuration.listen_hosts)
        self._listen_udp()

    def _listen_udp(self) -> None:
        configuration = self.engine.configuration
        for port in configuration.table.udp_listening_ports():
            self.driver.listen_udp(port, configuration.listen_hosts, self.ports.get(port))

    def _compile(self, routes: Routes) -> Any:
        return compile_configuration(parse_config({**self._options, "routes": list(routes)})).configuration

    @property
    def _runnable(self) -> RunnableDriver:
        driver: Any = self.driver
        runnable: RunnableDriver = driver
        return runnable

    async def start(self) -> None:
        await self._runnable.start()
        self.driver.apply(self.engine.handle_started)

    @property
    def ports(self) -> dict[int, int]:
        return self.driver.listening_ports()

    async def update_routes(self, routes: Routes) -> None:
        configuration = self._compile(routes)
        for port in configuration.table.listening_ports():
            self.driver.listen(port, configuration.listen_hosts)
        self.driver.apply(lambda now: self.engine.handle_configuration(configuration, now))
        self._listen_udp()

    async def stop(self) -> None:
        if self.driver._is_closed:
            return
        for port in list(self.ports):
            self.driver.stop_listening(port)
        self.driver.apply(self.engine.handle_drain)
        await self._runnable.wait_idle(self.engine.configuration.timeouts.graceful_shutdown_s)
        await self.close()

    async def close(self) -> None:
        """Stop at once; what is pending must all have been answered or withdrawn."""
        if self.driver._is_closed:
            return
        self.driver.apply(self.engine.handle_shutdown)
        context = self.engine.context
        assert self.engine.connection_count == 0
        assert not context.pending_relays, context.pending_relays
        assert not self.driver._relays, self.driver._relays
        await self._runnable.aclose()

    def buffered_bytes(self) -> int:
        held = 0
        for stream in self.driver._sockets.values():
            held += stream.link.outgoing_bytes
            held += len(stream.unsent) if stream.unsent is not None else 0
        assert self.driver._relay_buffers.pipe_count * PIPE_BYTES <= 64 * 1024 * 1024
        return held


class RealNetwork(Network):
    """Loopback. A subclass says how one waits."""

    def __init__(self) -> None:
        self._connections: list[RealConnection] = []
        self._listeners: list[RealListener] = []
        self._proxies: list[RealProxy] = []
        self._udp_sockets: list[RealUdpSocket] = []
        self._carriers: list[tuple[Driver, list[Record | AccessRecord]]] = []

    @abstractmethod
    async def wait_readable(self, sock: socket.socket) -> None: ...

    @abstractmethod
    async def wait_writable(self, sock: socket.socket) -> None: ...

    @abstractmethod
    def make_driver(self, engine: Engine, **options: Any) -> Driver: ...

    def keep(self, connection: RealConnection) -> RealConnection:
        self._connections.append(connection)
        return connection

    async def connect(self, port: int, host: str = "127.0.0.1") -> Connection:
        # Over loopback the kernel answers at once, so this waits for nobody.
        return self.keep(RealConnection(self, socket.create_connection((host, port))))

    async def listen(self) -> Listener:
        listener = RealListener(self)
        self._listeners.append(listener)
        return listener

    async def udp_socket(self, host: str = "127.0.0.1", port: int = 0) -> UdpSocket:
        udp = RealUdpSocket(self, host, port)
        self._udp_sockets.append(udp)
        return udp

    async def carry(self, make_engine: Callable[[Env], Engine]) -> CarryingDriver:
        engine = make_engine(Env(entropy=os.urandom, wall_clock=time.time))
        records: list[Record | AccessRecord] = []
        driver: Any = self.make_driver(engine, on_records=records.extend)
        self._carriers.append((driver, records))
        await driver.start()
        carrying: CarryingDriver = driver
        return carrying

    def refused_port(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
            return port

    async def start_proxy(self, routes: Routes, **options: Any) -> ProxyHandle:
        proxy = RealProxy(self.make_driver, routes, options)
        self._proxies.append(proxy)
        await proxy.start()
        return proxy

    async def run_body(self, body: Body) -> None:
        """The body, and then an end to all it has left."""
        try:
            await body(self)
        finally:
            for proxy in self._proxies:
                await proxy.close()
            for driver, _ in self._carriers:
                runnable: Any = driver
                await runnable.aclose()
                assert not driver._datagram_sockets
            for udp in self._udp_sockets:
                udp.close()
            for connection in self._connections:
                connection.close()
            for listener in self._listeners:
                listener.close()
        for proxy in self._proxies:
            check_records(proxy.records)
        for _, records in self._carriers:
            check_records(records)
