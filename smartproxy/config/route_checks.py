"""What can be wrong within one route although each of its options is right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from smartproxy.config.models import (
    ForwardActionConfig,
    HandlerActionConfig,
    MatchConfig,
    OriginTlsConfig,
    ProxyConfig,
    RouteConfig,
    TargetConfig,
    TargetMatchConfig,
)
from smartproxy.config.models.match import port_ranges
from smartproxy.config.models.scalars import as_list
from smartproxy.config.problems import Problem, Severity, place_text
from smartproxy.core.routing.paths import PathPattern

Path = tuple[str | int, ...]

RAW_HANDLERS = ("block", "echo")
_HTTP_CONDITIONS = ("path", "headers", "methods")
_TERMINATION_OPTIONS = (
    "certificate",
    "versions",
    "ciphers",
    "honor_cipher_order",
    "http2",
    "session_timeout",
    "client_auth",
    "backend",
)
_PARAMETER = re.compile(r"\{\{|\{param\.([^{}]*)\}")


def error(place: Path, message: str, *, given: str = "", allowed: str = "") -> Problem:
    """An error at `place`."""
    return Problem(place_text(place), message, given, allowed)


def warning(place: Path, message: str) -> Problem:
    """A warning at `place`."""
    return Problem(place_text(place), message, severity=Severity.WARNING)


def mode_of(route: RouteConfig) -> str:
    """The route's TLS mode; empty without TLS."""
    return route.action.tls.mode if route.action.tls is not None else ""


def terminates_tls(route: RouteConfig) -> bool:
    """Whether the route decrypts its clients' TLS."""
    return mode_of(route) in ("terminate", "terminate-and-reencrypt")


def serves_http3(route: RouteConfig) -> bool:
    """Whether the route's clients are served HTTP/3."""
    return route.action.udp.quic.enable_http3


def backend_protocol(route: RouteConfig) -> str:
    """HTTP towards the backend; empty where there is none."""
    action = route.action
    return action.options.backend_protocol if isinstance(action, ForwardActionConfig) else ""


def raw_handler(route: RouteConfig) -> str:
    """The name of the route's handler if it is one that knows no HTTP; else empty."""
    action = route.action
    if isinstance(action, HandlerActionConfig) and action.handler.kind in RAW_HANDLERS:
        return action.handler.kind
    return ""


def invisible_http(route: RouteConfig) -> str:
    """Why the route never sees HTTP, such as "cannot be seen with ..."; empty where it may."""
    kind = raw_handler(route)
    if mode_of(route) == "passthrough":
        return "cannot be seen in TLS that is passed through"
    if route.match.protocol == "tcp":
        return 'cannot be seen with protocol "tcp"'
    return f"cannot be seen by the {kind} handler, which knows no HTTP" if kind else ""


def check_route(route: RouteConfig, place: Path, config: ProxyConfig | None) -> Iterator[Problem]:
    """Everything wrong with `route` at `place`. Without `config` what depends on it is not checked."""
    yield from _check_visibility(route, place)
    yield from _check_tls_options(route, place)
    yield from _check_tls_version(route, place)
    yield from _check_parameters(route, place)
    if config is not None:
        yield from _check_inbound_proxy_protocol(route, place, config)
    if isinstance(route.action, ForwardActionConfig):
        yield from _check_forward(route, route.action, place, config)
    else:
        yield from _check_handler(route, route.action, place)


def _check_visibility(route: RouteConfig, place: Path) -> Iterator[Problem]:
    """Conditions and rules on HTTP, where the route never sees HTTP."""
    reason = invisible_http(route)
    if not reason:
        return
    yield from _refuse_http_conditions(route.match, (*place, "match"), reason)
    if mode_of(route) == "passthrough" and route.match.protocol == "http":
        yield error((*place, "match", "protocol"), f"HTTP {reason}")
    for direction in ("request", "response"):
        if getattr(route.headers, direction):
            yield error((*place, "headers", direction), f"header fields {reason}")
    if isinstance(route.action, ForwardActionConfig):
        for index, target in enumerate(route.action.targets):
            target_place = (*place, "action", "targets", index)
            if target.match is not None:
                yield from _refuse_http_conditions(target.match, (*target_place, "match"), reason)
            for direction in ("request", "response"):
                if getattr(target.headers, direction):
                    yield error((*target_place, "headers", direction), f"header fields {reason}")


def _refuse_http_conditions(
    match: MatchConfig | TargetMatchConfig, place: Path, reason: str
) -> Iterator[Problem]:
    for name in _HTTP_CONDITIONS:
        if getattr(match, name):
            yield error((*place, name), f"a condition that {reason}")


def _check_tls_options(route: RouteConfig, place: Path) -> Iterator[Problem]:
    tls = route.action.tls
    tls_place = (*place, "action", "tls")
    if tls is None:
        return
    if tls.mode == "passthrough":
        for name in _TERMINATION_OPTIONS:
            if name in tls.model_fields_set and getattr(tls, name) is not None:
                yield error((*tls_place, name), "has no effect on TLS that is passed through")
        if isinstance(route.action, ForwardActionConfig):
            for name in ("options", "websocket"):
                if getattr(route.action, name).model_fields_set:
                    yield error((*place, "action", name), "has no effect on TLS that is passed through")
            for index, target in enumerate(route.action.targets):
                for name in ("tls", "websocket"):
                    if getattr(target, name) is not None:
                        target_place = (*place, "action", "targets", index, name)
                        yield error(target_place, "has no effect on TLS that is passed through")
    elif tls.backend is not None and not any(_reencrypts(route, target) for target in _targets(route)):
        allowed = 'mode "terminate-and-reencrypt", or `options.backend_protocol = "http3"'
        yield error((*tls_place, "backend"), "has no effect without TLS to the backend", allowed=allowed)
    elif tls.backend is not None and not tls.backend.verify:
        yield _unverified((*tls_place, "backend"))


def _targets(route: RouteConfig) -> Sequence[TargetConfig]:
    """The route's own targets; one that only stands for the default target where there are none."""
    if not isinstance(route.action, ForwardActionConfig):
        return ()
    return route.action.targets or (TargetConfig(host="default", port="preserve"),)


def _reencrypts(route: RouteConfig, target: TargetConfig) -> bool:
    if target.tls is not None:
        return target.tls.mode == "terminate-and-reencrypt"
    # RFC 9001: there is no QUIC without TLS.
    return mode_of(route) == "terminate-and-reencrypt" or backend_protocol(route) == "http3"


def _unverified(place: Path) -> Problem:
    return warning(
        (*place, "verify"),
        "the backend's certificate is not verified: anyone on the way can read and change the traffic",
    )


def _check_tls_version(route: RouteConfig, place: Path) -> Iterator[Problem]:
    wanted = as_list(route.match.tls_version)
    tls = route.action.tls
    version_place = (*place, "match", "tls_version")
    if not wanted:
        return
    if tls is None and route.match.protocol == "http":
        yield error(version_place, "never holds: the route takes no TLS, since it has no `action.tls`")
    elif terminates_tls(route) and tls is not None and not set(wanted) & set(tls.versions):
        yield error(version_place, "never holds: `action.tls.versions` allows none of these")


def _check_parameters(route: RouteConfig, place: Path) -> Iterator[Problem]:
    path = route.match.path
    known = PathPattern.compile(path).parameter_names if path is not None else ()
    tables = [((*place, "headers"), route.headers)]
    if isinstance(route.action, ForwardActionConfig):
        for index, target in enumerate(route.action.targets):
            tables.append(((*place, "action", "targets", index, "headers"), target.headers))
    for table_place, headers in tables:
        for direction in ("request", "response"):
            for name, text in getattr(headers, direction).items():
                unknown = {match[1] for match in _PARAMETER.finditer(text or "") if match[1] is not None}
                if unknown.difference(known):
                    allowed = ", ".join(f"{{param.{item}}}" for item in known)
                    yield error(
                        (*table_place, direction, name),
                        "uses a parameter that `match.path` does not have",
                        allowed=allowed or "parameters such as :id in `match.path`",
                    )


def _check_inbound_proxy_protocol(route: RouteConfig, place: Path, config: ProxyConfig) -> Iterator[Problem]:
    policy = route.match.inbound_proxy_protocol
    if policy is None or policy.mode == "reject":
        return
    trusted = config.trusted_proxy_ips if policy.trusted_proxy_ips is None else policy.trusted_proxy_ips
    if not trusted:
        yield error(
            (*place, "match", "inbound_proxy_protocol"),
            "trusts nobody, so that every header would be refused",
            allowed="`trusted_proxy_ips` here or at top level",
        )


def _check_forward(
    route: RouteConfig, action: ForwardActionConfig, place: Path, config: ProxyConfig | None
) -> Iterator[Problem]:
    targets_place = (*place, "action", "targets")
    if not action.targets:
        if config is not None and config.defaults.target is None:
            yield error(targets_place, "is required", allowed="targets here, or `defaults.target`")
        elif config is not None and config.defaults.target is not None:
            yield from _check_unix_tls(route, config.defaults.target, targets_place)
        return
    for index, target in enumerate(action.targets):
        yield from _check_target_in(route, target, (*targets_place, index))
    order = sorted(range(len(action.targets)), key=lambda index: (-action.targets[index].priority, index))
    for number, index in enumerate(order):
        match = action.targets[index].match
        if match is None or not match.model_fields_set:
            for later in order[number + 1 :]:
                yield warning(
                    (*targets_place, later),
                    f"is never tried, since targets[{index}] takes everything; "
                    "equal backends are one target with a list of hosts",
                )
            return


def check_target(target: TargetConfig, place: Path) -> Iterator[Problem]:
    """What is wrong with a target whatever its route."""
    tls = target.tls
    if tls is not None and not tls.verify:
        yield _unverified((*place, "tls"))
    if tls is not None and tls.mode == "terminate":
        for name in sorted(tls.model_fields_set - {"mode"}):
            message = 'has no effect with mode "terminate", which is plain to the backend'
            yield error((*place, "tls", name), message)
    if callable(target.host) and target.load_balancing.health_check is not None:
        yield error(
            (*place, "load_balancing", "health_check"),
            "cannot check hosts that a function names only when asked",
        )


def _check_target_in(route: RouteConfig, target: TargetConfig, place: Path) -> Iterator[Problem]:
    yield from check_target(target, place)
    yield from _check_unix_tls(route, target, place)
    if target.match is None or target.match.ports is None:
        return
    ranges = port_ranges(route.match.ports)
    if not any(
        low <= route_high and route_low <= high
        for low, high in port_ranges(target.match.ports)
        for route_low, route_high in ranges
    ):
        yield error((*place, "match", "ports"), "never holds: the route has none of these ports")


def origin_tls(route: RouteConfig, target: TargetConfig) -> OriginTlsConfig | None:
    """How TLS towards `target` is checked: its own options over the route's. None: no TLS towards it."""
    tls = route.action.tls
    if mode_of(route) == "passthrough" or not _reencrypts(route, target):
        return None
    base = (tls.backend if tls is not None else None) or OriginTlsConfig()
    if target.tls is None:
        return base
    own = target.tls.plain()
    own.pop("mode", None)
    inherited = base.plain()
    if own.keys() & {"verify", "ca", "fingerprint"}:
        # One way to verify takes the place of another; they do not mix.
        inherited = {name: value for name, value in inherited.items() if name == "server_name"}
    return OriginTlsConfig.validated({**inherited, **own}, {})


def _check_unix_tls(route: RouteConfig, target: TargetConfig, place: Path) -> Iterator[Problem]:
    if target.unix is None or backend_protocol(route) == "http3":
        return
    tls = origin_tls(route, target)
    if tls is not None and tls.verify and tls.fingerprint is None and tls.server_name is None:
        yield error((*place, "unix"), "has no name to verify", allowed="`server_name` in its TLS options")


def _check_handler(route: RouteConfig, action: HandlerActionConfig, place: Path) -> Iterator[Problem]:
    if mode_of(route) in ("passthrough", "terminate-and-reencrypt"):
        yield error(
            (*place, "action", "tls", "mode"),
            "needs a backend, and a handler has none",
            given=f'"{mode_of(route)}"',
            allowed='"terminate"',
        )
    if not raw_handler(route):
        if route.match.protocol == "tcp":
            yield error(
                (*place, "match", "protocol"),
                f"the {action.handler.kind} handler answers HTTP only",
                given='"tcp"',
                allowed='"http"',
            )
        if route.headers.request:
            yield warning((*place, "headers", "request"), "has no effect: a handler sends no request on")
