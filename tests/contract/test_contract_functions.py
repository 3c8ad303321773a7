"""Functions in worker threads through every driver: an engine that calls what its clients name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from harness import Body, CarryingDriver, Connection, Network, on_every_network, run_on

from smartproxy.config import compile_configuration, parse_config
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, LostReason
from smartproxy.core.ops import (
    Address,
    CallFunction,
    OperationFailed,
    Resolved,
    ResolveHost,
    Result,
    Returned,
)
from smartproxy.core.stream import Link

NOTHING_CONFIGURED = {
    "match": {"ports": 0},
    "action": {"type": "forward", "targets": [{"host": "h", "port": 1}]},
}
WORKER_THREADS = 4


class Session:
    """A client that names functions, a line each, and gets a line when each has been answered."""

    def __init__(self, program: CallingProgram, link: Link) -> None:
        self.link = link
        self._program = program
        link.handler = self

    def receive_data(self, data: bytes) -> None:
        for name in data.decode().split():
            self._program.call(name, lambda: self.link.write(b"answered\n"))

    def receive_eof(self) -> None:
        self.link.close()

    def stream_writable(self) -> None:
        self.link.notify_writable = False

    def stream_lost(self, failure: Failure) -> None:
        self._program.lost += 1


class CallingProgram(Engine):
    """The engine, with sessions of its own on what is accepted."""

    def __init__(self, functions: Mapping[str, Callable[[], Any]], env: Env) -> None:
        configuration = compile_configuration(parse_config({"routes": [NOTHING_CONFIGURED]})).configuration
        super().__init__(configuration, env)
        self.functions = functions
        self.results: dict[str, Result] = {}
        self.ids: dict[str, int] = {}
        self.lost = 0

    def handle_accepted(self, listening_port: int, peer: Address, local: Address, now: float) -> Link:
        self._enter(now)
        link = self._new_link(peer, local)
        Session(self, link)
        self._in_input = False
        return link

    def call(self, name: str, on_answered: Callable[[], None]) -> None:
        def answered(result: Result) -> None:
            assert name not in self.results
            self.results[name] = result
            on_answered()

        operation = CallFunction(self.context.next_operation_id(), self.functions[name], (), in_thread=True)
        self.ids[name] = self.context.start(operation, answered)

    def look_up(self, host: str, on_answered: Callable[[], None]) -> None:
        def answered(result: Result) -> None:
            self.results[host] = result
            on_answered()

        self.context.start(ResolveHost(self.context.next_operation_id(), host), answered)

    def cancel(self, name: str) -> None:
        self.context.cancel(self.ids[name])


async def carried(
    net: Network, **functions: Callable[[], Any]
) -> tuple[CallingProgram, CarryingDriver, Connection]:
    """A program that can call `functions`, its driver, and a client of it."""
    programs: list[CallingProgram] = []

    def make(env: Env) -> Engine:
        programs.append(CallingProgram(functions, env))
        return programs[0]

    driver = await net.carry(make)
    client = await net.connect(driver.listen(0, ["127.0.0.1"]))
    return programs[0], driver, client


async def call(client: Connection, name: str) -> None:
    """Have a function called, and wait until it has been answered."""
    await client.send(f"{name}\n".encode())
    assert await client.receive_until(b"\n") == b"answered\n"


def fetch(port: int) -> bytes:
    """Block until somebody on `port` has accepted, and sends or closes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return connection.recv(100)


def on_real_networks(body: Body) -> Callable[[str], None]:
    """Make a test of `body` for the networks that have threads."""

    @pytest.mark.parametrize("network", ["asyncio", "trio"])
    def test(network: str) -> None:
        run_on(network, body)

    test.__name__ = body.__name__
    test.__doc__ = body.__doc__
    return test


@on_every_network
async def test_what_a_function_returns_comes_back(net: Network) -> None:
    program, _, client = await carried(net, double=lambda: 2 * 21)
    await call(client, "double")
    assert program.results == {"double": Returned(42)}


@on_every_network
async def test_a_function_that_raises_has_failed(net: Network) -> None:
    def fail(error: BaseException) -> None:
        raise error

    program, _, client = await carried(
        net, lookup=partial(fail, LookupError("no such key")), stop=partial(fail, StopIteration())
    )
    await call(client, "lookup")
    await call(client, "stop")
    assert program.results == {
        "lookup": OperationFailed(LostReason.ERROR, "LookupError('no such key')"),
        "stop": OperationFailed(LostReason.ERROR, "StopIteration()"),
    }


@on_real_networks
async def test_a_function_cannot_end_the_event_loop(net: Network) -> None:
    def leave() -> None:
        raise SystemExit(3)

    program, _, client = await carried(net, leave=leave, stay=lambda: "here")
    await call(client, "leave")
    await call(client, "stay")
    assert program.results["leave"] == OperationFailed(LostReason.ERROR, "SystemExit(3)")
    assert program.results["stay"] == Returned("here")


@on_every_network
async def test_a_function_cancelled_with_its_start_is_never_answered(net: Network) -> None:
    program, driver, client = await carried(net, first=lambda: 1, second=lambda: 2)

    def start_and_cancel(now: float) -> None:
        program.call("first", lambda: None)
        program.cancel("first")

    driver.apply(start_and_cancel)
    await call(client, "second")
    assert program.results == {"second": Returned(2)}


@on_real_networks
async def test_everything_else_goes_on_while_a_function_blocks(net: Network) -> None:
    server = await net.listen()
    program, _, client = await carried(net, slow=lambda: fetch(server.port), quick=threading.get_ident)
    await client.send(b"slow\n")
    held = await server.accept()
    await call(client, "quick")
    assert set(program.results) == {"quick"}
    assert program.results["quick"] != Returned(threading.get_ident())
    await held.send(b"fetched")
    assert await client.receive_until(b"\n") == b"answered\n"
    assert program.results["slow"] == Returned(b"fetched")


@on_real_networks
async def test_a_function_cancelled_while_it_runs_is_never_answered(net: Network) -> None:
    server = await net.listen()
    program, driver, client = await carried(net, slow=lambda: fetch(server.port), quick=lambda: "quick")
    await client.send(b"slow\n")
    held = await server.accept()
    driver.apply(lambda now: program.cancel("slow"))
    await call(client, "quick")
    await held.send(b"too late")
    assert await held.receive_all() == b"", "the thread goes to its end by itself"
    del program.results["quick"]
    await call(client, "quick")
    assert program.results == {"quick": Returned("quick")}


@on_real_networks
async def test_no_more_than_four_functions_run_at_once(net: Network) -> None:
    server = await net.listen()
    count = WORKER_THREADS + 3
    running: set[int] = set()
    most = [0]
    lock = threading.Lock()

    def counted(number: int) -> bytes:
        with lock:
            running.add(number)
            most[0] = max(most[0], len(running))
        fetched = fetch(server.port)
        with lock:
            running.remove(number)
        return fetched

    functions = {f"number{number}": partial(counted, number) for number in range(count)}
    program, _, client = await carried(net, **functions)
    await client.send(" ".join(functions).encode() + b"\n")
    held = [await server.accept() for _ in range(WORKER_THREADS)]
    for _ in range(count):
        await held.pop(0).send(b"x")
        assert await client.receive_until(b"\n") == b"answered\n"
        if len(program.results) + len(held) < count:
            held.append(await server.accept())
    assert program.results == dict.fromkeys(functions, Returned(b"x"))
    assert most == [WORKER_THREADS]


@on_real_networks
async def test_names_are_looked_up_while_every_thread_is_taken(net: Network) -> None:
    server = await net.listen()
    functions = {f"number{number}": lambda: fetch(server.port) for number in range(WORKER_THREADS)}
    program, driver, client = await carried(net, **functions)
    await client.send(" ".join(functions).encode() + b"\n")
    held = [await server.accept() for _ in functions]
    other = await net.listen()
    waiter = await net.connect(other.port)
    accepted = await other.accept()
    driver.apply(lambda now: program.look_up("localhost", accepted.close))
    assert await waiter.receive_all() == b""
    assert isinstance(program.results["localhost"], Resolved)
    assert len(held) == WORKER_THREADS


@on_real_networks
async def test_a_function_that_still_runs_does_not_hold_up_the_end(net: Network) -> None:
    server = await net.listen()
    functions = {f"number{number}": lambda: fetch(server.port) for number in range(WORKER_THREADS + 1)}
    program, driver, client = await carried(net, **functions)
    await client.send(" ".join(functions).encode() + b"\n")
    held = [await server.accept() for _ in range(WORKER_THREADS)]
    closable: Any = driver
    await closable.aclose()
    with pytest.raises(ConnectionResetError):
        await client.receive()
    for connection in held:
        await connection.send(b"too late")
        assert await connection.receive_all() == b""
    assert program.results == {}
