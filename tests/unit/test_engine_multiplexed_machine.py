"""Multiplexed streams through the engine under Hypothesis; the model is in multiplexed_machine.py."""

from __future__ import annotations

from engine_http2_by_hand import data_frames
from multiplexed_machine import MultiplexedMachine

from smartproxy.core.ops import OpenStream

TestMultiplexedMachine = MultiplexedMachine.TestCase


def test_a_tunnel_whose_backend_is_lost_is_reset_though_its_client_has_ended() -> None:
    # Found by the machine: only a connection of its own may be reset by a server that merely closed it.
    machine = MultiplexedMachine()
    machine.begin()
    machine.begin_request(machine.clients[0], 0, 2, ends=False)
    (operation,) = machine.hand.pending.values()
    assert isinstance(operation, OpenStream)
    machine.new_backend(operation, None, 65535, gives_credit=True)
    machine.look()
    (request,), (response,) = machine.requests, machine.responses
    machine.go_on_answering(response, 200, 5, end=False)
    request.client.feed(data_frames(request.stream_id, b"", end=True))
    machine.look()
    response.backend.end.reset()
    machine.look()
    seen = request.client.streams[request.stream_id]
    assert not seen.ended
    assert seen.reset is not None
    machine.teardown()
