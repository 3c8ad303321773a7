"""What is known of the client at the other end of a connection, whatever carries its bytes."""

from __future__ import annotations

from smartproxy.core.certificates import ServedTls
from smartproxy.core.configuration import Limits, Route, Timeouts
from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.generation import Generation
from smartproxy.core.http.dates import http_date
from smartproxy.core.http.forwarding import ForwardingFields
from smartproxy.core.http.messages import Fields
from smartproxy.core.ops import UNIX_PORT, Address
from smartproxy.core.records import AccessRecord
from smartproxy.core.routing.domains import normalise_host
from smartproxy.core.routing.table import PortPlan
from smartproxy.core.security.connection_limits import Admission
from smartproxy.core.security.ip_rules import ip_number
from smartproxy.core.security.policies import ChallengePolicy
from smartproxy.core.security.rate_limit import RateLimitDecision, RateLimitStore
from smartproxy.core.security.verdict import Passed
from smartproxy.core.wire.proxy_protocol import encode_proxy_v1, encode_proxy_v2


def plain_address(address: Address) -> Address:
    """An IPv4-mapped address as the IPv4 address, any other without its zone."""
    host, port = address
    if port == UNIX_PORT:
        return address
    if host.startswith("::ffff:") and "." in host:
        return host[7:], port
    return host.partition("%")[0], port


class ClientFacts:
    """The facts of one client connection that routing, forwarding and logging go by.

    It keeps the generation of configuration it began with.
    """

    __slots__ = (
        "_authority",
        "_forwarding",
        "_host",
        "accepted_at",
        "admission",
        "certificates",
        "clearances",
        "client",
        "client_ip",
        "client_key",
        "client_number",
        "context",
        "counted_ahead",
        "destination",
        "draining",
        "entered_route",
        "generation",
        "last_fields",
        "last_gated_fields",
        "last_gated_result",
        "last_passed",
        "last_passed_on_fields",
        "limits",
        "local_port",
        "plan",
        "route",
        "served_tls",
        "server_name",
        "timeouts",
        "tls_version",
    )

    def __init__(
        self, context: Context, generation: Generation, plan: PortPlan, peer: Address, local: Address
    ) -> None:
        self.context = context
        self.generation = generation
        self.timeouts: Timeouts = generation.configuration.timeouts
        self.limits: Limits = generation.configuration.limits
        self.plan = plan
        self.local_port = local[1]
        self.accepted_at = context.now
        self.destination: Address = plain_address(local)
        self.server_name: str | None = None
        self.route: Route | None = None
        self.served_tls: ServedTls | None = None
        self.certificates = generation.configuration.certificates
        self.tls_version = ""
        self.draining = False
        self._forwarding: ForwardingFields | None = None
        #: The field list of the last request, which the next one often shares, and what of it went on.
        self.last_fields: Fields | None = None
        self.last_passed_on_fields: Fields = []
        #: The same of what a route's gate changes in it.
        self.last_gated_fields: Fields | None = None
        self.last_passed: Passed | None = None
        self.last_gated_result: Fields = []
        #: Until when requests with this list of fields, for this authority and route, are cleared.
        self.clearances: dict[ChallengePolicy, tuple[Fields, bytes, str, float]] = {}
        self._authority: bytes | None = None
        self._host = ""
        #: What the connection counts for; None before it has been let in.
        self.admission: Admission | None = None
        #: The last one that counts this connection.
        self.entered_route: Route | None = None
        #: What a rate limit said of the connection before it was known whether it would make requests.
        self.counted_ahead: tuple[RateLimitStore, int | bytes, RateLimitDecision] | None = None
        self.set_client(peer)

    def set_client(self, client: Address) -> None:
        """Take `client` for who is there: the peer, or whom its PROXY header names."""
        client = self.client = plain_address(client)
        self.client_ip = client[0]
        try:
            self.client_number = ip_number(client[0])
        except ValueError:
            # A unix peer behind a PROXY header has no IP address; rules written for addresses never match it.
            self.client_number = -1
        self.client_key = client[0].encode("utf-8", "surrogatepass")

    @property
    def forwarding(self) -> ForwardingFields:
        """The writer of this connection's X-Forwarded-* and Forwarded fields."""
        if self._forwarding is None:
            self._forwarding = ForwardingFields(
                self.client_ip,
                self.client[1],
                self.local_port,
                b"https" if self.tls_version else b"http",
                self.generation.configuration.trusted_proxies.contains(self.client_number),
            )
        return self._forwarding

    def host_of(self, authority: bytes) -> str:
        """The host an authority names, normalised; empty for none. Raises ValueError for an invalid one."""
        if authority != self._authority:
            self._host = normalise_host(authority)[0] if authority else ""
            self._authority = authority
        return self._host

    def may_stay(self) -> bool:
        """Whether the connection may serve another request after the one under way."""
        return not (
            self.draining
            or self.generation.retired
            or self.context.now - self.accepted_at >= self.timeouts.lifetime_s
        )

    def http_date(self) -> bytes:
        return http_date(self.context.env.wall_clock())

    def proxy_preamble(self, version: int) -> bytes:
        """The PROXY header that opens a backend connection made for this client."""
        if version == 1:
            return encode_proxy_v1(self.client, self.destination)
        return encode_proxy_v2(self.client, self.destination)

    # Who gets in (SPEC: Security). The order is: block policy, connection limits, IP lists.

    def admit(self) -> Failure | None:
        """Count the client's connection; a failure says why it gets none. Once for each connection."""
        gatekeeper = self.generation.gatekeeper
        if gatekeeper.is_blocked(self.client_number):
            return Failure(FailureSource.CLIENT, FailureCode.ACCESS_DENIED, "block policy")
        if self.admission is not None:
            return None
        admission = gatekeeper.connection_limits.admit(self.client_number, self.context.now)
        if isinstance(admission, Admission):
            self.admission = admission
            return None
        return Failure(FailureSource.CLIENT, FailureCode.CONNECTION_LIMIT_REACHED, admission.reason)

    def release_admission(self) -> None:
        """The connection is over; it counts for nothing any more."""
        if self.admission is not None:
            self.admission.release()

    def has_room_on(self, route: Route) -> bool:
        """Whether the route may have this connection, by its `max_connections`."""
        return self.admission is None or self.admission.has_room(route)

    def enter(self, route: Route) -> None:
        """Count the connection for the route, unless it is already."""
        self.entered_route = route
        if self.admission is not None:
            self.admission.enter(route)

    def allowed_by(self, route: Route) -> bool:
        """Whether the route's IP lists let this client in; a block wins (SPEC: Security)."""
        return route.access.refused_by(self.client_number) is None

    # Access records of what never became an exchange.

    def log_refusal(self, status: int, failure: Failure, protocol: str = "HTTP/1.1") -> None:
        """An access record for a request that never became one."""
        if self.context.wants_access_records:
            self.context.records.append(self._record(protocol, 0, 0, failure, status=status))

    def log_raw(self, protocol: str, received: int, sent: int, failure: Failure | None, backend: str) -> None:
        """An access record for a connection that was not HTTP."""
        if self.context.wants_access_records:
            self.context.records.append(self._record(protocol, received, sent, failure, backend=backend))

    def _record(
        self,
        protocol: str,
        received: int,
        sent: int,
        failure: Failure | None,
        *,
        status: int = 0,
        backend: str = "",
    ) -> AccessRecord:
        return AccessRecord(
            client_ip=self.client_ip,
            client_port=self.client[1],
            protocol=protocol,
            route=self.route.name if self.route is not None else "",
            duration_s=self.context.now - self.accepted_at,
            bytes_received=received,
            bytes_sent=sent,
            authority=self.server_name or "",
            status=status,
            backend=backend,
            tls_version=self.tls_version,
            failure=failure.code.value if failure is not None else "",
            failure_detail=failure.detail if failure is not None else "",
        )
