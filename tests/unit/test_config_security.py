"""What routes ask of their clients: from what is written to what the core decides by."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from sample_certificates import leaf

from smartproxy import passwords
from smartproxy.config import (
    ConfigError,
    ProxyConfig,
    SecurityConfig,
    compile_configuration,
    generate_route_id,
    json_schema,
    merge_route_configs,
    parse_config,
)
from smartproxy.core.configuration import Configuration, Route
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.core.security.policies import (
    BasicAuthPolicy,
    ChallengeClearance,
    ChallengePolicy,
    ChallengeSettings,
    JwtPolicy,
    RateLimitKey,
    RateLimitPolicy,
    RequestPolicy,
)

SECRET = "hunter2-never-shown-0123456789abcdef"
RATE_LIMIT = {"max_requests": 5, "window": 1}
CHALLENGE = {"challenge_type": "wait"}
USERS = {"ann": SECRET}


def route(name: str = "app", **security: Any) -> dict[str, Any]:
    action = {"type": "forward", "targets": [{"host": "backend", "port": 3000}]}
    return {
        "name": name,
        "match": {"ports": 80, "domains": f"{name}.example", "protocol": "http"},
        "action": action,
        "security": security,
    }


def compiled(*routes: dict[str, Any], **options: Any) -> Configuration:
    return compile_configuration(parse_config({"routes": list(routes), **options})).configuration


def compiled_route(defaults: dict[str, Any] | None = None, **security: Any) -> Route:
    options = {"defaults": {"security": defaults}} if defaults is not None else {}
    (only,) = compiled(route(**security), **options).table.routes
    return only


def policy_of(defaults: dict[str, Any] | None = None, **security: Any) -> RequestPolicy:
    policy = compiled_route(defaults, **security).request_policy
    assert policy is not None
    return policy


def rate_limit(**options: Any) -> RateLimitPolicy:
    policy = policy_of(rate_limit={**RATE_LIMIT, **options}).rate_limit
    assert policy is not None
    return policy


def challenge(**options: Any) -> ChallengePolicy:
    policy = policy_of(challenge={**CHALLENGE, **options}).challenge
    assert policy is not None
    return policy


def basic_auth(**options: Any) -> BasicAuthPolicy:
    policy = policy_of(basic_auth={"users": USERS, **options}).basic_auth
    assert policy is not None
    return policy


def jwt_auth(**options: Any) -> JwtPolicy:
    policy = policy_of(jwt_auth=options).jwt_auth
    assert policy is not None
    return policy


def refusals(**jwt_options: Any) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        compiled(route(jwt_auth=jwt_options))
    return [
        (problem.place.removeprefix("routes[0].security.jwt_auth."), problem.message)
        for problem in caught.value.problems
    ]


def public_pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    text: str = key.public_key().public_bytes(*form).decode()
    return text


def private_pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text: str = key.private_bytes(*form).decode()
    return text


P256 = ec.generate_private_key(ec.SECP256R1())


def test_a_route_that_asks_nothing_has_no_policy() -> None:
    plain = compiled_route()
    assert plain.request_policy is None
    assert plain.max_connections is None


def test_a_rate_limit_arrives() -> None:
    limit = rate_limit(window="1m", key_by="header", header_name="X-Key", error_message="slow", max_keys=500)
    assert (limit.max_requests, limit.window_s, limit.max_keys) == (5, 60.0, 500)
    assert (limit.key_by, limit.header_name) == (RateLimitKey.HEADER, b"x-key")
    assert limit.error_message == "slow"
    assert limit.over_limit_challenge is None


def test_the_defaults_of_a_rate_limit_are_the_cores_own() -> None:
    ours, cores = rate_limit(), RateLimitPolicy(5, 1.0)
    for name in RateLimitPolicy.__slots__:
        assert getattr(ours, name) == getattr(cores, name)


@pytest.mark.parametrize("kind", ["429", 429])
def test_the_status_of_a_refusal_may_be_text_or_number(kind: object) -> None:
    assert rate_limit(on_exceeded={"type": kind}).over_limit_challenge is None


@pytest.mark.parametrize(("effect", "bypasses"), [({}, True), ({"clearance_effect": "none"}, False)])
def test_requests_over_the_limit_may_be_challenged(effect: dict[str, str], bypasses: bool) -> None:
    nested = {**CHALLENGE, "clearance": {"ttl": "5m"}}
    limit = rate_limit(on_exceeded={"type": "challenge", "challenge": nested, **effect})
    assert limit.over_limit_challenge is not None
    assert limit.over_limit_challenge.clearance == ChallengeClearance(ttl_s=300.0)
    assert limit.clearance_bypasses is bypasses


def test_a_challenge_arrives() -> None:
    settings = {"level": 3, "words": ["a", None, True], "more": {"x": 1.5}}
    policy = challenge(
        provider_id="mine",
        challenge_type="riddle",
        policy_ref="strict",
        settings=settings,
        apply_to={"methods": ["get", "HEAD"], "paths": "/admin/*", "browser_navigations_only": True},
        clearance={"ttl": "1h", "bind_to_host": False, "bind_to_route": False, "bind_to_ip": True},
    )
    assert (policy.provider_id, policy.challenge_type, policy.policy_ref) == ("mine", "riddle", "strict")
    assert policy.settings == settings
    assert policy.methods == {b"GET", b"HEAD"}
    (path,) = policy.paths
    assert path.match("/admin/x") is not None
    assert policy.browser_navigations_only
    assert policy.clearance == ChallengeClearance(3600.0, False, False, True)


def test_the_defaults_of_a_challenge_are_the_cores_own() -> None:
    ours, cores = challenge(), ChallengePolicy("smartproxy", "wait")
    for name in ChallengePolicy.__slots__:
        assert getattr(ours, name) == getattr(cores, name)


def test_the_settings_of_challenges_arrive() -> None:
    keys = ["first key of 16+ bytes", "second key of 16+ bytes"]
    options = {
        "cookie_signing_key": keys,
        "pending_cookie_name": "p",
        "clearance_cookie_name": "c",
        "reserved_path_prefix": "/_/challenge",
        "relay_timeout": "500ms",
        "pending_ttl": "10m",
    }
    expected = ChallengeSettings(tuple(key.encode() for key in keys), "p", "c", "/_/challenge", 0.5, 600.0)
    assert compiled(challenge=options).challenges == expected
    assert compiled(challenge={"cookie_signing_key": keys[0]}).challenges.signing_keys == (keys[0].encode(),)


@pytest.mark.parametrize(
    "users",
    [
        {"ann": "secret", "Zoë": "geheim"},
        [{"username": "ann", "password": "secret"}, {"username": "Zoë", "password": "geheim"}],
    ],
)
def test_users_are_a_list_or_a_table(users: Any) -> None:
    policy = basic_auth(users=users, realm="Staff", strip_credentials=True, user_header="X-User")
    assert policy.users == {"ann": "secret", "Zoë": "geheim"}
    assert (policy.realm, policy.strip, policy.user_header) == ("Staff", True, b"x-user")
    assert policy.verify_hash("secret", b"secret") is False


def test_hashes_are_verified_by_what_made_them() -> None:
    hashed = passwords.hash_password(b"secret", "scrypt")
    policy = basic_auth(users={"ann": hashed})
    assert policy.users == {"ann": hashed}
    assert policy.verify_hash is passwords.verify_hash


def test_the_defaults_of_basic_auth_are_the_cores_own() -> None:
    ours, cores = basic_auth(), BasicAuthPolicy(USERS, lambda text, password: False)
    for name in set(BasicAuthPolicy.__slots__) - {"verify_hash"}:
        assert getattr(ours, name) == getattr(cores, name)


def test_tokens_with_a_secret_arrive() -> None:
    policy = jwt_auth(
        secret=SECRET,
        algorithms=["HS384", "HS512"],
        issuer="https://login.example",
        audience=["a", "b"],
        leeway="30s",
        header="X-Token",
        cookie="session",
        realm="Staff",
        strip_token=True,
        claims_to_headers={"sub": "X-Subject", "realm_access.role": "X-Role"},
    )
    assert (policy.secret, policy.public_key_pem, policy.jwks) == (SECRET.encode(), None, None)
    assert policy.algorithms == ("HS384", "HS512")
    assert (policy.issuer, policy.audiences, policy.leeway_s) == ("https://login.example", ("a", "b"), 30.0)
    assert (policy.header, policy.cookie, policy.realm, policy.strip) == (
        b"x-token",
        "session",
        "Staff",
        True,
    )
    assert policy.claims_to_headers == {"sub": b"x-subject", "realm_access.role": b"x-role"}


def test_the_defaults_of_tokens_are_the_cores_own() -> None:
    ours, cores = jwt_auth(secret=SECRET), JwtPolicy(("HS256",), secret=SECRET.encode())
    for name in JwtPolicy.__slots__:
        assert getattr(ours, name) == getattr(cores, name)
    assert jwt_auth(secret=SECRET, audience="a").audiences == ("a",)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (P256, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=["rsa", "p256", "p384", "p521", "ed25519"],
)
def test_a_public_key_says_the_algorithm(key: Any, algorithm: str) -> None:
    policy = jwt_auth(public_key=public_pem(key))
    assert policy.algorithms == (algorithm,)
    assert policy.public_key_pem == public_pem(key).encode()


def test_a_public_key_may_be_a_certificate_or_a_file(tmp_path: Path) -> None:
    certificate, _ = leaf("login.example")
    assert jwt_auth(public_key=certificate).algorithms == ("ES256",)
    (tmp_path / "key.pem").write_text(public_pem(P256))
    data = {"routes": [route(jwt_auth={"public_key": "key.pem"})]}
    ready = compile_configuration(parse_config(data, base_dir=tmp_path))
    policy = ready.configuration.table.routes[0].request_policy
    assert policy is not None
    assert policy.jwt_auth is not None
    assert policy.jwt_auth.public_key_pem == public_pem(P256).encode()
    (tmp_path / "key.pem").write_text(public_pem(P256) + "\n")
    assert ready.files.changed()


def test_public_keys_that_cannot_be_used_are_refused() -> None:
    short = public_pem(rsa.generate_private_key(65537, 1024))
    other = public_pem(ec.generate_private_key(ec.BrainpoolP256R1()))
    for pem in (short, other):
        ((place, message),) = refusals(public_key=pem)
        assert place == "public_key"
        assert message.startswith("cannot be used: its kind is not usable")
    damaged = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
    assert refusals(public_key=damaged) == [
        ("public_key", "cannot be used: it is not a public key or a certificate in PEM")
    ]
    assert refusals(public_key=private_pem(P256)) == [
        ("public_key", "is a private key, which has no place here: give the public one")
    ]
    assert refusals(public_key="/nonexistent/key.pem") == [
        ("public_key", "names a file that cannot be read (No such file or directory)")
    ]
    fitting = refusals(public_key=public_pem(P256), algorithm="RS256")
    assert fitting == [("algorithm", "is not one that the public key is for")]
    several = refusals(public_key=public_pem(P256), algorithms=["ES256", "RS256"])
    assert several == [("algorithms", "is not one that the public key is for")]


def test_a_key_set_is_fetched_from_its_url() -> None:
    policy = jwt_auth(jwks_url="https://login.example/keys", algorithms=["RS256", "ES256"])
    assert policy.jwks is not None
    assert policy.jwks.url == "https://login.example/keys"
    assert callable(policy.jwks.fetch)
    assert policy.algorithms == ("RS256", "ES256")


def test_defaults_hold_where_a_route_says_nothing() -> None:
    defaults = {
        "max_connections": 7,
        "rate_limit": RATE_LIMIT,
        "challenge": CHALLENGE,
        "basic_auth": {"users": USERS},
        "jwt_auth": {"secret": SECRET},
    }
    inherited = compiled_route(defaults)
    assert inherited.max_connections == 7
    policy = inherited.request_policy
    assert policy is not None
    assert None not in (policy.rate_limit, policy.challenge, policy.basic_auth, policy.jwt_auth)


def test_a_routes_own_rule_takes_the_place_of_the_default_as_a_whole() -> None:
    defaults = {"max_connections": 7, "rate_limit": {**RATE_LIMIT, "error_message": "slow"}}
    own = compiled_route(defaults, max_connections=3, rate_limit={"max_requests": 9, "window": 2})
    assert own.max_connections == 3
    assert own.request_policy is not None
    assert own.request_policy.rate_limit is not None
    assert own.request_policy.rate_limit.max_requests == 9
    assert own.request_policy.rate_limit.error_message == ""


def test_a_route_may_do_without_the_defaults() -> None:
    defaults = {
        "max_connections": 7,
        "rate_limit": RATE_LIMIT,
        "challenge": CHALLENGE,
        "basic_auth": {"users": USERS},
        "jwt_auth": {"secret": SECRET},
    }
    off = {"enabled": False}
    free = compiled_route(
        defaults, max_connections=False, rate_limit=off, challenge=off, basic_auth=off, jwt_auth=off
    )
    assert free.max_connections is None
    assert free.request_policy is None


def test_a_rule_that_is_switched_off_keeps_its_other_options() -> None:
    assert compiled_route(rate_limit={**RATE_LIMIT, "enabled": False}).request_policy is None
    assert compiled_route({"rate_limit": {**RATE_LIMIT, "enabled": False}}).request_policy is None


def test_equal_rules_are_one_policy() -> None:
    rules: dict[str, Any] = {
        "rate_limit": RATE_LIMIT,
        "challenge": {**CHALLENGE, "provider_id": "p", "settings": {"a": 1}},
        "basic_auth": {"users": USERS},
        "jwt_auth": {"jwks_url": "https://login.example/keys", "algorithm": "ES256"},
    }
    others = {**rules, "challenge": {**rules["challenge"], "settings": {"a": True}}}
    routes = [route("a", **rules), route("b", **copy.deepcopy(rules)), route("c", **others), route("d")]
    defaults = {"security": {"rate_limit": dict(RATE_LIMIT)}}
    first, second, third, fourth = (
        each.request_policy for each in compiled(*routes, defaults=defaults).table.routes
    )
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None
    assert first == second
    assert first.jwt_auth is third.jwt_auth
    assert first.challenge is not third.challenge
    assert first.rate_limit is fourth.rate_limit


@pytest.mark.parametrize(
    ("given", "expected"), [(5, 5), (0, None), (False, None), ("${NONE}", None), ("${FIVE}", 5)]
)
def test_limits_may_be_lifted(given: object, expected: int | None) -> None:
    data = {
        "max_connections_per_ip": given,
        "connection_rate_limit_per_minute": given,
        "limits": {"counted_addresses": 500},
        "routes": [route(max_connections=given)],
    }
    config = parse_config(data, environ={"NONE": "false", "FIVE": "5"})
    ready = compile_configuration(config).configuration
    assert ready.limits.max_connections_per_ip == expected
    assert ready.limits.connection_rate_limit_per_minute == expected
    assert ready.limits.counted_addresses == 500
    assert ready.table.routes[0].max_connections == expected


def test_the_block_policy_arrives() -> None:
    policy = {"blocked_ips": ["192.0.2.1"], "blocked_cidrs": ["198.51.100.0/24", "2001:db8::/32"]}
    blocked = compiled(security_policy=policy).blocked_addresses
    assert all(blocked.contains(ip_number(text)) for text in ("192.0.2.1", "198.51.100.7", "2001:db8::1"))
    assert not blocked.contains(ip_number("192.0.2.2"))
    only_one = compiled(security_policy={"blocked_ips": ["192.0.2.1"]}).blocked_addresses
    assert only_one.contains(ip_number("192.0.2.1"))


def test_every_bad_entry_of_a_block_policy_has_its_place() -> None:
    policy = {"blocked_ips": ["192.0.2.1", "nobody", "192.0.2.300"], "blocked_cidrs": ["10.0.0.1/8", 5]}
    with pytest.raises(ConfigError) as caught:
        parse_config({"security_policy": policy})
    assert [problem.place for problem in caught.value.problems] == [
        "security_policy.blocked_ips[1]",
        "security_policy.blocked_ips[2]",
        "security_policy.blocked_cidrs[1]",
    ]
    with pytest.raises(ConfigError) as caught:
        parse_config({"security_policy": {"blocked_cidrs": ["10.0.0.1/8", "${S}"]}}, environ={"S": SECRET})
    first, second = map(str, caught.value.problems)
    assert "the block is 10.0.0.0/8" in first
    assert SECRET not in second


def test_a_long_block_policy_loads_at_once() -> None:
    blocks = [f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}.0/24" for number in range(100_000)]
    began = time.process_time()
    config = parse_config({"security_policy": {"blocked_cidrs": blocks}})
    ready = compile_configuration(config).configuration
    again = compile_configuration(config.with_routes([])).configuration
    # It takes about half a second; a quadratic step would take minutes.
    assert time.process_time() - began < 10
    assert ready.blocked_addresses.contains(ip_number("1.134.159.1"))
    assert again.blocked_addresses == ready.blocked_addresses


# Secrets.


def secret_configuration(written: str) -> dict[str, Any]:
    security = {
        "basic_auth": {"users": {"ann": written, "bob": written}},
        "jwt_auth": {"secret": written},
    }
    listed = {"basic_auth": {"users": [{"username": "ann", "password": written}]}}
    return {
        "challenge": {"cookie_signing_key": [written, written]},
        "defaults": {"security": security},
        "routes": [route("a"), route("b", **listed), route("c", **security)],
    }


@pytest.mark.parametrize("written", [SECRET, "${SECRET}"])
def test_secrets_are_never_shown_and_always_arrive(written: str) -> None:
    config = parse_config(secret_configuration(written), environ={"SECRET": SECRET})
    shown = [
        repr(config),
        str(config),
        repr(config.model_dump()),
        config.model_dump_json(),
        repr(config.routes[1].security),
        generate_route_id(config.routes[1]),
        repr(copy.deepcopy(config)),
    ]
    assert not [text for text in shown if SECRET in text]
    for again in (config, ProxyConfig.model_validate(config.plain()), config.with_routes(config.routes)):
        ready = compile_configuration(again).configuration
        assert ready.challenges.signing_keys == (SECRET.encode(),) * 2
        first = ready.table.routes[0].request_policy
        assert first is not None
        assert first.basic_auth is not None
        assert first.basic_auth.users == {"ann": SECRET, "bob": SECRET}
        assert first.jwt_auth is not None
        assert first.jwt_auth.secret == SECRET.encode()


SHORT = "hunter2"
LEAKS: list[dict[str, Any]] = [
    {"jwt_auth": SECRET},
    {"jwt_auth": {"secret": [SECRET]}},
    {"jwt_auth": {"secret": SECRET, "scret": SECRET}},
    {"jwt_auth": {"secret": SECRET, "public_key": "key.pem"}},
    {"jwt_auth": {"secret": "-----BEGIN " + SECRET}},
    {"jwt_auth": {"secret": {"key": SECRET}}},
    {"basic_auth": SECRET},
    {"basic_auth": {"users": SECRET}},
    {"basic_auth": {"users": [SECRET]}},
    {"basic_auth": {"users": [{"username": "ann", "password": [SECRET]}]}},
    {"basic_auth": {"users": [{"username": "ann", "password": SECRET + "\n"}]}},
    {"basic_auth": {"users": {"ann": {"password": SECRET}}}},
    {"basic_auth": {"users": {"ann": SECRET + "\n"}}},
    {"basic_auth": {"users": {"ann": "$2b$" + SECRET}}},
    {"challenge": {"challenge_type": "${SECRET}"}},
    {"challenge": {"challenge_type": "wait", "settings": {"wait_seconds": "${SECRET}"}}},
]


@pytest.mark.parametrize("security", LEAKS, ids=lambda security: str(security)[:50])
def test_errors_never_show_secrets(security: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"routes": [route(**security)]}, environ={"SECRET": SECRET})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.problems + caught.value.warnings)


@pytest.mark.parametrize("keys", [SHORT, [SHORT], {"key": SECRET}, [[SECRET]], [SECRET, SHORT]])
def test_errors_never_show_signing_keys(keys: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"challenge": {"cookie_signing_key": keys}})
    assert SHORT not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        parse_config({"challenge": SECRET})
    assert SHORT not in str(caught.value)


def test_the_schema_marks_secrets() -> None:
    definitions = json_schema()["$defs"]
    text = json.dumps(definitions["JwtAuthConfig"]["properties"]["secret"])
    assert "writeOnly" in text
    assert definitions["BasicUserConfig"]["properties"]["password"]["writeOnly"] is True


# Tools.


def test_a_merge_never_lets_in_the_users_of_both() -> None:
    below = route(basic_auth={"users": {"ann": "a"}}, rate_limit=RATE_LIMIT)
    above = {"security": {"basic_auth": {"users": {"bob": "b"}}, "rate_limit": {"max_requests": 9}}}
    security = merge_route_configs(below, above).security
    assert security.basic_auth is not None
    assert security.basic_auth.credentials() == [("bob", "b")]
    assert security.rate_limit is not None
    assert (security.rate_limit.max_requests, security.rate_limit.window) == (9, 1.0)


def test_models_can_be_made_in_python() -> None:
    config = SecurityConfig.model_validate({"rate_limit": RATE_LIMIT, "max_connections": 3})
    assert config.rate_limit is not None
    assert config.rate_limit.window == 1.0
    assert config.max_connections == 3
