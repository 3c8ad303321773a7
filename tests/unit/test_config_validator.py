"""What is wrong between options and between routes that are right in themselves."""

from __future__ import annotations

from typing import Any

import pytest
from sample_certificates import certificate

from smartproxy.config import (
    DefaultsConfig,
    Problem,
    ProxyConfig,
    RouteConfig,
    RouteValidator,
    Severity,
    TargetConfig,
)

CERTIFICATE = {"cert_file": "a.pem", "key_file": "a.key"}


def forward(*targets: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"type": "forward", "targets": list(targets) or [{"host": "backend", "port": 80}], **options}


def handler(kind: str, **options: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"http_redirect": {"url": "/"}, "echo": True}
    return {"type": "handler", "handler": {kind: values.get(kind, {})}, **options}


def route(action: dict[str, Any] | None = None, *, ports: Any = 80, **options: Any) -> dict[str, Any]:
    match = {"ports": ports, **options.pop("match", {})}
    return {"match": match, "action": action or forward(), **options}


def places(*routes: dict[str, Any], severity: Severity = Severity.ERROR, **options: Any) -> list[str]:
    """The places of the problems, without the `routes[0].` that most begin with."""
    config = ProxyConfig.model_validate(options)
    problems = RouteValidator.validate(routes, config)
    return [problem.place.removeprefix("routes[0].") for problem in problems if problem.severity is severity]


PASSTHROUGH = {"mode": "passthrough"}
TERMINATE = {"mode": "terminate", "certificate": CERTIFICATE}
REENCRYPT = {"mode": "terminate-and-reencrypt", "certificate": CERTIFICATE}


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (route(forward(tls=PASSTHROUGH), match={"path": "/a"}), "match.path"),
        (route(forward(tls=PASSTHROUGH), match={"headers": {"a": "b"}}), "match.headers"),
        (route(forward(tls=PASSTHROUGH), match={"methods": "GET"}), "match.methods"),
        (route(forward(tls=PASSTHROUGH), match={"protocol": "http"}), "match.protocol"),
        (route(forward(tls=PASSTHROUGH), headers={"request": {"A": "b"}}), "headers.request"),
        (route(forward(tls=PASSTHROUGH | {"certificate": CERTIFICATE})), "action.tls.certificate"),
        (route(forward(tls=PASSTHROUGH | {"versions": ["TLSv1.3"]})), "action.tls.versions"),
        (route(forward(tls=PASSTHROUGH | {"ciphers": "HIGH"})), "action.tls.ciphers"),
        (route(forward(tls=PASSTHROUGH | {"client_auth": {"ca": "ca.pem"}})), "action.tls.client_auth"),
        (route(forward(tls=PASSTHROUGH | {"backend": {"verify": False}})), "action.tls.backend"),
        (route(forward(tls=PASSTHROUGH, websocket={"enabled": False})), "action.websocket"),
        (route(forward(tls=PASSTHROUGH, options={"via": True})), "action.options"),
        (
            route(forward({"host": "a", "port": 1, "tls": {"verify": True}}, tls=PASSTHROUGH)),
            "action.targets[0].tls",
        ),
        (
            route(forward({"host": "a", "port": 1, "match": {"path": "/a"}}, tls=PASSTHROUGH)),
            "action.targets[0].match.path",
        ),
        (
            route(forward({"host": "a", "port": 1, "headers": {"response": {"A": "b"}}}, tls=PASSTHROUGH)),
            "action.targets[0].headers.response",
        ),
        (route(match={"protocol": "tcp", "path": "/a"}), "match.path"),
        (route(match={"protocol": "tcp"}, headers={"response": {"A": "b"}}), "headers.response"),
        (route(handler("echo"), match={"path": "/a"}), "match.path"),
        (route(handler("block"), match={"methods": "GET"}), "match.methods"),
        (route(handler("block"), headers={"response": {"A": "b"}}), "headers.response"),
        (route(handler("http_redirect"), match={"protocol": "tcp"}), "match.protocol"),
        (route(handler("echo", tls=PASSTHROUGH)), "action.tls.mode"),
        (route(handler("echo", tls=REENCRYPT)), "action.tls.mode"),
        (route(handler("echo", tls=TERMINATE | {"backend": {"verify": False}})), "action.tls.backend"),
        (route(forward(tls=TERMINATE | {"backend": {"verify": False}})), "action.tls.backend"),
        (route(match={"protocol": "http", "tls_version": "TLSv1.3"}), "match.tls_version"),
        (
            route(forward(tls=TERMINATE | {"versions": ["TLSv1.3"]}), match={"tls_version": ["TLSv1.2"]}),
            "match.tls_version",
        ),
        (route(match={"path": "/:id"}, headers={"request": {"A": "{param.di}"}}), "headers.request.A"),
        (route(headers={"response": {"A": "{param.id}"}}), "headers.response.A"),
        (
            route(forward({"host": "a", "port": 1, "headers": {"request": {"A": "{param.id}"}}})),
            "action.targets[0].headers.request.A",
        ),
        (route(match={"inbound_proxy_protocol": {"mode": "required"}}), "match.inbound_proxy_protocol"),
        (
            route(match={"inbound_proxy_protocol": {"mode": "optional", "trusted_proxy_ips": []}}),
            "match.inbound_proxy_protocol",
        ),
        (route({"type": "forward"}), "action.targets"),
        (route(forward({"unix": "/run/a"}, tls=REENCRYPT)), "action.targets[0].unix"),
        (
            route(forward({"host": "a", "port": 1, "match": {"ports": [81, {"from": 90, "to": 99}]}})),
            "action.targets[0].match.ports",
        ),
        (
            route(
                forward(
                    {"host": len, "port": 1, "load_balancing": {"health_check": {"path": "/"}}},
                )
            ),
            "action.targets[0].load_balancing.health_check",
        ),
        (
            route(forward({"host": "a", "port": 1, "tls": {"mode": "terminate", "ca": "x"}}, tls=REENCRYPT)),
            "action.targets[0].tls.ca",
        ),
    ],
)
def test_contradictions_are_errors(wrong: dict[str, Any], place: str) -> None:
    assert places(wrong) == [place]


@pytest.mark.parametrize(
    "right",
    [
        route(),
        route(forward(tls=PASSTHROUGH), match={"domains": "a.example", "tls_version": "TLSv1.3"}),
        route(forward(tls=PASSTHROUGH), match={"protocol": "tcp"}),
        route(match={"protocol": "tcp", "domains": "a.example"}),
        route(handler("echo"), match={"domains": "a.example"}),
        route(handler("block", tls=TERMINATE)),
        route(handler("http_redirect"), headers={"response": {"A": "b"}}),
        route(match={"path": "/users/:id"}, headers={"request": {"A": "{param.id}", "B": "{{param.x}}"}}),
        route(forward(tls=REENCRYPT | {"backend": {"ca": "ca.pem"}})),
        route(forward({"unix": "/run/a"}, tls=REENCRYPT | {"backend": {"server_name": "a"}})),
        route(forward({"unix": "/run/a"}, tls=REENCRYPT | {"backend": {"fingerprint": "ab" * 32}})),
        route(forward({"host": "a", "port": 1, "tls": {"server_name": "b"}})),
        route(
            forward(
                {"host": "a", "port": 1, "match": {"path": "/a"}, "tls": {}},
                {"host": "b", "port": 1},
                tls=TERMINATE | {"backend": {"ca": "ca.pem"}},
            )
        ),
        route(match={"inbound_proxy_protocol": {"mode": "required", "trusted_proxy_ips": ["10.0.0.1"]}}),
        route(match={"inbound_proxy_protocol": {"mode": "reject"}}),
    ],
)
def test_what_makes_sense_is_no_error(right: dict[str, Any]) -> None:
    assert places(right) == []


def test_the_global_list_of_trusted_proxies_serves_every_policy() -> None:
    required = route(match={"inbound_proxy_protocol": {"mode": "required"}})
    assert places(required, trusted_proxy_ips=["10.0.0.0/8"]) == []


def test_the_default_target_fills_in() -> None:
    config = ProxyConfig(defaults=DefaultsConfig(target=TargetConfig(host="a", port=1)))
    assert not [
        problem
        for problem in RouteValidator.validate([route({"type": "forward"})], config)
        if problem.severity is Severity.ERROR
    ]


def test_names_and_ids_are_unique_also_among_disabled_routes() -> None:
    assert places(
        route(name="a", id="x"),
        route(name="a", ports=81, enabled=False),
        route(name="b", id="x", ports=82),
    ) == ["routes[1].name", "routes[2].id"]


def policy(mode: str, *trusted: str) -> dict[str, Any]:
    return {"inbound_proxy_protocol": {"mode": mode, "trusted_proxy_ips": list(trusted)}}


@pytest.mark.parametrize(
    ("first", "second", "conflict"),
    [
        (route(match=policy("required", "10.0.0.1")), route(match=policy("optional", "10.0.0.1")), True),
        (route(match=policy("required", "10.0.0.1")), route(match=policy("required", "10.0.0.2")), True),
        (route(match=policy("required", "10.0.0.1")), route(match=policy("reject")), True),
        (route(match=policy("required", "10.0.0.1")), route(), False),
        (route(match=policy("required", "10.0.0.1")), route(match=policy("required", "10.0.0.1")), False),
        (route(match=policy("required", "10.0.0.1")), route(match=policy("reject"), ports=81), False),
        (
            route(match=policy("required", "10.0.0.1"), ports=[1, {"from": 70, "to": 90}]),
            route(match=policy("reject"), ports=[{"from": 2, "to": 70}]),
            True,
        ),
        (
            route(match=policy("required", "10.0.0.1")),
            route(match=policy("reject"), enabled=False),
            False,
        ),
    ],
)
def test_a_port_has_one_proxy_protocol_policy(
    first: dict[str, Any], second: dict[str, Any], conflict: bool
) -> None:
    expected = ["routes[1].match.inbound_proxy_protocol"] if conflict else []
    assert places(first, second) == expected


def test_a_left_out_certificate_is_a_warning_unless_there_is_no_default() -> None:
    omitted = route(forward(tls={"mode": "terminate"}))
    place = "action.tls.certificate"
    assert places(omitted, severity=Severity.WARNING) == [place]
    assert places(omitted, disable_default_cert=True) == [place]
    assert places(omitted, severity=Severity.WARNING, default_certificate=certificate("a")) == []
    other = route(forward(tls=TERMINATE), ports=81)
    assert places(omitted, other, severity=Severity.WARNING) == []


def test_routes_that_are_never_reached_are_warned_about() -> None:
    same = route(match={"domains": ["A.example.", "b.example"], "methods": ["get", "POST"]})
    again = route(match={"domains": ["b.example", "a.example"], "methods": ["POST", "GET"]})
    assert places(same, again, severity=Severity.WARNING) == ["routes[1].match"]
    assert places(same, again | {"priority": 1}, severity=Severity.WARNING) == ["match"]
    assert places(same, again | {"enabled": False}, severity=Severity.WARNING) == []
    other = route(match={"domains": ["b.example"], "methods": ["POST", "GET"]})
    assert places(same, other, severity=Severity.WARNING) == []


def test_routes_for_other_layers_do_not_hide_one_another() -> None:
    plain = route()
    tls = route(forward(tls=TERMINATE))
    passed = route(forward(tls=PASSTHROUGH))
    redirect = route(handler("http_redirect"))
    assert places(redirect, plain, tls, passed, severity=Severity.WARNING) == []


def test_targets_behind_one_that_takes_everything_are_warned_about() -> None:
    targets = [
        {"host": "a", "port": 1, "match": {"path": "/a"}},
        {"host": "b", "port": 1},
        {"host": "c", "port": 1, "priority": 5},
    ]
    assert places(route(forward(*targets)), severity=Severity.WARNING) == [
        "action.targets[0]",
        "action.targets[1]",
    ]
    del targets[2]
    assert places(route(forward(*targets)), severity=Severity.WARNING) == []


def test_unverified_backends_are_warned_about() -> None:
    everywhere = route(forward(tls=REENCRYPT | {"backend": {"verify": False}}))
    assert places(everywhere, severity=Severity.WARNING) == ["action.tls.backend.verify"]
    one = route(forward({"host": "a", "port": 1, "tls": {"verify": False}}))
    assert places(one, severity=Severity.WARNING) == ["action.targets[0].tls.verify"]
    default = {"target": {"host": "a", "port": 1, "tls": {"verify": False}}}
    unverified = places(route({"type": "forward"}), severity=Severity.WARNING, defaults=default)
    assert unverified == ["defaults.target.tls.verify"]


def test_routes_may_be_mappings_or_models() -> None:
    wrong = route(handler("echo"), match={"path": "/a"})
    problems = RouteValidator.validate([wrong, RouteConfig.model_validate(wrong), {"match": {}}])
    assert [problem.place for problem in problems if problem.severity is Severity.ERROR] == [
        "routes[2].match.ports",
        "routes[2].action",
        "routes[0].match.path",
        "routes[1].match.path",
    ]


def test_no_route_at_all_is_a_warning() -> None:
    assert RouteValidator.validate([route(enabled=False)]) == [
        Problem("routes", "no route is enabled", severity=Severity.WARNING)
    ]
