"""TLS through the proxy: terminated, re-encrypted and passed through on one port; PROXY headers both ways."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

from fixed_certificates import (
    Identity,
    authority,
    client_context,
    identity,
    raw_client_context,
)
from http_scenarios import BACKEND_IPS, PATIENCE_S, Traffic
from simulated_world import World, forward_route

from smartproxy.core.wire.proxy_protocol import ProxyHeaderDecoder, encode_proxy_v2
from smartproxy.drivers.simulation import (
    CLIENT_IP,
    WEATHER_ERRORS,
    ByteConnection,
    Connection,
    Simulation,
    TlsConnection,
    serve_http,
)
from smartproxy.drivers.simulation.faults import log_uniform

PORT = 4430
TLS_WEATHER = (*WEATHER_ERRORS, ssl.SSLError)
"""A TLS connection that is cut may tell by its own error."""

PASSED = "passed.example.com"
TERMINATED = "terminated.example.com"
REENCRYPTED = "reencrypted.example.com"


@cache
def _backend_context(name: str) -> ssl.SSLContext:
    return identity(name).server_context()


def _certificate(of: Identity) -> dict[str, str]:
    return {"cert": of.certificate, "key": of.key}


@cache
def tls_config() -> dict[str, Any]:
    """Three names on one port, each with its own way of doing TLS."""
    backend_tls = {"ca": authority().certificate, "server_name": REENCRYPTED}
    routes = []
    for name, port, tls in (
        (PASSED, 9443, {"mode": "passthrough"}),
        (TERMINATED, 8080, {"mode": "terminate", "certificate": _certificate(identity(TERMINATED))}),
        (
            REENCRYPTED,
            8443,
            {
                "mode": "terminate-and-reencrypt",
                "certificate": _certificate(identity(REENCRYPTED)),
                "backend": backend_tls,
            },
        ),
    ):
        route = forward_route(
            PORT, {"host": ["app1.internal", "app2.internal"], "port": port}, domains=[name]
        )
        route["action"]["tls"] = tls
        routes.append(route)
    return {"routes": routes, "disable_default_cert": True}


class TlsTraffic(Traffic):
    """The HTTP traffic over TLS, and an echo behind the name that is passed through."""

    def start_backends(self) -> None:
        super().start_backends()
        for host in BACKEND_IPS:
            self.sim.backend(host, 8443, self._serve_https)
            self.sim.backend(host, 9443, self._serve_echo)

    async def _serve_https(self, connection: Connection) -> None:
        try:
            tls = await TlsConnection.start(connection, _backend_context(REENCRYPTED), server_side=True)
            assert tls.tls.server_side
            await serve_http(tls, self.respond)
        except ssl.SSLError:
            connection.reset()

    async def _serve_echo(self, connection: Connection) -> None:
        try:
            tls = await TlsConnection.start(connection, _backend_context(PASSED), server_side=True)
            while data := await tls.receive():
                await tls.send(data)
            await tls.send_eof()
            tls.close()
        except ssl.SSLError:
            connection.reset()

    async def client(self, name: str) -> None:
        random = self.sim.random
        await self.sim.sleep(random.random() * 3.0)
        for attempt in range(random.randint(1, 3)):
            server_name = random.choice((PASSED, TERMINATED, REENCRYPTED, "unknown.example.com"))
            try:
                connection = await self.sim.connect(PORT)
                context = raw_client_context() if server_name == PASSED else client_context()
                tls = await TlsConnection.start(connection, context, server_name=server_name)
                assert server_name != "unknown.example.com", "a name that no route has was served"
                if server_name == PASSED:
                    await self._echo(tls)
                else:
                    await self.visit(f"{name}-{attempt}", tls, server_name.encode())
            except TLS_WEATHER:
                continue

    async def _echo(self, connection: ByteConnection) -> None:
        sent = self.sim.random.randbytes(log_uniform(self.sim.random, 1, 100_000))

        async def send() -> bytes:
            await connection.send(sent)
            return b""

        received = await self.sim.gather(send(), connection.receive_exactly(len(sent)))
        assert received[1] == sent
        connection.close()


async def tls_by_name(sim: Simulation) -> None:
    """Passthrough, termination and re-encryption beside each other, chosen by SNI."""
    world = World(sim, tls_config())
    traffic = TlsTraffic(sim, world)
    traffic.start_backends()
    await traffic.run()
    await world.settle()
    traffic.check()


PROXY_PORT = 8001

PROXY_CONFIG: dict[str, Any] = {
    "routes": [
        forward_route(
            PROXY_PORT,
            {"host": "app1.internal", "port": 8081, "send_proxy_protocol": 2},
            inbound_proxy_protocol={"mode": "required", "trusted_proxy_ips": [CLIENT_IP]},
        )
    ]
}


class ProxyHeaderTraffic(Traffic):
    """Clients that come through another proxy, and backends that demand to be told who they are."""

    def __init__(self, sim: Simulation, world: World) -> None:
        super().__init__(sim, world)
        self.sources: dict[bytes, tuple[str, int]] = {}
        self.impostors_served = 0

    def start_backends(self) -> None:
        self.sim.backend("10.0.0.1", 8081, self._serve_behind_header)

    async def _serve_behind_header(self, connection: Connection) -> None:
        decoder = ProxyHeaderDecoder()
        header = None
        while header is None:
            data = await connection.receive()
            if not data:
                raise EOFError("no PROXY header")
            header = decoder.receive_data(data)
        source = header.source
        assert source is not None
        assert source in self.sources.values(), f"nobody came from {source}"
        self.impostors_served += source[0] == "203.0.113.66"
        connection.put_back(decoder.remainder)
        await serve_http(connection, self.respond)

    async def client(self, name: str) -> None:
        random = self.sim.random
        await self.sim.sleep(random.random() * 3.0)
        for attempt in range(random.randint(1, 3)):
            is_trusted = random.random() < 0.8
            peer_ip = CLIENT_IP if is_trusted else "198.51.100.99"
            ip = f"203.0.113.{random.randint(1, 60)}" if is_trusted else "203.0.113.66"
            source = (ip, random.randint(1024, 65535))
            self.sources[f"{name}-{attempt}".encode()] = source
            try:
                connection = await self.sim.connect(PROXY_PORT, peer_ip=peer_ip)
                await connection.send(encode_proxy_v2(source, ("192.0.2.1", PROXY_PORT)))
                await self.visit(f"{name}-{attempt}", connection)
                assert is_trusted, "an untrusted PROXY header was believed"
            except WEATHER_ERRORS:
                continue

    def check(self) -> None:
        super().check()
        assert not self.impostors_served


async def proxy_headers(sim: Simulation) -> None:
    """PROXY headers in, believed from one address only, and out to the backend."""
    world = World(sim, PROXY_CONFIG)
    traffic = ProxyHeaderTraffic(sim, world)
    traffic.start_backends()
    await sim.gather(
        *(
            sim.wait_for(traffic.client(f"c{number}"), PATIENCE_S)
            for number in range(sim.random.randint(1, 4))
        )
    )
    await world.settle()
    traffic.check()
