"""The order of the checks, the same for every version of HTTP, on every network."""

from __future__ import annotations

from typing import Any

import pytest
from gate_checks import Check
from harness import NETWORKS, Network, run_on
from matrix_ends import Client
from matrix_gatekeeping import (
    BASIC_AUTH,
    CHALLENGE,
    CREDENTIALS,
    RATE_LIMIT,
    ROUTE_NAME,
    SPENT_PATH,
    Site,
    busy_site,
    names_of,
    site_on,
)
from matrix_peers import VERSIONS, FieldLines, Head, Stream, StreamAborted, Version
from matrix_websocket import TextMessage, WebSocket, accept, ask, check_accepted
from wsproto.connection import ConnectionType

PASSWORD_ASKED = {"www-authenticate"}
LIMIT_TOLD = {"ratelimit", "ratelimit-policy"}
TELLING = PASSWORD_ASKED | LIMIT_TOLD | {"set-cookie", "retry-after"}
"""Fields that tell which check has answered, and which have been asked."""

ANSWERS: dict[Check, tuple[int, set[str]]] = {
    Check.ROUTE_CONNECTIONS: (503, {"retry-after"}),
    Check.IP_BLOCK_LIST: (403, set()),
    Check.IP_ALLOW_LIST: (403, set()),
    Check.RATE_LIMIT: (429, LIMIT_TOLD | {"retry-after"}),
    Check.CHALLENGE: (403, LIMIT_TOLD | {"set-cookie"}),
    Check.AUTHENTICATION: (401, LIMIT_TOLD | PASSWORD_ASKED),
}
REFUSED_CONNECTIONS = {
    Check.BLOCK_POLICY: ("access_denied", "block policy"),
    Check.CONNECTIONS_PER_IP: ("connection_limit_reached", "too many connections from this address"),
    Check.CONNECTION_RATE: ("connection_limit_reached", "too many new connections from this address"),
}

on_every_front = pytest.mark.parametrize("front", VERSIONS)
on_every_net = pytest.mark.parametrize("network", NETWORKS)


def check_name(check: Check) -> str:
    return check.name.lower()


def check_answer(check: Check, answer: tuple[Head, bytes]) -> None:
    """It is this check's answer, and no later one had a word in it."""
    head, body = answer
    status, fields = ANSWERS[check]
    assert head.status == status
    assert names_of(head) & TELLING == fields
    if check is Check.CHALLENGE:
        assert (head.get("content-type") or "").startswith("text/html")
        assert body.startswith(b"/.well-known/smartproxy-challenge/")
    elif check is Check.AUTHENTICATION:
        assert (head.get("www-authenticate") or "").startswith('Basic realm="Site"')
    if "retry-after" in fields:
        assert int(head.get("retry-after") or "0") >= 1


async def visit_and_be_refused(
    site: Site, check: Check, path: str, fields: FieldLines = (), *, websocket: bool = False
) -> None:
    before = len(site.refusals())
    answer = await site.visit(path, fields, websocket=websocket)
    if check not in REFUSED_CONNECTIONS:
        assert answer is not None
        check_answer(check, answer)
        assert site.refusals()[before:] == []
        return
    assert answer is None
    assert set(site.refusals()[before:]) == {REFUSED_CONNECTIONS[check]}


@on_every_net
@on_every_front
@pytest.mark.parametrize("first", [check for check in Check if check is not Check.NONE], ids=check_name)
def test_the_first_check_that_refuses_is_the_one_that_answers(
    network: str, front: Version, first: Check
) -> None:
    """Every later check would refuse too, and none of them is asked."""

    async def case(site: Site) -> None:
        await site.refuse_from(first)
        path = SPENT_PATH if first <= Check.RATE_LIMIT else "/page"
        fields = []
        if first > Check.CHALLENGE:
            fields.append(await site.solve(await site.visitor(), "/solve"))
        site.puzzle.calls.clear()
        await visit_and_be_refused(site, first, path, fields)
        assert site.puzzle.calls == (["assess", "render"] if first is Check.CHALLENGE else [])
        await site.answer_held()
        assert len(site.backend.wires) == 1
        assert not site.backend.untaken_requests
        await site.close()

    async def body(net: Network) -> None:
        async with busy_site(net, front, first) as site:
            await site.world.finish(case(site))

    run_on(network, body)


@on_every_net
@on_every_front
@pytest.mark.parametrize("first", [*ANSWERS, Check.NONE], ids=check_name)
def test_a_websocket_meets_the_same_checks_before_there_is_a_tunnel(
    network: str, front: Version, first: Check
) -> None:
    async def case(site: Site) -> None:
        await site.refuse_from(first)
        path = SPENT_PATH if first <= Check.RATE_LIMIT else "/chat"
        fields = []
        if first > Check.CHALLENGE:
            fields.append(await site.solve(await site.visitor(), "/solve"))
        if first > Check.AUTHENTICATION:
            fields.append(CREDENTIALS)
            await chat(site, path, fields)
            assert len(site.backend.wires) == 2
        else:
            await visit_and_be_refused(site, first, path, fields, websocket=True)
            assert len(site.backend.wires) == 1
        await site.close()

    async def body(net: Network) -> None:
        async with busy_site(net, front, first) as site:
            await site.world.finish(case(site))

    run_on(network, body)


async def chat(site: Site, path: str, fields: FieldLines) -> None:
    """A WebSocket that is let in."""
    client = await site.visitor()
    stream = await ask(client, path, fields)
    request = await site.backend.request(path)
    server = accept(request)
    check_accepted(client, await stream.response())
    visitor = WebSocket(stream, ConnectionType.CLIENT)
    await visitor.send(TextMessage("hello"))
    assert await server.receive_message() == "hello"
    await server.send(TextMessage("welcome"))
    assert await visitor.receive_message() == "welcome"
    stream.reset()
    await request.wire.bell.wait_until(lambda: request.aborted or request.has_ended)


@on_every_net
@on_every_front
def test_what_is_refused_counts_for_nothing_later(network: str, front: Version) -> None:
    """Down the checks one by one: a page that may be asked for once is there after all refusals."""

    async def case(site: Site) -> None:
        for check in Check:
            if check is Check.RATE_LIMIT:
                break
            await site.refuse_from(check)
            for _ in range(2):
                await visit_and_be_refused(site, check, "/once")
        await site.refuse_from(Check.RATE_LIMIT)
        await visit_and_be_refused(site, Check.RATE_LIMIT, SPENT_PATH)
        assert site.puzzle.calls == []

        await visit_and_be_refused(site, Check.CHALLENGE, "/once", [CREDENTIALS])
        assert site.puzzle.calls == ["assess", "render"]
        await visit_and_be_refused(site, Check.RATE_LIMIT, "/once", [CREDENTIALS])
        assert site.puzzle.calls == ["assess", "render"]

        visitor = await site.visitor()
        clearance = await site.solve(visitor, "/solve")
        calls = list(site.puzzle.calls)
        check_answer(Check.AUTHENTICATION, await site.own_answer(visitor, "/private", [clearance]))
        await visit_and_be_refused(site, Check.RATE_LIMIT, "/private", [clearance, CREDENTIALS])
        assert len(site.backend.wires) == 1
        request = await site.fetch_from_backend(visitor, "/all-is-met", [clearance, CREDENTIALS])
        assert request.request.get("cookie") is None
        assert site.puzzle.calls == calls
        # Connections are accepted in the order in which they were made: no refusal has made one.
        assert site.backend.wires.index(request.wire) == 1
        await site.close()

    async def body(net: Network) -> None:
        async with busy_site(net, front, Check.BLOCK_POLICY) as site:
            await site.world.finish(case(site))

    run_on(network, body)


def over_limit(**on_exceeded: Any) -> dict[str, Any]:
    challenge = {**CHALLENGE, "apply_to": {"methods": ["GET"]}}
    rate_limit = {**RATE_LIMIT, "on_exceeded": {"type": "challenge", "challenge": challenge, **on_exceeded}}
    return {"rate_limit": rate_limit, "basic_auth": BASIC_AUTH}


@on_every_net
@on_every_front
def test_over_the_limit_a_challenge_may_stand_in_for_the_refusal(network: str, front: Version) -> None:
    async def case(site: Site) -> None:
        visitor = await site.visitor()
        check_answer(Check.AUTHENTICATION, await site.own_answer(visitor, "/page"))
        assert site.puzzle.calls == []
        head, _ = await visitor.fetch("POST", "/page")
        assert head.status == 429
        assert names_of(head) & TELLING == LIMIT_TOLD | {"retry-after"}
        assert site.puzzle.calls == []

        head, _ = await visitor.fetch("GET", "/page")
        assert head.status == 429
        assert names_of(head) & TELLING >= LIMIT_TOLD | {"set-cookie"}
        assert not names_of(head) & PASSWORD_ASKED
        assert site.puzzle.calls == ["assess", "render"]
        clearance = await site.solve(visitor, "/page", status=429)

        head, _ = await visitor.fetch("GET", "/page", [clearance])
        assert head.status == 401
        assert not site.backend.wires
        await site.fetch_from_backend(visitor, "/page", [clearance, CREDENTIALS])
        await site.fetch_from_backend(visitor, "/page", [clearance, CREDENTIALS])
        await site.close()

    async def body(net: Network) -> None:
        async with site_on(net, front, over_limit()) as site:
            await site.world.finish(case(site))

    run_on(network, body)


@on_every_net
@on_every_front
def test_a_clearance_that_lifts_no_limit_lifts_none(network: str, front: Version) -> None:
    async def case(site: Site) -> None:
        visitor = await site.visitor()
        check_answer(Check.AUTHENTICATION, await site.own_answer(visitor, "/page"))
        clearance = await site.solve(visitor, "/page", status=429)
        calls = list(site.puzzle.calls)
        check_answer(Check.RATE_LIMIT, await site.own_answer(visitor, "/page", [clearance, CREDENTIALS]))
        assert site.puzzle.calls == calls
        assert not site.backend.wires
        await site.fetch_from_backend(visitor, "/other", [clearance, CREDENTIALS])
        await site.close()

    async def body(net: Network) -> None:
        async with site_on(net, front, over_limit(clearance_effect="none")) as site:
            await site.world.finish(case(site))

    run_on(network, body)


@on_every_net
@on_every_front
def test_a_connection_counts_once_whatever_it_asks_for(network: str, front: Version) -> None:
    async def case(site: Site) -> None:
        visitor = await site.visitor()
        for number in range(3):
            await site.fetch_from_backend(visitor, f"/{number}")
        if front != "1.1":
            streams = [await visitor.request("GET", f"/at-once/{number}") for number in range(3)]
            for number, stream in enumerate(streams):
                request = await site.backend.request(f"/at-once/{number}")
                await request.respond(200)
                assert (await stream.response()).status == 200
        assert len(visitor.wires) == 1
        assert (site.limits.total, site.limits.connections_on(ROUTE_NAME)) == (1, 1)

        other = await site.visitor()
        for _ in range(2):
            check_answer(Check.ROUTE_CONNECTIONS, await site.own_answer(other, "/full"))
        assert (site.limits.total, site.limits.connections_on(ROUTE_NAME)) == (2, 1)
        assert await site.visit("/one-too-many") is None
        assert site.refusals() == [REFUSED_CONNECTIONS[Check.CONNECTIONS_PER_IP]]
        await site.leave(visitor)
        await site.until(lambda: site.limits.total == 1)
        await site.fetch_from_backend(other, "/room")
        assert (site.limits.total, site.limits.connections_on(ROUTE_NAME)) == (1, 1)
        await site.close()

    async def body(net: Network) -> None:
        async with site_on(net, front, {"max_connections": 1}, max_connections_per_ip=2) as site:
            await site.world.finish(case(site))

    run_on(network, body)


@on_every_net
@on_every_front
def test_a_maximum_that_comes_later_finds_the_connections_counted(network: str, front: Version) -> None:
    async def case(site: Site) -> None:
        await site.hold("/held")
        assert site.limits.connections_on(ROUTE_NAME) == 1
        await site.reconfigure({"max_connections": 1})
        visitor = await site.visitor()
        check_answer(Check.ROUTE_CONNECTIONS, await site.own_answer(visitor, "/full"))
        await site.answer_held()
        await site.leave(site.visitors[0])
        await site.until(lambda: site.limits.total == 1)
        await site.fetch_from_backend(visitor, "/room")
        await site.close()

    async def body(net: Network) -> None:
        async with site_on(net, front, {}) as site:
            await site.world.finish(case(site))

    run_on(network, body)


async def asks_nothing(site: Site) -> None:
    await site.leave(await site.visitor())


async def is_answered(site: Site) -> None:
    visitor = await site.visitor()
    await site.fetch_from_backend(visitor, "/page", [CREDENTIALS])
    await site.leave(visitor)


async def is_asked_for_a_password(site: Site) -> None:
    visitor = await site.visitor()
    assert (await visitor.fetch("GET", "/page"))[0].status == 401
    await site.leave(visitor)


async def begin_response(site: Site, visitor: Client) -> tuple[Stream, Stream]:
    """Both ends of a response of which some has come."""
    stream = await visitor.request("GET", "/page", [CREDENTIALS])
    request = await site.backend.request("/page")
    request.respond_head(200)
    await request.send(b"some")
    assert (await stream.response()).status == 200
    assert await stream.read_exactly(4) == b"some"
    return stream, request


async def leaves_amid_a_response(site: Site) -> None:
    visitor = await site.visitor()
    stream, request = await begin_response(site, visitor)
    if site.front == "1.1":
        # Who only ends the request's direction may still wait for the response.
        stream.reset()
    await site.leave(visitor)
    await request.wait_aborted()


async def leaves_a_websocket(site: Site) -> None:
    await chat(site, "/chat", [CREDENTIALS])
    await site.leave(site.visitors[-1])


async def sees_the_backend_fail(site: Site) -> None:
    visitor = await site.visitor()
    stream, request = await begin_response(site, visitor)
    request.reset()
    with pytest.raises(StreamAborted):
        await stream.read_all()
    await site.leave(visitor)


async def breaks_the_protocol(site: Site) -> None:
    if site.front == "1.1":
        connection = await site.world.net.connect(site.proxy.port)
        await connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await connection.receive_all()).startswith(b"HTTP/1.1 400 ")
        connection.close()
        return
    visitor = await site.visitor()
    stream = await visitor.request("GET", "/page", [("x-broken", "a\x00b")])
    # RFC 9113 §8.2.1, RFC 9114 §10.3: the request is malformed.
    with pytest.raises(StreamAborted):
        await answer_to_malformed(stream)
    await site.leave(visitor)


async def answer_to_malformed(stream: Stream) -> None:
    """Raises StreamAborted, by itself or after a word of explanation."""
    assert (await stream.response()).status == 400
    await stream.read_all()
    raise StreamAborted


@on_every_net
@on_every_front
@pytest.mark.parametrize(
    "life",
    [
        asks_nothing,
        is_answered,
        is_asked_for_a_password,
        leaves_amid_a_response,
        leaves_a_websocket,
        sees_the_backend_fail,
        breaks_the_protocol,
    ],
    ids=lambda life: life.__name__,
)
def test_a_connection_is_given_back_exactly_once(network: str, front: Version, life: Any) -> None:
    """Another that stays is counted before and after; one given back twice would take its place."""

    async def case(site: Site) -> None:
        await site.fetch_from_backend(await site.visitor(), "/steady", [CREDENTIALS])
        for _ in range(2):
            await life(site)
            await site.until(lambda: site.limits.total == 1)
            assert site.limits.connections_on(ROUTE_NAME) == 1
        await site.fetch_from_backend(site.visitors[0], "/steady", [CREDENTIALS])
        assert len(site.visitors[0].wires) == 1
        await site.close()

    async def body(net: Network) -> None:
        security = {"max_connections": 2, "basic_auth": BASIC_AUTH}
        async with site_on(net, front, security, max_connections_per_ip=2) as site:
            await site.world.finish(case(site))

    run_on(network, body)


@on_every_net
@on_every_front
def test_a_block_policy_put_in_force_ends_connections_and_counts(network: str, front: Version) -> None:
    async def case(site: Site) -> None:
        await site.hold("/held")
        assert (site.limits.total, site.limits.connections_on(ROUTE_NAME)) == (1, 1)
        await site.block_at_once([site.client_ip])
        (stream, request), *_ = site.held
        with pytest.raises(StreamAborted):
            await stream.response()
        await request.wait_aborted()
        site.held.clear()
        await site.until(lambda: site.limits.total == 0)
        assert await site.visit("/page") is None
        await site.block_at_once([])
        await site.fetch_from_backend(await site.visitor(), "/page")
        await site.close()

    async def body(net: Network) -> None:
        async with site_on(net, front, {"max_connections": 1}) as site:
            await site.world.finish(case(site))

    run_on(network, body)
