"""Whatever is written into a configuration, it loads or says where it is wrong."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from smartproxy.config import ConfigError, ProxyConfig, RouteValidator, json_schema, parse_config
from smartproxy.config.importer import ImportResult, import_smartproxy_json
from smartproxy.config.loading import Format
from smartproxy.config.units import (
    LARGEST_SIZE_BYTES,
    LONGEST_DURATION_S,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

SECRET = "hunter2-never-shown"

# A sample that uses every part of the language, to be broken in one place at a time.
SAMPLE: dict[str, Any] = {
    "listen": ["127.0.0.1"],
    "trusted_proxy_ips": ["10.0.0.0/8"],
    "send_proxy_protocol": 1,
    "connection_timeout": "5s",
    "keep_alive_treatment": "extended",
    "limits": {"header_bytes": "64KiB", "header_count": 100},
    "logging": {"level": "debug", "access_log": False},
    "defaults": {"target": {"host": "d", "port": 1}, "security": {"ip_block_list": ["192.0.2.1"]}},
    "disable_default_cert": False,
    "max_connections_per_ip": 7,
    "connection_rate_limit_per_minute": False,
    "security_policy": {"blocked_ips": ["192.0.2.1"], "blocked_cidrs": ["198.51.100.0/24"]},
    "challenge": {
        "cookie_signing_key": ["0123456789abcdef"],
        "reserved_path_prefix": "/c",
        "pending_ttl": 60,
    },
    "default_certificate": {"cert_file": "a.pem", "key": "k"},
    "routes": [
        {
            "name": "app",
            "priority": 1,
            "match": {
                "ports": [80, {"from": 81, "to": 89}],
                "domains": ["a.example", "*.b.example"],
                "path": "/users/:id",
                "client_ip": "10.0.0.0/8",
                "headers": {"X-Kind": "a*", "X-Other": "/^b+$/"},
                "methods": ["GET"],
                "protocol": "http",
                "inbound_proxy_protocol": {"mode": "optional", "trusted_proxy_ips": ["10.0.0.1"]},
            },
            "action": {
                "type": "forward",
                "targets": [
                    {
                        "host": ["a", {"host": "b", "weight": 2}],
                        "port": "preserve",
                        "match": {"path": "/users/*", "ports": 80},
                        "load_balancing": {"algorithm": "ip-hash", "health_check": {"path": "/"}},
                        "headers": {"request": {"X-Id": "{param.id}"}},
                        "tls": {"fingerprint": "ab" * 32},
                    },
                    {"unix": "/run/x", "send_proxy_protocol": True},
                ],
                "options": {"backend_protocol": "http1", "via": True},
                "websocket": {
                    "enabled": True,
                    "ping_interval": "30s",
                    "subprotocols": ["chat"],
                    "allowed_origins": ["https://*.a.example"],
                },
            },
            "headers": {"request": {"X-Ip": "{clientIp}", "X-Old": None}},
            "security": {
                "ip_allow_list": ["10.0.0.0/8"],
                "max_connections": False,
                "rate_limit": {
                    "max_requests": 10,
                    "window": "1m",
                    "key_by": "header",
                    "header_name": "X-Key",
                    "on_exceeded": {"type": "challenge", "challenge": {"challenge_type": "wait"}},
                },
                "challenge": {
                    "challenge_type": "proof-of-work",
                    "settings": {"difficulty": 12},
                    "apply_to": {"methods": "GET", "paths": ["/a/*"], "browser_navigations_only": True},
                    "clearance": {"ttl": "1h", "bind_to_ip": True},
                },
                "basic_auth": {"users": [{"username": "ann", "password": "p"}], "user_header": "X-User"},
                "jwt_auth": {
                    "jwks_url": "https://a.example/keys",
                    "algorithms": ["ES256"],
                    "audience": ["b"],
                    "claims_to_headers": {"sub": "X-Subject"},
                },
            },
        },
        {
            "id": "h3",
            "security": {"basic_auth": {"users": {"ann": "p"}}, "jwt_auth": {"enabled": False}},
            "match": {"ports": 443, "transport": "all", "domains": "h3.example"},
            "action": {
                "type": "forward",
                "targets": [{"host": "a", "port": 1, "websocket": {"max_payload_size": "1MiB"}}],
                "tls": {"mode": "terminate", "http2": False},
                "udp": {
                    "quic": {
                        "enable_http3": True,
                        "max_idle_timeout": "45s",
                        "alt_svc_port": 8443,
                        "initial_congestion_window": "16KiB",
                    }
                },
            },
        },
        {
            "id": "tls",
            "match": {"ports": 443, "tls_version": "TLSv1.3"},
            "action": {
                "type": "handler",
                "handler": {"http_redirect": {"url": "https://{domain}{path}", "code": 308}},
                "tls": {
                    "mode": "terminate",
                    "certificate": {"cert": "c", "key": "k"},
                    "versions": ["TLSv1.3"],
                },
            },
        },
    ],
}

WORDS = st.sampled_from(
    [
        *(
            "routes",
            "match",
            "ports",
            "action",
            "type",
            "forward",
            "handler",
            "targets",
            "host",
            "port",
            "tls",
        ),
        *(
            "mode",
            "terminate",
            "certificate",
            "auto",
            "security",
            "rate_limit",
            "headers",
            "request",
            "preserve",
        ),
        *(
            "/a",
            "/a/*",
            "*.a",
            "10.0.0.0/8",
            "{clientIp}",
            "{x}",
            "5s",
            "64KiB",
            "${X}",
            "${",
            "$${x}",
            "file:x",
        ),
        *("[key]", "<forward>", "<scalar>", "TLSv1.2", "[::1]", "a:1", "-----BEGIN", "\ud800", "\0"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-10, 70_000)
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | WORDS
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


def holders(value: Any) -> list[tuple[Any, Any]]:
    """Every (table or list, key or position) within `value`."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for key, item in pairs:
        found.append((value, key))
        found += holders(item)
    return found


HOLDER_COUNT = len(holders(SAMPLE))


@st.composite
def broken_samples(draw: st.DrawFn) -> dict[str, Any]:
    """The sample with a few parts replaced, added or taken away."""
    data = copy.deepcopy(SAMPLE)
    for _ in range(draw(st.integers(1, 3))):
        places = holders(data)
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace":
            holder[key] = draw(JSON)
        elif change == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(WORDS | st.text(max_size=8))] = draw(JSON)
        else:
            holder.append(draw(JSON))
    return data


def refusal(action: Callable[[], object]) -> ConfigError | None:
    """The error of an action that may fail in no other way."""
    try:
        action()
    except ConfigError as error:
        return error
    return None


def load(data: Any, format_: Format = "toml", **environ: str) -> ProxyConfig | None:
    """The configuration, or None after checking that every problem says where and what."""
    loaded: list[ProxyConfig] = []
    error = refusal(lambda: loaded.append(parse_config(data, format_, "/nonexistent", environ=environ)))
    if error is None:
        return loaded[0]
    check_problems(error)
    return None


def check_problems(error: ConfigError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.place
        assert problem.message
        assert "\n" not in str(problem)
    assert len({(problem.place, problem.message) for problem in error.problems}) == len(error.problems)


def test_the_sample_is_valid() -> None:
    assert load(SAMPLE) is not None
    assert HOLDER_COUNT > 80


@given(broken_samples())
def test_broken_configurations_load_or_say_where_they_are_wrong(data: dict[str, Any]) -> None:
    load(data, X="1")


@given(JSON)
def test_anything_loads_or_says_where_it_is_wrong(data: Any) -> None:
    error = refusal(lambda: ProxyConfig.model_validate(data))
    if error is not None:
        check_problems(error)
    if isinstance(data, (dict, str)):
        load(data, X="1")
    if isinstance(data, list):
        assert all(problem.place for problem in RouteValidator.validate(data))


@given(
    st.sampled_from(["toml", "yaml", "json"]),
    st.text(max_size=60) | WORDS.map(lambda word: word + ": &a [*a"),
)
def test_any_text_loads_or_says_where_it_is_wrong(format_: Format, text: str) -> None:
    load(text, format_)


@given(broken_samples())
def test_yaml_and_json_say_the_same_of_the_same(data: dict[str, Any]) -> None:
    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError:
        return
    from_yaml = yaml.safe_dump(data, allow_unicode=False)
    outcomes = [load(text, "json", X="1")]
    if json.loads(text) == yaml.safe_load(from_yaml):
        outcomes.append(load(from_yaml, "yaml", X="1"))
    assert all(outcome == outcomes[0] for outcome in outcomes)


@given(broken_samples())
def test_what_loads_dumps_and_loads_to_the_same(data: dict[str, Any]) -> None:
    config = load(data, X="1")
    if config is None:
        return
    again = load(config.plain())
    assert again is not None
    assert repr(again) == repr(config)
    assert ProxyConfig.model_validate(config.plain()).model_dump() == config.model_dump()


@given(
    st.integers(0, HOLDER_COUNT - 1),
    st.sampled_from(["{}", "x{}", "{}..", "/{}*", "{{{}}}", "{}:80", "/({}/"]),
)
def test_a_secret_from_the_environment_is_never_shown(position: int, form: str) -> None:
    data = copy.deepcopy(SAMPLE)
    holder, key = holders(data)[position]
    holder[key] = form.format("${SECRET}")
    loaded: list[ProxyConfig] = []
    error = refusal(lambda: loaded.append(parse_config(data, environ={"SECRET": SECRET})))
    if error is not None:
        assert SECRET not in str(error)
        assert SECRET not in repr(error)
        assert SECRET not in repr(error.problems + error.warnings)
    for config in loaded:
        assert SECRET not in repr(config)
        assert SECRET not in repr(config.model_dump())
        assert SECRET not in repr(RouteValidator.validate(config.routes, config))


@given(st.floats(0, LONGEST_DURATION_S))
def test_durations_survive_being_written(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
    assert parse_duration(seconds) == seconds


@given(st.integers(0, LARGEST_SIZE_BYTES))
def test_sizes_survive_being_written(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
    assert parse_size(size_bytes) == size_bytes


@given(JSON)
def test_units_take_anything_or_refuse_it(value: Any) -> None:
    for parse, largest in ((parse_duration, LONGEST_DURATION_S), (parse_size, LARGEST_SIZE_BYTES)):
        try:
            parsed = parse(value)
        except ValueError:
            continue
        assert 0 <= parsed <= largest


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d", ""]), st.sampled_from(["", " "]))
def test_durations_are_what_their_unit_says(number: int, unit: str, space: str) -> None:
    factors = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}
    expected = number / 1000 if unit == "ms" else number * factors[unit]
    if expected <= LONGEST_DURATION_S:
        assert parse_duration(f"{number}{space}{unit}") == expected


FOREIGN_WORDS = st.sampled_from(
    [
        *(
            "routes",
            "match",
            "ports",
            "action",
            "type",
            "forward",
            "socket-handler",
            "targets",
            "host",
            "port",
        ),
        *("tls", "mode", "certificate", "auto", "security", "rateLimit", "headers", "request", "ipAllowList"),
        *("defaults", "acme", "connectionTimeout", "tlsVersion", "websocket", "pingInterval", "challenge"),
        *("transport", "udp", "all", "protocol", "quic", "http3", "enableHttp3", "maxIdleTimeout"),
        *("${X}", "file:x", "{clientIp}{x}", "\ud800", "\n[x]"),
    ]
)
FOREIGN = st.recursive(
    SCALARS | FOREIGN_WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(FOREIGN_WORDS | st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=25,
)


@st.composite
def foreign_configurations(draw: st.DrawFn) -> dict[str, Any]:
    route = st.fixed_dictionaries(
        {"match": st.dictionaries(FOREIGN_WORDS, FOREIGN, max_size=4), "action": FOREIGN},
        optional={"security": FOREIGN, "headers": FOREIGN, "name": FOREIGN},
    )
    return {
        **draw(st.dictionaries(FOREIGN_WORDS, FOREIGN, max_size=4)),
        "routes": draw(st.lists(route, max_size=3)),
    }


@given(foreign_configurations() | FOREIGN)
def test_any_foreign_configuration_imports_or_is_refused(data: Any) -> None:
    results: list[ImportResult] = []
    error = refusal(lambda: results.append(import_smartproxy_json(data)))
    assert (error is None) == bool(results)
    for result in results:
        written = tomllib.loads(result.text_toml)
        assert json.dumps(written, sort_keys=True) == json.dumps(result.config, sort_keys=True)
        result.text_toml.encode("utf-8")
        load(result.config)


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(json_schema())) == json_schema()
