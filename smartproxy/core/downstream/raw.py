"""A raw connection's way to its backend: choose, dial, then join the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartproxy.core.configuration import ForwardAction, Route
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.records import Level
from smartproxy.core.relay.tunnel import Tunnel
from smartproxy.core.stream import HIGH_WATER_BYTES, ByteStream, Link
from smartproxy.core.upstream.dial import Dial
from smartproxy.core.upstream.selection import Choice, RouteContext, Selection, find_target

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection


class RawForward:
    """Connects a client stream to one backend of a route, byte for byte.

    It is the client stream's handler while the backend is being dialled, and holds
    what arrives meanwhile, up to the high-water mark. With `on_backend_speaks` it is
    begun early, before the client has spoken: it then only dials, and waits.
    """

    __slots__ = (
        "_backend",
        "_backend_name",
        "_choice",
        "_client_ended",
        "_connection",
        "_dial",
        "_early_bytes",
        "_has_client",
        "_held",
        "_held_bytes",
        "_last_failure",
        "_on_backend_gone",
        "_on_backend_speaks",
        "_route",
        "_selection",
    )

    def __init__(
        self,
        connection: ClientConnection,
        route: Route,
        *,
        on_backend_speaks: Callable[[], None] | None = None,
        on_backend_gone: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._route = route
        self._on_backend_speaks = on_backend_speaks
        self._on_backend_gone = on_backend_gone
        self._backend_name = ""
        self._selection: Selection | None = None
        self._choice: Choice | None = None
        self._dial: Dial | None = None
        self._backend: ByteStream | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._has_client = False
        self._client_ended = False
        self._early_bytes = b""
        self._last_failure: Failure | None = None

    @staticmethod
    def can_forward(route: Route) -> bool:
        """Whether the route has a backend to dial at all."""
        return isinstance(route.action, ForwardAction)

    def take_client(self, received: bytes) -> None:
        """The client's stream is ours now; `received` has been read from it already."""
        connection = self._connection
        self._has_client = True
        connection.stream.handler = self
        connection.timer.callback = self._no_backend_in_time
        self._arm()
        if received:
            self._held.append(received)
            self._held_bytes = len(received)
        if self._backend is not None:
            self._join()
        elif self._selection is None:
            self.begin()

    def _arm(self) -> None:
        # The dial has its own deadline; this one catches a function of the user's that does not answer.
        if self._has_client:
            connection = self._connection
            connection.context.set_timer(connection.timer, connection.timeouts.connection_s + 1.0)

    def _no_backend_in_time(self) -> None:
        self._failed(Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TIMEOUT, "no connection in time"))

    def begin(self) -> None:
        """Choose a backend and dial it."""
        connection = self._connection
        action = self._route.action
        assert isinstance(action, ForwardAction)
        generation = connection.generation
        state = find_target(action, generation.targets, connection.local_port, None, b"", [])
        if state is None:
            self._failed(Failure(FailureSource.PROXY, FailureCode.DESTINATION_NOT_FOUND, "no target matches"))
            return
        self._selection = Selection(
            connection.context,
            generation.pools,
            state,
            connection.client_key,
            connection.local_port,
            self,
        )
        self._selection.choose()

    def route_context(self) -> RouteContext:
        connection = self._connection
        return RouteContext(
            port=connection.local_port,
            client_ip=connection.client_ip,
            client_port=connection.client[1],
            route_name=self._route.name,
            domain=connection.server_name or "",
            tls_version=connection.tls_version,
        )

    def host_chosen(self, choice: Choice) -> None:
        connection = self._connection
        self._arm()
        self._choice = choice
        self._backend_name = str(choice.pool.endpoint)
        choice.host.in_flight += 1
        version = choice.state.target.send_proxy_protocol
        pools = connection.generation.pools
        self._dial = Dial(
            connection.context,
            pools.resolver,
            choice.pool.endpoint,
            connection.timeouts,
            new_link=pools.new_link,
            preamble=connection.proxy_preamble(version) if version else b"",
            on_connected=self._connected,
            on_failed=self._dial_failed,
        )
        self._dial.start()

    def _dial_failed(self, failure: Failure) -> None:
        choice = self._choice
        selection = self._selection
        assert choice is not None
        assert selection is not None
        self._dial = None
        self._release_host()
        if failure.source is FailureSource.BACKEND:
            now = self._connection.context.now
            self._note_health(choice, choice.group.report_connect_failure(choice.host, now))
        self._last_failure = failure
        if selection.exclude(choice.host):
            selection.choose()
            return
        self._failed(failure)

    def _connected(self, stream: ByteStream, link: Link) -> None:
        self._dial = None
        self._backend = stream
        choice = self._choice
        assert choice is not None
        change = choice.group.report_success(choice.host, self._connection.context.now)
        self._note_health(choice, change)
        if self._has_client:
            self._join()
        else:
            stream.handler = _EarlyBackend(self)

    def _note_health(self, choice: Choice, change: str | None) -> None:
        if change is not None:
            self._connection.context.record(
                "upstream", change, Level.WARNING, backend=self._backend_name, host=choice.host.name
            )

    def _join(self) -> None:
        connection = self._connection
        backend = self._backend
        assert backend is not None
        held, self._held = self._held, []
        tunnel = Tunnel(
            connection.context,
            connection.stream,
            backend,
            timer=connection.timer,
            idle_s=connection.inactivity_s,
            expires_at=connection.accepted_at + connection.timeouts.lifetime_s,
            on_end=self._tunnel_ended,
        )
        connection.tunnel = tunnel
        for data in held:
            tunnel.from_client.receive_data(data)
        if self._early_bytes:
            tunnel.from_backend.receive_data(self._early_bytes)
            self._early_bytes = b""
        if self._client_ended and not tunnel.finished:
            tunnel.from_client.receive_eof()

    # The backend, before the client has spoken.

    def backend_spoke(self, data: bytes) -> None:
        self._early_bytes = data
        assert self._on_backend_speaks is not None
        self._on_backend_speaks()

    def backend_ended(self) -> None:
        self._failed(Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, "closed unasked"))

    # The client, while the backend is being dialled.

    def receive_data(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HIGH_WATER_BYTES:
            self._connection.stream.pause_reading()

    def receive_eof(self) -> None:
        self._client_ended = True

    def stream_writable(self) -> None: ...

    def stream_lost(self, failure: Failure) -> None:
        self._end(failure)

    # Ends.

    def cancel(self) -> None:
        """Give the backend up; the client is someone else's."""
        if self._selection is not None:
            self._selection.cancel()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._backend is not None and self._connection.tunnel is None:
            self._backend.abort()
        self._backend = None
        self._release_host()

    def _release_host(self) -> None:
        if self._choice is not None:
            self._choice.host.in_flight -= 1
            self._choice = None

    def _tunnel_ended(self, failure: Failure | None) -> None:
        self._end(failure)

    def selection_failed(self, failure: Failure) -> None:
        # That no other host is left tells less than why this one could not be had.
        self._failed(self._last_failure or failure)

    def _failed(self, failure: Failure) -> None:
        if self._has_client:
            self._end(failure)
        else:
            self.cancel()
            assert self._on_backend_gone is not None
            self._on_backend_gone()

    def _end(self, failure: Failure | None) -> None:
        connection = self._connection
        tunnel = connection.tunnel
        connection.log_raw(
            "tls" if connection.tls_version or connection.server_name else "tcp",
            tunnel.from_client.moved_bytes if tunnel is not None else self._held_bytes,
            tunnel.from_backend.moved_bytes if tunnel is not None else 0,
            failure,
            self._backend_name,
        )
        self.cancel()
        connection.stream.close()
        connection.ended()


class _EarlyBackend:
    """Handles a backend dialled before the client has spoken."""

    __slots__ = ("_forward",)

    def __init__(self, forward: RawForward) -> None:
        self._forward = forward

    def receive_data(self, data: bytes) -> None:
        self._forward.backend_spoke(data)

    def receive_eof(self) -> None:
        self._forward.backend_ended()

    def stream_writable(self) -> None: ...

    def stream_lost(self, failure: Failure) -> None:
        self._forward.backend_ended()
