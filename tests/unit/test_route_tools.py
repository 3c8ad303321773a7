"""Tools for programs that handle routes as data."""

from __future__ import annotations

from typing import Any

import pytest

from smartproxy.config import (
    ConfigError,
    ForwardActionConfig,
    RouteConfig,
    clone_route,
    find_best_matching_route,
    find_matching_routes,
    generate_route_id,
    merge_route_configs,
    parse_config,
)


def route(name: str | None = None, priority: int = 0, enabled: bool = True, **match: Any) -> RouteConfig:
    return RouteConfig.model_validate(
        {
            "name": name,
            "priority": priority,
            "enabled": enabled,
            "match": {"ports": 443, **match},
            "action": {"type": "forward", "targets": [{"host": "backend", "port": 3000}]},
        }
    )


ROUTES = [
    route("any"),
    route("wildcard", domains="*.example.com"),
    route("exact", domains="app.example.com"),
    route("path", domains="app.example.com", path="/api/*"),
    route("method", domains="app.example.com", methods="POST"),
    route("header", headers={"X-Kind": "beta"}),
    route("office", client_ip="10.0.0.0/8", priority=5),
    route("old", tls_version="TLSv1.2", ports=444),
    route("raw", protocol="tcp", ports=445),
    route("off", enabled=False),
]


def names(**facts: Any) -> list[str | None]:
    return [each.name for each in find_matching_routes(ROUTES, **facts)]


def test_routes_are_found_best_first() -> None:
    facts = {"port": 443, "domain": "APP.example.com", "client_ip": "198.51.100.1", "headers": {}}
    assert names(**facts, path="/api/x", method="GET") == ["path", "exact", "wildcard", "any"]
    assert names(**facts, path="/", method="POST") == ["method", "exact", "wildcard", "any"]
    assert names(**facts, path="/%61pi/x", method="GET")[0] == "path"


def test_facts_that_are_not_given_are_held_against_no_route() -> None:
    assert set(names()) == {each.name for each in ROUTES if each.enabled}
    assert names(port=444) == ["old"]
    assert names(protocol="http", port=445) == []
    assert names(protocol="tcp", port=445) == ["raw"]
    assert names(tls_version="TLSv1.3", port=444) == []
    assert "header" in names(headers={"x-kind": "beta"})
    assert "header" not in names(headers={"x-kind": "gamma"})
    assert names(client_ip="10.9.9.9")[0] == "office"
    assert "off" not in names()


def test_http_of_any_version_is_http() -> None:
    served = {
        "action": {
            "type": "forward",
            "targets": [{"host": "a", "port": 1}],
            "tls": {"mode": "terminate"},
            "udp": {"quic": {"enable_http3": True}},
        }
    }
    both = merge_route_configs(route("both", transport="all", protocol="http"), served)
    http3 = merge_route_configs(route("h3", transport="udp", protocol="http3"), served)
    http, raw = route("http", protocol="http"), route("raw", protocol="tcp")
    found = {
        protocol: {each.name for each in find_matching_routes([both, http3, http, raw], protocol=protocol)}
        for protocol in ("http", "http3", "tcp")
    }
    assert found == {"http": {"both", "h3", "http"}, "http3": {"both", "h3"}, "tcp": {"raw"}}


def test_the_best_is_the_first() -> None:
    best = find_best_matching_route(
        ROUTES, port=443, domain="app.example.com", path="/api/", client_ip="192.0.2.1"
    )
    assert best is ROUTES[3]
    assert find_best_matching_route(ROUTES, port=1) is None


@pytest.mark.parametrize(
    "facts", [{"domain": "a..b"}, {"path": "/%"}, {"client_ip": "x"}, {"protocol": "smtp"}, {"path": "x"}]
)
def test_facts_that_are_none_are_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        names(**facts)


def test_merging_goes_key_by_key() -> None:
    merged = merge_route_configs(
        route("base", path="/a", domains=["a.example"]),
        {"priority": 3, "match": {"domains": ["b.example"]}, "headers": {"request": {"A": "b"}}},
    )
    assert (merged.name, merged.priority) == ("base", 3)
    assert (merged.match.path, merged.match.domains, merged.match.ports) == ("/a", ["b.example"], 443)
    assert merged.headers.request == {"A": "b"}


def test_what_excludes_itself_is_replaced_whole() -> None:
    base = route("base")
    merged = merge_route_configs(base, {"action": {"type": "handler", "handler": {"echo": True}}})
    assert merged.action.type == "handler"
    again = merge_route_configs(merged, {"action": {"handler": {"block": {}}}})
    assert getattr(again.action, "handler").kind == "block"  # noqa: B009
    files = {"mode": "terminate", "certificate": {"cert_file": "a", "key_file": "b"}}
    text = {"certificate": {"cert": "c", "key": "d"}}
    with_files = merge_route_configs(base, {"action": {"tls": files}})
    with_text = merge_route_configs(with_files, {"action": {"tls": text}})
    assert with_text.action.tls is not None
    assert with_text.action.tls.certificate is not None
    assert with_text.action.tls.certificate.cert_file is None
    assert with_text.action.tls.certificate.key is not None
    assert with_text.action.tls.certificate.key.get_secret_value() == "d"


def test_merging_changes_neither_and_refuses_nonsense() -> None:
    base, override = route("base"), route("override", path="/x")
    before = (repr(base), repr(override))
    assert merge_route_configs(base, override).match.path == "/x"
    assert (repr(base), repr(override)) == before
    with pytest.raises(ConfigError) as caught:
        merge_route_configs(base, {"match": {"ports": "x"}})
    assert [problem.place for problem in caught.value.problems] == ["match.ports"]


def test_clones_share_nothing() -> None:
    original = merge_route_configs(route("a"), {"headers": {"request": {"A": "b"}}})
    copy = clone_route(original, name="b", priority=4)
    assert (copy.name, copy.priority, original.name, original.priority) == ("b", 4, "a", 0)
    assert copy.match == original.match
    assert isinstance(copy.action, ForwardActionConfig)
    assert isinstance(original.action, ForwardActionConfig)
    assert copy.action.targets[0] is not original.action.targets[0]
    copy.headers.request["C"] = "d"
    assert original.headers.request == {"A": "b"}
    with pytest.raises(ConfigError):
        clone_route(original, priority="high")


def test_clones_and_merges_keep_functions_and_references() -> None:
    def host(context: object) -> str:
        return "a"

    data = {
        "routes": [
            {
                "match": {"ports": "${P}"},
                "action": {"type": "forward", "targets": [{"host": host, "port": 1}]},
            }
        ]
    }
    original = parse_config(data, environ={"P": "4747"}).routes[0]
    for copy in (clone_route(original), merge_route_configs(original, {"priority": 1})):
        assert copy.match.ports == 4747
        assert "4747" not in repr(copy)
        assert isinstance(copy.action, ForwardActionConfig)
        assert copy.action.targets[0].host is host


def test_ids_are_the_same_for_the_same_route() -> None:
    first = route("a", path="/x")
    assert generate_route_id(first) == generate_route_id(route("a", path="/x", methods=None))
    assert generate_route_id(first) == generate_route_id(clone_route(first, id="other", enabled=False))
    assert generate_route_id(first) == "route-" + generate_route_id(first)[6:]
    others = [route("a", path="/y"), route("b", path="/x"), route("a", priority=1, path="/x")]
    assert len({generate_route_id(each) for each in [first, *others]}) == 4


def test_ids_do_not_depend_on_secrets() -> None:
    def with_key(key: str) -> RouteConfig:
        tls = {"mode": "terminate", "certificate": {"cert": "c", "key": key}}
        return merge_route_configs(route("a"), {"action": {"tls": tls}})

    assert generate_route_id(with_key("hunter2")) == generate_route_id(with_key("hunter3"))
