"""What asyncio and trio lend the pump: waking, the timer, look-ups, async functions, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import pytest
import trio
from fake_engine import FakeEngine

from smartproxy.core.engine import Engine
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    CallFunction,
    CancelOperation,
    Operation,
    OperationFailed,
    Resolved,
    ResolveHost,
    Result,
    Returned,
)
from smartproxy.core.timers import Timer
from smartproxy.drivers.asyncio import AsyncioDriver
from smartproxy.drivers.trio import TrioDriver

PATIENCE_S = 20.0


class Loop:
    """The few things a body needs of its event loop."""

    def __init__(self, event: Callable[[], Any], driver: type[AsyncioDriver] | type[TrioDriver]) -> None:
        self.event = event
        self.engine = FakeEngine()
        self.answered: Any = event()
        self.engine.on_result = lambda operation_id, result: self.answered.set()
        self.driver = driver(cast(Engine, self.engine))

    def start(self, operation: Operation) -> None:
        self.driver.apply(lambda now: self.engine.context.operations.append(operation))

    async def answer_to(self, operation: Operation) -> Result:
        self.start(operation)
        await self.answered.wait()
        return self.engine.results[operation.id]


Body = Callable[[Loop], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def _started(loop: Loop) -> AsyncIterator[Loop]:
    await loop.driver.start()
    try:
        yield loop
    finally:
        await loop.driver.aclose()


def _run_on_asyncio(body: Body) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(PATIENCE_S),
            _started(Loop(asyncio.Event, AsyncioDriver)) as loop,
        ):
            await body(loop)

    asyncio.run(main())


def _run_on_trio(body: Body) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            async with _started(Loop(trio.Event, TrioDriver)) as loop:
                await body(loop)

    trio.run(main)


RUNNERS = {"asyncio": _run_on_asyncio, "trio": _run_on_trio}


def on_both_loops(body: Body) -> Callable[[str], None]:
    @pytest.mark.parametrize("loop_name", RUNNERS)
    def test(loop_name: str) -> None:
        RUNNERS[loop_name](body)

    test.__name__ = body.__name__
    return test


async def wait_forever() -> None:
    """Only a cancellation ends it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await trio.sleep_forever()
    else:
        await asyncio.get_running_loop().create_future()


@on_both_loops
async def test_names_are_looked_up(loop: Loop) -> None:
    result = await loop.answer_to(ResolveHost(1, "localhost"))
    assert isinstance(result, Resolved)
    assert set(result.addresses) <= {"127.0.0.1", "::1"}
    assert len(set(result.addresses)) == len(result.addresses)


@pytest.mark.parametrize("loop_name", RUNNERS)
@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), LostReason.NAME_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), LostReason.NAME_LOOKUP_FAILED),
        (OSError(24, "Too many open files"), LostReason.NAME_LOOKUP_FAILED),
    ],
)
def test_look_ups_that_fail_say_how(
    loop_name: str, raised: OSError, reason: LostReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> object:
        raise raised

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    # trio keeps a reference of its own to the standard library's function.
    monkeypatch.setattr("trio._socket._stdlib_socket.getaddrinfo", fail)

    async def body(loop: Loop) -> None:
        result = await loop.answer_to(ResolveHost(1, "backend.example"))
        assert isinstance(result, OperationFailed)
        assert result.reason is reason

    RUNNERS[loop_name](body)


@pytest.mark.parametrize("loop_name", RUNNERS)
def test_addresses_keep_the_resolvers_order_and_come_once(
    loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def found(host: object, *arguments: object, **options: object) -> list[tuple[object, ...]]:
        asked.append(host)
        addresses = ["2001:db8::2", "192.0.2.9", "2001:db8::2", "192.0.2.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setattr("trio._socket._stdlib_socket.getaddrinfo", found)

    async def body(loop: Loop) -> None:
        result = await loop.answer_to(ResolveHost(1, "my_service"))
        assert result == Resolved(("2001:db8::2", "192.0.2.9", "192.0.2.1"))

    RUNNERS[loop_name](body)
    assert asked == [b"my_service"], "an underscore is no matter for IDNA"


@on_both_loops
async def test_a_name_that_is_not_ascii_is_not_found(loop: Loop) -> None:
    result = await loop.answer_to(ResolveHost(1, "bücher.example"))
    assert isinstance(result, OperationFailed)
    assert result.reason is LostReason.NAME_NOT_FOUND


@on_both_loops
async def test_async_functions_are_awaited(loop: Loop) -> None:
    async def double(number: int) -> int:
        return 2 * number

    assert await loop.answer_to(CallFunction(1, double, (21,))) == Returned(42)


@on_both_loops
async def test_async_functions_may_raise(loop: Loop) -> None:
    async def fail() -> None:
        raise LookupError("no such thing")

    result = await loop.answer_to(CallFunction(1, fail, ()))
    assert result == OperationFailed(LostReason.ERROR, "LookupError('no such thing')")


@on_both_loops
async def test_a_cancelled_function_is_cancelled_and_never_answered(loop: Loop) -> None:
    ended = loop.event()

    async def wait_until_cancelled() -> None:
        try:
            await wait_forever()
        finally:
            ended.set()

    async def answer() -> str:
        return "the next one"

    loop.start(CallFunction(1, wait_until_cancelled, ()))
    assert await loop.answer_to(CallFunction(2, answer, ())) == Returned("the next one")
    loop.start(CancelOperation(1))
    await ended.wait()
    assert set(loop.engine.results) == {2}


@on_both_loops
async def test_a_function_cancelled_before_it_begins_leaves_nothing_unawaited(loop: Loop) -> None:
    def start_and_cancel(now: float) -> None:
        loop.engine.context.operations += [CallFunction(1, wait_forever, ()), CancelOperation(1)]

    async def answer() -> str:
        return "the next one"

    loop.driver.apply(start_and_cancel)
    assert await loop.answer_to(CallFunction(2, answer, ())) == Returned("the next one")
    gc.collect()
    assert set(loop.engine.results) == {2}


def test_a_task_that_cancels_itself_is_an_answer() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def body(loop: Loop) -> None:
        result = await loop.answer_to(CallFunction(1, give_up, ()))
        assert result == OperationFailed(LostReason.ERROR, "cancelled")

    _run_on_asyncio(body)


@on_both_loops
async def test_the_timer_fires_in_order_though_set_out_of_order(loop: Loop) -> None:
    fired: list[str] = []
    done = loop.event()
    context = loop.engine.context

    def fire_late() -> None:
        fired.append("late")
        done.set()

    late = Timer(fire_late)
    early = Timer(lambda: fired.append("early"))
    loop.driver.apply(lambda now: context.timers.set(late, now + 0.03))
    loop.driver.apply(lambda now: context.timers.set(early, now + 0.01))
    await done.wait()
    assert fired == ["early", "late"]


@on_both_loops
async def test_waiting_for_idleness_ends_with_the_last_connection(loop: Loop) -> None:
    driver, engine = loop.driver, loop.engine
    port = driver.listen(0, ["127.0.0.1"])
    accepted = loop.event()
    engine.on_accepted = lambda client: accepted.set()
    assert await driver.wait_idle(0.01), "there was nothing to wait for"
    with socket.create_connection(("127.0.0.1", port)):
        await accepted.wait()
        assert not await driver.wait_idle(0.01)
        client = engine.clients[0]
        client.on_eof = client.link.close
    assert await driver.wait_idle(PATIENCE_S)
    assert client.heard == ["eof"]


@on_both_loops
async def test_waiting_for_idleness_waits_for_clients_without_a_socket(loop: Loop) -> None:
    """Those of HTTP/3 share the UDP socket that they came to, which stays open to the end."""
    driver, engine = loop.driver, loop.engine
    driver.listen_udp(0, ["127.0.0.1"])
    assert await driver.wait_idle(0.01), "a UDP listener is nothing to wait for"
    engine.connection_count = 1

    def end_the_client() -> None:
        driver.apply(lambda now: setattr(engine, "connection_count", 0))

    assert not await driver.wait_idle(0.01)
    driver.call_after(0.01, end_the_client)
    assert await driver.wait_idle(PATIENCE_S)
    assert driver.listening_udp_ports()


@on_both_loops
async def test_closing_ends_the_wait_for_idleness(loop: Loop) -> None:
    loop.engine.connection_count = 1
    closings: list[object] = []

    def close() -> None:
        if isinstance(loop.driver, TrioDriver):
            closings.append(trio.lowlevel.spawn_system_task(loop.driver.aclose))
        else:
            closings.append(asyncio.create_task(loop.driver.aclose()))

    loop.driver.call_after(0.01, close)
    assert await loop.driver.wait_idle(PATIENCE_S)
    assert closings


@on_both_loops
async def test_datagrams_wake_the_loop(loop: Loop) -> None:
    driver, engine = loop.driver, loop.engine
    port = driver.listen_udp(0, ["127.0.0.1"])
    [listener] = engine.udp_listeners
    arrived = loop.event()
    listener.on_datagrams = lambda datagrams: arrived.set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"hello", ("127.0.0.1", port))
        await arrived.wait()
        assert listener.received == [(b"hello", ("127.0.0.1", peer.getsockname()[1]))]


@pytest.mark.parametrize("loop_name", RUNNERS)
def test_closing_right_after_the_start(loop_name: str) -> None:
    async def body(loop: Loop) -> None:
        assert not loop.engine.bugs

    RUNNERS[loop_name](body)


@pytest.mark.parametrize("loop_name", RUNNERS)
def test_closing_leaves_no_descriptor_and_no_task(loop_name: str) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    ended: list[str] = []

    async def wait_until_cancelled() -> None:
        try:
            await wait_forever()
        finally:
            ended.append("cancelled")

    async def body(loop: Loop) -> None:
        port = loop.driver.listen(0, ["127.0.0.1", "::1"])
        loop.driver.listen_udp(0, ["127.0.0.1", "::1"])
        accepted = loop.event()
        loop.engine.on_accepted = lambda client: accepted.set()
        loop.start(CallFunction(1, wait_until_cancelled, ()))
        with socket.create_connection(("127.0.0.1", port)) as peer:
            await accepted.wait()
            await loop.driver.aclose()
            await loop.driver.aclose()
            with pytest.raises(ConnectionResetError):
                peer.recv(1)

    RUNNERS[loop_name](body)
    assert ended == ["cancelled"]
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_driver_never_started_can_be_closed() -> None:
    async def main() -> None:
        driver = AsyncioDriver(cast(Engine, FakeEngine()))
        driver.listen(0, ["127.0.0.1"])
        await driver.aclose()

    async def trio_main() -> None:
        driver = TrioDriver(cast(Engine, FakeEngine()))
        driver.listen(0, ["127.0.0.1"])
        await driver.aclose()

    asyncio.run(main())
    trio.run(trio_main)


def test_what_was_asked_for_before_the_start_is_done_after_it() -> None:
    async def main() -> None:
        driver = AsyncioDriver(cast(Engine, FakeEngine()))
        called = asyncio.Event()
        driver.call_after(0.01, called.set)
        await driver.start()
        async with asyncio.timeout(PATIENCE_S):
            await called.wait()
        await driver.aclose()

    async def trio_main() -> None:
        driver = TrioDriver(cast(Engine, FakeEngine()))
        called = trio.Event()
        driver.call_after(0.01, called.set)
        await driver.start()
        with trio.fail_after(PATIENCE_S):
            await called.wait()
        await driver.aclose()

    asyncio.run(main())
    trio.run(trio_main)


def test_a_nursery_of_the_programs_own_can_run_it() -> None:
    engine = FakeEngine()

    async def main() -> None:
        driver = TrioDriver(cast(Engine, engine))
        accepted = trio.Event()
        engine.on_accepted = lambda client: accepted.set()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(driver.run)
                port = driver.listen(0, ["127.0.0.1"])
                with socket.create_connection(("127.0.0.1", port)) as peer:
                    await accepted.wait()
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True):
                        await driver.wait_idle()
                    with pytest.raises(ConnectionResetError):
                        peer.recv(1)

    trio.run(main)


def test_a_loop_that_cannot_watch_descriptors_is_refused_clearly() -> None:
    class Proactor(asyncio.SelectorEventLoop):
        def add_reader(self, *arguments: object) -> None:
            raise NotImplementedError

    async def main() -> None:
        driver = AsyncioDriver(cast(Engine, FakeEngine()))
        try:
            with pytest.raises(RuntimeError, match="add_reader, which Proactor has not"):
                await driver.start()
        finally:
            await driver.aclose()

    with asyncio.Runner(loop_factory=Proactor) as runner:
        runner.run(main())
