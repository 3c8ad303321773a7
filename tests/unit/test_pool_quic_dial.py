"""QUIC dials: whom they reach, whom they believe, and what they say when neither works."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable
from math import inf
from typing import NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from smartproxy.core.configuration import OriginTls, Timeouts
from smartproxy.core.context import Context
from smartproxy.core.datagrams import DatagramLink
from smartproxy.core.env import Env
from smartproxy.core.failure import Failure, FailureCode, FailureSource, LostReason
from smartproxy.core.ops import (
    Address,
    CancelOperation,
    OpenDatagrams,
    Opened,
    OperationFailed,
    Resolved,
    ResolveHost,
    Result,
)
from smartproxy.core.upstream.attempts import Attempt, AttemptTransport, HttpProtocol
from smartproxy.core.upstream.quic_dial import QuicDial, QuicSupport
from smartproxy.core.upstream.resolver import Resolver
from smartproxy.core.wire.http3 import Http3Connection, Http3Event, QuicServerEndpoint, ServerIdentity
from smartproxy.testing.http3_network import SERVER_NAME, authority, identity

PORT = 8443


def origin_tls(
    *, verifies: bool = True, ca_pem: bytes | None = None, fingerprint: bytes | None = None
) -> OriginTls:
    pem = authority().cert_pem.bytes() if ca_pem is None else ca_pem
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return OriginTls(context, None, fingerprint, "test", verifies=verifies, read_ca_pem=lambda: pem)


class QuicDialByHand:
    """One dial, with a server behind the addresses that answer."""

    def __init__(
        self,
        tls: OriginTls | None = None,
        *,
        host: str = "192.0.2.1",
        certificate_name: str = SERVER_NAME,
        served: ServerIdentity | None = None,
        timeout_s: float = 3.0,
    ) -> None:
        self.context = Context(Env(entropy=os.urandom, wall_clock=lambda: 0.0))
        self.context.now = 1000.0
        shown = served or identity(SERVER_NAME)
        self.server = QuicServerEndpoint(lambda _: shown, os.urandom, engine="aioquic")
        #: Addresses behind which the server is; others swallow everything.
        self.answering = {"192.0.2.1"}
        self.pending: dict[int, OpenDatagrams | ResolveHost] = {}
        self.links: list[DatagramLink] = []
        self.never_opened: list[DatagramLink] = []
        self.connected: list[tuple[Http3Connection, DatagramLink, list[Http3Event]]] = []
        self.failures: list[Failure] = []
        self.dial = QuicDial(
            self.context,
            Resolver(self.context),
            Attempt(
                AttemptTransport.QUIC,
                host,
                PORT,
                alpn=(b"h3",),
                protocol=HttpProtocol.HTTP3,
                certificate_name=certificate_name,
                connect_timeout_s=timeout_s,
            ),
            tls or origin_tls(),
            QuicSupport("aioquic", self.new_link, unused_factory),
            Timeouts(),
            on_connected=lambda connection, link, events: self.connected.append((connection, link, events)),
            on_failed=self.failures.append,
        )
        self.dial.start()
        self.drain()

    def new_link(self, address: Address) -> DatagramLink:
        self.links.append(DatagramLink(self.context, len(self.links), address, ("", 0)))
        return self.links[-1]

    def drain(self) -> None:
        context = self.context
        while context.operations or context.dirty_datagram_links:
            operations, context.operations = context.operations, []
            for operation in operations:
                if isinstance(operation, CancelOperation):
                    withdrawn = self.pending.pop(operation.id)
                    if isinstance(withdrawn, OpenDatagrams):
                        self.never_opened.append(withdrawn.link)
                else:
                    assert isinstance(operation, (OpenDatagrams, ResolveHost))
                    self.pending[operation.id] = operation
            links, context.dirty_datagram_links = context.dirty_datagram_links, []
            for link in links:
                link.is_dirty = False
                self._carry(link)

    def _carry(self, link: DatagramLink) -> None:
        assert link.peer is not None
        now = self.context.now
        client = ("198.51.100.7", 50000 + link.id)
        for data, _ in link.pull():
            if link.peer[0] in self.answering:
                self.server.receive_datagram(data, client, now)
        answers = [(data, link.peer) for data, to in self.server.datagrams_to_send(now) if to == client]
        if answers and not link.closing:
            link.handler.receive_datagrams(answers)

    def answer(self, result: Result | None = None) -> None:
        """The one operation under way ends; by default a socket opens."""
        [operation] = self.pending.values()
        del self.pending[operation.id]
        self.context.pending_operations.pop(operation.id)(result or Opened(("198.51.100.7", 50000)))
        self.drain()

    def advance(self, seconds: float) -> None:
        until = self.context.now + seconds
        while (deadline := self.context.timers.next_deadline()) <= until:
            self.context.now = max(self.context.now, deadline)
            self.context.timers.fire(self.context.now)
            self.drain()
        self.context.now = until

    def assert_nothing_is_left(self) -> None:
        assert not self.pending
        assert not self.context.pending_operations
        assert self.context.timers.next_deadline() == inf
        kept = [link for _, link, _ in self.connected]
        assert all(link.closing for link in self.links if link not in kept and link not in self.never_opened)


def unused_factory(*_: object) -> NoReturn:
    raise AssertionError("the dial itself makes no pooled connection")


def test_a_handshake_comes_to_a_connection_that_works() -> None:
    hand = QuicDialByHand()
    hand.answer()
    [(connection, link, _)] = hand.connected
    assert connection.handshake_completed
    assert not link.closing
    assert not hand.failures
    hand.assert_nothing_is_left()


def test_a_silent_host_times_out_after_the_attempts_own_time() -> None:
    hand = QuicDialByHand(host="192.0.2.99")
    hand.answer()
    hand.advance(2.9)
    assert not hand.failures
    hand.advance(0.1)
    assert [failure.code for failure in hand.failures] == [FailureCode.CONNECTION_TIMEOUT]
    hand.assert_nothing_is_left()


def test_icmp_refusal_ends_it_at_once() -> None:
    hand = QuicDialByHand(host="192.0.2.99")
    hand.answer()
    refused = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_REFUSED, "refused")
    hand.links[0].handler.datagrams_lost(refused)
    hand.drain()
    assert [failure.code for failure in hand.failures] == [FailureCode.CONNECTION_REFUSED]
    hand.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("reason", "source"),
    [
        (LostReason.UNREACHABLE, FailureSource.BACKEND),
        (LostReason.RESOURCE_EXHAUSTED, FailureSource.PROXY),
    ],
)
def test_a_socket_that_cannot_be_opened(reason: LostReason, source: FailureSource) -> None:
    hand = QuicDialByHand()
    hand.answer(OperationFailed(reason))
    assert [failure.source for failure in hand.failures] == [source]
    assert hand.context.timers.next_deadline() == inf


def test_the_next_address_gets_its_turn_while_the_first_is_silent() -> None:
    hand = QuicDialByHand(host="app.example.com")
    hand.answer(Resolved(("2001:db8::1", "192.0.2.1")))
    hand.answer()
    assert not hand.connected
    hand.advance(0.25)
    hand.answer()
    [(_, link, _)] = hand.connected
    assert link.peer == ("192.0.2.1", PORT)
    assert hand.links[0].closing
    hand.assert_nothing_is_left()


def test_the_next_address_gets_its_turn_at_once_when_the_first_fails() -> None:
    hand = QuicDialByHand(host="app.example.com")
    hand.answer(Resolved(("192.0.2.7", "192.0.2.1")))
    hand.answer(OperationFailed(LostReason.UNREACHABLE))
    hand.answer()
    assert hand.connected


def test_a_name_that_is_not_found() -> None:
    hand = QuicDialByHand(host="app.example.com")
    hand.answer(OperationFailed(LostReason.NAME_NOT_FOUND))
    assert [failure.code for failure in hand.failures] == [FailureCode.DNS_ERROR]


def test_a_look_up_that_hangs() -> None:
    hand = QuicDialByHand(host="app.example.com")
    hand.advance(3.0)
    assert [failure.code for failure in hand.failures] == [FailureCode.DNS_TIMEOUT]
    hand.assert_nothing_is_left()


@pytest.mark.parametrize("step", ["resolving", "opening", "shaking hands"])
def test_a_cancelled_dial_leaves_nothing(step: str) -> None:
    hand = QuicDialByHand(host="app.example.com" if step == "resolving" else "192.0.2.99")
    if step == "shaking hands":
        hand.answer()
    hand.dial.cancel()
    hand.drain()
    hand.advance(60.0)
    assert not hand.failures
    assert not hand.connected
    hand.assert_nothing_is_left()


# Whom it believes.


@pytest.mark.parametrize(
    "make",
    [
        lambda: QuicDialByHand(certificate_name="other.example.com"),
        lambda: QuicDialByHand(origin_tls(verifies=False, fingerprint=bytes(32))),
    ],
    ids=["another name", "another fingerprint"],
)
def test_a_certificate_that_is_not_the_right_one(make: Callable[[], QuicDialByHand]) -> None:
    hand = make()
    hand.answer()
    assert [failure.code for failure in hand.failures] == [FailureCode.TLS_CERTIFICATE_ERROR]
    hand.assert_nothing_is_left()


def test_a_pinned_certificate() -> None:
    served = identity(SERVER_NAME)
    certificate = x509.load_pem_x509_certificate(served.certificate_chain_pem)
    fingerprint = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    hand = QuicDialByHand(origin_tls(verifies=False, fingerprint=fingerprint), served=served)
    hand.answer()
    assert hand.connected


def test_nothing_is_dialled_without_roots_to_verify_by() -> None:
    hand = QuicDialByHand(origin_tls(ca_pem=b""))
    [failure] = hand.failures
    assert (failure.source, failure.code) == (
        FailureSource.PROXY,
        FailureCode.PROXY_CONFIGURATION_ERROR,
    )
    assert not hand.links


def test_a_server_that_turns_clients_away() -> None:
    hand = QuicDialByHand(host="192.0.2.1")
    hand.server.accepts_connections = False
    hand.answer()
    hand.advance(3.0)
    [failure] = hand.failures
    assert failure.code in (FailureCode.CONNECTION_REFUSED, FailureCode.CONNECTION_TIMEOUT)
    hand.assert_nothing_is_left()
