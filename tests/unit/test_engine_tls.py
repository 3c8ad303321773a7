"""TLS from clients and towards backends, on memory buffers."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

import pytest
from engine_by_hand import End, EngineByHand, configuration, request, response, route, target
from tls_by_hand import TlsEnd, authority, certificate, client_context, server_context

from smartproxy.core.configuration import (
    ForwardAction,
    HandlerAction,
    HandlerKind,
    MatchProtocol,
    OriginTls,
    Route,
    RouteTls,
    Target,
    TlsMode,
)

TERMINATE = RouteTls(TlsMode.TERMINATE)
REENCRYPT = RouteTls(TlsMode.TERMINATE_AND_REENCRYPT)


def terminating(*routes: Route) -> EngineByHand:
    contexts = {"a.test": server_context("a.test"), "b.test": server_context("b.test")}
    return EngineByHand(configuration(*routes, certificates=contexts))


def tls_route(name: str, *targets: Target, tls: RouteTls = TERMINATE, **match: Any) -> Route:
    return route(name, ForwardAction(targets or (target(),), tls=tls), domains=(name,), **match)


def shaken(
    hand: EngineByHand,
    name: str = "a.test",
    *,
    alpn: str | None = None,
    version: ssl.TLSVersion | None = None,
) -> TlsEnd:
    client = TlsEnd(hand.connect(), client_context(alpn=alpn, version=version), server_name=name)
    client.handshake()
    return client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_https_is_terminated(version: ssl.TLSVersion, alpn: str | None) -> None:
    hand = terminating(tls_route("a.test"))
    client = shaken(hand, alpn=alpn, version=version)
    assert client.tls.selected_alpn_protocol() == alpn
    client.send(request("GET", "/", host="a.test"))
    backend = hand.open()
    head = backend.take()
    assert head.startswith(b"GET / HTTP/1.1\r\nhost: a.test\r\n")
    assert b"\r\nx-forwarded-proto: https\r\n" in head
    backend.send(response())
    assert client.take().endswith(b"hello")
    client.send(request("GET", "/2", host="a.test"))
    backend.send(response(b"two"))
    assert client.take().endswith(b"two")
    assert hand.access[0].tls_version == version.name.replace("_", ".")
    assert hand.access[0].scheme == "https"
    hand.settle()


def test_a_handshake_byte_by_byte() -> None:
    hand = terminating(tls_route("a.test"))
    client = TlsEnd(hand.connect(), client_context(), server_name="a.test")
    client.flush = lambda: client.end.send_slowly(client._outgoing.read())  # type: ignore[method-assign]
    client.handshake()
    client.send(request("GET", "/", host="a.test"))
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    hand.settle()


def test_certificates_are_chosen_by_name() -> None:
    hand = terminating(tls_route("a.test"), tls_route("b.test"))
    for name in ("a.test", "b.test"):
        client = shaken(hand, name)
        assert ("DNS", name) in client.tls.getpeercert()["subjectAltName"]  # type: ignore[index]
    hand.settle()


def test_a_name_without_a_route_is_refused() -> None:
    hand = terminating(tls_route("a.test"))
    client = TlsEnd(hand.connect(), client_context(), server_name="c.test")
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        client.handshake()
    assert client.end.is_closed
    hand.settle()


def test_a_request_for_anothers_name_is_misdirected() -> None:
    hand = terminating(tls_route("a.test"), tls_route("b.test"))
    client = shaken(hand, "a.test")
    client.send(request("GET", "/", host="b.test"))
    assert client.take().startswith(b"HTTP/1.1 421 ")
    assert not hand.pending
    client.send(request("GET", "/", host="a.test"))
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    hand.settle()


def test_a_slow_handshake_is_not_waited_for() -> None:
    hand = terminating(tls_route("a.test"))
    client = TlsEnd(hand.connect(), client_context(), server_name="a.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.flush()
    hand.advance(59.0)
    assert client.end.is_open
    hand.advance(1.0)
    assert client.end.is_closed
    hand.settle()


def test_a_slow_handshake_dials_no_server_that_speaks_first() -> None:
    hand = terminating(tls_route("a.test"), route("raw", target("10.0.0.25"), protocol=MatchProtocol.TCP))
    client = TlsEnd(hand.connect(), client_context(), server_name="a.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.flush()
    hand.advance(10.0)
    assert not hand.pending
    client.handshake()
    client.send(request("GET", "/", host="a.test"))
    assert hand.operation().address[0] == "10.0.0.1"
    client.end.reset()
    hand.settle()


def test_a_failed_handshake_is_recorded() -> None:
    hand = terminating(tls_route("a.test"))
    client = TlsEnd(hand.connect(), ssl.create_default_context(), server_name="a.test")
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake()
    assert client.end.is_closed
    assert hand.events("tls") == ["handshake_failed"]
    hand.settle()


def test_garbage_after_the_handshake_ends_the_connection() -> None:
    hand = terminating(tls_route("a.test"))
    client = shaken(hand)
    client.send(request("GET", "/", host="a.test"))
    backend = hand.open()
    client.end.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert not client.end.is_open
    assert backend.is_reset
    hand.settle()


def test_raw_tls_is_terminated() -> None:
    hand = terminating(tls_route("a.test", protocol=MatchProtocol.TCP))
    client = shaken(hand)
    client.send(b"hello")
    backend = hand.open()
    assert backend.take() == b"hello"
    backend.send(b"world")
    assert client.take() == b"world"
    client.close_notify()
    assert backend.is_half_closed
    backend.send(b"more")
    assert client.take() == b"more"
    backend.finish()
    assert client.end.is_closed
    assert hand.access[0].protocol == "tls"
    hand.settle()


def test_a_server_inside_tls_may_speak_first() -> None:
    hand = terminating(tls_route("a.test"))
    client = shaken(hand)
    hand.advance(0.25)
    backend = hand.open()
    backend.send(b"220 ready\r\n")
    assert client.take() == b"220 ready\r\n"
    client.end.reset()
    hand.settle()


def test_echo_inside_tls() -> None:
    echo = HandlerAction(HandlerKind.ECHO, tls=TERMINATE)
    hand = terminating(route("echo", echo, domains=("a.test",)))
    client = shaken(hand)
    client.send(b"abc")
    assert client.take() == b"abc"
    hand.settle()


def test_a_drain_ends_handshakes_and_finishes_requests() -> None:
    hand = terminating(tls_route("a.test"))
    busy = shaken(hand)
    busy.send(request("GET", "/", host="a.test"))
    backend = hand.open()
    handshaking = hand.connect(data=b"\x16\x03\x01")
    hand.engine.handle_drain(hand.now)
    hand.drain()
    assert handshaking.is_closed
    backend.send(response())
    assert b"connection: close" in busy.take()
    assert busy.end.is_closed
    hand.settle()


# Towards backends.


def origin(
    *, name: str | None = "backend.test", fingerprint: bytes | None = None, trust: bool = True
) -> Target:
    context = ssl.create_default_context()
    if trust:
        authority().configure_trust(context)
    if fingerprint is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return target(tls=OriginTls(context, name, fingerprint, "test"))


def fingerprint_of(*names: str) -> bytes:
    der = ssl.PEM_cert_to_DER_cert(certificate(*names).cert_chain_pems[0].bytes().decode())
    return hashlib.sha256(der).digest()


def reencrypting(backend_target: Target, **match: Any) -> tuple[EngineByHand, TlsEnd, End]:
    hand = terminating(tls_route("a.test", backend_target, tls=REENCRYPT, **match))
    client = shaken(hand)
    client.send(request("GET", "/", host="a.test"))
    return hand, client, hand.open()


def test_https_is_reencrypted() -> None:
    hand, client, end = reencrypting(origin())
    backend = TlsEnd(end, server_context("backend.test"))
    backend.handshake()
    assert backend.take().startswith(b"GET / HTTP/1.1\r\nhost: a.test\r\n")
    backend.send(response())
    assert client.take().endswith(b"hello")
    client.send(request("GET", "/2", host="a.test"))
    assert backend.take().startswith(b"GET /2 ")
    backend.send(response(b"two"))
    assert client.take().endswith(b"two")
    hand.settle()


def test_a_pinned_certificate_is_enough() -> None:
    hand, client, end = reencrypting(origin(fingerprint=fingerprint_of("other.test")))
    backend = TlsEnd(end, server_context("other.test"))
    backend.handshake()
    assert backend.take().startswith(b"GET / ")
    backend.send(response())
    assert client.take().endswith(b"hello")
    hand.settle()


@pytest.mark.parametrize(
    ("backend_target", "served"),
    [
        (origin(), "wrong.test"),
        (origin(trust=False), "backend.test"),
        (origin(fingerprint=bytes(32)), "backend.test"),
    ],
    ids=["wrong name", "unknown authority", "wrong fingerprint"],
)
@pytest.mark.parametrize("protocol", ["http", "raw"])
def test_a_backend_that_cannot_be_trusted_gets_nothing(
    backend_target: Target, served: str, protocol: str
) -> None:
    match = {"protocol": MatchProtocol.TCP} if protocol == "raw" else {}
    hand, client, end = reencrypting(backend_target, **match)
    backend = TlsEnd(end, server_context(served))
    try:
        backend.handshake()
        got = backend.take()
    except ssl.SSLError:
        got = b""
    assert not got
    assert not end.is_open
    if protocol == "http":
        answer = client.take()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"error=tls_certificate_error" in answer
    assert hand.access[0].failure == "tls_certificate_error"
    hand.settle()
    assert client.end.is_closed


def test_a_backend_that_speaks_no_tls_is_a_502() -> None:
    hand, client, end = reencrypting(origin())
    end.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    # It may have been the offer of HTTP/2 that it did not like.
    second = hand.open()
    second.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"error=tls_protocol_error" in answer
    hand.settle()


@pytest.mark.parametrize("how", ["eof", "reset", "silence"])
def test_a_backend_that_leaves_its_handshake(how: str) -> None:
    hand, client, end = reencrypting(origin())
    if how == "eof":
        end.finish()
    elif how == "reset":
        end.reset()
    else:
        hand.advance(60.0)
    assert client.take().startswith(b"HTTP/1.1 504 " if how == "silence" else b"HTTP/1.1 502 ")
    assert not end.is_open
    hand.settle()


def test_a_response_until_close_needs_its_close_notify() -> None:
    hand, client, end = reencrypting(origin())
    backend = TlsEnd(end, server_context("backend.test"))
    backend.handshake()
    backend.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
    assert b"abc" in client.take()
    end.finish()
    assert client.end.is_reset
    hand.settle()
    hand, client, end = reencrypting(origin())
    backend = TlsEnd(end, server_context("backend.test"))
    backend.handshake()
    backend.take()
    backend.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
    backend.close_notify()
    assert client.take().endswith(b"abc\r\n0\r\n\r\n")
    assert client.end.is_open
    hand.settle()


def test_raw_tls_to_tls() -> None:
    hand = terminating(tls_route("a.test", origin(), tls=REENCRYPT, protocol=MatchProtocol.TCP))
    client = shaken(hand)
    client.send(b"hello")
    backend = TlsEnd(hand.open(), server_context("backend.test"))
    backend.handshake()
    assert backend.take() == b"hello"
    for _ in range(20):
        backend.send(b"x" * 65536)
    assert len(client.take()) == 20 * 65536
    assert not hand.relays
    backend.close_notify()
    assert client.take() == b""
    assert client.end.is_half_closed
    client.send(b"bye")
    client.close_notify()
    assert backend.take() == b"bye"
    assert client.end.is_closed
    hand.settle()


def test_a_proxy_header_goes_before_the_backends_tls() -> None:
    pinned = origin()
    to = target(tls=pinned.tls, send_proxy_protocol=1)
    hand = terminating(tls_route("a.test", to, tls=REENCRYPT))
    client = shaken(hand)
    client.send(request("GET", "/", host="a.test"))
    end = hand.open()
    data = end.take()
    line, _, hello = data.partition(b"\r\n")
    assert line.startswith(b"PROXY TCP4 ")
    assert hello[:1] == b"\x16"
    client.end.reset()
    hand.settle()


def test_a_cut_is_not_passed_on_as_an_end() -> None:
    hand = terminating(tls_route("a.test", origin(), tls=REENCRYPT, protocol=MatchProtocol.TCP))
    client = shaken(hand)
    client.send(b"half of it")
    backend = TlsEnd(hand.open(), server_context("backend.test"))
    backend.handshake()
    client.end.finish()
    assert backend.end.is_half_closed
    assert backend.take() == b"half of it"
    assert not backend.has_ended
    backend.end.finish()
    hand.settle()
