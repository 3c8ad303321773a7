"""`SmartProxy` while it runs: another block policy, another challenge provider."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import trio

from smartproxy import ConfigError, SmartProxy
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)

HERE = {"blocked_cidrs": ["127.0.0.0/8"]}
ANSWER = {"type": "handler", "handler": {"http_response": {"body": "inside"}}}
ROUTE = {"match": {"ports": 0}, "action": ANSWER}
REQUEST = b"GET / HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n"

Body = Callable[[Callable[[int], Awaitable[bytes]]], Awaitable[None]]


async def _ask_by_asyncio(port: int) -> bytes:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        return b""
    return received


async def _ask_by_trio(port: int) -> bytes:
    received = b""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(REQUEST)
            async for data in stream:
                received += data
    except (trio.BrokenResourceError, OSError):
        return b""
    return received


def _on_asyncio(body: Body) -> None:
    asyncio.run(body(_ask_by_asyncio))  # type: ignore[arg-type]  # bodies are coroutine functions


def _on_trio(body: Body) -> None:
    trio.run(body, _ask_by_trio)


on_both = pytest.mark.parametrize("run", [_on_asyncio, _on_trio])


@on_both
def test_the_block_policy_is_replaced_and_outlives_a_change_of_routes(run: Callable[[Body], None]) -> None:
    async def body(ask: Callable[[int], Awaitable[bytes]]) -> None:
        async with SmartProxy(routes=[ROUTE], listen=["127.0.0.1"]) as proxy:
            [port] = proxy.get_listening_ports()
            assert (await ask(port)).endswith(b"inside")
            await proxy.update_security_policy(HERE)
            assert await ask(port) == b""
            with pytest.raises(ConfigError, match="blocked_cidrs"):
                await proxy.update_security_policy({"blocked_cidrs": ["127.0.0.0/33"]})
            assert await ask(port) == b""
            await proxy.update_routes([{**ROUTE, "name": "renamed"}])
            assert await ask(port) == b""
            assert proxy.config.security_policy.blocked_cidrs == ["127.0.0.0/8"]
            await proxy.update_security_policy({})
            assert (await ask(port)).endswith(b"inside")

    run(body)


@on_both
def test_a_policy_may_be_given_before_the_start(run: Callable[[Body], None]) -> None:
    async def body(ask: Callable[[int], Awaitable[bytes]]) -> None:
        proxy = SmartProxy(routes=[ROUTE], listen=["127.0.0.1"])
        await proxy.update_security_policy(HERE)
        async with proxy:
            assert await ask(proxy.get_listening_ports()[0]) == b""

    run(body)


class Closed:
    """A provider whose page says who it is."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def assess(self, request: ChallengeRequest) -> Assessment:
        return Assessment(Decision.CHALLENGE)

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        return ChallengePage(f"by {self._name}", content_type="text/plain")

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        return Verification(False)


def challenged(provider_id: str) -> dict[str, Any]:
    return {
        "name": "app",
        "match": {"ports": 0, "protocol": "http"},
        "action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": 9}]},
        "security": {"challenge": {"provider_id": provider_id, "challenge_type": "wait"}},
    }


@on_both
def test_providers_come_and_are_replaced_while_it_runs(run: Callable[[Body], None]) -> None:
    async def body(ask: Callable[[int], Awaitable[bytes]]) -> None:
        async with SmartProxy(routes=[challenged("mine")], listen=["127.0.0.1"]) as proxy:
            [port] = proxy.get_listening_ports()
            assert (await ask(port)).startswith(b"HTTP/1.1 503 ")
            proxy.register_challenge_provider("mine", Closed("the first"))
            assert (await ask(port)).endswith(b"by the first")
            proxy.register_challenge_provider("mine", Closed("the second"))
            assert (await ask(port)).endswith(b"by the second")

    run(body)


@on_both
def test_the_built_in_provider_is_there_unless_something_else_is_in_its_place(
    run: Callable[[Body], None],
) -> None:
    async def body(ask: Callable[[int], Awaitable[bytes]]) -> None:
        async with SmartProxy(routes=[ROUTE], listen=["127.0.0.1"]) as proxy:
            await proxy.update_routes([challenged("smartproxy")])
            [port] = proxy.get_listening_ports()
            assert b"One moment, please" in await ask(port)
            proxy.register_challenge_provider("smartproxy", Closed("somebody else"))
            await proxy.update_routes([challenged("smartproxy")])
            assert (await ask(port)).endswith(b"by somebody else")

    run(body)
