"""What routes ask of their clients, compiled for the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from smartproxy.config.certificates import CertificateReader, Place, Rejected
from smartproxy.config.models import (
    BasicAuthConfig,
    ChallengeConfig,
    ChallengeSettingsConfig,
    ConfigModel,
    JwtAuthConfig,
    RateLimitConfig,
    SecurityConfig,
    SecurityPolicyConfig,
)
from smartproxy.config.models.base import REVEAL, SwitchableConfig, in_force
from smartproxy.config.models.scalars import as_list, ip_set
from smartproxy.config.problems import Problem, place_text
from smartproxy.core.routing.paths import PathPattern
from smartproxy.core.security.authentication.hashes import is_hash
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.security.policies import (
    BasicAuthPolicy,
    ChallengeClearance,
    ChallengePolicy,
    ChallengeSettings,
    JwksSource,
    JwtPolicy,
    RateLimitKey,
    RateLimitPolicy,
    RequestPolicy,
)

_T = TypeVar("_T")
_IN_DEFAULTS: Place = ("defaults", "security")


def blocked_addresses(policy: SecurityPolicyConfig) -> IpSet:
    """Who gets no connection at all."""
    ips, cidrs = ip_set(tuple(policy.blocked_ips)), ip_set(tuple(policy.blocked_cidrs))
    return ips.union(cidrs) if ips and cidrs else ips or cidrs


def challenge_settings(config: ChallengeSettingsConfig) -> ChallengeSettings:
    """What holds for the challenges of every route."""
    return ChallengeSettings(
        signing_keys=config.signing_keys(),
        pending_cookie_name=config.pending_cookie_name,
        clearance_cookie_name=config.clearance_cookie_name,
        reserved_path_prefix=config.reserved_path_prefix,
        relay_timeout_s=config.relay_timeout,
        pending_ttl_s=config.pending_ttl,
    )


def max_connections(security: SecurityConfig, defaults: SecurityConfig) -> int | None:
    """How many connections a route may have at a time; None for no limit."""
    own = security.max_connections
    return (defaults.max_connections if own is None else own) or None


class RequestPolicies:
    """Makes the policies of one configuration: equal options, one policy."""

    def __init__(self, defaults: SecurityConfig, reader: CertificateReader, problems: list[Problem]) -> None:
        """`problems` gets what is wrong with keys."""
        self._defaults = defaults
        self._reader = reader
        self._problems = problems
        self._made: dict[object, Any] = {}

    def policy(self, security: SecurityConfig, place: Place) -> RequestPolicy | None:
        """What a route asks whose own options are `security`, at `place`; None for nothing."""
        policy = RequestPolicy(
            rate_limit=self._part("rate_limit", security, place, self._rate_limit),
            challenge=self._part("challenge", security, place, _challenge_at),
            basic_auth=self._part("basic_auth", security, place, _basic_auth),
            jwt_auth=self._part("jwt_auth", security, place, self._jwt_auth),
        )
        return policy if policy != RequestPolicy() else None

    def _part(
        self,
        name: str,
        security: SecurityConfig,
        place: Place,
        make: Callable[[Any, Place], _T],
    ) -> _T | None:
        own: SwitchableConfig | None = getattr(security, name)
        rule = in_force(own, getattr(self._defaults, name))
        if rule is None:
            return None
        key = rule_key(rule)
        made: _T | None = self._made.get(key)
        if made is None:
            try:
                made = make(rule, (*(place if own is not None else _IN_DEFAULTS), name))
            except Rejected as rejected:
                if rejected.problem not in self._problems:
                    self._problems.append(rejected.problem)
                return None
            self._made[key] = made
        return made

    def _rate_limit(self, config: RateLimitConfig, place: Place) -> RateLimitPolicy:
        assert config.max_requests is not None
        assert config.window is not None
        exceeded = config.on_exceeded
        return RateLimitPolicy(
            max_requests=config.max_requests,
            window_s=config.window,
            key_by=RateLimitKey(config.key_by),
            header_name=(config.header_name or "").lower().encode("ascii"),
            error_message=config.error_message,
            max_keys=config.max_keys,
            over_limit_challenge=_challenge(exceeded.challenge) if exceeded.challenge is not None else None,
            clearance_bypasses=exceeded.clearance_effect == "bypass-rate-limit",
        )

    def _jwt_auth(self, config: JwtAuthConfig, place: Place) -> JwtPolicy:
        algorithms = config.named_algorithms() or ("HS256",)
        secret: bytes | None = None
        public_key_pem: bytes | None = None
        if config.secret is not None:
            secret = _secret(config.secret.get_secret_value(), place)
        elif config.public_key is not None:
            key_place = (*place, "public_key")
            public_key_pem = self._reader.pem(config.public_key, key_place, config.shown("public_key"))
            algorithms = _algorithms_for(public_key_pem, config, place)
        return JwtPolicy(
            algorithms=algorithms,
            secret=secret,
            public_key_pem=public_key_pem,
            jwks=_key_set(config.jwks_url, place) if config.jwks_url is not None else None,
            issuer=config.issuer,
            audiences=config.audiences(),
            leeway_s=config.leeway,
            header=config.header.lower().encode("ascii"),
            cookie=config.cookie or "",
            realm=config.realm,
            strip=config.strip_token,
            claims_to_headers={
                claim: name.lower().encode("ascii") for claim, name in config.claims_to_headers.items()
            },
        )


def rule_key(value: object) -> object:
    """Hashable, and equal for rules that say the same; secrets are in it."""
    if isinstance(value, ConfigModel):
        return type(value), rule_key(value.model_dump(context=REVEAL))
    if isinstance(value, dict):
        return tuple(sorted((name, rule_key(item)) for name, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(rule_key(item) for item in value)
    # True, 1 and 1.0 are equal and yet different settings.
    return (type(value).__name__, value)


def _challenge_at(config: ChallengeConfig, place: Place) -> ChallengePolicy:
    return _challenge(config)


def _challenge(config: ChallengeConfig) -> ChallengePolicy:
    assert config.challenge_type is not None
    apply_to, clearance = config.apply_to, config.clearance
    return ChallengePolicy(
        provider_id=config.provider_id,
        challenge_type=config.challenge_type,
        policy_ref=config.policy_ref,
        settings=config.settings,
        methods=frozenset(method.encode("ascii") for method in as_list(apply_to.methods)),
        paths=tuple(PathPattern.compile(path) for path in as_list(apply_to.paths)),
        browser_navigations_only=apply_to.browser_navigations_only,
        clearance=ChallengeClearance(
            ttl_s=clearance.ttl,
            bind_to_host=clearance.bind_to_host,
            bind_to_route=clearance.bind_to_route,
            bind_to_ip=clearance.bind_to_ip,
        ),
    )


def _basic_auth(config: BasicAuthConfig, place: Place) -> BasicAuthPolicy:
    users = dict(config.credentials())
    return BasicAuthPolicy(
        users=users,
        verify_hash=_hash_verifier(users.values()),
        realm=config.realm,
        strip=config.strip_credentials,
        user_header=(config.user_header or "").lower().encode("ascii"),
    )


def _hash_verifier(passwords: Iterable[str]) -> Callable[[str, bytes], bool]:
    if not any(map(is_hash, passwords)):
        return _matches_nothing
    # A heavy import, which only who has hashes pays for.
    from smartproxy.passwords import verify_hash

    return verify_hash


def _matches_nothing(hash: str, password: bytes) -> bool:
    return False


# The library for tokens is a heavy import too, which only who has them pays for.


def _secret(text: str, place: Place) -> bytes:
    from smartproxy.core.security.authentication.keys import load_secret

    secret = text.encode("utf-8", "replace")
    try:
        return load_secret(secret)
    except ValueError:
        message = "is a key pair's key, which is no secret"
        raise Rejected(Problem(place_text((*place, "secret")), message, allowed="`public_key`")) from None


def _algorithms_for(public_key_pem: bytes, config: JwtAuthConfig, place: Place) -> tuple[str, ...]:
    """The algorithms that are named, else the one that is usual with the key. Raises `Rejected`."""
    from smartproxy.core.security.authentication.keys import algorithms_of, load_public_key

    where = place_text((*place, "public_key"))
    if b"PRIVATE KEY-----" in public_key_pem:
        raise Rejected(Problem(where, "is a private key, which has no place here: give the public one"))
    try:
        possible = algorithms_of(load_public_key(public_key_pem))
    except ValueError as reason:
        raise Rejected(Problem(where, f"cannot be used: {reason}")) from None
    named = config.named_algorithms()
    if set(named) <= set(possible):
        return named or possible[:1]
    option = "algorithm" if config.algorithm is not None else "algorithms"
    message = "is not one that the public key is for"
    raise Rejected(Problem(place_text((*place, option)), message, allowed=", ".join(possible)))


def _key_set(url: str, place: Place) -> JwksSource:
    from smartproxy.jwks import make_fetch

    try:
        return JwksSource(url, make_fetch(url))
    except ValueError:
        raise Rejected(Problem(place_text((*place, "jwks_url")), "is not a URL to fetch from")) from None
