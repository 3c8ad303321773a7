"""From the models to the tables that the core runs on."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import TypeVar

from smartproxy.config.certificate_files import CertificateFiles
from smartproxy.config.certificates import CertificateReader, Place, Rejected
from smartproxy.config.compile_security import (
    RequestPolicies,
    blocked_addresses,
    challenge_settings,
    max_connections,
)
from smartproxy.config.models import (
    ForwardActionConfig,
    HandlerActionConfig,
    HeadersConfig,
    InboundProxyProtocolConfig,
    MatchConfig,
    ProxyConfig,
    QuicConfig,
    RouteConfig,
    RouteTlsConfig,
    SecurityConfig,
    TargetConfig,
    WebSocketConfig,
    WeightedHostConfig,
)
from smartproxy.config.models.match import port_ranges
from smartproxy.config.models.scalars import as_list
from smartproxy.config.origin_contexts import OriginContexts
from smartproxy.config.problems import ConfigError, Problem, Severity
from smartproxy.config.route_checks import origin_tls, serves_http3
from smartproxy.config.served_certificates import index_certificates
from smartproxy.config.tls_contexts import TLS_VERSIONS
from smartproxy.config.validator import RouteValidator
from smartproxy.core.configuration import (
    AccessRules,
    BackendProtocol,
    Balancing,
    BalancingAlgorithm,
    Configuration,
    ForwardAction,
    HandlerAction,
    HandlerKind,
    HealthCheck,
    Limits,
    MatchProtocol,
    ProxyProtocolMode,
    ProxyProtocolPolicy,
    QuicPolicy,
    Route,
    RouteMatch,
    RouteTls,
    Target,
    TargetMatch,
    Timeouts,
    TlsMode,
    Transport,
    WebSocketRules,
)
from smartproxy.core.http.field_rules import FieldRules, Template
from smartproxy.core.routing.conditions import FieldCondition
from smartproxy.core.routing.domains import normalise_domain
from smartproxy.core.routing.table import RouteTable
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.wire.websocket.origins import OriginAllowList

SESSION_ROTATION_S = 24 * 3600.0
"""New contexts, and with them new session ticket keys, come at least this often."""

_DATAGRAM_BYTES = 1200
"""What crosses every path that QUIC may use (RFC 9000 §14)."""

_K = TypeVar("_K")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CompiledConfiguration:
    """A configuration ready for the engine.

    `warnings` is what is probably not meant. Whoever runs it compiles the model
    again when `files.changed()`, and `refresh_after_s` seconds after the last
    time, so that session ticket keys are replaced.
    """

    configuration: Configuration
    model: ProxyConfig
    warnings: list[Problem] = field(default_factory=list)
    files: CertificateFiles = field(default_factory=CertificateFiles)
    refresh_after_s: float = SESSION_ROTATION_S


def compile_configuration(
    model: ProxyConfig, *, now: datetime.datetime | None = None
) -> CompiledConfiguration:
    """Tables for the core from `model`, with every certificate read and checked.

    `now` is the time that certificates are held against. Raises ConfigError with everything that is wrong.
    """
    files = CertificateFiles()
    compiler = _Compiler(model, CertificateReader(files, now or datetime.datetime.now(datetime.UTC)))
    problems = RouteValidator.validate(model.routes, model)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ConfigError(problems)
    configuration = compiler.compile()
    files.forget_contents()
    problems += compiler.problems
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise ConfigError(problems)
    return CompiledConfiguration(configuration, model, problems, files, compiler.refresh_after_s())


def compile_routes(routes: Sequence[RouteConfig]) -> list[Route]:
    """Routes without their certificates, for looking up and not for serving. Raises ConfigError."""
    model = ProxyConfig(routes=[])
    reader = CertificateReader(CertificateFiles(), datetime.datetime.now(datetime.UTC))
    compiler = _Compiler(model, reader, reads_certificates=False)
    return [compiler.route(position, route) for position, route in enumerate(routes) if route.enabled]


class _Compiler:
    """Compiles one configuration; what many routes share is made once."""

    def __init__(
        self, model: ProxyConfig, reader: CertificateReader, *, reads_certificates: bool = True
    ) -> None:
        self.problems: list[Problem] = reader.warnings
        self._model = model
        self._reader = reader
        self._reads_certificates = reads_certificates
        self._origins = OriginContexts(reader)
        self._request_policies = RequestPolicies(model.defaults.security, reader, self.problems)
        self._ip_sets: dict[tuple[str, ...], IpSet] = {}
        self._field_rules: dict[tuple[tuple[str, str | None], ...], FieldRules] = {}

    def compile(self) -> Configuration:
        model = self._model
        routes = [self.route(position, route) for position, route in self._enabled()]
        return Configuration(
            table=RouteTable(routes),
            certificates=index_certificates(model, self._reader, self.problems),
            trusted_proxies=self._ip_set(model.trusted_proxy_ips),
            blocked_addresses=blocked_addresses(model.security_policy),
            challenges=challenge_settings(model.challenge),
            listen_hosts=tuple(dict.fromkeys(model.listen)),
            timeouts=_timeouts(model),
            limits=Limits(
                **dict(model.limits),
                max_connections_per_ip=model.max_connections_per_ip or None,
                connection_rate_limit_per_minute=model.connection_rate_limit_per_minute or None,
            ),
            server_name=model.server_name,
            quic_engine=None if model.quic_engine == "auto" else model.quic_engine,
        )

    def refresh_after_s(self) -> float:
        """The shortest time that any route's sessions may live."""
        timeouts = [
            route.action.tls.session_timeout
            for _, route in self._enabled()
            if route.action.tls is not None and route.action.tls.session_timeout is not None
        ]
        return min([SESSION_ROTATION_S, *timeouts])

    def _enabled(self) -> list[tuple[int, RouteConfig]]:
        return [(position, route) for position, route in enumerate(self._model.routes) if route.enabled]

    def route(self, position: int, route: RouteConfig) -> Route:
        request_policy = None
        if self._reads_certificates:
            request_policy = self._request_policies.policy(route.security, ("routes", position, "security"))
        return Route(
            position=position,
            name=route.name or route.id or f"route[{position}]",
            id=route.id or "",
            priority=route.priority,
            match=self._match(route.match),
            action=self._action(route, ("routes", position, "action")),
            access=self._access(route.security),
            max_connections=max_connections(route.security, self._model.defaults.security),
            request_policy=request_policy,
            request_fields=self._fields(route.headers, "request"),
            response_fields=self._fields(route.headers, "response"),
            quic=_quic_policy(route.action.udp.quic, self._model) if serves_http3(route) else None,
        )

    def _match(self, match: MatchConfig) -> RouteMatch:
        client_ip = as_list(match.client_ip)
        return RouteMatch(
            ports=port_ranges(match.ports),
            transport=Transport(match.transport),
            domains=tuple(dict.fromkeys(normalise_domain(domain) for domain in as_list(match.domains))),
            path=match.path,
            client_ip=self._ip_set(client_ip) if client_ip else None,
            tls_versions=frozenset(as_list(match.tls_version)),
            fields=_conditions(match.headers),
            methods=_methods(match.methods),
            protocol=MatchProtocol(match.protocol) if match.protocol is not None else None,
            proxy_protocol=self._proxy_policy(match.inbound_proxy_protocol),
        )

    def _proxy_policy(self, policy: InboundProxyProtocolConfig | None) -> ProxyProtocolPolicy | None:
        if policy is None:
            return None
        own = policy.trusted_proxy_ips
        trusted = self._model.trusted_proxy_ips if own is None else own
        return ProxyProtocolPolicy(ProxyProtocolMode(policy.mode), self._ip_set(trusted))

    def _ip_set(self, rules: Iterable[str]) -> IpSet:
        return _made_once(self._ip_sets, tuple(rules), IpSet.compile)

    def _fields(self, headers: HeadersConfig, direction: str) -> FieldRules | None:
        rules: dict[str, str | None] = getattr(headers, direction)
        if not rules:
            return None
        return _made_once(
            self._field_rules, tuple(rules.items()), lambda items: FieldRules.compile(dict(items))
        )

    def _access(self, security: SecurityConfig) -> AccessRules:
        defaults = self._model.defaults.security
        allowed = security.ip_allow_list if security.ip_allow_list is not None else defaults.ip_allow_list
        blocked = [*defaults.ip_block_list, *security.ip_block_list]
        return AccessRules(
            self._ip_set(allowed) if allowed is not None else None,
            self._ip_set(blocked) if blocked else None,
        )

    def _action(self, route: RouteConfig, place: Place) -> ForwardAction | HandlerAction:
        action = route.action
        if isinstance(action, HandlerActionConfig):
            return _handler(action)
        placed: list[tuple[Place, TargetConfig]] = [
            ((*place, "targets", index), target) for index, target in enumerate(action.targets)
        ]
        default = self._model.defaults.target
        if not placed and default is not None:
            placed = [(("defaults", "target"), default)]
        placed.sort(key=lambda pair: -pair[1].priority)
        return ForwardAction(
            targets=tuple(
                self._target(route, target, target_place if target.tls is not None else place)
                for target_place, target in placed
            ),
            tls=_route_tls(action.tls),
            backend_protocol=BackendProtocol(action.options.backend_protocol),
            preserve_host=action.options.preserve_host,
            add_via=action.options.via,
            websocket=_websocket_rules(action.websocket),
        )

    def _target(self, route: RouteConfig, target: TargetConfig, tls_owner: Place) -> Target:
        """`tls_owner` is the place whose `tls` says how the backend's certificate is checked."""
        hosts, weights = _hosts(target)
        port = target.port
        send = target.send_proxy_protocol
        compiled = Target(
            hosts=hosts,
            weights=weights,
            host_function=target.host if callable(target.host) else None,
            port=port if isinstance(port, int) or port == "preserve" else "preserve",
            port_function=port if callable(port) else None,
            unix_path=target.unix,
            priority=target.priority,
            match=_target_match(target),
            balancing=_balancing(target),
            send_proxy_protocol=self._model.send_proxy_protocol if send is None else send,
            request_fields=self._fields(target.headers, "request"),
            response_fields=self._fields(target.headers, "response"),
            websocket=_target_websocket(route, target),
        )
        tls = origin_tls(route, target)
        if tls is None or not self._reads_certificates:
            return compiled
        tls_place = (*tls_owner, "tls") if target.tls is not None else (*tls_owner, "tls", "backend")
        try:
            origin = self._origins.origin(tls, tls_place)
        except Rejected as rejected:
            self.problems.append(rejected.problem)
            return compiled
        return replace(compiled, tls=origin)


def _made_once(made: dict[_K, _T], key: _K, make: Callable[[_K], _T]) -> _T:
    value = made.get(key)
    if value is None:
        value = made[key] = make(key)
    return value


def _conditions(headers: Mapping[str, str] | None) -> tuple[FieldCondition, ...]:
    return tuple(FieldCondition.compile(name, spec) for name, spec in (headers or {}).items())


def _methods(methods: str | list[str] | None) -> frozenset[bytes]:
    return frozenset(method.encode("ascii") for method in as_list(methods))


def _route_tls(tls: RouteTlsConfig | None) -> RouteTls | None:
    if tls is None:
        return None
    return RouteTls(TlsMode(tls.mode), min(TLS_VERSIONS[version] for version in tls.versions))


def _target_match(target: TargetConfig) -> TargetMatch | None:
    match = target.match
    if match is None or not match.model_fields_set:
        return None
    return TargetMatch(
        port_ranges(match.ports), match.path, _conditions(match.headers), _methods(match.methods)
    )


def _hosts(target: TargetConfig) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Hosts and their weights; none where a function names them or there is a unix socket."""
    if target.host is None or callable(target.host):
        return (), ()
    weighted = [
        (host.host, host.weight) if isinstance(host, WeightedHostConfig) else (host, 1)
        for host in as_list(target.host)
    ]
    return tuple(host for host, _ in weighted), tuple(weight for _, weight in weighted)


def _balancing(target: TargetConfig) -> Balancing:
    check = target.load_balancing.health_check
    health_check = None
    if check is not None:
        health_check = HealthCheck(
            path=check.path,
            interval_s=check.interval,
            timeout_s=check.timeout,
            unhealthy_threshold=check.unhealthy_threshold,
            healthy_threshold=check.healthy_threshold,
        )
    return Balancing(BalancingAlgorithm(target.load_balancing.algorithm), health_check)


def _target_websocket(route: RouteConfig, target: TargetConfig) -> WebSocketRules | None:
    if target.websocket is None or not isinstance(route.action, ForwardActionConfig):
        return None
    rules = {**route.action.websocket.plain(), **target.websocket.plain()}
    return _websocket_rules(WebSocketConfig.validated(rules, {}))


def _websocket_rules(websocket: WebSocketConfig) -> WebSocketRules:
    subprotocols, origins = websocket.subprotocols, websocket.allowed_origins
    return WebSocketRules(
        enabled=websocket.enabled,
        ping_interval_s=websocket.ping_interval,
        ping_timeout_s=websocket.ping_timeout,
        idle_timeout_s=websocket.idle_timeout,
        max_payload_bytes=websocket.max_payload_size,
        subprotocols=tuple(name.encode("ascii") for name in subprotocols)
        if subprotocols is not None
        else None,
        allowed_origins=OriginAllowList(origins) if origins is not None else None,
    )


def _quic_policy(quic: QuicConfig, model: ProxyConfig) -> QuicPolicy:
    window_bytes = quic.initial_congestion_window
    return QuicPolicy(
        idle_timeout_s=quic.max_idle_timeout,
        bidirectional_streams=quic.max_concurrent_bidi_streams or model.limits.concurrent_streams,
        unidirectional_streams=quic.max_concurrent_uni_streams,
        alt_svc_port=quic.alt_svc_port,
        alt_svc_max_age_s=ceil(quic.alt_svc_max_age),
        initial_congestion_window_datagrams=window_bytes // _DATAGRAM_BYTES if window_bytes else None,
        zero_rtt=quic.zero_rtt,
    )


def _handler(action: HandlerActionConfig) -> HandlerAction:
    handler = action.handler
    kind = HandlerKind(handler.kind)
    tls = _route_tls(action.tls)
    if handler.http_redirect is not None:
        redirect = handler.http_redirect
        template = Template.compile(redirect.url)
        return HandlerAction(kind, redirect.code, redirect.url, template, tls=tls)
    if handler.http_response is not None:
        response = handler.http_response
        return HandlerAction(kind, response.code, response.body, content_type=response.content_type, tls=tls)
    if handler.http_block is not None:
        return HandlerAction(kind, handler.http_block.status, handler.http_block.message, tls=tls)
    return HandlerAction(kind, text=handler.block.message if handler.block is not None else "", tls=tls)


def _timeouts(model: ProxyConfig) -> Timeouts:
    inactivity_s, lifetime_s = model.inactivity_timeout, model.max_connection_lifetime
    if model.keep_alive_treatment == "extended":
        inactivity_s *= model.keep_alive_inactivity_multiplier
        lifetime_s = model.extended_keep_alive_lifetime
    elif model.keep_alive_treatment == "immortal":
        inactivity_s = lifetime_s = inf
    return Timeouts(
        connection_s=model.connection_timeout,
        initial_data_s=model.initial_data_timeout,
        socket_s=model.socket_timeout,
        inactivity_s=inactivity_s,
        lifetime_s=lifetime_s,
        graceful_shutdown_s=model.graceful_shutdown_timeout,
        server_first_s=model.server_first_delay,
        pool_idle_s=model.pool_idle_timeout,
    )
