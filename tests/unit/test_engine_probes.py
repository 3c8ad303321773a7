"""Health probes in the backend's own HTTP version, and what failures of the proxy's own side mean to them."""

from __future__ import annotations

from engine_by_hand import EngineByHand, configuration, plain_forward, request, response, route, target
from engine_http2_by_hand import http2_backend

from smartproxy.core.configuration import BackendProtocol, Balancing, ForwardAction, HealthCheck
from smartproxy.core.failure import LostReason

CHECK = HealthCheck("/health", interval_s=10.0, timeout_s=2.0, unhealthy_threshold=1, healthy_threshold=1)


def started(hand: EngineByHand) -> EngineByHand:
    hand.engine.handle_started(hand.now)
    hand.drain()
    return hand


def stop(hand: EngineByHand) -> None:
    hand.engine.handle_drain(hand.now)
    hand.drain()
    hand.settle()


def test_a_backend_of_http2_is_probed_in_http2() -> None:
    action = ForwardAction(
        (target(balancing=Balancing(health_check=CHECK)),), backend_protocol=BackendProtocol.HTTP2
    )
    hand = started(EngineByHand(configuration(route("app", action))))
    backend = http2_backend(hand)
    probe = backend.new_stream()
    head = backend.stream(probe).head
    assert (head[b":method"], head[b":scheme"], head[b":path"]) == (b"GET", b"http", b"/health")
    backend.respond(probe, 500)
    assert "host_became_unhealthy" in hand.events("upstream")
    hand.advance(10.0)
    backend = http2_backend(hand)
    backend.respond(backend.new_stream())
    assert "host_became_healthy" in hand.events("upstream")
    stop(hand)


def test_a_probe_that_could_not_be_sent_says_nothing_of_the_host() -> None:
    hand = started(EngineByHand(plain_forward("10.0.0.1", balancing=Balancing(health_check=CHECK))))
    for _ in range(3):
        hand.fail(LostReason.RESOURCE_EXHAUSTED)
        hand.advance(10.0)
    assert "host_became_unhealthy" not in hand.events("upstream")
    hand.open().send(response(b"fine"))
    client = hand.connect(data=request())
    assert hand.open().take().startswith(b"GET / ")
    client.reset()
    stop(hand)
