"""Alt-Svc and Age of a backend's response, and what the age takes from an alternative's life."""

from __future__ import annotations

import pytest
from engine_by_hand import EngineByHand, configuration, request, route, target
from engine_http2_by_hand import http2_backend

from smartproxy.core.configuration import BackendProtocol, ForwardAction
from smartproxy.core.http.advertised import advertised
from smartproxy.core.http.messages import Fields, ResponseHead

H3 = b'h3=":443"'


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], (None, 0.0)),
        ([(b"age", b"5")], (None, 0.0)),
        ([(b"alt-svc", H3)], (H3, 0.0)),
        ([(b"age", b"100"), (b"alt-svc", H3)], (H3, 100.0)),
        ([(b"alt-svc", H3), (b"alt-svc", b'h2=":8"')], (H3 + b', h2=":8"', 0.0)),
        ([(b"alt-svc", H3), (b"age", b"-3")], (H3, 0.0)),
        ([(b"alt-svc", H3), (b"age", b"9" * 400)], (H3, 0.0)),
        ([(b"alt-svc", H3), (b"age", b"soon")], (H3, 0.0)),
    ],
)
def test_what_a_response_advertises(fields: Fields, expected: tuple[bytes | None, float]) -> None:
    assert advertised(ResponseHead(200, fields)) == expected


def test_the_pool_hears_of_both() -> None:
    action = ForwardAction((target(),), backend_protocol=BackendProtocol.HTTP2)
    hand = EngineByHand(configuration(route("app", action)))
    heard: list[tuple[int, bytes | None, float]] = []
    client = hand.connect(data=request())
    backend = http2_backend(hand)
    [pool] = hand.engine._pools.live
    chooser = pool.chooser

    def response_received(
        attempt: object, status: int, alt_svc: bytes | None, now: float, *, response_age_s: float = 0.0
    ) -> None:
        heard.append((status, alt_svc, response_age_s))

    object.__setattr__(pool, "chooser", _Listening(chooser, response_received))
    backend.respond(backend.new_stream(), 200, (b"alt-svc", H3), (b"age", b"30"))
    assert heard == [(200, H3, 30.0)]
    client.reset()
    hand.settle()


class _Listening:
    """A chooser one of whose ears is the test's."""

    def __init__(self, chooser: object, response_received: object) -> None:
        self._chooser = chooser
        self.response_received = response_received

    def __getattr__(self, name: str) -> object:
        return getattr(self._chooser, name)
