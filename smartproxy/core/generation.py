"""A configuration at work: with what is learnt about its targets while it is in force."""

from __future__ import annotations

from dataclasses import replace

from smartproxy.core.certificates import CertificateIndex
from smartproxy.core.configuration import Configuration, ForwardAction, Target
from smartproxy.core.security.gatekeeper import Gatekeeper
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.upstream.pool import Pools
from smartproxy.core.upstream.probe import Prober
from smartproxy.core.upstream.selection import TargetState
from smartproxy.core.wire.http1 import Http1Limits
from smartproxy.core.wire.http2 import Http2Limits


class Generation:
    """One configuration and its running state. A connection keeps the generation it started with.

    `retired` is set when a newer one has taken its place: its HTTP connections
    then end after the response under way, so that nobody stays on it for long.
    """

    __slots__ = (
        "configuration",
        "gatekeeper",
        "gates",
        "has_challenges",
        "http1_limits",
        "http2_limits",
        "number",
        "pools",
        "probers",
        "retired",
        "targets",
    )

    def __init__(
        self, configuration: Configuration, pools: Pools, gatekeeper: Gatekeeper, number: int
    ) -> None:
        self.configuration = configuration
        self.pools = pools
        self.gatekeeper = gatekeeper
        #: Of the routes that have a request policy.
        self.gates = gatekeeper.configure(configuration)
        self.has_challenges = any(gate.policy.challenge_providers for gate in self.gates.values())
        self.number = number
        limits = configuration.limits
        self.http1_limits = Http1Limits(
            header_bytes=limits.header_bytes,
            header_count=limits.header_count,
            target_bytes=limits.target_bytes,
        )
        self.http2_limits = Http2Limits(
            concurrent_streams=limits.concurrent_streams,
            header_bytes=limits.header_bytes,
            header_count=limits.header_count,
            target_bytes=limits.target_bytes,
            stalled_stream_s=configuration.timeouts.socket_s,
        )
        self.retired = False
        self.probers: list[Prober] = []
        self.targets: dict[Target, TargetState] = {}
        for route in configuration.table.routes:
            if isinstance(route.action, ForwardAction):
                for target in route.action.targets:
                    self.targets[target] = TargetState(target, route.action.backend_protocol)

    def adopt(self, older: Generation) -> None:
        """Take over what the generation before has learnt about hosts that stayed."""
        known = {(t.hosts, t.port, t.unix_path): state for t, state in older.targets.items()}
        for target, state in self.targets.items():
            before = known.get((target.hosts, target.port, target.unix_path))
            if before is not None:
                state.group.adopt(before.group)

    def replace_certificates(self, certificates: CertificateIndex) -> None:
        """Change nothing but what new TLS handshakes present."""
        self.configuration = replace(self.configuration, certificates=certificates)

    def replace_block_policy(self, blocked: IpSet) -> None:
        """Change nothing but who is kept out altogether."""
        self.configuration = replace(self.configuration, blocked_addresses=blocked)
        self.gatekeeper.blocked_addresses = blocked

    def start(self) -> None:
        """Begin what runs by itself: the active health checks."""
        for target, state in self.targets.items():
            check = target.balancing.health_check
            if check is not None and state.has_known_hosts:
                prober = Prober(self.pools.context, self.pools, state, check)
                self.probers.append(prober)
                prober.start()

    def stop(self) -> None:
        """End what runs by itself."""
        for prober in self.probers:
            prober.stop()
        self.probers.clear()
