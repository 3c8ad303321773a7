"""Rules on clients that cannot hold are refused when the configuration is loaded, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from smartproxy import passwords
from smartproxy.config import (
    ConfigError,
    Problem,
    ProxyConfig,
    RouteConfig,
    RouteValidator,
    Severity,
    TargetConfig,
    parse_config,
)

SECRET = "0123456789abcdef0123456789abcdef"
PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
LIMIT: dict[str, Any] = {"max_requests": 5, "window": 1}
CHALLENGE: dict[str, Any] = {"challenge_type": "wait"}
OVER_LIMIT = {**LIMIT, "on_exceeded": {"type": "challenge", "challenge": CHALLENGE}}
USERS = {"users": {"ann": "secret"}}
JWT: dict[str, Any] = {"secret": SECRET}
OFF = {"enabled": False}

TARGET = {"host": "backend", "port": 3000}
FORWARD: dict[str, Any] = {"type": "forward", "targets": [TARGET]}
HANDLER: dict[str, Any] = {"type": "handler", "handler": {"http_response": {}}}
ECHO: dict[str, Any] = {"type": "handler", "handler": {"echo": True}}
PASSTHROUGH: dict[str, Any] = {**FORWARD, "tls": {"mode": "passthrough"}}
TERMINATE: dict[str, Any] = {**FORWARD, "tls": {"mode": "terminate"}}
HTTP3 = {"quic": {"enable_http3": True}}


def route(
    security: dict[str, Any],
    action: dict[str, Any] = FORWARD,
    *,
    name: str | None = "app",
    protocol: str | None = "http",
    **options: Any,
) -> dict[str, Any]:
    match = {"ports": 443, "protocol": protocol, **options.pop("match", {})}
    return {"name": name, "match": match, "action": action, "security": security, **options}


def problems_of(*routes: dict[str, Any], **options: Any) -> list[Problem]:
    """Errors and warnings about security, wherever they are found."""
    try:
        config = parse_config({"routes": list(routes), **options})
    except ConfigError as refused:
        return refused.problems
    return RouteValidator.validate(config.routes, config)


def errors(*routes: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    return [
        (problem.place.removeprefix("routes[0].security."), problem.message)
        for problem in problems_of(*routes, **options)
        if problem.severity is Severity.ERROR
    ]


def warnings(*routes: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
    return [
        (problem.place.removeprefix("routes[0].security."), problem.message)
        for problem in problems_of(*routes, **options)
        if problem.severity is Severity.WARNING and ".security." in problem.place
    ]


NO_HTTP_IN_TLS = "is a rule on HTTP, which cannot be seen in TLS that is passed through"
NO_HTTP_IN_TCP = 'is a rule on HTTP, which cannot be seen with protocol "tcp"'
NO_HTTP_IN_ECHO = "is a rule on HTTP, which cannot be seen by the echo handler, which knows no HTTP"


@pytest.mark.parametrize("rule", [{"basic_auth": USERS}, {"jwt_auth": JWT}, {"challenge": CHALLENGE}])
@pytest.mark.parametrize(
    ("action", "protocol", "reason"),
    [
        (PASSTHROUGH, None, NO_HTTP_IN_TLS),
        (FORWARD, "tcp", NO_HTTP_IN_TCP),
        (ECHO, None, NO_HTTP_IN_ECHO),
    ],
)
def test_rules_on_http_need_http(
    rule: dict[str, Any], action: dict[str, Any], protocol: str, reason: str
) -> None:
    (name,) = rule
    assert (name, reason) in errors(route(rule, action, protocol=protocol))
    defaults = {"security": rule}
    inherited = (name, f"comes from `defaults` and {reason}")
    assert inherited in errors(route({}, action, protocol=protocol), defaults=defaults)
    assert errors(route({name: OFF}, action, protocol=protocol), defaults=defaults) == []


@pytest.mark.parametrize("key", [{"key_by": "path"}, {"key_by": "header", "header_name": "X-Key"}])
@pytest.mark.parametrize(("action", "protocol"), [(PASSTHROUGH, None), (FORWARD, "tcp"), (ECHO, None)])
def test_limits_by_what_is_in_requests_need_http(
    key: dict[str, str], action: dict[str, Any], protocol: str
) -> None:
    limit = {**LIMIT, **key}
    ((place, message),) = errors(route({"rate_limit": limit}, action, protocol=protocol))
    assert place == "rate_limit"
    assert message.startswith(f'is a rule on HTTP with `key_by = "{key["key_by"]}"`, which cannot be seen')
    defaults = {"security": {"rate_limit": limit}}
    ((place, message),) = errors(route({}, action, protocol=protocol), defaults=defaults)
    assert place == "rate_limit"
    assert message.startswith("comes from `defaults` and is a rule on HTTP")
    assert errors(route({"rate_limit": LIMIT}, action, protocol=protocol), defaults=defaults) == []


@pytest.mark.parametrize(("action", "protocol"), [(PASSTHROUGH, None), (FORWARD, "tcp"), (ECHO, None)])
def test_limits_by_address_need_none(action: dict[str, Any], protocol: str) -> None:
    security = {"rate_limit": LIMIT, "max_connections": 5}
    assert errors(route(security, action, protocol=protocol)) == []


def dynamic(**target: Any) -> dict[str, Any]:
    return {"type": "forward", "targets": [TARGET, {**TARGET, "match": {"path": "/a"}, **target}]}


def some_host(context: object) -> str:
    return "backend"


def some_port(context: object) -> int:
    return 3000


OBSTACLES: list[tuple[dict[str, Any], str]] = [
    ({"action": PASSTHROUGH, "protocol": None}, NO_HTTP_IN_TLS),
    ({"protocol": "tcp"}, NO_HTTP_IN_TCP),
    ({"action": ECHO, "protocol": None}, NO_HTTP_IN_ECHO),
    ({"name": None}, "needs to know the route again, which has no name"),
    ({"action": HANDLER}, "needs a backend to protect, and a handler has none"),
    ({"protocol": None}, "needs to see a request in all that comes in"),
    (
        {"action": {**TERMINATE, "udp": HTTP3}, "protocol": "http3", "match": {"transport": "udp"}},
        "needs to see a request in all that comes in",
    ),
    (
        {"action": {**TERMINATE, "udp": HTTP3}, "match": {"transport": "udp"}},
        "needs TCP, without which no browser finds its way to HTTP/3",
    ),
    ({"match": {"transport": "udp"}}, "needs TCP, without which no browser finds its way to HTTP/3"),
    ({"match": {"transport": "all"}}, "needs HTTP in what comes over UDP"),
    ({"action": dynamic(host=some_host)}, "cannot be used with targets that a function names"),
    ({"action": dynamic(port=some_port)}, "cannot be used with targets that a function names"),
]


@pytest.mark.parametrize(("options", "reason"), OBSTACLES, ids=[reason[:50] for _, reason in OBSTACLES])
def test_challenges_are_for_routes_that_can_have_them(options: dict[str, Any], reason: str) -> None:
    assert ("challenge", reason) in errors(route({"challenge": CHALLENGE}, **options))
    over_limit = ("rate_limit", f"has a challenge (`on_exceeded`) that {reason}")
    assert over_limit in errors(route({"rate_limit": OVER_LIMIT}, **options))
    for name, rule in (("challenge", CHALLENGE), ("rate_limit", OVER_LIMIT)):
        defaults = {"security": {name: rule}}
        (inherited, *_) = (
            problem
            for problem in problems_of(route({}, **options), defaults=defaults)
            if problem.message.endswith(reason)
        )
        assert inherited.place == f"routes[0].security.{name}"
        assert inherited.message.startswith("comes from `defaults` and ")
        assert inherited.allowed.endswith(f"`{name} = {{ enabled = false }}` here, to do without")
        own = errors(route({name: OFF}, **options), defaults=defaults)
        assert not [place for place, _ in own if place == name]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": None, "id": "1"},
        {"action": TERMINATE},
        {"action": {**TERMINATE, "udp": HTTP3}, "match": {"transport": "all"}},
    ],
)
def test_challenges_hold_where_they_can(options: dict[str, Any]) -> None:
    assert errors(route({"challenge": CHALLENGE, "rate_limit": OVER_LIMIT}, **options)) == []


def test_challenges_need_a_given_default_target_too() -> None:
    config = ProxyConfig.model_validate({"defaults": {"target": TargetConfig(host=some_host, port=1)}})
    model = RouteConfig.model_validate(route({"challenge": CHALLENGE}, {"type": "forward"}))
    messages = [problem.message for problem in RouteValidator.validate([model], config)]
    assert "cannot be used with targets that a function names" in messages


def test_defaults_are_not_held_against_routes_that_are_not_enabled() -> None:
    defaults = {"security": {"challenge": CHALLENGE}}
    assert errors(route({}, ECHO, protocol=None, enabled=False), defaults=defaults) == []


def of(name: str, **options: Any) -> dict[str, Any]:
    base = {"rate_limit": LIMIT, "challenge": CHALLENGE, "basic_auth": USERS, "jwt_auth": JWT}[name]
    return {name: {**base, **options}}


def exceeded(**options: Any) -> dict[str, Any]:
    return of("rate_limit", on_exceeded=options)


def keyed(**options: Any) -> dict[str, Any]:
    return {"jwt_auth": options}


JWKS = "https://login.example/keys"

MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"max_connections": -1}, "max_connections", "must be at least 0"),
    ({"max_connections": True}, "max_connections", "must be a whole number"),
    ({"rate_limit": {}}, "rate_limit.max_requests", "is required"),
    ({"rate_limit": {"enabled": True, "max_requests": 1}}, "rate_limit.window", "is required"),
    (of("rate_limit", max_requests=0), "rate_limit.max_requests", "must be at least 1"),
    (of("rate_limit", window=0), "rate_limit.window", "must be longer than 0"),
    (of("rate_limit", window=0.0001), "rate_limit.window", "must be at least one millisecond"),
    (of("rate_limit", max_keys=99), "rate_limit.max_keys", "must be at least 100"),
    (of("rate_limit", max_keys=10**8), "rate_limit.max_keys", "must be at most 10000000"),
    (of("rate_limit", key_by="user"), "rate_limit.key_by", "must be one of the allowed values"),
    (of("rate_limit", key_by="header"), "rate_limit.header_name", 'is required with `key_by = "header"`'),
    (
        of("rate_limit", header_name="X"),
        "rate_limit.header_name",
        'has no effect without `key_by = "header"`',
    ),
    (
        of("rate_limit", key_by="header", header_name="X Y"),
        "rate_limit.header_name",
        "must be the name of a field",
    ),
    (exceeded(type="430"), "rate_limit.on_exceeded.type", "must be one of the allowed values"),
    (
        exceeded(type="challenge"),
        "rate_limit.on_exceeded.challenge",
        "is required with type `challenge`",
    ),
    (
        exceeded(type="challenge", challenge={**CHALLENGE, **OFF}),
        "rate_limit.on_exceeded.challenge",
        "cannot be disabled with type `challenge`",
    ),
    (
        exceeded(challenge=CHALLENGE),
        "rate_limit.on_exceeded.challenge",
        'has no effect without `type = "challenge"`',
    ),
    (
        exceeded(type=429, clearance_effect="none"),
        "rate_limit.on_exceeded.clearance_effect",
        'has no effect without `type = "challenge"`',
    ),
    ({"challenge": {}}, "challenge.challenge_type", "is required"),
    (of("challenge", provider_id=""), "challenge.provider_id", "must not be empty"),
    (
        of("challenge", challenge_type="riddle"),
        "challenge.challenge_type",
        "must be a built-in challenge, with the built-in provider",
    ),
    (
        of("challenge", settings={"wait": 5}),
        "challenge.settings",
        "are not what the challenge takes: unknown setting 'wait'",
    ),
    (
        of("challenge", settings={"wait_seconds": 300}),
        "challenge.settings.wait_seconds",
        "must be less than `challenge.pending_ttl`",
    ),
    (
        of("challenge", settings={"at": float("nan")}),
        "challenge.settings",
        "must hold values of JSON only",
    ),
    (of("challenge", settings=[]), "challenge.settings", "must be a table"),
    (of("challenge", apply_to={"paths": ["admin"]}), "challenge.apply_to.paths[0]", "must be a path pattern"),
    (of("challenge", apply_to={"methods": "G T"}), "challenge.apply_to.methods", "must be an HTTP method"),
    (of("challenge", clearance={"ttl": 0}), "challenge.clearance.ttl", "must be longer than 0"),
    (
        exceeded(type="challenge", challenge={"challenge_type": "riddle"}),
        "rate_limit.on_exceeded.challenge.challenge_type",
        "must be a built-in challenge, with the built-in provider",
    ),
    ({"basic_auth": {}}, "basic_auth.users", "is required"),
    (of("basic_auth", users=[]), "basic_auth.users", "must not be empty"),
    (of("basic_auth", users={}), "basic_auth.users", "must not be empty"),
    (of("basic_auth", users={"a:b": "x"}), 'basic_auth.users["a:b"]', "must be a user name"),
    (of("basic_auth", users={"": "x"}), 'basic_auth.users[""]', "must be a user name"),
    (of("basic_auth", users={"ann": ""}), "basic_auth.users.ann", "must not be empty"),
    (
        of("basic_auth", users=[{"username": "ann\n", "password": "x"}]),
        "basic_auth.users[0].username",
        "must be a user name",
    ),
    (
        of("basic_auth", users=[{"username": "ann", "password": "x\t"}]),
        "basic_auth.users[0].password",
        "must not hold control characters",
    ),
    (
        of("basic_auth", users=[{"username": "ann", "password": "x"}] * 2),
        "basic_auth.users",
        "must not have a user twice",
    ),
    (
        of("basic_auth", users={"ann": "$2b$10$short"}),
        "basic_auth.users.ann",
        "is not a complete bcrypt hash",
    ),
    (
        of("basic_auth", users=[{"username": "ann", "password": "$argon2id$x"}]),
        "basic_auth.users[0].password",
        "is not a complete argon2 hash",
    ),
    (of("basic_auth", realm=""), "basic_auth.realm", "must not be empty"),
    (of("basic_auth", realm="a\nb"), "basic_auth.realm", "must be a field value without control characters"),
    *(
        (
            of("basic_auth", user_header=name),
            "basic_auth.user_header",
            "must be the name of a field that rules",
        )
        for name in ("Host", "Content-Length", "Connection", "Upgrade", "X Y")
    ),
    *(
        (
            of("basic_auth", user_header=name),
            "basic_auth.user_header",
            "must be a field that means nothing else",
        )
        for name in ("Authorization", "Cookie", "X_Forwarded_For", "Forwarded", "Via")
    ),
    (keyed(), "jwt_auth.secret", "is required"),
    (keyed(secret=SECRET, public_key=PEM), "jwt_auth.public_key", "cannot be given together with `secret`"),
    (
        keyed(public_key=PEM, jwks_url=JWKS, algorithm="RS256"),
        "jwt_auth.jwks_url",
        "cannot be given together with `public_key`",
    ),
    (keyed(jwks_url=JWKS), "jwt_auth.algorithm", "is required with `jwks_url`"),
    (of("jwt_auth", secret=""), "jwt_auth.secret", "must not be empty"),
    (of("jwt_auth", secret=PEM), "jwt_auth.secret", "is a key pair's key, which is no secret"),
    (of("jwt_auth", secret="ssh-rsa AAAA"), "jwt_auth.secret", "is a key pair's key, which is no secret"),
    (of("jwt_auth", algorithm="none"), "jwt_auth.algorithm", "must be a way to sign"),
    (of("jwt_auth", algorithms=["HS256", "None"]), "jwt_auth.algorithms[1]", "must be a way to sign"),
    (of("jwt_auth", algorithm="HS128"), "jwt_auth.algorithm", "must be one of the allowed values"),
    (of("jwt_auth", algorithms=[]), "jwt_auth.algorithms", "must not be empty"),
    (
        of("jwt_auth", algorithm="HS256", algorithms=["HS256"]),
        "jwt_auth.algorithms",
        "cannot be given together with `algorithm`",
    ),
    (
        of("jwt_auth", algorithms=["HS256", "RS256"]),
        "jwt_auth.algorithms",
        "must not mix HMAC with signatures: whoever has the public key could write tokens",
    ),
    (of("jwt_auth", algorithm="RS256"), "jwt_auth.algorithm", "is for key pairs, and `secret` is none"),
    (
        keyed(public_key=PEM, algorithm="HS256"),
        "jwt_auth.algorithm",
        "is for a shared secret: with a public key in its place anybody could write tokens",
    ),
    (
        keyed(jwks_url=JWKS, algorithms=["HS256"]),
        "jwt_auth.algorithms",
        "is for a shared secret: with a public key in its place anybody could write tokens",
    ),
    *(
        (keyed(jwks_url=url, algorithm="RS256"), "jwt_auth.jwks_url", "must be a")
        for url in (
            "http://login.example/keys",
            "http://127.0.0.1.example/keys",
            "http://localhost@login.example/keys",
            "https://user:password@login.example/keys",
            "file:///etc/passwd",
            "ftp://login.example/keys",
            "https:///keys",
            "https://login.example:port/keys",
            "https://login.example/keys#one",
            "https://login.example/the keys",
            "https://login.example/\nkeys",
            "https://[::1/keys",
            "//login.example/keys",
            "",
        )
    ),
    (of("jwt_auth", issuer=""), "jwt_auth.issuer", "must not be empty"),
    (of("jwt_auth", audience=[]), "jwt_auth.audience", "must not be empty"),
    (of("jwt_auth", leeway=-1), "jwt_auth.leeway", "must be a duration of at least 0"),
    (of("jwt_auth", cookie="a b"), "jwt_auth.cookie", "must be the name of a cookie"),
    (of("jwt_auth", header="Cookie"), "jwt_auth.header", "must be another field"),
    (of("jwt_auth", header="Host"), "jwt_auth.header", "must be the name of a field that rules may set"),
    (
        of("jwt_auth", claims_to_headers={"sub": "Authorization"}),
        "jwt_auth.claims_to_headers.sub",
        "must be a field that means nothing else",
    ),
    (
        of("jwt_auth", claims_to_headers={"sub": "Transfer-Encoding"}),
        "jwt_auth.claims_to_headers.sub",
        "must be the name of a field that rules may set",
    ),
    (
        of("jwt_auth", claims_to_headers={"sub": "X-User", "name": "x-user"}),
        "jwt_auth.claims_to_headers.name",
        "names a field that another claim has",
    ),
    (
        of("jwt_auth", claims_to_headers={"a..b": "X-User"}),
        'jwt_auth.claims_to_headers["a..b"]',
        "must be the name of a claim",
    ),
]


@pytest.mark.parametrize(
    ("security", "place", "message"),
    MISTAKES,
    ids=[f"{place}-{message[:30]}" for _, place, message in MISTAKES],
)
def test_what_cannot_be_meant_is_refused(security: dict[str, Any], place: str, message: str) -> None:
    found = errors(route(security))
    assert found[0][0] == place
    assert found[0][1].startswith(message)
    in_defaults = problems_of(route({}), defaults={"security": security})
    assert f"defaults.security.{place}" in [problem.place for problem in in_defaults]


def test_everything_that_is_missing_is_told_at_once() -> None:
    security: dict[str, Any] = {"rate_limit": {}, "challenge": {}, "basic_auth": {}, "jwt_auth": {}}
    assert [place for place, _ in errors(route(security))] == [
        "rate_limit.max_requests",
        "rate_limit.window",
        "challenge.challenge_type",
        "basic_auth.users",
        "jwt_auth.secret",
    ]


def test_what_is_switched_off_need_not_be_complete() -> None:
    security: dict[str, Any] = dict.fromkeys(("rate_limit", "challenge", "basic_auth", "jwt_auth"), OFF)
    assert problems_of(route(security)) == []


@pytest.mark.parametrize(
    ("options", "place", "message"),
    [
        ({"cookie_signing_key": "fifteen bytes.."}, "cookie_signing_key", "must be at least 16 bytes long"),
        ({"cookie_signing_key": []}, "cookie_signing_key", "must not be empty"),
        ({"cookie_signing_key": [SECRET, ""]}, "cookie_signing_key[1]", "must be at least 16 bytes long"),
        ({"cookie_signing_key": [SECRET] * 9}, "cookie_signing_key", "must have at most 8 entries"),
        ({"pending_cookie_name": "a b"}, "pending_cookie_name", "must be the name of a cookie"),
        ({"clearance_cookie_name": ""}, "clearance_cookie_name", "must be the name of a cookie"),
        (
            {"pending_cookie_name": "a", "clearance_cookie_name": "a"},
            "clearance_cookie_name",
            "must differ from `pending_cookie_name`",
        ),
        ({"relay_timeout": 0}, "relay_timeout", "must be longer than 0"),
        ({"pending_ttl": "never"}, "pending_ttl", "must be a duration"),
        *(
            ({"reserved_path_prefix": path}, "reserved_path_prefix", "must be a plain path below /")
            for path in (
                "/",
                "",
                "x",
                "/x/",
                "/x?y",
                "/x#y",
                "//x",
                "/x/../y",
                "/x/./y",
                "/%78",
                "/x;y",
                "/x y",
            )
        ),
    ],
)
def test_settings_of_challenges_that_cannot_be_meant_are_refused(
    options: dict[str, Any], place: str, message: str
) -> None:
    (problem,) = problems_of(challenge=options)
    assert (problem.place, problem.message) == (f"challenge.{place}", message)


@pytest.mark.parametrize("option", ["max_connections_per_ip", "connection_rate_limit_per_minute"])
def test_limits_of_addresses_are_whole_numbers(option: str) -> None:
    for wrong in (-1, True, 1.5, "many", None):
        (problem,) = problems_of(**{option: wrong})
        assert problem.place == option


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/keys", "http://localhost/keys", "http://[::1]/keys", JWKS]
)
def test_key_sets_may_come_from_this_machine_without_tls(url: str) -> None:
    assert errors(route(keyed(jwks_url=url, algorithm="RS256"))) == []


def test_challenges_of_other_providers_are_theirs_to_judge() -> None:
    challenge = {"provider_id": "mine", "challenge_type": "riddle", "settings": {"any": ["thing"]}}
    assert errors(route({"challenge": challenge})) == []


@pytest.mark.parametrize(
    ("secret", "algorithm", "warned"),
    [("s" * 31, None, True), ("s" * 32, None, False), ("s" * 63, "HS512", True), ("é" * 16, "HS256", False)],
)
def test_secrets_that_are_too_short_are_warned_about(
    secret: str, algorithm: str | None, warned: bool
) -> None:
    found = warnings(route(keyed(secret=secret, algorithm=algorithm)))
    assert [place for place, _ in found] == (["jwt_auth.secret"] if warned else [])


@pytest.mark.parametrize(
    ("action", "options", "warned"),
    [
        (FORWARD, {}, True),
        (FORWARD, {"listen": ["127.0.0.1", "192.0.2.1"]}, True),
        (FORWARD, {"listen": ["127.0.0.1", "::1"]}, False),
        (FORWARD, {"trusted_proxy_ips": ["10.0.0.1"]}, False),
        (TERMINATE, {}, False),
    ],
)
def test_passwords_in_the_clear_are_warned_about(
    action: dict[str, Any], options: dict[str, Any], warned: bool
) -> None:
    expected = ["basic_auth"] if warned else []
    assert [place for place, _ in warnings(route({"basic_auth": USERS}, action), **options)] == expected
    defaults = {"security": {"basic_auth": USERS}}
    assert [place for place, _ in warnings(route({}, action), defaults=defaults, **options)] == expected


def test_good_hashes_pass() -> None:
    hashed = {name: passwords.hash_password(b"x", name) for name in ("scrypt", "bcrypt")}
    assert errors(route({"basic_auth": {"users": hashed}})) == []


def test_a_long_wait_is_held_against_the_time_given_also_beside_other_errors() -> None:
    long_wait = route(of("challenge", settings={"wait_seconds": 400}))
    assert errors(long_wait, challenge={"pending_ttl": "10m"}) == []
    wrong = {"match": {"ports": "x"}, "action": FORWARD}
    assert [place for place, _ in errors(long_wait, wrong, challenge={"pending_ttl": "10m"})] == [
        "routes[1].match.ports"
    ]
