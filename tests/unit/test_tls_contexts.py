"""Certificates read and checked, and the contexts made of them, tried with real handshakes."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from sample_certificates import (
    CA,
    NOW,
    OTHER_CA,
    Handshake,
    ca_pem,
    certificate,
    encrypted,
    leaf,
    trusting_client,
    write_leaf,
)
from tls_routes import compiled, rejection, tls_route

from smartproxy.config import (
    CompiledConfiguration,
    ConfigError,
    ProxyConfig,
    RouteConfig,
    compile_configuration,
    parse_config,
)
from smartproxy.config.certificates import self_signed_certificate
from smartproxy.config.tls_contexts import _private_file
from smartproxy.core.certificates import ServedTls


def server_context(
    configuration: CompiledConfiguration, name: str | None = None, position: int = 0
) -> ssl.SSLContext:
    table = configuration.configuration.table
    route = next(route for route in table.routes if route.position == position)
    served = configuration.configuration.certificates.lookup(name, route)
    assert served is not None
    return served.context


def warnings(configuration: CompiledConfiguration) -> list[tuple[str, str]]:
    return [(problem.place, problem.message) for problem in configuration.warnings]


CERTIFICATE_PLACE = "routes[0].action.tls.certificate"


# What clients see.


def test_a_route_shows_its_own_certificate_from_text_or_files(tmp_path: Path) -> None:
    for options in (certificate("app.example"), write_leaf(tmp_path, "app.example")):
        configuration = compiled(tls_route("app.example", certificate=options), base_dir=tmp_path)
        handshake = Handshake(server_context(configuration), trusting_client(), "app.example")
        assert handshake.shown_names() == ["app.example"]
        assert warnings(configuration) == []


def test_routes_without_one_show_what_others_have() -> None:
    configuration = compiled(
        tls_route("a.example", certificate=certificate("a.example")),
        tls_route("b.example", certificate=certificate("*.b.example", "b.example")),
        tls_route(),
        default_certificate=certificate("default.example"),
    )
    for name, shown in [
        ("a.example", "a.example"),
        ("x.b.example", "*.b.example"),
        ("c.example", "default.example"),
    ]:
        client = trusting_client(check_hostname=False)
        handshake = Handshake(server_context(configuration, name, position=2), client)
        assert shown in handshake.shown_names()


def test_the_first_certificate_written_wins_a_name() -> None:
    first, second = certificate("a.example"), certificate("a.example")
    configuration = compiled(
        tls_route("a.example", certificate=first), tls_route(certificate=second), tls_route()
    )
    handshake = Handshake(
        server_context(configuration, "a.example", position=2), trusting_client(), "a.example"
    )
    shown = handshake.client.getpeercert(binary_form=True)
    assert shown == ssl.PEM_cert_to_DER_cert(first["cert"])


def test_one_certificate_with_the_same_settings_is_one_context() -> None:
    shared = certificate("*.example.com")
    configuration = compiled(
        tls_route("a.example.com", certificate=shared),
        tls_route("b.example.com", certificate=shared),
        tls_route("c.example.com", certificate=shared, versions=["TLSv1.3"]),
        tls_route("d.example.com"),
    )
    contexts = [server_context(configuration, "x.example.com", position) for position in range(4)]
    assert contexts[0] is contexts[1] is contexts[3]
    assert contexts[2] is not contexts[0]


def test_the_self_signed_certificate_is_the_last_resort() -> None:
    configuration = compiled(tls_route("a.example"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    handshake = Handshake(server_context(configuration, "a.example"), client)
    shown = x509.load_der_x509_certificate(handshake.client.getpeercert(binary_form=True) or b"")
    assert shown.subject.rfc4514_string() == "CN=smartproxy self-signed"
    assert warnings(configuration)[0][0] == CERTIFICATE_PLACE
    # Made once, so that a reload shows the same one.
    again = Handshake(server_context(compiled(tls_route("a.example"))), client)
    assert again.client.getpeercert(binary_form=True) == handshake.client.getpeercert(binary_form=True)
    assert self_signed_certificate().covers("localhost")


def test_without_a_default_unknown_names_get_no_certificate() -> None:
    configuration = compiled(
        tls_route("a.example", certificate=certificate("a.example")), tls_route(), disable_default_cert=True
    )
    table, index = configuration.configuration.table, configuration.configuration.certificates
    assert index.lookup("a.example", table.routes[1]) is not None
    assert index.lookup("b.example", table.routes[1]) is None


def test_names_that_no_certificate_is_good_for() -> None:
    other = tls_route("a.example", certificate=certificate("a.example"))
    uncovered = tls_route("b.example")
    assert rejection(other, uncovered, disable_default_cert=True) == (
        "routes[1].action.tls.certificate",
        "is left out, and no other certificate is good for a name of `match.domains`",
    )
    assert [place for place, _ in warnings(compiled(other, uncovered))] == [
        "routes[1].action.tls.certificate"
    ]
    own = tls_route("b.example", certificate=certificate("a.example"))
    assert warnings(compiled(own)) == [(CERTIFICATE_PLACE, "is not good for a name of `match.domains`")]
    wildcard = tls_route("*.example", certificate=certificate("*.example"))
    assert warnings(compiled(wildcard)) == []


# Settings.


def test_versions_are_bounds() -> None:
    options: dict[str, Any] = {"certificate": certificate("a.example"), "versions": ["TLSv1.2"]}
    context = server_context(compiled(tls_route(**options)))
    assert Handshake(context, trusting_client(), "a.example").client.version() == "TLSv1.2"
    client = trusting_client()
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(ssl.SSLError):
        Handshake(context, client, "a.example")


def test_ciphers_and_their_order() -> None:
    names = ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]
    names += ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"]
    options: dict[str, Any] = {
        "certificate": certificate("a.example"),
        "ciphers": ":".join(names),
        "versions": ["TLSv1.2"],
    }
    client = trusting_client()
    client.set_ciphers(":".join(reversed(names)))
    chosen = {}
    for honor in (True, False):
        context = server_context(compiled(tls_route(honor_cipher_order=honor, **options)))
        cipher = Handshake(context, client, "a.example").client.cipher()
        assert cipher is not None
        chosen[honor] = cipher[0]
    assert "AES256" in chosen[True]
    assert "AES128" in chosen[False]


def test_a_cipher_list_that_selects_nothing_is_refused() -> None:
    place, message = rejection(tls_route(certificate=certificate("a.example"), ciphers="NONE-SUCH"))
    assert place == "routes[0].action.tls.ciphers"
    assert "no OpenSSL cipher list" in message


def test_alpn_offers_http_where_there_may_be_http() -> None:
    own = certificate("a.example")
    http = tls_route(certificate=own)
    http1 = tls_route(certificate=own, http2=False)
    raw = tls_route(certificate=own)
    raw["match"]["protocol"] = "tcp"
    echo = {
        "match": {"ports": 444},
        "action": {
            "type": "handler",
            "handler": {"echo": True},
            "tls": {"mode": "terminate", "certificate": own},
        },
    }
    client = trusting_client()
    client.set_alpn_protocols(["h2", "http/1.1"])
    chosen = [
        Handshake(server_context(compiled(route)), client, "a.example").client.selected_alpn_protocol()
        for route in (http, http1, raw, echo)
    ]
    assert chosen == ["h2", "http/1.1", None, None]
    client.set_alpn_protocols(["h2"])
    handshake = Handshake(server_context(compiled(http1)), client, "a.example")
    assert handshake.client.selected_alpn_protocol() is None


def test_dangerous_options_are_off() -> None:
    context = server_context(compiled(tls_route(certificate=certificate("a.example"))))
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_NO_TICKET
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_sessions_resume_within_a_context_and_not_in_the_next() -> None:
    options: dict[str, Any] = {
        "certificate": certificate("a.example"),
        "versions": ["TLSv1.2"],
        "session_timeout": "5m",
    }
    configuration = compiled(tls_route(**options))
    assert configuration.refresh_after_s == 300
    client = trusting_client()
    session = Handshake(server_context(configuration), client, "a.example").client.session
    for refreshed, reused in ((configuration, True), (compiled(tls_route(**options)), False)):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = server_context(refreshed).wrap_bio(to_server, to_client, server_side=True)
        again = client.wrap_bio(to_client, to_server, server_hostname="a.example", session=session)
        done: set[ssl.SSLObject] = set()
        for side in [again, server] * 4:
            try:
                if side not in done:
                    side.do_handshake()
                    done.add(side)
            except ssl.SSLWantReadError:
                continue
        assert again.session_reused is reused


def test_client_certificates_are_demanded_and_checked() -> None:
    options: dict[str, Any] = {
        "certificate": certificate("a.example"),
        "client_auth": {"ca": ca_pem(OTHER_CA)},
    }
    context = server_context(compiled(tls_route(**options)))
    with pytest.raises(ssl.SSLError):
        Handshake(context, trusting_client(), "a.example")
    for ca, accepted in ((OTHER_CA, True), (CA, False)):
        client = trusting_client()
        ca.issue_cert("client@example").configure_cert(client)
        if accepted:
            assert Handshake(context, client, "a.example").server.getpeercert()
        else:
            with pytest.raises(ssl.SSLError):
                Handshake(context, client, "a.example")


@pytest.mark.parametrize(
    "content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None]
)
def test_a_bad_client_authority_never_fails_open(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    route = tls_route(certificate=certificate("a.example"), client_auth={"ca": "ca.pem"})
    place, _ = rejection(route, base_dir=tmp_path)
    assert place == "routes[0].action.tls.client_auth.ca"


def test_one_damaged_certificate_among_good_ones_is_refused() -> None:
    damaged = ca_pem() + ca_pem()[:-60] + "\n"
    route = tls_route(certificate=certificate("a.example"), client_auth={"ca": damaged})
    assert rejection(route)[0] == "routes[0].action.tls.client_auth.ca"


# What is wrong with certificates.


def test_certificates_and_keys_are_checked(tmp_path: Path) -> None:
    cert, key = leaf("a.example")
    _, other_key = leaf("a.example")
    cases: list[tuple[dict[str, str], str, str]] = [
        ({"cert": cert, "key": other_key}, "key", "is not the key of the certificate"),
        ({"cert": ca_pem() + cert, "key": key}, "key", "the server's own certificate comes first"),
        ({"cert": "nonsense", "key": key}, "cert", "is not a PEM certificate"),
        ({"cert": cert[:-100], "key": key}, "cert", "PEM certificate"),
        ({"cert": cert, "key": "nonsense"}, "key", "is not a PEM private key"),
        ({"cert": cert, "key": encrypted(key)}, "key", "is encrypted"),
        ({"cert": cert, "key_file": "absent"}, "key_file", "cannot be read (No such file or directory)"),
        ({"cert_file": ".", "key": key}, "cert_file", "it is not a regular file"),
        ({"cert": cert, "key": key, "ca": "absent"}, "ca", "cannot be read"),
    ]
    for options, where, message in cases:
        place, found = rejection(tls_route(certificate=options), base_dir=tmp_path)
        assert place == f"{CERTIFICATE_PLACE}.{where}"
        assert message in found
        assert "BEGIN" not in found


def test_every_bad_certificate_is_reported() -> None:
    bad = {"cert": "x", "key": "y"}
    with pytest.raises(ConfigError) as caught:
        compiled(tls_route(certificate=bad), tls_route("b.example", certificate=bad), default_certificate=bad)
    assert [problem.place for problem in caught.value.problems] == [
        f"{CERTIFICATE_PLACE}.cert",
        "routes[1].action.tls.certificate.cert",
        "default_certificate.cert",
    ]


def test_a_weak_key_is_refused_by_openssl() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), NOW, NOW + datetime.timedelta(days=1)
    ).sign(key, hashes.SHA256())
    cert = made.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    place, message = rejection(tls_route(certificate={"cert": cert, "key": key_pem.decode()}))
    assert place == CERTIFICATE_PLACE
    assert "TLS can use" in message


def test_dates_are_warned_about() -> None:
    cert, key = leaf("a.example", expired=True)
    model = parse_config({"routes": [tls_route("a.example", certificate={"cert": cert, "key": key})]})
    messages = [problem.message for problem in compile_configuration(model).warnings]
    assert len(messages) == 1
    assert messages[0].startswith("has expired on ")
    long_ago = datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC)
    messages = [problem.message for problem in compile_configuration(model, now=long_ago).warnings]
    assert messages[0].startswith("is not valid before ")


def test_the_chain_may_come_with_ca_and_is_looked_at() -> None:
    intermediate = CA.create_child_ca()
    issued = intermediate.issue_cert("a.example")
    own, *rest = [blob.bytes().decode() for blob in issued.cert_chain_pems]
    key = issued.private_key_pem.bytes().decode()
    whole = tls_route("a.example", certificate={"cert": own, "key": key, "ca": "".join(rest)})
    configuration = compiled(whole)
    assert warnings(configuration) == []
    assert Handshake(server_context(configuration), trusting_client(), "a.example").shown_names() == [
        "a.example"
    ]
    wrong = tls_route("a.example", certificate={"cert": own, "key": key, "ca": ca_pem(OTHER_CA)})
    assert "not issued by the next" in warnings(compiled(wrong))[0][1]


def test_private_keys_are_on_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with _private_file(b"secret") as path:
        assert Path(path).read_bytes() == b"secret"
    assert not Path(path).exists()
    monkeypatch.delattr(os, "memfd_create")
    with _private_file(b"secret") as path:
        assert Path(path).stat().st_mode & 0o077 == 0
        assert Path(path).read_bytes() == b"secret"
    assert not Path(path).exists()


def test_changed_files_are_noticed_once(tmp_path: Path) -> None:
    options = write_leaf(tmp_path, "a.example")
    files = compiled(tls_route(certificate=options), base_dir=tmp_path).files
    assert set(files.paths) == {str(tmp_path / "app.pem"), str(tmp_path / "app.key")}
    assert not files.changed()
    os.utime(tmp_path / "app.key", ns=(1, 1))
    assert files.changed()
    assert not files.changed()
    (tmp_path / "app.pem").unlink()
    assert files.changed()


def test_a_reload_takes_the_new_certificate(tmp_path: Path) -> None:
    options = write_leaf(tmp_path, "a.example")
    model = parse_config({"routes": [tls_route(certificate=options)]}, base_dir=tmp_path)
    compile_configuration(model)
    write_leaf(tmp_path, "b.example")
    context = server_context(compile_configuration(model))
    assert Handshake(context, trusting_client(), "b.example").shown_names() == ["b.example"]


# For QUIC.


def served(configuration: CompiledConfiguration, position: int, name: str | None = None) -> ServedTls:
    found = configuration.configuration.certificates.lookup(
        name, configuration.configuration.table.routes[position]
    )
    assert found is not None
    return found


def http3_route(domain: str, **tls: Any) -> dict[str, Any]:
    route = tls_route(domain, **tls)
    route["match"]["transport"] = "all"
    route["action"]["udp"] = {"quic": {"enable_http3": True}}
    return route


def test_a_certificate_is_shown_over_quic_as_one_identity() -> None:
    own, shared = certificate("a.example"), certificate("*.example.com")
    configuration = compiled(
        http3_route("a.example", certificate=own),
        http3_route("x.example.com", certificate=shared),
        http3_route("y.example.com", certificate=shared, http2=False),
        http3_route("z.example.com"),
    )
    identities = [
        served(configuration, position, name).quic_identity
        for position, name in enumerate(["a.example", None, None, "z.example.com"])
    ]
    assert identities[0] is not None
    assert identities[0].certificate_chain_pem.decode() == own["cert"]
    assert identities[0].private_key_pem.decode() == own["key"]
    assert own["key"] not in repr(identities[0])
    assert identities[1] is not None
    assert identities[1] is identities[2] is identities[3]
    # Their settings for TCP differ all the same.
    assert served(configuration, 1) is not served(configuration, 2)


def test_what_quic_cannot_keep_has_no_identity() -> None:
    own = certificate("a.example")
    configuration = compiled(
        http3_route("a.example", certificate=own),
        tls_route("b.example", certificate=own, versions=["TLSv1.2"]),
        tls_route("c.example", certificate=own, client_auth={"ca": ca_pem()}),
        tls_route("d.example", certificate=own, versions=["TLSv1.3"]),
    )
    has_identity = [served(configuration, position).quic_identity is not None for position in range(4)]
    assert has_identity == [True, False, False, True]


def test_without_http3_there_are_no_identities() -> None:
    configuration = compiled(tls_route("a.example", certificate=certificate("a.example")))
    assert served(configuration, 0).quic_identity is None


def test_models_and_mappings_compile_alike() -> None:
    model = ProxyConfig(routes=[RouteConfig.model_validate(tls_route(certificate=certificate("a.example")))])
    assert compile_configuration(model).configuration.table.routes[0].name == "route[0]"
