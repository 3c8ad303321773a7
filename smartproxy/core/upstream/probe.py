"""Active health checks at work: asks each host for a path, and tells its group what came of it."""

from __future__ import annotations

from math import inf

from smartproxy.core.configuration import HealthCheck
from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureSource
from smartproxy.core.http.client_stream import ClientStream
from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.ops import UNIX_PORT
from smartproxy.core.records import Level
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.health import ActiveHealth, Host
from smartproxy.core.upstream.pool import Pool, Pools, Ticket
from smartproxy.core.upstream.selection import TargetState
from smartproxy.core.wire.http1 import LocalProtocolError
from smartproxy.core.wire.proxy_protocol import encode_proxy_v1, encode_proxy_v2


class Prober:
    """Probes the hosts of one target on the schedule of its health check, until `stop`."""

    __slots__ = ("_check", "_context", "_health", "_pools", "_port", "_probes", "_state", "_timer")

    def __init__(self, context: Context, pools: Pools, state: TargetState, check: HealthCheck) -> None:
        self._context = context
        self._pools = pools
        self._state = state
        self._check = check
        target = state.target
        if target.unix_path is not None:
            self._port = UNIX_PORT
        else:
            assert isinstance(target.port, int)
            self._port = target.port
        self._health = ActiveHealth(check, state.group.hosts)
        self._probes: set[_Probe] = set()
        self._timer = Timer(self._run)

    def start(self) -> None:
        """Send the probes that are due, and come back for the next ones."""
        self._run()

    def stop(self) -> None:
        self._context.timers.cancel(self._timer)
        for probe in list(self._probes):
            probe.cancel()
        self._probes.clear()

    def _run(self) -> None:
        now = self._context.now
        for host in self._health.due(now):
            self._health.probe_started(host, now)
            pool = self._state.pool(self._pools, host.name, self._port)
            probe = _Probe(self, host, pool)
            self._probes.add(probe)
            probe.begin()
        self._arm()

    def _arm(self) -> None:
        due_at = self._health.next_due()
        if due_at != inf:
            self._context.timers.set(self._timer, due_at)

    def finished(self, probe: _Probe, ok: bool, detail: str) -> None:
        self._probes.discard(probe)
        change = self._health.probe_finished(probe.host, ok, self._context.now)
        if change is not None:
            self._context.record(
                "upstream",
                f"host_{change}",
                Level.INFO if ok else Level.WARNING,
                host=probe.host.name,
                port=self._port,
                detail=detail,
            )
        self._arm()

    def given_up(self, probe: _Probe) -> None:
        """The probe found nothing out: the host stays what it was, and is asked again in its turn."""
        self._probes.discard(probe)
        self._health.probe_given_up(probe.host)
        self._arm()


class _Probe:
    """One request to one host, bounded in time. Any 2xx or 3xx is health."""

    __slots__ = ("_connection", "_done", "_pool", "_prober", "_status", "_ticket", "_timer", "host")

    def __init__(self, prober: Prober, host: Host, pool: Pool) -> None:
        self._prober = prober
        self.host = host
        self._pool = pool
        self._ticket: Ticket | None = None
        self._connection: ClientStream | None = None
        self._status = 0
        self._done = False
        self._timer = Timer(self._timed_out)

    def begin(self) -> None:
        prober = self._prober
        prober._context.set_timer(self._timer, prober._check.timeout_s)
        version = prober._state.target.send_proxy_protocol
        # The connection is the proxy's own, and says so to a backend that demands a PROXY header.
        preamble = encode_proxy_v2(None, None, local=True) if version == 2 else b""
        if version == 1:
            preamble = encode_proxy_v1(None, None)
        # Always a fresh connection: that a host still accepts them is half of what is asked.
        ticket = self._pool.open(self, preamble, exclusive=True, over_limit=True)
        if not self._done and self._connection is None:
            self._ticket = ticket

    def cancel(self) -> None:
        self._done = True
        self._prober._context.timers.cancel(self._timer)
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cancel()

    def _finish(self, ok: bool, detail: str) -> None:
        if not self._done:
            self.cancel()
            self._prober.finished(self, ok, detail)

    def _timed_out(self) -> None:
        self._finish(False, f"no answer in {self._prober._check.timeout_s} s")

    # From the pool.

    def connection_ready(self, stream: ClientStream) -> None:
        self._ticket = None
        self._connection = stream
        fields: Fields = [(b"user-agent", b"smartproxy-health-check"), (b"connection", b"close")]
        endpoint = self._pool.endpoint
        host = b"localhost" if endpoint.port == UNIX_PORT else str(endpoint).encode()
        scheme = b"http" if endpoint.tls is None else b"https"
        path = self._prober._check.path.encode()
        head = RequestHead(b"GET", path, host, fields, scheme=scheme, version=stream.version)
        try:
            stream.send_request(head, self)
        except LocalProtocolError as error:
            self._finish(False, error.reason)

    def connection_failed(self, failure: Failure) -> None:
        self._ticket = None
        if failure.source is FailureSource.BACKEND:
            self._finish(False, failure.code.value)
        elif not self._done:
            # It was never asked: no descriptor was left, or no port.
            self.cancel()
            self._prober.given_up(self)

    # From the backend.

    def response_informational(self, head: ResponseHead) -> None: ...

    def response_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def response_data(self, data: bytes) -> None: ...

    def response_relayed(self, byte_count: int) -> None: ...

    def response_end(self, trailers: Fields) -> None:
        self._connection = None
        self._finish(200 <= self._status < 400, f"status {self._status}")

    def response_failed(self, failure: Failure) -> None:
        self._connection = None
        self._finish(False, failure.detail or failure.code.value)

    def request_writable(self) -> None: ...
