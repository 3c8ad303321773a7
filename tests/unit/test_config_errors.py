"""Every mistake has one line with its place, what was given and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from smartproxy.config import ConfigError, Problem, ProxyConfig, RouteConfig, Severity, parse_config
from smartproxy.config.problems import TOP_LEVEL, place_text, shown


def route(**changes: Any) -> dict[str, Any]:
    return {
        "match": {"ports": 80},
        "action": {"type": "forward", "targets": [{"host": "backend", "port": 3000}]},
        **changes,
    }


def target(**options: Any) -> dict[str, Any]:
    return route(action={"type": "forward", "targets": [{"host": "backend", "port": 80, **options}]})


def tls(**options: Any) -> dict[str, Any]:
    action = {**route()["action"], "tls": {"mode": "terminate", **options}}
    return route(action=action)


def problems_of(*routes: Any, **options: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse_config({"routes": list(routes), **options})
    return caught.value.problems


def only(*routes: Any, **options: Any) -> Problem:
    (problem,) = problems_of(*routes, **options)
    return problem


@pytest.mark.parametrize(
    ("mistake", "place", "message"),
    [
        (route(match={"ports": 70000}), "match.ports", "must be a port"),
        (route(match={"ports": -1}), "match.ports", "must be a port"),
        (route(match={"ports": True}), "match.ports", "must be a port"),
        (route(match={"ports": 80.0}), "match.ports", "must be a port"),
        (
            route(match={"ports": [80, {"from": 9, "to": 8}]}),
            "match.ports[1].to",
            "must not be before `from`",
        ),
        (route(match={"ports": [80, {"from": 9}]}), "match.ports[1].to", "is required"),
        (route(match={"ports": [80, {"from": 0, "to": 9}]}), "match.ports[1].from", "must be a port"),
        (route(match={"ports": []}), "match.ports", "must not be empty"),
        (route(match={"ports": {"from": 1, "to": 2}}), "match.ports", "must be a port, or a list of ports"),
        (route(match={}), "match.ports", "is required"),
        (route(match={"ports": 80, "domains": "a..b"}), "match.domains", "must be a domain pattern"),
        (
            route(match={"ports": 80, "domains": ["a", "*.b.*"]}),
            "match.domains[1]",
            "must be a domain pattern",
        ),
        (route(match={"ports": 80, "domains": 3}), "match.domains", "must be text"),
        (route(match={"ports": 80, "path": "/a*b"}), "match.path", "a star stands only at the end"),
        (route(match={"ports": 80, "path": "a"}), "match.path", "a path begins with a slash"),
        (route(match={"ports": 80, "client_ip": "10.0.0.0/40"}), "match.client_ip", "must be an IP rule"),
        (route(match={"ports": 80, "headers": {"x": "/(/"}}), "match.headers.x", "must be a condition"),
        (
            route(match={"ports": 80, "headers": {"a b": "1"}}),
            'match.headers["a b"]',
            "must be the name of a field",
        ),
        (route(match={"ports": 80, "headers": {"a": "1", "A": "1"}}), "match.headers.A", "more than once"),
        (route(match={"ports": 80, "methods": ["G T"]}), "match.methods[0]", "must be an HTTP method"),
        (
            route(match={"ports": 80, "protocol": "smtp"}),
            "match.protocol",
            "must be one of the allowed values",
        ),
        (route(action={"type": "proxy"}), "action.type", "must say what the route does"),
        (route(action={}), "action.type", "must say what the route does"),
        (route(action="forward"), "action", "must be a table"),
        (route(action={"type": "forward", "targets": {}}), "action.targets", "must be a list"),
        (target(port="http"), "action.targets[0].port", "must be a port"),
        (target(port=0), "action.targets[0].port", "must be a port"),
        (target(host="http://a"), "action.targets[0].host", "the scheme is chosen by `tls`"),
        (target(host="a:80"), "action.targets[0].host", "the port goes into `port`"),
        (
            target(host=["a", {"host": "b", "weight": -1}]),
            "action.targets[0].host[1].weight",
            "must be at least 0",
        ),
        (target(host=[]), "action.targets[0].host", "must not be empty"),
        (target(unix="/run/x"), "action.targets[0].host", "cannot be given together with `unix`"),
        (target(host=None), "action.targets[0].host", "is required"),
        (target(port=None), "action.targets[0].port", "is required"),
        (target(host="bücher..example"), "action.targets[0].host", "must be a host"),
        (target(host="1.2.3"), "action.targets[0].host", "must be a host"),
        (
            target(tls={"ca": "a", "fingerprint": "ab" * 32}),
            "action.targets[0].tls.fingerprint",
            "together with `ca`",
        ),
        (target(unix=""), "action.targets[0].unix", "must be the name of a file"),
        (
            target(load_balancing={"health_check": {"path": "up"}}),
            "action.targets[0].load_balancing.health_check.path",
            "must be a path, with or without a query",
        ),
        (target(send_proxy_protocol=3), "action.targets[0].send_proxy_protocol", "must say whether"),
        (
            target(headers={"request": {"Host": "x"}}),
            "action.targets[0].headers.request.Host",
            "see preserve_host",
        ),
        (
            target(headers={"request": {"X": "{no}"}}),
            "action.targets[0].headers.request.X",
            "unknown variable {no}",
        ),
        (
            target(headers={"request": {"X": "a\nb"}}),
            "action.targets[0].headers.request.X",
            "must be a template",
        ),
        (tls(mode="terminated"), "action.tls.mode", "must be one of the allowed values"),
        (tls(versions=["TLSv1.1"]), "action.tls.versions[0]", "must be one of the allowed values"),
        (tls(versions=[]), "action.tls.versions", "must not be empty"),
        (tls(session_timeout=1), "action.tls.session_timeout", "must be at least one minute"),
        (tls(certificate={"cert": "x"}), "action.tls.certificate.key_file", "is required"),
        (
            tls(certificate={"cert_file": "x", "key": "k", "key_file": "k"}),
            "action.tls.certificate.key_file",
            "cannot",
        ),
        (
            tls(backend={"fingerprint": "12"}),
            "action.tls.backend.fingerprint",
            "must be the SHA-256 fingerprint",
        ),
        (tls(backend={"verify": False, "ca": "x"}), "action.tls.backend.verify", "cannot be false together"),
        (route(security={"ip_allow_list": []}), "security.ip_allow_list", "must not be empty"),
        (route(security={"ip_block_list": "10.0.0.1"}), "security.ip_block_list", "must be a list"),
        (route(priority=1.5), "priority", "must be a whole number"),
        (route(priority=True), "priority", "must be a whole number"),
        (route(enabled="perhaps"), "enabled", "must be true or false"),
        (route(name=""), "name", "must not be empty"),
        (route(headers=[]), "headers", "must be a table"),
    ],
)
def test_a_mistake_in_a_route_names_its_place(mistake: object, place: str, message: str) -> None:
    problem = only(mistake)
    assert problem.place == f"routes[0].{place}"
    assert message in problem.message
    assert problem.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("options", "place", "message"),
    [
        ({"listen": ["localhost"]}, "listen[0]", "must be an IP address"),
        ({"trusted_proxy_ips": ["10.0.0.0/8", "x"]}, "trusted_proxy_ips[1]", "must be an IP rule"),
        ({"connection_timeout": "5 parsecs"}, "connection_timeout", "must be a duration"),
        ({"connection_timeout": 0}, "connection_timeout", "must be longer than 0"),
        ({"connection_timeout": -1}, "connection_timeout", "must be a duration of at least 0"),
        ({"connection_timeout": float("nan")}, "connection_timeout", "must be a duration"),
        ({"limits": {"header_bytes": "64Kibi"}}, "limits.header_bytes", "must be a size"),
        ({"limits": {"header_bytes": 0}}, "limits.header_bytes", "must be at least 1"),
        ({"limits": {"header_bytes": "1.5B"}}, "limits.header_bytes", "must be a whole number of bytes"),
        ({"keep_alive_inactivity_multiplier": 0.5}, "keep_alive_inactivity_multiplier", "must be at least 1"),
        ({"server_name": "a b"}, "server_name", "must be a name"),
        ({"logging": {"level": "inf"}}, "logging.level", "must be one of the allowed values"),
        ({"send_proxy_protocol": "maybe"}, "send_proxy_protocol", "must say whether"),
    ],
)
def test_a_mistake_at_top_level_names_its_place(options: dict[str, Any], place: str, message: str) -> None:
    problem = only(route(), **options)
    assert problem.place == place
    assert message in problem.message


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems_of(
        route(match={"ports": 0.5}),
        "not a route",
        route(match={"ports": 80, "path": "/a", "protocol": "tcp"}),
        route(name="same"),
        route(name="same", match={"ports": 81}),
        route(match={"ports": 25, "inbound_proxy_protocol": {"mode": "required"}}),
        tpyo=1,
    )
    assert {problem.place for problem in found} == {
        "routes[0].match.ports",
        "routes[1]",
        "routes[2].match.path",
        "routes[4].name",
        "routes[5].match.inbound_proxy_protocol",
        "tpyo",
    }


def test_unknown_keys_name_the_nearest_known_one() -> None:
    problem = only(route(action={**route()["action"], "tragets": []}))
    assert problem.place == "routes[0].action.tragets"
    assert problem.suggestion == "targets"
    assert "did you mean `targets`?" in str(problem)


def test_unknown_keys_far_from_all_list_the_known_ones() -> None:
    problem = only(route(match={"ports": 80, "zzz": 1}))
    assert "client_ip, domains, headers" in problem.allowed
    assert problem.suggestion == ""


def test_suggestions_come_from_the_alternative_that_was_chosen() -> None:
    handler = {"type": "handler", "handler": {"echo": True}, "targets": []}
    problem = only(route(action=handler))
    assert problem.allowed == "handler, tls, type, udp"


def test_choices_are_listed_and_suggested() -> None:
    problem = only(target(load_balancing={"algorithm": "roundrobin"}))
    assert problem.given == '"roundrobin"'
    assert problem.allowed == '"round-robin", "least-connections", "ip-hash"'
    assert problem.suggestion == "round-robin"


@pytest.mark.parametrize(
    ("mistake", "place"),
    [
        (route(match={"ports": 80, "transport": "udp"}), "routes[0].match.transport"),
        (route(match={"ports": 80, "transport": "all"}), "routes[0].match.transport"),
        (route(match={"ports": 80, "protocol": "quic"}), "routes[0].match.protocol"),
        (
            route(action={**route()["action"], "forwarding_engine": "nftables"}),
            "routes[0].action.forwarding_engine",
        ),
        (
            route(action={**route()["action"], "udp": {"session_timeout": 1}}),
            "routes[0].action.udp.session_timeout",
        ),
        (
            route(action={**route()["action"], "udp": {"quic": {"zero_rtt": True}}}),
            "routes[0].action.udp.quic.zero_rtt",
        ),
        (target(backend_transport="udp"), "routes[0].action.targets[0].backend_transport"),
        (tls(certificate="auto"), "routes[0].action.tls.certificate"),
        (tls(acme={}), "routes[0].action.tls.acme"),
        (route(action={"type": "handler", "handler": {"asgi": print}}), "routes[0].action.handler.asgi"),
        (route(action={"type": "handler", "handler": print}), "routes[0].action.handler"),
    ],
)
def test_options_of_later_versions_are_refused_by_name(mistake: dict[str, Any], place: str) -> None:
    problem = next(each for each in problems_of(mistake) if "not available" in each.message)
    assert problem.place == place
    assert problem.message.endswith("is not available in this version of smartproxy")


@pytest.mark.parametrize("option", ["acme", "metrics", "cert_provision_function"])
def test_top_level_options_of_later_versions_are_refused(option: str) -> None:
    problem = only(route(), **{option: {}})
    assert problem == Problem(option, f"`{option}` is not available in this version of smartproxy")


def test_handlers_exclude_one_another() -> None:
    handlers = {"echo": True, "block": {}}
    problem = only(route(action={"type": "handler", "handler": handlers}))
    assert problem.place == "routes[0].action.handler"
    assert problem.message == "must name only one handler"


def test_a_configuration_that_is_no_table_is_one_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        ProxyConfig.model_validate([1])
    assert caught.value.problems == [Problem(TOP_LEVEL, "must be a table", "a list")]


def test_models_made_from_mappings_raise_config_errors_with_places_of_their_own() -> None:
    with pytest.raises(ConfigError) as caught:
        RouteConfig.model_validate({"match": {"ports": "x"}, "action": {"type": "forward"}})
    assert [problem.place for problem in caught.value.problems] == ["match.ports"]


def test_the_error_reads_as_one_line_per_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"routes": [route(match={"ports": "x"})], "listne": []})
    assert str(caught.value).splitlines() == [
        "2 errors in the configuration",
        '  routes[0].match.ports: must be a port, not "x" (allowed: 1 to 65535, or 0 for any free one)',
        "  listne: unknown key; did you mean `listen`?",
    ]


def test_places_quote_what_is_no_plain_key() -> None:
    assert place_text(("a", 0, "b c", 'd"', "é")) == 'a[0]["b c"]["d\\""]["é"]'
    assert place_text(()) == TOP_LEVEL


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        ("x" * 200, '"' + "x" * 79 + '…"'),
        ("a\nb", '"a\\nb"'),
        ([], "an empty list"),
        ({"a": 1}, "a table"),
        (print, "a function"),
        ("-----BEGIN PRIVATE KEY-----", "PEM text"),
    ],
)
def test_values_are_shown_short(value: object, text: str) -> None:
    assert shown(value) == text
