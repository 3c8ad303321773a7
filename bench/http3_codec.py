"""µs of CPU an HTTP/3 exchange costs the server's half, by QUIC engine: `python bench/http3_codec.py`.

A client and a server share the process and a perfect network; only what the server does is timed.
`--profile ENGINE` says where it goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from time import perf_counter

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3 import (
    EngineName,
    Http3Connection,
    Http3Event,
    Http3Limits,
    RequestReceived,
    available_engines,
)
from smartproxy.testing.http3_network import Client, Faults, Network, Server, client_parameters, get, ok

FIELDS = (
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0.0.0 Safari/537.36"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef; theme=dark"),
    (b"referer", b"https://app.example.com/"),
)
RESPONSE = ok(
    (b"content-type", b"application/json"), (b"cache-control", b"no-cache"), (b"server", b"smartproxy")
)
LIMITS = Http3Limits(idle_timeout_s=3600, window_s=0.001, datagram_bytes=1350)


class TimedServer(Server):
    """Counts the time spent in the server."""

    spent_s = 0.0
    profile: cProfile.Profile | None = None

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self._begin()
        super().receive(data, source, now)
        self._end()

    def send(self, now: float) -> list[tuple[bytes, Address]]:
        self._begin()
        datagrams = super().send(now)
        self._end()
        return datagrams

    def handle_timer(self, now: float) -> None:
        self._begin()
        super().handle_timer(now)
        self._end()

    def _begin(self) -> None:
        if self.profile is not None:
            self.profile.enable()
        self._began = perf_counter()

    def _end(self) -> None:
        self.spent_s += perf_counter() - self._began
        if self.profile is not None:
            self.profile.disable()


def measure(
    engine: EngineName,
    in_flight: int,
    body_bytes: int,
    requests: int,
    profile: cProfile.Profile | None = None,
) -> float:
    """µs of server CPU per exchange."""
    network = Network(faults=Faults(latency_s=0.0005))
    body = bytes(body_bytes)
    answered = 0

    def serve(connection: Http3Connection, event: Http3Event) -> None:
        if isinstance(event, RequestReceived):
            connection.send_response(event.stream_id, RESPONSE, end_stream=False)
            connection.send_data(event.stream_id, body, network.now, end_stream=True)

    server = TimedServer(network, engine, limits=LIMITS, on_event=serve)
    client = Client(network, client_parameters(LIMITS), engine)
    assert network.run_until(lambda: client.is_ready)
    network.run_for(0.1)
    head = get(b"/api/v1/items?id=12345", *FIELDS)

    def run(count: int) -> None:
        nonlocal answered
        answered = sent = 0
        while answered < count:
            while sent < count and client.connection.open_streams < in_flight:
                client.connection.send_request(head, end_stream=True)
                sent += 1
            before = client.connection.open_streams
            network.run_until(lambda: client.connection.open_streams < before)  # noqa: B023 - called at once
            answered += before - client.connection.open_streams
            client.events.clear()
            server.events.clear()

    run(50)
    server.spent_s = 0.0
    server.profile = profile
    run(requests)
    return server.spent_s / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=available_engines())
    chosen: EngineName | None = parser.parse_args().profile
    if chosen is not None:
        profile = cProfile.Profile()
        print(f"{measure(chosen, 8, 1024, 1000, profile):.0f} µs under the profiler")
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    print(f"{'µs of server CPU per exchange':<40}" + "".join(f"{name:>10}" for name in available_engines()))
    for in_flight, body_bytes, requests in ((1, 1024, 500), (8, 1024, 1000), (8, 65536, 100)):
        cells = [measure(engine, in_flight, body_bytes, requests) for engine in available_engines()]
        label = f"{in_flight} in flight, {body_bytes} bytes"
        print(f"{label:<40}" + "".join(f"{cell:10.0f}" for cell in cells))


if __name__ == "__main__":
    main()
