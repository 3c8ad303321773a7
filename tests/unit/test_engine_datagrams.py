"""UDP links under the real engine: whose session an input reaches, and who pays for a bug."""

from __future__ import annotations

import pytest

from smartproxy.config import compile_configuration, parse_config
from smartproxy.core.datagrams import Datagram, DatagramLink
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.ops import Address
from smartproxy.core.records import Record

CLIENT: Address = ("198.51.100.7", 50211)
BACKEND: Address = ("10.0.0.1", 443)
ROUTE = {
    "match": {"ports": 443},
    "action": {"type": "forward", "targets": [{"host": "10.0.0.1", "port": 80}]},
}


class Session:
    """Hears of what comes to a link, and raises if it is told to."""

    def __init__(self, link: DatagramLink) -> None:
        self.received: list[Datagram] = []
        self.failures: list[Failure] = []
        self.times_writable = 0
        self.raises_when_lost = False
        link.handler = self

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        self.received += datagrams

    def datagrams_writable(self) -> None:
        self.times_writable += 1

    def datagrams_lost(self, failure: Failure) -> None:
        self.failures.append(failure)
        if self.raises_when_lost:
            raise ZeroDivisionError


class ListeningEngine(Engine):
    """The engine, with a `Session` on every UDP listener."""

    def _begin_listening_datagrams(self, link: DatagramLink, listening_port: int) -> bool:
        return listening_port == 443


@pytest.fixture
def engine() -> ListeningEngine:
    configuration = compile_configuration(parse_config({"routes": [ROUTE]})).configuration
    return ListeningEngine(configuration, Env(entropy=bytes, wall_clock=lambda: 0.0))


def listener(engine: Engine) -> DatagramLink:
    link = engine.handle_udp_bound(443, ("203.0.113.9", 443), 0.0)
    assert link is not None
    return link


def connected(engine: Engine) -> DatagramLink:
    return engine._new_datagram_link(BACKEND, ("203.0.113.9", 40000))


def bugs(engine: Engine) -> list[str]:
    records = engine.poll_records()
    return [
        str(each.fields["error"])
        for each in records
        if isinstance(each, Record) and each.event == "internal_error"
    ]


def test_a_port_that_asks_for_no_datagrams_gets_no_link(engine: Engine) -> None:
    assert engine.handle_udp_bound(80, ("203.0.113.9", 80), 0.0) is None


def test_a_draining_engine_takes_no_listener(engine: Engine) -> None:
    engine.handle_drain(0.0)
    assert engine.handle_udp_bound(443, ("203.0.113.9", 443), 0.0) is None


def test_datagrams_reach_their_session(engine: Engine) -> None:
    link = listener(engine)
    session = Session(link)
    engine.handle_datagrams(link, [(b"one", CLIENT), (b"three", CLIENT)], 1.5)
    assert session.received == [(b"one", CLIENT), (b"three", CLIENT)]
    assert link.bytes_received == 8
    assert engine.context.now == 1.5


def test_what_a_session_sends_makes_its_link_dirty_once(engine: Engine) -> None:
    link = listener(engine)
    link.send([(b"one", CLIENT)])
    link.send([(b"two", CLIENT)])
    assert engine.poll_dirty_datagram_links() == [link]
    assert engine.poll_dirty_datagram_links() == []
    assert link.pull() == [(b"one", CLIENT), (b"two", CLIENT)]
    link.send([])
    assert engine.poll_dirty_datagram_links() == []
    link.send([(b"three", CLIENT)])
    assert engine.poll_dirty_datagram_links() == [link]


def test_room_is_told_once(engine: Engine) -> None:
    link = connected(engine)
    session = Session(link)
    link.ask_for_writable()
    assert engine.poll_dirty_datagram_links() == [link]
    engine.handle_datagrams_writable(link, 1.0)
    assert session.times_writable == 1
    assert not link.notify_writable


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (LostReason.REFUSED, FailureCode.CONNECTION_REFUSED),
        (LostReason.UNREACHABLE, FailureCode.DESTINATION_IP_UNROUTABLE),
        (LostReason.ERROR, FailureCode.CONNECTION_TERMINATED),
    ],
)
def test_a_loss_is_the_sessions_to_judge(engine: Engine, reason: LostReason, code: FailureCode) -> None:
    link = connected(engine)
    session = Session(link)
    engine.handle_datagrams_lost(link, reason, 1.0)
    assert session.failures == [Failure(FailureSource.BACKEND, code, reason.value)]
    assert not link.closing


def test_a_closed_links_session_hears_nothing_more(engine: Engine) -> None:
    link = connected(engine)
    session = Session(link)
    link.close()
    link.ask_for_writable()
    engine.handle_datagrams(link, [(b"late", BACKEND)], 1.0)
    engine.handle_datagrams_lost(link, LostReason.REFUSED, 1.0)
    engine.handle_datagrams_writable(link, 1.0)
    assert not session.received
    assert not session.failures
    assert not session.times_writable


def test_a_bug_leaves_a_listener_to_everyone_else(engine: Engine) -> None:
    link = listener(engine)
    session = Session(link)
    engine.handle_bug(link, ZeroDivisionError("planted"), 1.0)
    assert bugs(engine) == ["ZeroDivisionError('planted')"]
    assert not link.closing
    engine.handle_datagrams(link, [(b"next", CLIENT)], 2.0)
    assert session.received == [(b"next", CLIENT)]
    assert not session.failures


def test_a_bug_ends_a_connected_link(engine: Engine) -> None:
    link = connected(engine)
    session = Session(link)
    engine.handle_bug(link, ZeroDivisionError("planted"), 1.0)
    assert bugs(engine) == ["ZeroDivisionError('planted')"]
    assert link.closing
    assert [failure.code for failure in session.failures] == [FailureCode.CONNECTION_TERMINATED]


def test_a_bug_in_the_clean_up_is_recorded_too(engine: Engine) -> None:
    link = connected(engine)
    Session(link).raises_when_lost = True
    engine.handle_bug(link, ZeroDivisionError("planted"), 1.0)
    assert bugs(engine) == ["ZeroDivisionError('planted')", "ZeroDivisionError()"]
    assert link.closing
