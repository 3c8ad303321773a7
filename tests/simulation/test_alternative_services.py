"""An alternative service in virtual time: found, used, lost with UDP, left alone, tried and found again."""

from __future__ import annotations

from chained_scenarios import INNER_IP, ChainedTraffic, front_config, inner_config
from http_scenarios import PORT, body_of
from simulated_world import World

from smartproxy.core.records import Record
from smartproxy.drivers.simulation import Faults, HttpClient, Simulation

STORY = (
    "alt_svc_discovered",
    "quic_dial",
    "fell_back",
    "h3_marked_broken",
    "h3_suppressed",
    "h3_retry",
    "h3_recovered",
)
POOL_IDLE_S = 2


class PlainTraffic(ChainedTraffic):
    backends_have_moods = False


def test_http3_is_discovered_lost_left_alone_and_found_again() -> None:
    with Simulation(1) as sim:
        world = World(sim, front_config("auto", with_tls=True, pool_idle_timeout=POOL_IDLE_S), Faults())
        world.start(inner_config(with_tls=True, quic={}))
        traffic = PlainTraffic(sim, world)
        traffic.start_backends()
        records = world.proxy.driver.records

        def story() -> list[str]:
            """What has been told since it was last asked for, and how backends were connected."""
            told = [record for record in records if isinstance(record, Record)]
            records.clear()
            return [
                f"connected by {record.fields['protocol']}"
                if record.event == "backend_connected"
                else record.event
                for record in told
                if record.event in (*STORY, "backend_connected")
            ]

        async def ask(tag: bytes) -> None:
            traffic.methods[tag] = b"GET"
            client = HttpClient(await sim.connect(PORT))
            response = await client.request(b"GET", b"/" + tag, fields=[(b"x-tag", tag)])
            assert response.status == 200
            assert response.body == body_of(tag, len(response.body))
            client.connection.close()

        async def let_connections_go() -> None:
            await sim.sleep(POOL_IDLE_S + 1.0)

        async def scenario() -> None:
            await ask(b"first")
            assert story() == ["connected by http2", "alt_svc_discovered"]

            await let_connections_go()
            await ask(b"second")
            assert story() == ["quic_dial", "connected by http3"]

            await let_connections_go()
            sim.block_udp(INNER_IP)
            asked_at = sim.now
            await ask(b"third")
            assert sim.now - asked_at < 1.0
            await let_connections_go()
            await sim.sleep(1.0)
            assert story() == ["quic_dial", "connected by http2", "fell_back", "h3_marked_broken"]

            await ask(b"fourth")
            assert story() == ["h3_suppressed", "connected by http2"]

            sim.unblock_udp(INNER_IP)
            await sim.sleep(3600.0)
            await ask(b"fifth")
            await ask(b"sixth")
            told = story()
            assert [event for event in told if event in STORY] == ["h3_retry", "quic_dial", "h3_recovered"]
            assert "connected by http3" in told

        sim.run_until_complete(scenario())
        sim.run_until_complete(world.settle())
