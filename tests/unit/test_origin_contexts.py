"""TLS towards backends: whom it trusts and what it offers, tried with real handshakes."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from sample_certificates import CA, OTHER_CA, Handshake, ca_pem, certificate
from tls_routes import compiled, rejection, tls_route

from smartproxy.core.configuration import ForwardAction, OriginTls


def origin(*, target: dict[str, Any] | None = None, **backend: Any) -> OriginTls:
    tls: dict[str, Any] = {"mode": "terminate-and-reencrypt", "certificate": certificate("a.example")}
    if backend:
        tls["backend"] = backend
    configuration = compiled(tls_route(**tls, target=target))
    action = configuration.configuration.table.routes[0].action
    assert isinstance(action, ForwardAction)
    found = action.targets[0].tls
    assert found is not None
    return found


def backend_context(*names: str, ca: trustme.CA = CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


def test_backends_are_verified_by_the_system_unless_told_otherwise() -> None:
    context = origin().context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLCertVerificationError):
        Handshake(backend_context("backend.example"), context, "backend.example")


def test_backends_are_verified_by_the_given_authority() -> None:
    context = origin(ca="# Autorität\n" + ca_pem()).context
    Handshake(backend_context("backend.example"), context, "backend.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        Handshake(backend_context("other.example"), context, "backend.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        Handshake(backend_context("backend.example", ca=OTHER_CA), context, "backend.example")


@pytest.mark.parametrize("backend", [{"verify": False}, {"fingerprint": "AB:" * 31 + "ab"}])
def test_pinned_and_unverified_backends_are_not_verified_in_the_handshake(backend: dict[str, Any]) -> None:
    found = origin(**backend)
    assert found.context.verify_mode is ssl.CERT_NONE
    Handshake(backend_context("x", ca=OTHER_CA), found.context, "backend.example")
    assert found.fingerprint_sha256 == (b"\xab" * 32 if "fingerprint" in backend else None)


def test_a_bad_authority_for_backends_is_refused() -> None:
    tls: dict[str, Any] = {
        "mode": "terminate-and-reencrypt",
        "certificate": certificate("a.example"),
        "backend": {"ca": "absent"},
    }
    assert rejection(tls_route(**tls))[0] == "routes[0].action.tls.backend.ca"
    assert rejection(tls_route(target={"tls": {"ca": "absent"}}))[0] == "routes[0].action.targets[0].tls.ca"


def test_targets_differ_from_their_route() -> None:
    pinned = "ab" * 32
    base: dict[str, Any] = {"ca": ca_pem(), "server_name": "internal.example"}
    assert origin(**base).server_name == "internal.example"
    renamed = origin(target={"tls": {"server_name": "other.example"}}, **base)
    assert renamed.server_name == "other.example"
    assert renamed.context.get_ca_certs()
    other = origin(target={"tls": {"fingerprint": pinned}}, **base)
    assert (other.server_name, other.fingerprint_sha256) == ("internal.example", bytes.fromhex(pinned))
    assert other.context.verify_mode is ssl.CERT_NONE


def target_tls(mode: str, tls: dict[str, Any] | None) -> OriginTls | None:
    route = tls_route(mode=mode, certificate=certificate("a.example"), target={"tls": tls} if tls else {})
    action = compiled(route).configuration.table.routes[0].action
    assert isinstance(action, ForwardAction)
    return action.targets[0].tls


def test_a_target_may_be_plain_or_encrypted_against_its_route() -> None:
    assert target_tls("terminate", None) is None
    assert target_tls("terminate", {"ca": ca_pem()}) is not None
    assert target_tls("terminate-and-reencrypt", None) is not None
    assert target_tls("terminate-and-reencrypt", {"mode": "terminate"}) is None


def test_connections_are_shared_only_by_what_verifies_the_same() -> None:
    routes = [
        tls_route(mode="terminate-and-reencrypt", certificate=certificate("a.example"), backend=backend)
        for backend in ({"ca": ca_pem()}, {"ca": ca_pem()}, {"ca": ca_pem(OTHER_CA)}, {"verify": False})
    ]
    for port, route in enumerate(routes):
        route["match"]["ports"] = port + 1
    actions = [route.action for route in compiled(*routes).configuration.table.routes]
    origins = [action.targets[0].tls for action in actions if isinstance(action, ForwardAction)]
    assert origins[0] is origins[1]
    assert len({found.identity for found in origins if found is not None}) == 3


ALPN_OFFERS: list[tuple[bytes, ...]] = [(), (b"http/1.1",), (b"h2", b"http/1.1"), (b"h2",)]


def test_each_offer_of_versions_has_a_context_that_is_made_once() -> None:
    found = origin(ca=ca_pem())
    contexts = [found.context_for(offer) for offer in ALPN_OFFERS]
    assert contexts == [found.context_for(offer) for offer in ALPN_OFFERS]
    assert len(set(contexts)) == len(ALPN_OFFERS)
    assert contexts[0] is found.context
    server = backend_context("backend.example")
    server.set_alpn_protocols(["h2", "http/1.1"])
    chosen = [
        Handshake(server, context, "backend.example").client.selected_alpn_protocol() for context in contexts
    ]
    assert chosen == [None, "http/1.1", "h2", "h2"]
    server.set_alpn_protocols(["http/1.1"])
    best = Handshake(server, found.context_for((b"h2", b"http/1.1")), "backend.example")
    assert best.client.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("offer", ALPN_OFFERS)
def test_every_offer_verifies_alike(offer: tuple[bytes, ...]) -> None:
    verifying, pinned = origin(ca=ca_pem()), origin(fingerprint="ab" * 32)
    Handshake(backend_context("backend.example"), verifying.context_for(offer), "backend.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        Handshake(
            backend_context("backend.example", ca=OTHER_CA), verifying.context_for(offer), "backend.example"
        )
    Handshake(backend_context("x", ca=OTHER_CA), pinned.context_for(offer), "backend.example")
    assert pinned.context_for(offer).minimum_version is ssl.TLSVersion.TLSv1_2


def test_backends_that_verify_alike_share_contexts() -> None:
    route = tls_route(
        mode="terminate-and-reencrypt",
        certificate=certificate("a.example"),
        backend={"ca": ca_pem()},
        target={"match": {"path": "/a"}},
    )
    route["action"]["targets"].append({"host": "b", "port": 1, "tls": {"server_name": "other.example"}})
    action = compiled(route).configuration.table.routes[0].action
    assert isinstance(action, ForwardAction)
    first, second = (target.tls for target in action.targets)
    assert first is not None
    assert second is not None
    assert first is not second
    assert first.context_for((b"h2",)) is second.context_for((b"h2",))


def test_a_context_from_elsewhere_serves_every_offer() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found = OriginTls(context, None, None, "x")
    assert all(found.context_for(offer) is context for offer in ALPN_OFFERS)
    assert found.ca_pem == b""


def test_the_roots_are_there_for_quic() -> None:
    own = origin(ca="# Autorität\n" + ca_pem())
    assert own.verifies
    assert own.ca_pem.decode() == ca_pem()
    for backend in ({"verify": False}, {"fingerprint": "ab" * 32}):
        unverified = origin(**backend)
        assert not unverified.verifies
        assert unverified.ca_pem == b""


def default_paths(file: Path | None, directory: Path | None) -> SimpleNamespace:
    return SimpleNamespace(
        cafile=str(file) if file is not None else None,
        capath=str(directory) if directory is not None else None,
    )


def test_the_systems_roots_are_read_when_they_are_first_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "roots.pem"
    file.write_text(ca_pem())
    found = origin()
    asked: list[int] = []

    def paths() -> SimpleNamespace:
        asked.append(1)
        return default_paths(file, tmp_path / "absent")

    monkeypatch.setattr(ssl, "get_default_verify_paths", paths)
    assert found.ca_pem.decode() == ca_pem()
    file.unlink()
    assert found.ca_pem.decode() == ca_pem()
    assert asked == [1]


def test_the_systems_roots_may_stand_in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pem").write_text("Autorität A\n" + ca_pem())
    (tmp_path / "5f15c80c.0").symlink_to(tmp_path / "a.pem")
    (tmp_path / "dangling.0").symlink_to(tmp_path / "absent")
    (tmp_path / "all.crt").write_text(ca_pem() + ca_pem(OTHER_CA))
    (tmp_path / "cut.pem").write_text(ca_pem()[:100])
    (tmp_path / "below").mkdir()
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: default_paths(None, tmp_path))
    pem = origin().ca_pem.decode()
    assert pem.count("-----BEGIN CERTIFICATE-----") == 2
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    assert len(context.get_ca_certs()) == 2


@pytest.mark.parametrize("has_empty_file", [True, False])
def test_a_system_without_roots_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_empty_file: bool
) -> None:
    file = tmp_path / "empty.pem"
    file.write_text("")
    paths = default_paths(file, None) if has_empty_file else default_paths(None, tmp_path / "absent")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    assert origin().ca_pem == b""
