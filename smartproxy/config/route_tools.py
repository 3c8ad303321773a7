"""Tools for programs that handle routes as data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from smartproxy.config.compile import compile_routes
from smartproxy.config.models import RouteConfig
from smartproxy.core.configuration import MatchProtocol, Route
from smartproxy.core.routing.domains import domain_matches, domain_specificity, normalise_domain
from smartproxy.core.routing.paths import PathPattern, normalise_path
from smartproxy.core.routing.table import OrderKey, order_key
from smartproxy.core.security.ip_rules import ip_number

_REPLACED_WHOLE = ("basic_auth", "certificate", "handler", "jwt_auth", "settings")
"""Tables whose keys exclude one another, or that must not let in what only the other one did."""


def merge_route_configs(
    base: RouteConfig | Mapping[str, Any], override: RouteConfig | Mapping[str, Any]
) -> RouteConfig:
    """`base` with everything that `override` sets: tables key by key, lists and values as a whole.

    An action of another type replaces the action, and so do a certificate, a handler,
    users and keys (`basic_auth`, `jwt_auth`), and the settings of a challenge.
    `override` may be a part of a route. Raises ConfigError when the result is none.
    """
    return RouteConfig.model_validate(_merged(_mapping(base), _mapping(override)))


def _mapping(route: RouteConfig | Mapping[str, Any]) -> Mapping[str, Any]:
    return route.plain() if isinstance(route, RouteConfig) else route


def _merged(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        below = base.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and _can_be_mixed(key, below, value):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _can_be_mixed(key: str, below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    kind = below.get("type")
    return key not in _REPLACED_WHOLE and above.get("type", kind) == kind


def clone_route(route: RouteConfig, **changes: Any) -> RouteConfig:
    """A copy of `route` that shares nothing with it. `changes` replace options of the route.

    Raises ConfigError when they do not fit.
    """
    return RouteConfig.model_validate({**route.model_copy(deep=True).plain(), **changes})


def generate_route_id(route: RouteConfig) -> str:
    """An id that is the same for the same route, whatever its `id` and wherever it stands.

    It is made of what differs from the defaults; secrets and referenced values do not enter it.
    """
    facts = route.model_dump(mode="json", by_alias=True, exclude={"id", "enabled"}, exclude_defaults=True)
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return f"route-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def find_matching_routes(
    routes: Sequence[RouteConfig],
    *,
    port: int | None = None,
    domain: str | None = None,
    path: str | None = None,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    client_ip: str | None = None,
    tls_version: str | None = None,
    protocol: str | None = None,
) -> list[RouteConfig]:
    """The enabled routes that these facts fit, the one that goes first in front.

    A fact that is not given is held against no route. Raises ValueError for a domain,
    path, address or protocol that is none, and ConfigError for routes that cannot be compiled.
    """
    facts = _Facts(port, domain, path, method, headers, client_ip, tls_version, protocol)
    matching: list[tuple[OrderKey, int]] = []
    for route in compile_routes(routes):
        if facts.fit(route):
            pattern = PathPattern.compile(route.match.path) if route.match.path is not None else None
            matching.append((order_key(route, facts.best_domain(route), pattern), route.position))
    matching.sort(reverse=True)
    return [routes[position] for _, position in matching]


def find_best_matching_route(routes: Sequence[RouteConfig], **facts: Any) -> RouteConfig | None:
    """The first of `find_matching_routes`, or None."""
    matching = find_matching_routes(routes, **facts)
    return matching[0] if matching else None


class _Facts:
    """What is known of a connection or request, in the spelling that conditions are matched on."""

    def __init__(
        self,
        port: int | None,
        domain: str | None,
        path: str | None,
        method: str | None,
        headers: Mapping[str, str] | None,
        client_ip: str | None,
        tls_version: str | None,
        protocol: str | None,
    ) -> None:
        self._port = port
        self._domain = normalise_domain(domain) if domain is not None else None
        self._path = _normalised_path(path) if path is not None else None
        self._method = method.encode("ascii") if method is not None else None
        self._fields = (
            [(name.lower().encode("latin-1"), value.encode("utf-8")) for name, value in headers.items()]
            if headers is not None
            else None
        )
        self._client = ip_number(client_ip) if client_ip is not None else None
        self._tls_version = tls_version
        self._protocol = MatchProtocol(protocol) if protocol is not None else None

    def best_domain(self, route: Route) -> str | None:
        """The most specific pattern of the route that the domain fits."""
        name = self._domain
        fitting = [d for d in route.match.domains if name is None or domain_matches(d, name)]
        return max(fitting, key=domain_specificity, default=None)

    def fit(self, route: Route) -> bool:
        """Whether no condition of the route speaks against what is known."""
        match = route.match
        if self._port is not None and not any(low <= self._port <= high for low, high in match.ports):
            return False
        if match.domains and self.best_domain(route) is None:
            return False
        if self._path is not None and not _fits_path(match.path, self._path):
            return False
        if self._method is not None and match.methods and self._method not in match.methods:
            return False
        if self._fields is not None and not all(each.matches(self._fields) for each in match.fields):
            return False
        if self._client is not None and match.client_ip and not match.client_ip.contains(self._client):
            return False
        if (
            self._tls_version is not None
            and match.tls_versions
            and self._tls_version not in match.tls_versions
        ):
            return False
        return self._protocol is None or match.protocol is None or _fits_protocol(route, self._protocol)


def _fits_protocol(route: Route, protocol: MatchProtocol) -> bool:
    """`HTTP` is HTTP of any version, asked of a route as told of a connection."""
    asked = route.match.protocol
    if protocol is MatchProtocol.HTTP3 and asked is MatchProtocol.HTTP:
        return route.quic is not None
    return asked is protocol or (protocol is MatchProtocol.HTTP and asked is MatchProtocol.HTTP3)


def _fits_path(pattern: str | None, path: str) -> bool:
    return pattern is None or PathPattern.compile(pattern).match(path) is not None


def _normalised_path(path: str) -> str:
    normalised = normalise_path(path.encode("utf-8"))
    if normalised is None:
        raise ValueError(f"{path!r} is not a path")
    return normalised
