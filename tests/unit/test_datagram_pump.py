"""UDP links on real sockets over loopback, under an engine that does as the test says."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from fake_engine import DatagramRecorder, FakeEngine, SteppedDriver

from smartproxy.core.datagrams import (
    MAX_QUEUED_BYTES,
    MAX_QUEUED_DATAGRAMS,
    PULL_BYTES,
    Datagram,
    DatagramLink,
)
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import Address, CancelOperation, OpenDatagrams, Opened, OperationFailed
from smartproxy.drivers import datagram_rounds, datagrams
from smartproxy.drivers.datagrams import (
    BURST_DATAGRAMS,
    MAX_SEGMENTATION_REFUSALS,
    DatagramSocket,
    open_bound,
)
from smartproxy.drivers.readiness import SelectorSource


@pytest.fixture(params=["epoll", "selector"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedDriver]:
    if request.param == "selector":
        monkeypatch.setattr(
            datagram_rounds, "readiness_source", lambda: SelectorSource(selectors.DefaultSelector())
        )
    driver = SteppedDriver(FakeEngine())
    yield driver
    driver.close()


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with udp_socket() as peer:
        yield peer


def udp_socket(host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    sock.bind((host, 0))
    return sock


def echo(recorder: DatagramRecorder) -> None:
    recorder.on_datagrams = recorder.link.send


def listening(driver: SteppedDriver, *hosts: str) -> tuple[int, DatagramRecorder]:
    port = driver.listen_udp(0, hosts or ["127.0.0.1"])
    return port, driver.fake.udp_listeners[-1]


def connected(driver: SteppedDriver, peer: socket.socket) -> DatagramRecorder:
    operation_id, upstream = driver.do(lambda: driver.fake.open_datagrams(peer.getsockname()[:2]))
    assert isinstance(driver.fake.results[operation_id], Opened)
    return cast(DatagramRecorder, upstream)


def send_and_close(session: DatagramRecorder, peer: socket.socket) -> None:
    session.link.send([(b"last", peer.getsockname())])
    session.link.close()


def closed_port() -> Address:
    with udp_socket() as sock:
        address: Address = sock.getsockname()
        return address


# Listening.


def test_a_listener_echoes(driver: SteppedDriver, peer: socket.socket) -> None:
    port, listener = listening(driver)
    echo(listener)
    assert listener.link.local == ("127.0.0.1", port)
    assert listener.link.peer is None
    peer.sendto(b"hello", ("127.0.0.1", port))
    driver.run_until(lambda: bool(listener.received))
    assert listener.received == [(b"hello", peer.getsockname())]
    assert peer.recvfrom(100) == (b"hello", ("127.0.0.1", port))
    assert listener.link.bytes_sent == 5


def test_an_empty_datagram_is_one(driver: SteppedDriver, peer: socket.socket) -> None:
    port, listener = listening(driver)
    echo(listener)
    peer.sendto(b"", ("127.0.0.1", port))
    driver.run_until(lambda: bool(listener.received))
    assert peer.recv(100) == b""


def test_all_hosts_get_the_same_port(driver: SteppedDriver) -> None:
    port = driver.listen_udp(0, ["127.0.0.1", "127.0.0.2", "::1"])
    assert {each.link.local for each in driver.fake.udp_listeners} == {
        ("127.0.0.1", port),
        ("127.0.0.2", port),
        ("::1", port),
    }
    assert driver.listening_udp_ports() == {0: port}
    assert driver.listen_udp(0, ["127.0.0.1"]) == port, "it is bound already"


def test_udp_can_take_the_port_that_tcp_got(driver: SteppedDriver) -> None:
    port = driver.listen(0, ["127.0.0.1"])
    assert driver.listen_udp(0, ["127.0.0.1"], bind_port=port) == port
    assert driver.listening_ports() == driver.listening_udp_ports() == {0: port}


def test_a_port_in_use_leaves_nothing_bound(driver: SteppedDriver, peer: socket.socket) -> None:
    port = peer.getsockname()[1]
    with pytest.raises(OSError, match=f"cannot bind UDP 127.0.0.1:{port}"):
        driver.listen_udp(port, ["127.0.0.2", "127.0.0.1"])
    assert driver.listening_udp_ports() == {}
    open_bound("127.0.0.2", port).close()


def test_a_listener_that_nobody_wants_is_closed(driver: SteppedDriver) -> None:
    driver.fake.wants_udp = False
    port = driver.listen_udp(0, ["127.0.0.1"])
    assert driver.listening_udp_ports() == {}
    open_bound("127.0.0.1", port).close()


def test_an_engine_that_raises_leaves_nothing_bound(driver: SteppedDriver) -> None:
    def raise_at_the_second(listening_port: int, local: Address, now: float) -> DatagramLink | None:
        if driver.fake.udp_listeners:
            raise ZeroDivisionError
        return FakeEngine.handle_udp_bound(driver.fake, listening_port, local, now)

    driver.fake.handle_udp_bound = raise_at_the_second  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        driver.listen_udp(0, ["127.0.0.1", "127.0.0.2"])
    [bound] = driver.fake.udp_listeners
    assert driver.listening_udp_ports() == {0: bound.link.local[1]}
    driver.stop_listening_udp(0)
    for host in ("127.0.0.1", "127.0.0.2"):
        open_bound(host, bound.link.local[1]).close()


@pytest.mark.parametrize(("wildcard", "host"), [("0.0.0.0", "127.0.0.5"), ("::", "::1")])
def test_answers_come_from_the_address_sent_to(driver: SteppedDriver, wildcard: str, host: str) -> None:
    port, listener = listening(driver, wildcard)
    with udp_socket("::1" if ":" in host else "127.0.0.1") as peer:
        echo(listener)
        # Several at once, so that segmented sends have to name their source as well.
        for _ in range(3):
            peer.sendto(b"hello", (host, port))
        driver.run_until(lambda: len(listener.received) == 3)
        for _ in range(3):
            data, source = peer.recvfrom(100)
            assert (data, source[:2]) == (b"hello", (host, port))


def test_only_so_many_answer_addresses_are_kept(
    driver: SteppedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "MAX_REPLY_SOURCES", 2)
    port, listener = listening(driver, "0.0.0.0")
    with udp_socket() as oldest, udp_socket() as busy, udp_socket() as newest:
        for count, peer in enumerate((busy, oldest, busy, newest), 1):
            peer.sendto(b"x", ("127.0.0.5", port))
            driver.run_until(lambda count=count: len(listener.received) == count)  # type: ignore[misc]
        sources = listener.link.transport._reply_sources
        assert list(sources) == [busy.getsockname(), newest.getsockname()]
        everyone = [each.getsockname() for each in (oldest, busy, newest)]
        driver.do(lambda: listener.link.send([(b"answer", address) for address in everyone]))
        # Routing picks another address for the one that is forgotten.
        assert oldest.recvfrom(100)[1] == ("127.0.0.1", port)
        assert busy.recvfrom(100)[1] == newest.recvfrom(100)[1] == ("127.0.0.5", port)


def test_one_peers_errors_are_not_the_listeners(driver: SteppedDriver, peer: socket.socket) -> None:
    port, listener = listening(driver)
    echo(listener)
    refused = closed_port()
    unreachable = ("240.0.0.1", 9)
    driver.do(lambda: listener.link.send([(b"x", refused), (b"x", unreachable), (b"x", ("127.0.0.1", 0))]))
    driver.settle()
    driver.do(lambda: listener.link.send([(b"to all", unreachable), (b"to one", peer.getsockname())]))
    assert peer.recv(100) == b"to one"
    assert not listener.lost_reasons
    assert not driver.fake.bugs
    peer.sendto(b"still there", ("127.0.0.1", port))
    driver.run_until(lambda: bool(listener.received))


def test_no_longer_listening(driver: SteppedDriver, peer: socket.socket) -> None:
    port, listener = listening(driver)
    farewell: list[Datagram] = [(b"farewell", peer.getsockname())]
    listener.on_lost = lambda: listener.link.send(farewell)
    driver.stop_listening_udp(0)
    assert peer.recv(100) == b"farewell"
    assert listener.lost_reasons == [LostReason.ERROR]
    assert driver.listening_udp_ports() == {}
    driver.do(lambda: listener.link.send(farewell))
    assert listener.link.outgoing_count == 0
    assert not driver._datagram_sockets
    open_bound("127.0.0.1", port).close()


def test_the_engine_closes_a_listener(driver: SteppedDriver, peer: socket.socket) -> None:
    port, listener = listening(driver)
    other = driver.listen_udp(1, ["127.0.0.1"], bind_port=0)
    driver.do(lambda: send_and_close(listener, peer))
    assert peer.recv(100) == b"last"
    assert driver.listening_udp_ports() == {1: other}
    open_bound("127.0.0.1", port).close()


def test_a_bug_in_a_listeners_session_does_not_close_it(driver: SteppedDriver, peer: socket.socket) -> None:
    port, listener = listening(driver)

    def raise_for(datagrams: list[Datagram]) -> None:
        if datagrams[0][0] == b"bad":
            raise ZeroDivisionError
        listener.link.send(datagrams)

    listener.on_datagrams = raise_for
    peer.sendto(b"bad", ("127.0.0.1", port))
    driver.run_until(lambda: bool(driver.fake.bugs))
    assert driver.fake.bugs[0][0] is listener.link
    peer.sendto(b"good", ("127.0.0.1", port))
    driver.run_until(lambda: len(listener.received) == 2)
    assert peer.recv(100) == b"good"


# Connected sockets.


def test_a_connected_socket_sends_and_receives(driver: SteppedDriver, peer: socket.socket) -> None:
    upstream = connected(driver, peer)
    link = upstream.link
    driver.do(lambda: link.send([(b"one", ("192.0.2.1", 1)), (b"three", peer.getsockname())]))
    assert peer.recvfrom(100) == (b"one", link.local)
    assert peer.recv(100) == b"three"
    peer.sendto(b"answer", link.local)
    driver.run_until(lambda: bool(upstream.received))
    assert upstream.received == [(b"answer", peer.getsockname())]
    with udp_socket() as stranger:
        stranger.sendto(b"from elsewhere", link.local)
        driver.settle()
    assert len(upstream.received) == 1


def test_what_was_sent_before_the_socket_was_there(driver: SteppedDriver, peer: socket.socket) -> None:
    def open_and_send() -> None:
        _, upstream = driver.fake.open_datagrams(peer.getsockname())
        upstream.link.send([(b"early", peer.getsockname())])

    driver.do(open_and_send)
    assert peer.recv(100) == b"early"


def test_a_refused_datagram_is_told(driver: SteppedDriver) -> None:
    address = closed_port()
    operation_id, upstream = driver.do(lambda: driver.fake.open_datagrams(address))
    assert isinstance(driver.fake.results[operation_id], Opened)
    driver.do(lambda: upstream.link.send([(b"anybody there?", address)]))
    driver.run_until(lambda: bool(upstream.lost_reasons))
    assert upstream.lost_reasons == [LostReason.REFUSED]
    # The socket stays; a second datagram is refused anew.
    driver.do(lambda: upstream.link.send([(b"and now?", address)]))
    driver.run_until(lambda: len(upstream.lost_reasons) == 2)
    driver.settle()


def test_a_refusal_met_while_sending_is_told(driver: SteppedDriver) -> None:
    address = closed_port()
    _, upstream = driver.do(lambda: driver.fake.open_datagrams(address))
    driver.do(lambda: upstream.link.send([(b"x", address), (b"different length", address)] * 10))
    assert upstream.lost_reasons == [LostReason.REFUSED]
    assert upstream.link.outgoing_count == 0
    driver.settle()


def test_an_address_without_a_route(driver: SteppedDriver) -> None:
    operation_id, upstream = driver.do(lambda: driver.fake.open_datagrams(("240.0.0.1", 9)))
    result = driver.fake.results[operation_id]
    if isinstance(result, OperationFailed):
        assert result.reason in (LostReason.UNREACHABLE, LostReason.ERROR)
        assert upstream.link.transport is None
    else:
        # A system with a default route takes it all the same.
        assert isinstance(result, Opened)


def test_a_cancelled_opening_leaves_no_socket(driver: SteppedDriver, peer: socket.socket) -> None:
    def open_and_cancel() -> DatagramRecorder:
        operation_id, upstream = driver.fake.open_datagrams(peer.getsockname())
        driver.fake.context.operations.append(CancelOperation(operation_id))
        return upstream

    upstream = driver.do(open_and_cancel)
    assert not driver.fake.results
    assert upstream.link.transport is None
    assert not driver._datagram_sockets


def test_no_descriptor_left(driver: SteppedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: Address) -> socket.socket:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(datagram_rounds, "open_connected", fail)
    operation_id, _ = driver.do(lambda: driver.fake.open_datagrams(("127.0.0.1", 9)))
    assert driver.fake.results[operation_id] == OperationFailed(
        LostReason.RESOURCE_EXHAUSTED, "too many open files"
    )


def test_closing_sends_what_is_queued(driver: SteppedDriver, peer: socket.socket) -> None:
    upstream = connected(driver, peer)
    link = upstream.link
    driver.do(lambda: send_and_close(upstream, peer))
    assert peer.recv(100) == b"last"
    assert link.transport is None
    assert not driver._datagram_sockets
    driver.do(lambda: link.send([(b"too late", peer.getsockname())]))
    assert link.outgoing_count == 0


def test_closing_the_driver_closes_every_udp_socket(driver: SteppedDriver, peer: socket.socket) -> None:
    port, _ = listening(driver)
    connected(driver, peer)
    driver.close()
    assert not driver._datagram_sockets
    open_bound("127.0.0.1", port).close()


# Bursts.


def mixed(count: int, address: Address) -> list[Datagram]:
    """Datagrams of many lengths, in runs such as segmentation likes and in others."""
    sizes = [1200, 1200, 1200, 300, 0, 1, 1, 9000, 1350, 1350, 1349, 1351]
    return [(index.to_bytes(2) * (sizes[index % len(sizes)] // 2), address) for index in range(count)]


def test_a_burst_arrives_whole_and_in_order(driver: SteppedDriver, peer: socket.socket) -> None:
    _, listener = listening(driver)
    sent = mixed(200, peer.getsockname())
    driver.do(lambda: listener.link.send(sent))
    assert [peer.recv(65535) for _ in sent] == [data for data, _ in sent]


def test_a_burst_between_two_of_our_own_sockets(driver: SteppedDriver) -> None:
    """Segmented on the one side, it may arrive in one piece on the other."""
    port, listener = listening(driver)
    _, upstream = driver.do(lambda: driver.fake.open_datagrams(("127.0.0.1", port)))
    sent = mixed(200, ("127.0.0.1", port))
    driver.do(lambda: upstream.link.send(sent))
    driver.run_until(lambda: len(listener.received) == 200)
    assert [data for data, _ in listener.received] == [data for data, _ in sent]
    assert {address for _, address in listener.received} == {upstream.link.local}
    assert max(listener.bursts) < BURST_DATAGRAMS + datagrams.MAX_GROUP_DATAGRAMS, "others have their turn"


def test_many_peers_in_one_burst(driver: SteppedDriver) -> None:
    port, listener = listening(driver)
    echo(listener)
    peers = [udp_socket() for _ in range(20)]
    for number, peer in enumerate(peers):
        peer.sendto(b"from %d" % number, ("127.0.0.1", port))
    driver.run_until(lambda: len(listener.received) == len(peers))
    for number, peer in enumerate(peers):
        assert peer.recv(100) == b"from %d" % number
        peer.close()


def test_what_no_packet_can_carry_is_dropped(driver: SteppedDriver, peer: socket.socket) -> None:
    upstream = connected(driver, peer)
    address = peer.getsockname()
    driver.do(
        lambda: upstream.link.send([(b"before", address), (bytes(65_535), address), (b"after", address)])
    )
    assert [peer.recv(100), peer.recv(100)] == [b"before", b"after"]
    assert not upstream.lost_reasons


# The link.


def new_link() -> DatagramLink:
    return FakeEngine().new_datagram_link(("127.0.0.1", 9)).link


def test_the_queue_is_bounded_in_bytes() -> None:
    link = new_link()
    link.send([(bytes(MAX_QUEUED_BYTES - 10), ("", 0))])
    link.send([(bytes(6), ("", 0)), (bytes(6), ("", 0)), (b"", ("", 0))])
    assert link.outgoing_bytes == MAX_QUEUED_BYTES - 4
    assert link.outgoing_count == 2
    assert link.dropped_count == 2


def test_the_queue_is_bounded_in_datagrams() -> None:
    link = new_link()
    link.send([(b"", ("", 0))] * (MAX_QUEUED_DATAGRAMS + 5))
    assert link.outgoing_count == MAX_QUEUED_DATAGRAMS
    assert link.dropped_count == 5


def test_a_pull_is_bounded() -> None:
    link = new_link()
    sent = [(index.to_bytes(2) * 500, ("", 0)) for index in range(1000)]
    link.send(sent)
    pulled: list[Datagram] = []
    while pull := link.pull():
        assert sum(len(data) for data, _ in pull) <= PULL_BYTES
        pulled += pull
    assert pulled == sent
    assert link.outgoing_bytes == link.outgoing_count == 0
    assert link.bytes_sent == 1_000_000


def test_a_long_datagram_is_pulled_all_the_same() -> None:
    link = new_link()
    link.send([(bytes(PULL_BYTES + 1), ("", 0)), (b"x", ("", 0))])
    assert [len(data) for data, _ in link.pull()] == [PULL_BYTES + 1]
    assert link.pull() == [(b"x", ("", 0))]


# A kernel that refuses.


class RefusingSocket:
    """A connected socket that takes what `verdicts` say, one for each call: None, or an errno."""

    family = socket.AF_INET

    def __init__(self, *verdicts: int | None) -> None:
        self.verdicts = list(verdicts)
        self.calls: list[list[bytes]] = []

    def fileno(self) -> int:
        return 9

    def getsockopt(self, level: int, option: int) -> int:
        return 0

    def send(self, data: bytes) -> int:
        return self._take([data])

    def sendmsg(self, buffers: list[bytes], *_: object) -> int:
        return self._take(list(buffers))

    def _take(self, payloads: list[bytes]) -> int:
        verdict = self.verdicts.pop(0) if self.verdicts else None
        if verdict is not None:
            raise OSError(verdict, "refused")
        self.calls.append(payloads)
        return sum(map(len, payloads))


def held_by(sock: RefusingSocket, link: DatagramLink) -> DatagramSocket:
    return DatagramSocket(cast(Any, sock), link, bytearray(10))


def test_no_room_keeps_the_rest() -> None:
    link = new_link()
    sock = RefusingSocket(None, errno.EAGAIN)
    held = held_by(sock, link)
    link.send([(b"a", ("", 0)), (b"long", ("", 0)), (b"longer", ("", 0))])
    assert held.send_burst() is None
    assert sock.calls == [[b"a"]]
    link.send([(b"later", ("", 0))])
    assert held.send_burst() is None
    assert not held.has_unsent
    assert sock.calls == [[b"a"], [b"long"], [b"longer"], [b"later"]]


def test_room_comes_back(driver: SteppedDriver, peer: socket.socket) -> None:
    upstream = connected(driver, peer)
    held = upstream.link.transport
    real, held.sock = held.sock, RefusingSocket(errno.EAGAIN)

    def send_and_ask() -> None:
        upstream.link.send([(b"waits", peer.getsockname())])
        upstream.link.ask_for_writable()

    driver.do(send_and_ask)
    assert upstream.times_writable == 0
    held.sock = real
    driver.do(lambda: upstream.link.send([(b"behind it", peer.getsockname())]))
    driver.run_until(lambda: upstream.times_writable == 1)
    assert [peer.recv(100), peer.recv(100)] == [b"waits", b"behind it"]
    driver.settle()


@pytest.mark.parametrize("verdict", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_segmentation_refused_is_given_up(verdict: int) -> None:
    link = new_link()
    pair = [(b"ab", ("", 0)), (b"cd", ("", 0))]
    sock = RefusingSocket()
    held = held_by(sock, link)
    for _ in range(MAX_SEGMENTATION_REFUSALS):
        sock.verdicts = [verdict]
        link.send(pair)
        assert held.send_burst() is None
    link.send(pair)
    held.send_burst()
    assert sock.calls == [[b"ab"], [b"cd"]] * (MAX_SEGMENTATION_REFUSALS + 1)


def test_segmentation_refused_once_is_tried_again() -> None:
    link = new_link()
    pair = [(b"ab", ("", 0)), (b"cd", ("", 0))]
    sock = RefusingSocket()
    held = held_by(sock, link)
    for _ in range(2 * MAX_SEGMENTATION_REFUSALS):
        sock.verdicts = [errno.EINVAL]
        link.send([*pair, (b"x", ("", 0))])
        link.send(pair)
        sock.verdicts += [None, None, None]
        held.send_burst()
    assert sock.calls.count([b"ab", b"cd"]) > 0


def test_no_room_in_the_middle_of_a_refused_group() -> None:
    link = new_link()
    sock = RefusingSocket(errno.EIO, None, errno.EAGAIN)
    held = held_by(sock, link)
    link.send([(b"ab", ("", 0)), (b"cd", ("", 0)), (b"ef", ("", 0))])
    held.send_burst()
    assert held.has_unsent
    held.send_burst()
    assert sock.calls == [[b"ab"], [b"cd", b"ef"]]


def test_a_refused_peer_costs_its_own_group_only() -> None:
    link = new_link()
    sock = RefusingSocket(errno.ECONNREFUSED)
    held = held_by(sock, link)
    link.send([(b"ab", ("", 0)), (b"cd", ("", 0)), (b"longer", ("", 0))])
    assert held.send_burst() is LostReason.REFUSED
    assert sock.calls == [[b"longer"]]


@pytest.mark.parametrize("verdict", [errno.ENOBUFS, errno.EPERM, errno.EMSGSIZE])
def test_a_local_refusal_is_a_loss_like_any_other(verdict: int) -> None:
    link = new_link()
    sock = RefusingSocket(verdict)
    held = held_by(sock, link)
    link.send([(b"lost", ("", 0)), (b"goes on", ("", 0))])
    assert held.send_burst() is None
    assert sock.calls == [[b"goes on"]]


def test_without_segmentation_each_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "_IS_LINUX", False)
    link = new_link()
    sock = RefusingSocket()
    held = held_by(sock, link)
    link.send([(b"ab", ("", 0)), (b"cd", ("", 0))])
    held.send_burst()
    assert sock.calls == [[b"ab"], [b"cd"]]


def test_a_bug_of_the_drivers_drops_what_it_choked_on(driver: SteppedDriver, peer: socket.socket) -> None:
    _, listener = listening(driver)
    driver.do(lambda: listener.link.send([(b"x", ("127.0.0.1", 1_000_000))]))
    assert isinstance(driver.fake.bugs[0][1], OverflowError)
    driver.do(lambda: listener.link.send([(b"goes on", peer.getsockname())]))
    assert peer.recv(100) == b"goes on"


def test_an_operation_for_udp_says_where_to() -> None:
    operation = OpenDatagrams(1, new_link(), ("127.0.0.1", 9))
    assert operation.link.peer == operation.address
