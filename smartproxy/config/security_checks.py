"""What can be wrong with what a route asks of its clients."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from smartproxy.challenges import BUILT_IN_PROVIDER_ID, check_settings
from smartproxy.challenges.settings import CHALLENGE_TYPES, WAIT, read_wait_settings
from smartproxy.config.models import (
    BasicAuthConfig,
    ChallengeConfig,
    ForwardActionConfig,
    JwtAuthConfig,
    ProxyConfig,
    RouteConfig,
    SecurityConfig,
)
from smartproxy.config.models.base import in_force
from smartproxy.config.problems import Problem
from smartproxy.config.route_checks import (
    Path,
    error,
    invisible_http,
    serves_http3,
    terminates_tls,
    warning,
)
from smartproxy.core.security.authentication.hashes import is_hash

_HTTP_ONLY = ("challenge", "basic_auth", "jwt_auth")
_HASH_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}

_Obstacle = tuple[str, str]
"""Why a rule cannot hold for a route, and what would do."""


def check_security(route: RouteConfig, place: Path, config: ProxyConfig | None) -> Iterator[Problem]:
    """Everything wrong with what `route` at `place` asks, itself or because `defaults` do."""
    own, own_place = route.security, (*place, "security")
    yield from check_security_options(own, own_place, config)
    # A route that is not enabled need not fit what all others have.
    defaults = config.defaults.security if config is not None and route.enabled else SecurityConfig()
    for name in _HTTP_ONLY:
        if in_force(getattr(own, name), getattr(defaults, name)) is None:
            continue
        obstacles = _obstacles_to_challenge(route, config) if name == "challenge" else _invisible(route)
        for obstacle in obstacles:
            yield _cannot_hold(own, own_place, name, obstacle)
    limit = in_force(own.rate_limit, defaults.rate_limit)
    if limit is not None and limit.key_by != "ip":
        for _, allowed in _invisible(route):
            message = f'is a rule on HTTP with `key_by = "{limit.key_by}"`, which {invisible_http(route)}'
            yield _cannot_hold(own, own_place, "rate_limit", (message, f'`key_by = "ip"`, or {allowed}'))
    if limit is not None and limit.on_exceeded.type == "challenge":
        for message, allowed in _obstacles_to_challenge(route, config):
            yield _cannot_hold(
                own, own_place, "rate_limit", (f"has a challenge (`on_exceeded`) that {message}", allowed)
            )
    if config is not None and in_force(own.basic_auth, defaults.basic_auth) is not None:
        yield from _check_passwords_in_the_clear(route, own_place, config)


def _cannot_hold(own: SecurityConfig, place: Path, name: str, obstacle: _Obstacle) -> Problem:
    message, allowed = obstacle
    if getattr(own, name) is None:
        message = f"comes from `defaults` and {message}"
        allowed += f", or `{name} = {{ enabled = false }}` here, to do without"
    return error((*place, name), message, allowed=allowed)


def _invisible(route: RouteConfig) -> Iterator[_Obstacle]:
    reason = invisible_http(route)
    if reason:
        yield f"is a rule on HTTP, which {reason}", "a route that sees HTTP"


def _obstacles_to_challenge(route: RouteConfig, config: ProxyConfig | None) -> Iterator[_Obstacle]:
    match = route.match
    yield from _invisible(route)
    if route.name is None and route.id is None:
        yield "needs to know the route again, which has no name", "a `name` or an `id` for the route"
    if not isinstance(route.action, ForwardActionConfig):
        yield "needs a backend to protect, and a handler has none", '`action.type = "forward"`'
    elif _has_target_of_function(route.action, config):
        yield "cannot be used with targets that a function names", "hosts and ports that are given"
    if match.protocol != "http" and not invisible_http(route):
        yield "needs to see a request in all that comes in", '`match.protocol = "http"`'
    if match.transport == "udp":
        yield "needs TCP, without which no browser finds its way to HTTP/3", '`match.transport = "all"`'
    elif match.transport == "all" and not serves_http3(route):
        yield "needs HTTP in what comes over UDP", "`action.udp.quic.enable_http3 = true`"


def _has_target_of_function(action: ForwardActionConfig, config: ProxyConfig | None) -> bool:
    targets = list(action.targets)
    if not targets and config is not None and config.defaults.target is not None:
        targets = [config.defaults.target]
    return any(callable(target.host) or callable(target.port) for target in targets)


def _check_passwords_in_the_clear(
    route: RouteConfig, security_place: Path, config: ProxyConfig
) -> Iterator[Problem]:
    # Behind trusted proxies TLS may well have ended in front of them.
    if terminates_tls(route) or invisible_http(route) or config.trusted_proxy_ips:
        return
    if not all(ip_address(address).is_loopback for address in config.listen):
        yield warning(
            (*security_place, "basic_auth"),
            "lets passwords cross the network in the clear: the route terminates no TLS",
        )


def check_security_options(
    security: SecurityConfig, place: Path, config: ProxyConfig | None
) -> Iterator[Problem]:
    """What is wrong with `security` at `place`, whatever route it holds for."""
    basic_auth, jwt_auth = in_force(security.basic_auth, None), in_force(security.jwt_auth, None)
    if basic_auth is not None:
        yield from _check_hashes(basic_auth, (*place, "basic_auth", "users"))
    if jwt_auth is not None:
        yield from _check_secret(jwt_auth, (*place, "jwt_auth", "secret"))
    challenge, limit = in_force(security.challenge, None), in_force(security.rate_limit, None)
    if challenge is not None:
        yield from _check_challenge(challenge, (*place, "challenge"), config)
    if limit is not None and limit.on_exceeded.challenge is not None:
        nested_place = (*place, "rate_limit", "on_exceeded", "challenge")
        yield from _check_challenge(limit.on_exceeded.challenge, nested_place, config)


def _check_hashes(config: BasicAuthConfig, place: Path) -> Iterator[Problem]:
    for index, (name, password) in enumerate(config.credentials()):
        if not is_hash(password):
            continue
        # A heavy import, which only who has hashes pays for.
        from smartproxy.passwords import check_hash

        try:
            check_hash(password)
        except ValueError as reason:
            where = (*place, name) if isinstance(config.users, dict) else (*place, index, "password")
            hidden = config.hides("users")
            yield error(where, "is a hash that cannot be verified" if hidden else str(reason))


def _check_secret(config: JwtAuthConfig, place: Path) -> Iterator[Problem]:
    if config.secret is None:
        return
    longest = max(config.named_algorithms() or ("HS256",))
    if len(config.secret.get_secret_value().encode("utf-8", "replace")) < _HASH_BYTES[longest]:
        yield warning(
            place,
            f"is shorter than the {_HASH_BYTES[longest]} bytes that {longest} asks for (RFC 7518 §3.2): "
            "who has one token can try out secrets",
        )


def _check_challenge(config: ChallengeConfig, place: Path, proxy: ProxyConfig | None) -> Iterator[Problem]:
    """The built-in challenges can be checked here; whether others are right their providers say."""
    kind = config.challenge_type
    if config.provider_id != BUILT_IN_PROVIDER_ID or kind is None:
        return
    if kind not in CHALLENGE_TYPES:
        allowed = ", ".join(f'"{name}"' for name in CHALLENGE_TYPES)
        message = "must be a built-in challenge, with the built-in provider"
        yield error(
            (*place, "challenge_type"), message, given=config.shown("challenge_type"), allowed=allowed
        )
        return
    try:
        check_settings(kind, config.settings)
    except ValueError as reason:
        message = "are not what the challenge takes"
        yield error((*place, "settings"), message if config.hides("settings") else f"{message}: {reason}")
        return
    if kind == WAIT and proxy is not None:
        pending_ttl = proxy.challenge.pending_ttl
        if read_wait_settings(config.settings).wait_seconds >= pending_ttl:
            message = (
                "must be less than `challenge.pending_ttl`, after which the wait would count for nothing"
            )
            yield error((*place, "settings", "wait_seconds"), message)
