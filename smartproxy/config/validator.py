"""What can be wrong between options and between routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from smartproxy.config.explain import explain
from smartproxy.config.http3_checks import check_http3, check_shared_ports
from smartproxy.config.models import HandlerActionConfig, ProxyConfig, RouteConfig
from smartproxy.config.models.match import port_ranges
from smartproxy.config.models.scalars import as_list
from smartproxy.config.problems import TOP_LEVEL, Problem, Severity
from smartproxy.config.route_checks import (
    check_route,
    check_target,
    error,
    mode_of,
    raw_handler,
    terminates_tls,
    warning,
)
from smartproxy.config.security_checks import check_security, check_security_options
from smartproxy.core.routing.domains import normalise_domain


class RouteValidator:
    """Checks routes as a set. It opens no file: certificates are read when the configuration is compiled."""

    @staticmethod
    def validate(
        routes: Sequence[RouteConfig | Mapping[str, Any]], config: ProxyConfig | None = None
    ) -> list[Problem]:
        """Every problem of `routes`, errors and warnings, in order of place.

        `config` has the options that are not the routes' own (its `routes` are not
        looked at); without it the defaults hold.
        """
        models: dict[int, RouteConfig] = {}
        problems: list[Problem] = []
        for position, route in enumerate(routes):
            if isinstance(route, RouteConfig):
                models[position] = route
                continue
            try:
                models[position] = RouteConfig.validated(route, {})
            except ValidationError as invalid:
                problems += explain(invalid, RouteConfig, route, ("routes", position))
        problems += RouteValidator.validate_some(models, config if config is not None else ProxyConfig())
        if not any(route.enabled for route in models.values()) and not problems:
            where = "routes" if config is not None or routes else TOP_LEVEL
            problems.append(Problem(where, "no route is enabled", severity=Severity.WARNING))
        return problems

    @staticmethod
    def validate_some(routes: Mapping[int, RouteConfig], config: ProxyConfig | None) -> list[Problem]:
        """As `validate`, for routes by position, of which some are missing; `config` None: not known."""
        problems = [
            problem
            for position, route in routes.items()
            for check in (check_route, check_http3, check_security)
            for problem in check(route, ("routes", position), config)
        ]
        problems += _check_unique(routes, "name")
        problems += _check_unique(routes, "id")
        enabled = {position: route for position, route in routes.items() if route.enabled}
        if config is not None:
            if config.defaults.target is not None:
                problems += check_target(config.defaults.target, ("defaults", "target"))
            problems += check_security_options(config.defaults.security, ("defaults", "security"), config)
            problems += _check_proxy_policies(enabled, config)
            problems += _check_certificates(enabled, config)
            if config.quic_engine == "qh3" and find_spec("qh3") is None:
                message = "is not installed: pip install smartproxy[fast]"
                problems.append(error(("quic_engine",), message, given=config.quic_engine))
        problems += check_shared_ports(enabled)
        problems += _check_reachable(enabled)
        return problems


def _check_unique(routes: Mapping[int, RouteConfig], field: str) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for position, route in routes.items():
        value = getattr(route, field)
        if value is None:
            continue
        if value in first:
            yield error(
                ("routes", position, field),
                f"is also the {field} of routes[{first[value]}]",
                given=route.shown(field),
            )
        first.setdefault(value, position)


def _check_proxy_policies(routes: Mapping[int, RouteConfig], config: ProxyConfig) -> Iterator[Problem]:
    """A PROXY header comes before anything that tells one route of a port from another."""
    intervals: list[tuple[int, int, int, tuple[str, ...]]] = []
    for position, route in routes.items():
        policy = route.match.inbound_proxy_protocol
        if policy is None:
            continue
        key: tuple[str, ...] = (policy.mode,)
        if policy.mode != "reject":
            own = policy.trusted_proxy_ips
            key += tuple(sorted(config.trusted_proxy_ips if own is None else own))
        intervals += [(low, high, position, key) for low, high in port_ranges(route.match.ports)]
    reported: set[int] = set()
    reach: dict[tuple[str, ...], tuple[int, int]] = {}
    for low, high, position, key in sorted(intervals):
        for other_key, (other_high, other_position) in reach.items():
            later, earlier = max(position, other_position), min(position, other_position)
            if other_key != key and low <= other_high and later not in reported:
                reported.add(later)
                yield error(
                    ("routes", later, "match", "inbound_proxy_protocol"),
                    f"differs from that of routes[{earlier}] on the same port, where only one can hold",
                )
        reach[key] = max(reach.get(key, (-1, position)), (high, position))


def _check_certificates(routes: Mapping[int, RouteConfig], config: ProxyConfig) -> Iterator[Problem]:
    """Routes that leave their certificate to others, where there are none.

    Whether the certificates there are fit the names is seen when they are read.
    """
    if config.default_certificate is not None:
        return
    terminating = {position: route for position, route in routes.items() if terminates_tls(route)}
    tls_of = {position: route.action.tls for position, route in terminating.items()}
    if any(tls is not None and tls.certificate is not None for tls in tls_of.values()):
        return
    for position in terminating:
        place = ("routes", position, "action", "tls", "certificate")
        if config.disable_default_cert:
            yield error(place, "is required, since there is no other and the self-signed one is disabled")
        else:
            yield warning(place, "is left out, and there is no other: clients get a self-signed one")


def _check_reachable(routes: Mapping[int, RouteConfig]) -> Iterator[Problem]:
    """Routes that ask for exactly what another one takes first."""
    same: dict[object, list[int]] = {}
    for position, route in routes.items():
        same.setdefault(_match_key(route), []).append(position)
    for positions in same.values():
        positions.sort(key=lambda position: (-routes[position].priority, position))
        for position in positions[1:]:
            yield warning(
                ("routes", position, "match"),
                f"is never reached: routes[{positions[0]}] takes the same traffic and goes first",
            )


def _match_key(route: RouteConfig) -> object:
    """Equal for routes that take the same traffic."""
    match = route.match
    mode = mode_of(route)
    headers = match.headers or {}
    return (
        frozenset(port_ranges(match.ports)),
        frozenset(normalise_domain(domain) for domain in as_list(match.domains)),
        match.path,
        frozenset(as_list(match.client_ip)),
        frozenset(as_list(match.tls_version)),
        frozenset((name.lower(), spec) for name, spec in headers.items()),
        frozenset(as_list(match.methods)),
        match.protocol,
        match.transport,
        "terminated" if terminates_tls(route) else mode,
        isinstance(route.action, HandlerActionConfig) and not raw_handler(route),
    )
