"""One stream that nobody reads: what it holds up, and what it costs the proxy, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Network, run_on
from matrix_cases import check_one_connection, expect_abort
from matrix_pairs import Pair, process_pair
from matrix_peers import VERSIONS, Stream, StreamAborted, Version
from proxy_process import ProxyProcess

BODY_BYTES = 1024 * 1024 * 1024
PIECE = bytes(64 * 1024)
QUIET_EXCHANGES = 8
"""A sender that has not moved during so many exchanges of others is held up."""

MOST_UNDER_WAY_BYTES = 64 * 1024 * 1024
"""Of the body nobody reads: in the proxy, and in the kernel's buffers on both sides of it."""
MOST_MEMORY_BYTES = 16 * 1024 * 1024
"""By which the proxy's resident memory may grow while 1 GiB waits."""

MOST_MEMORY_WITH_QH3_BYTES = 64 * 1024 * 1024


class Flood:
    """Offers 1 GiB, and counts how much of it was taken."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.sent_bytes = 0

    async def run(self) -> None:
        try:
            while self.sent_bytes < BODY_BYTES:
                await self._stream.send(PIECE)
                self.sent_bytes += len(PIECE)
        except StreamAborted:
            pass


async def exchange_beside(pair: Pair, number: int) -> None:
    """Another stream's whole exchange, with content both ways."""
    path = f"/beside/{number}"
    stream = await pair.client.open("POST", path)
    await stream.send(PIECE)
    await stream.end()
    request = await pair.backend.request(path)
    assert await request.read_all() == PIECE
    await request.respond(200, body=PIECE)
    assert (await stream.response()).status == 200
    assert await stream.read_all() == PIECE


async def exchange_until_held_up(pair: Pair, flood: Flood, first: int) -> int:
    """Exchanges on other streams until the flood has stood still for some; how many there were."""
    number, quiet, before = first, 0, -1
    while quiet < QUIET_EXCHANGES:
        await exchange_beside(pair, number)
        number += 1
        quiet = quiet + 1 if flood.sent_bytes == before else 0
        before = flood.sent_bytes
        assert before <= MOST_UNDER_WAY_BYTES
    return number


async def check_held_up(pair: Pair, flood: Flood, reader: Stream) -> None:
    """Only the flood stands still; it goes on when it is read."""
    pair.world.spawn(flood.run())
    count = await exchange_until_held_up(pair, flood, 0)
    held_up_at = flood.sent_bytes
    assert held_up_at > 0
    read = 0
    while read < held_up_at + len(PIECE):
        data = await reader.read()
        assert data
        read += len(data)
    assert flood.sent_bytes > held_up_at
    await exchange_until_held_up(pair, flood, count)
    check_one_connection(pair)


async def unread_response(pair: Pair) -> None:
    stream = await pair.client.request("GET", "/flood")
    request = await pair.backend.request("/flood")
    request.respond_head(200, [("content-length", str(BODY_BYTES))])
    assert (await stream.response()).status == 200
    await check_held_up(pair, Flood(request), stream)
    stream.reset()
    await request.wait_aborted()


async def unread_request(pair: Pair) -> None:
    stream = await pair.client.open("POST", "/flood", [("content-length", str(BODY_BYTES))])
    request = await pair.backend.request("/flood")
    await check_held_up(pair, Flood(stream), request)
    stream.reset()
    # A TCP connection tells of its reset behind what came before it.
    await expect_abort(request)


@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
def test_a_stream_that_nobody_reads_holds_up_only_itself(
    front: Version, back: Version, tmp_path: Path
) -> None:
    async def body(net: Network) -> None:
        async with process_pair(net, front, back, tmp_path, quic_engine="aioquic") as (pair, process):
            before = await memory_in_use(pair, process)
            await pair.world.finish(unread_response(pair))
            await pair.world.finish(unread_request(pair))
            check_memory(process, before, MOST_MEMORY_BYTES)

    run_on("asyncio", body)


async def unread_request_alone(pair: Pair) -> None:
    """The flood stops, whatever becomes of others on its connection; behind it all is well."""
    stream = await pair.client.open("POST", "/flood", [("content-length", str(BODY_BYTES))])
    request = await pair.backend.request("/flood")
    flood = Flood(stream)
    pair.world.spawn(flood.run())
    other = Pair(pair.world, await pair.client.another(), pair.backend, None)
    await exchange_until_held_up(other, flood, 0)
    assert flood.sent_bytes > 0
    stream.reset()
    # A TCP connection tells of its reset behind what came before it.
    await expect_abort(request)
    await exchange_beside(pair, 0)
    check_one_connection(pair)


@pytest.mark.parametrize("back", VERSIONS)
def test_the_fast_quic_engine_bounds_what_waits_by_the_connection(back: Version, tmp_path: Path) -> None:
    """qh3 has one limit for all uploads of a connection, so one that nobody reads may stop the others."""

    async def body(net: Network) -> None:
        async with process_pair(net, "3", back, tmp_path, quic_engine="qh3") as (pair, process):
            before = await memory_in_use(pair, process)
            await pair.world.finish(unread_response(pair))
            check_memory(process, before, MOST_MEMORY_BYTES)
            await pair.world.finish(unread_request_alone(pair))
            check_memory(process, before, MOST_MEMORY_WITH_QH3_BYTES)

    run_on("asyncio", body)


async def memory_in_use(pair: Pair, process: ProxyProcess) -> int:
    """Once every path that a request takes has been taken."""
    for number in range(4):
        await exchange_beside(pair, number)
    return process.peak_memory_bytes()


def check_memory(process: ProxyProcess, before: int, most: int) -> None:
    grown = process.peak_memory_bytes() - before
    assert grown <= most, f"{grown} bytes"
