"""What can be wrong with HTTP/3 on either side of a route."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from smartproxy.config.models import ForwardActionConfig, ProxyConfig, RouteConfig, TargetConfig
from smartproxy.config.models.match import port_ranges
from smartproxy.config.models.scalars import as_list
from smartproxy.config.problems import Problem
from smartproxy.config.route_checks import (
    Path,
    backend_protocol,
    error,
    mode_of,
    raw_handler,
    serves_http3,
    terminates_tls,
    warning,
)

_PER_PORT = (
    "max_idle_timeout",
    "max_concurrent_bidi_streams",
    "max_concurrent_uni_streams",
    "initial_congestion_window",
)
_ENABLE = "`action.udp.quic.enable_http3 = true`"


def check_http3(route: RouteConfig, place: Path, config: ProxyConfig | None) -> Iterator[Problem]:
    """Everything wrong with what `route` at `place` says of UDP, QUIC and HTTP/3."""
    if serves_http3(route):
        yield from _check_transport(route, place)
        yield from _check_tls(route, place)
        yield from _check_visibility(route, place)
    else:
        yield from _check_without(route, place)
    if backend_protocol(route) == "http3" and mode_of(route) != "passthrough":
        for target_place, target in _targets(route, place, config):
            yield from _check_target(target, target_place, config)


def check_shared_ports(routes: Mapping[int, RouteConfig]) -> Iterator[Problem]:
    """QUIC's transport parameters are sent before there is a name: a port has those of its first route."""
    first: dict[object, int] = {}
    for position, route in routes.items():
        if not serves_http3(route):
            continue
        leader = first.setdefault(frozenset(port_ranges(route.match.ports)), position)
        quic, theirs = route.action.udp.quic, routes[leader].action.udp.quic
        for name in _PER_PORT:
            if getattr(quic, name) != getattr(theirs, name):
                yield warning(
                    ("routes", position, "action", "udp", "quic", name),
                    f"differs from that of routes[{leader}] on the same port, whose value holds for both",
                )


def _check_without(route: RouteConfig, place: Path) -> Iterator[Problem]:
    """What asks for HTTP/3 on a route that does not serve it."""
    match = route.match
    if match.transport != "tcp":
        yield error(
            (*place, "match", "transport"),
            "is for routes that serve HTTP/3; raw UDP is not available in this version of smartproxy",
            given=match.shown("transport"),
            allowed=f'"tcp", or {_ENABLE}',
        )
    if match.protocol == "http3":
        yield error(
            (*place, "match", "protocol"),
            "never holds: the route serves no HTTP/3",
            given=match.shown("protocol"),
            allowed=_ENABLE,
        )
    quic = route.action.udp.quic
    for name in type(quic).model_fields:
        if name != "enable_http3" and name in quic.model_fields_set and getattr(quic, name) is not None:
            yield error(
                (*place, "action", "udp", "quic", name),
                "has no effect without `enable_http3 = true`: "
                "other QUIC is not available in this version of smartproxy",
            )


def _check_transport(route: RouteConfig, place: Path) -> Iterator[Problem]:
    match = route.match
    transport_place = (*place, "match", "transport")
    if match.transport == "tcp":
        yield error(
            transport_place,
            "leaves no UDP to serve HTTP/3 on",
            given=match.shown("transport"),
            allowed='"all" for HTTP/3 beside TCP, or "udp" for HTTP/3 alone',
        )
    elif match.transport == "all" and match.protocol == "http3":
        yield error(
            transport_place,
            'takes nothing over TCP with protocol "http3"',
            given=match.shown("transport"),
            allowed='"udp"',
        )
    policy = match.inbound_proxy_protocol
    if policy is None or policy.mode == "reject":
        return
    policy_place = (*place, "match", "inbound_proxy_protocol", "mode")
    if match.transport == "udp":
        yield error(
            policy_place,
            "has no effect over UDP, where there is no PROXY header",
            given=policy.shown("mode"),
            allowed='"reject"',
        )
    elif policy.mode == "required":
        yield error(
            policy_place,
            "cannot hold for HTTP/3: over UDP there is no PROXY header, and clients would get in without",
            given=policy.shown("mode"),
            allowed="two routes, this one without HTTP/3",
        )


def _check_tls(route: RouteConfig, place: Path) -> Iterator[Problem]:
    tls = route.action.tls
    if tls is None or not terminates_tls(route):
        yield error(
            (*place, "action", "udp", "quic", "enable_http3"),
            "needs TLS that is terminated here",
            allowed='`action.tls.mode` "terminate" or "terminate-and-reencrypt"',
        )
        return
    if "TLSv1.3" not in tls.versions:
        yield error(
            (*place, "action", "tls", "versions"),
            "leave no TLS for HTTP/3, which needs TLSv1.3",
            allowed='"TLSv1.3" among them, or `action.udp.quic.enable_http3 = false`',
        )
    if tls.client_auth is not None:
        yield error(
            (*place, "action", "tls", "client_auth"),
            "cannot be asked for over HTTP/3 in this version of smartproxy: clients would get in without",
            allowed="two routes, this one without HTTP/3",
        )


def _check_visibility(route: RouteConfig, place: Path) -> Iterator[Problem]:
    match = route.match
    if match.protocol == "tcp":
        yield error(
            (*place, "match", "protocol"),
            "leaves out HTTP/3, which the route is to serve",
            given=match.shown("protocol"),
            allowed='"http", "http3"',
        )
    kind = raw_handler(route)
    if kind:
        yield error(
            (*place, "action", "udp", "quic", "enable_http3"),
            f"has no effect with the {kind} handler, which knows no HTTP",
        )
    wanted = as_list(match.tls_version)
    if match.transport == "udp" and wanted and "TLSv1.3" not in wanted:
        yield error((*place, "match", "tls_version"), "never holds: TLS in HTTP/3 is always TLSv1.3")


def _targets(
    route: RouteConfig, place: Path, config: ProxyConfig | None
) -> Iterator[tuple[Path, TargetConfig]]:
    if not isinstance(route.action, ForwardActionConfig):
        return
    targets_place = (*place, "action", "targets")
    for index, target in enumerate(route.action.targets):
        yield (*targets_place, index), target
    if not route.action.targets and config is not None and config.defaults.target is not None:
        yield targets_place, config.defaults.target


def _check_target(target: TargetConfig, place: Path, config: ProxyConfig | None) -> Iterator[Problem]:
    """A target that is to be spoken to in HTTP/3."""
    if target.unix is not None:
        yield error((*place, "unix"), "cannot be spoken to in HTTP/3, which needs UDP")
    if target.tls is not None and target.tls.mode == "terminate":
        yield error(
            (*place, "tls", "mode"),
            "is plain to the backend, and HTTP/3 never is",
            given=target.tls.shown("mode"),
            allowed='"terminate-and-reencrypt"',
        )
    inherited = config.send_proxy_protocol if config is not None else 0
    if inherited if target.send_proxy_protocol is None else target.send_proxy_protocol:
        yield error(
            (*place, "send_proxy_protocol"),
            "cannot be sent ahead of HTTP/3: over UDP there is no PROXY header",
            allowed="false",
        )
