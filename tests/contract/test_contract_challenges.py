"""Challenge providers on every driver: sync and async ones, and those that raise, hang or talk nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from harness import NETWORKS, Connection, Listener, Network, ProxyHandle, forward, on_every_network, run_on
from http_talk import Message, receive_message, request, response

from smartproxy.core.engine import Engine
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)

FORM = "Content-Type: application/x-www-form-urlencoded"
ROUTE = {"name": "app", "security": {"challenge": {"provider_id": "mine", "challenge_type": "sum"}}}


class Sums:
    """Asks for a sum, at once."""

    def assess(self, request: ChallengeRequest) -> Assessment:
        return Assessment(Decision.CHALLENGE, {"of": [2, 3]})

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        return ChallengePage(pending.verify_path)

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        return Verification(payload.get("sum") == str(sum(pending.state["of"])))


class Later:
    """The same, by coroutines."""

    def __init__(self) -> None:
        self._sums = Sums()

    async def assess(self, request: ChallengeRequest) -> Assessment:
        return self._sums.assess(request)

    async def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        return self._sums.render(request, pending)

    async def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        return self._sums.verify(request, pending, payload)


class Broken(Later):
    """Fails in one of its methods, in one way."""

    def __init__(self, method: str, how: str, silence: Listener) -> None:
        super().__init__()
        self._fails_in = method
        self._how = how
        self._silence = silence

    async def _fail(self) -> Any:
        if self._how == "hangs":
            await self._silence.accept()
        if self._how == "raises":
            raise LookupError("out of sums")
        return "nonsense"

    async def assess(self, request: ChallengeRequest) -> Any:
        return await (self._fail() if self._fails_in == "assess" else super().assess(request))

    async def render(self, request: ChallengeRequest, pending: PendingChallenge) -> Any:
        return await (self._fail() if self._fails_in == "render" else super().render(request, pending))

    async def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Any:
        return await (
            self._fail() if self._fails_in == "verify" else super().verify(request, pending, payload)
        )


async def site(net: Network, provider: Any, **settings: Any) -> tuple[ProxyHandle, Connection, Listener]:
    """A challenged route, a client of it, and its backend."""
    backend = await net.listen()
    proxy = await net.start_proxy([{**ROUTE, **forward(backend, protocol="http")}], challenge=settings)
    handle: Any = proxy
    engine: Engine = handle.engine if hasattr(handle, "engine") else handle.proxy.engine
    engine.register_challenge_provider("mine", provider)
    return proxy, await net.connect(proxy.port), backend


async def ask(client: Connection, data: bytes) -> Message:
    await client.send(data)
    return await receive_message(client)


def cookies(message: Message) -> list[str]:
    return [value.partition(";")[0] for name, value in message.fields if name == "set-cookie"]


@pytest.mark.parametrize("provider", [Sums, Later])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_challenge_is_solved(network: str, provider: type[Any]) -> None:
    async def body(net: Network) -> None:
        _, client, backend = await site(net, provider())
        page = await ask(client, request("GET", "/page?q=1"))
        assert page.status == 403
        [pending] = cookies(page)
        verify_path = page.body.decode()
        wrong = await ask(client, request("POST", verify_path, b"sum=6", FORM, f"Cookie: {pending}"))
        assert (wrong.status, wrong.body) == (403, page.body)
        right = await ask(client, request("POST", verify_path, b"sum=5", FORM, f"Cookie: {pending}"))
        assert (right.status, right.get("location")) == (303, "/page?q=1")
        await client.send(request("GET", "/page?q=1", b"", f"Cookie: {cookies(right)[-1]}"))
        served = await backend.accept()
        assert (await receive_message(served)).get("cookie") is None
        await served.send(response(200, b"the page"))
        assert (await receive_message(client)).body == b"the page"
        again = await ask(client, request("POST", verify_path, b"sum=5", FORM, f"Cookie: {pending}"))
        assert len(cookies(again)) == 1, "an answer counts once"

    run_on(network, body)


@pytest.mark.parametrize("how", ["raises", "hangs", "talks nonsense"])
@pytest.mark.parametrize("method", ["assess", "render", "verify"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_provider_that_fails_lets_nobody_in(network: str, method: str, how: str) -> None:
    async def body(net: Network) -> None:
        provider = Broken(method, how, await net.listen())
        proxy, client, _ = await site(net, provider, relay_timeout=0.2)
        refused = page = await ask(client, request("GET", "/page"))
        if method == "verify":
            line = f"Cookie: {cookies(page)[0]}"
            refused = await ask(client, request("POST", page.body.decode(), b"sum=5", FORM, line))
        assert refused.status == 503
        assert refused.get("set-cookie") is None
        assert "challenge_provider_failed" in proxy.events()

    run_on(network, body)


@on_every_network
async def test_a_client_that_leaves_takes_its_question_along(net: Network) -> None:
    proxy, client, _ = await site(net, Broken("assess", "hangs", await net.listen()))
    await client.send(request("GET", "/page"))
    client.reset()
    other = await net.connect(proxy.port)
    await other.send(request("GET", "/page"))
    other.close()
    await proxy.stop()
