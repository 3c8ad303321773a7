"""A client and a backend with a proxy between them, or with none, to prove the two against each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixed_certificates import authority, identity
from harness import Network, ProxyHandle
from matrix_ends import Backend, Client, open_client, start_backend
from matrix_peers import AUTHORITY, Version
from matrix_world import World, world_on
from proxy_process import ProxyProcess

BACKEND_PROTOCOL = {"1.1": "http1", "2": "http2", "3": "http3"}


@dataclass
class Pair:
    """Who talks to whom in a case."""

    world: World
    client: Client
    backend: Backend
    proxy: ProxyHandle | None
    is_direct: bool = False

    @property
    def front_is_multiplexed(self) -> bool:
        return self.client.version != "1.1"


def route(backend: Backend, front: Version, *, tls: bool) -> dict[str, Any]:
    """A route for clients of one version to a backend of another; HTTP/2 backends speak it in clear text."""
    target: dict[str, Any] = {"host": backend.host, "port": backend.port}
    if backend.version == "3":
        target["tls"] = {"ca": authority().certificate, "server_name": AUTHORITY}
    action: dict[str, Any] = {
        "type": "forward",
        "targets": [target],
        "options": {"backend_protocol": BACKEND_PROTOCOL[backend.version]},
    }
    match: dict[str, Any] = {"ports": 0}
    if tls:
        certificate = {"cert": identity(AUTHORITY).certificate, "key": identity(AUTHORITY).key}
        action["tls"] = {"mode": "terminate", "certificate": certificate}
    if front == "3":
        match["transport"] = "all"
        action["udp"] = {"quic": {"enable_http3": True}}
    return {"match": match, "action": action}


@asynccontextmanager
async def proxied_pair(
    net: Network, front: Version, back: Version, *, tls: bool | None = None, **options: Any
) -> AsyncIterator[Pair]:
    """A pair with a proxy. `tls` of the client's connection, left out: what is usual for its version."""
    if tls is None:
        tls = front == "3" or (front == "2" and net.name != "simulation")
    async with world_on(net) as world:
        backend = await start_backend(world, back)
        proxy = await net.start_proxy([route(backend, front, tls=tls)], **options)
        client = await open_client(world, front, proxy.port, tls=tls)
        yield Pair(world, client, backend, proxy)


@asynccontextmanager
async def process_pair(
    net: Network, front: Version, back: Version, folder: Path, **options: Any
) -> AsyncIterator[tuple[Pair, ProxyProcess]]:
    """A pair with a proxy in a process of its own."""
    tls = front != "1.1"
    async with world_on(net) as world:
        backend = await start_backend(world, back)
        with ProxyProcess(
            folder / "proxy", [route(backend, front, tls=tls)], graceful_shutdown_timeout=0, **options
        ) as process:
            (port,) = process.records_of("started")[0]["ports"]
            client = await open_client(world, front, port, tls=tls)
            yield Pair(world, client, backend, None), process


@asynccontextmanager
async def direct_pair(net: Network, version: Version) -> AsyncIterator[Pair]:
    """A pair without a proxy."""
    async with world_on(net) as world:
        backend = await start_backend(world, version)
        client = await open_client(world, version, backend.port, backend.host)
        yield Pair(world, client, backend, None, is_direct=True)
