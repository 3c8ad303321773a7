"""What a pool may ask of a backend connection that carries many requests at once."""

from __future__ import annotations

from typing import Protocol

from smartproxy.core.failure import Failure
from smartproxy.core.http.client_stream import ClientStream


class MultiplexedClient(Protocol):
    """An HTTP/2 or HTTP/3 connection to a backend, open until `MultiplexedOwner.connection_gone`."""

    @property
    def version(self) -> int:
        """20 or 30."""

    @property
    def opened_at(self) -> float: ...

    @property
    def open_streams(self) -> int:
        """Streams under way, tunnels included."""

    @property
    def free_streams(self) -> int:
        """How many more may be opened now; 0 for good once either side is going away."""

    @property
    def holds_back_streams(self) -> bool:
        """Whether the backend's limit is awaited, for a moment; `stream_room` says when that is over."""

    @property
    def takes_extended_connect(self) -> bool | None:
        """Whether the backend has announced it (RFC 8441, RFC 9220); None: its SETTINGS are not here yet."""

    def begin(self) -> None:
        """The pool knows it now: from here on, and not before, it may call its owner."""

    def open_stream(self) -> ClientStream:
        """A stream for one request, which counts from now on. Only while there are `free_streams`."""

    def drain(self) -> None:
        """Open no more streams; close when those under way are over, or now if there are none."""


class MultiplexedOwner(Protocol):
    """Who a multiplexed connection reports to: its pool."""

    def stream_room(self, connection: MultiplexedClient) -> None:
        """It may take more streams than before, or its SETTINGS have come."""

    def stream_ended(self, connection: MultiplexedClient) -> None:
        """One of its streams is over, and it may have none left."""

    def connection_draining(self, connection: MultiplexedClient) -> None:
        """It takes no new streams (GOAWAY), and ends when those under way are over."""

    def connection_gone(self, connection: MultiplexedClient, failure: Failure | None) -> None:
        """It is closed; `failure` is None when that was in good order. Its streams hear of it afterwards."""

    def response_received(
        self, connection: MultiplexedClient, status: int, alt_svc: bytes | None, response_age_s: float = 0.0
    ) -> None:
        """A final response came by it; `response_age_s` is what its Age field says (RFC 9111 §5.1)."""

    def earlier_version_required(self, connection: MultiplexedClient) -> None:
        """The backend sent HTTP_1_1_REQUIRED or H3_VERSION_FALLBACK."""
