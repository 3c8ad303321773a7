"""Test a proxy's configuration and a client's retry logic in virtual time, on a network that fails by seed.

    python examples/simulate_my_program.py            # sweep 200 seeds
    python -m smartproxy.drivers.simulation examples/simulate_my_program.py:orders --seed 7 --transcript

The program under test is `place_order`: it must order exactly once, whatever the network does.
"""

from smartproxy.drivers.simulation import (
    WEATHER_ERRORS,
    Faults,
    HttpClient,
    HttpRequest,
    HttpResponse,
    Simulation,
    sweep,
)

CONFIG = {
    "routes": [
        {
            "match": {"ports": 80, "path": "/orders/*"},
            "action": {
                "type": "forward",
                "targets": [{"host": ["shop1.internal", "shop2.internal"], "port": 8080}],
            },
        }
    ]
}


async def place_order(sim: Simulation, order: bytes) -> int:
    """Try until there is an answer. PUT is idempotent, so trying again is safe (RFC 9110 §9.2.2)."""
    for attempt in range(12):
        try:
            client = HttpClient(await sim.connect(80))
            response = await sim.wait_for(client.request(b"PUT", b"/orders/" + order, body=b"1 tea"), 30.0)
        except WEATHER_ERRORS:
            await sim.sleep(2.0**attempt)
            continue
        client.connection.close()
        if response.status == 201:
            return attempt
        await sim.sleep(2.0**attempt)
    raise AssertionError(f"order {order!r} was never placed")


async def orders(sim: Simulation) -> None:
    """Three clients order through the proxy; both shops keep one list."""
    sim.faults = Faults.rough()
    sim.resolver["shop1.internal"] = ["10.0.0.1"]
    sim.resolver["shop2.internal"] = ["10.0.0.2"]
    placed: dict[bytes, bytes] = {}

    async def shop(request: HttpRequest) -> HttpResponse:
        placed[request.target] = request.body
        return HttpResponse(201, body=b"thank you")

    sim.http_backend("10.0.0.1", 8080, shop)
    sim.http_backend("10.0.0.2", 8080, shop)
    proxy = sim.start_proxy(CONFIG)

    await sim.gather(*(place_order(sim, b"%d" % number) for number in range(3)))
    assert placed == {b"/orders/%d" % number: b"1 tea" for number in range(3)}
    await sim.sleep(300.0)
    assert proxy.engine.connection_count == 0, "the proxy still holds a connection"


def main(seeds: int = 200) -> None:
    failures = sweep(orders, range(seeds))
    for failure in failures:
        print(failure.message)
    print(f"{seeds} networks, {len(failures)} failures")


if __name__ == "__main__":
    main()
