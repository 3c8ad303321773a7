"""A backend's multiplexed connection: streams for requests, and what its pool hears of it."""

from __future__ import annotations

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.advertised import advertised
from smartproxy.core.http.client_stream import ClientStream
from smartproxy.core.http.messages import ResponseHead
from smartproxy.core.http.multiplexed.client_stream import RequestedStream
from smartproxy.core.http.multiplexed.session import MultiplexedSession, Transport
from smartproxy.core.upstream.multiplexed import MultiplexedOwner
from smartproxy.core.wire.http3.events import (
    GoAwayReceived,
    Http3Event,
    ResponseReceived,
    SettingsChanged,
    StreamReset,
)


class MultiplexedBackend(MultiplexedSession[RequestedStream]):
    """The streams of one backend connection; a `MultiplexedClient`. A subclass knows how to end it."""

    __slots__ = ("_has_settings", "_is_draining", "_is_gone", "_owner", "_reserved", "_served", "opened_at")

    def __init__(self, context: Context, transport: Transport, owner: MultiplexedOwner) -> None:
        super().__init__(context, transport)
        self._owner = owner
        self._has_settings = False
        self._is_draining = False
        self._is_gone = False
        #: Streams given out whose request has not been sent.
        self._reserved = 0
        #: Requests sent so far.
        self._served = 0
        self.opened_at = context.now

    # For the pool.

    @property
    def open_streams(self) -> int:
        """Streams under way, tunnels included."""
        return self.wire.open_streams + self._reserved

    @property
    def free_streams(self) -> int:
        """How many more may be opened now."""
        if self._is_gone or self._is_draining:
            return 0
        return max(self.wire.max_outbound_streams - self.open_streams, 0)

    @property
    def holds_back_streams(self) -> bool:
        """Whether there may be more `free_streams` soon, because the backend's limit is not known yet."""
        return False

    @property
    def takes_extended_connect(self) -> bool | None:
        """Whether the backend has announced it; None: its SETTINGS are not here yet."""
        return self.wire.peer_takes_extended_connect if self._has_settings else None

    def open_stream(self) -> ClientStream:
        self._reserved += 1
        return RequestedStream(self)

    def begin(self) -> None:
        """The pool knows it now: from here on, and not before, it may call its owner."""
        raise NotImplementedError

    def drain(self) -> None:
        """Open no more streams; close when those under way are over, or now if there are none."""
        # A stream that was given out is one of those under way, though its request is still to come.
        self._is_draining = True
        self._drain_if_all_are_sent()

    def _drain_if_all_are_sent(self) -> None:
        if self._is_draining and not self._reserved and not self._is_gone:
            self._go_away()
            self.flush_soon()

    def _go_away(self) -> None:
        """Tell the backend that there will be no more streams."""
        raise NotImplementedError

    # For the streams.

    def stream_opened(self, stream: RequestedStream) -> None:
        self._reserved -= 1
        self._served += 1
        self.streams[stream.id] = stream
        self._drain_if_all_are_sent()
        self.flush_soon()

    def stream_over(self, stream_id: int) -> None:
        if stream_id < 0:
            self._reserved -= 1
            self._drain_if_all_are_sent()
        elif stream_id not in self.streams:
            return
        super().stream_over(stream_id)
        self.flush_soon()
        if not self._is_gone:
            self._owner.stream_ended(self)

    def note_response(self, head: ResponseHead) -> None:
        """A final response has come."""
        self._owner.response_received(self, head.status, *advertised(head))

    def ask_for_life(self) -> None:
        """A request got no answer: find out whether the connection still works."""

    # From the transport.

    def _handle_event(self, event: Http3Event) -> None:
        if isinstance(event, ResponseReceived):
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.receive_head(event.head, ended=event.end_stream)
        elif isinstance(event, GoAwayReceived):
            self._going_away(event)
        elif isinstance(event, SettingsChanged):
            self._has_settings = True
            self._owner.stream_room(self)
        else:
            self._other_event(event)

    def _other_event(self, event: Http3Event) -> None:
        """What only a transport knows of."""

    def _failure_of_reset(self, event: StreamReset) -> Failure:
        unprocessed = event.unprocessed
        if not event.by_peer:
            stalled = event.error_code == self.codes.cancelled
            code = FailureCode.CONNECTION_WRITE_TIMEOUT if stalled else FailureCode.HTTP_PROTOCOL_ERROR
            detail = event.reason
        else:
            code, detail = FailureCode.CONNECTION_TERMINATED, f"stream reset, code {event.error_code:#x}"
            if event.error_code == self.codes.earlier_version_required:
                # RFC 9113 §7, RFC 9114 §8.1: it is to be asked again in an earlier version.
                unprocessed = True
                self._owner.earlier_version_required(self)
        return Failure(FailureSource.BACKEND, code, detail, unprocessed=unprocessed)

    def _going_away(self, event: GoAwayReceived) -> None:
        self._owner.connection_draining(self)
        failure = Failure(
            FailureSource.BACKEND,
            FailureCode.CONNECTION_TERMINATED,
            f"GOAWAY, code {event.error_code:#x}",
            retryable=True,
            unprocessed=True,
        )
        for stream_id in event.unprocessed_stream_ids:
            stream = self.streams.get(stream_id)
            if stream is not None:
                stream.lost(failure)
        self.flush_soon()

    def connection_failed(self, failure: Failure) -> None:
        """The connection is over, and its streams with it."""
        if self._is_gone:
            return
        self._is_gone = True
        # Whether the one request it ever got has been acted on nobody can know.
        retryable = failure.retryable or (
            self._served > 1 and failure.code is FailureCode.CONNECTION_TERMINATED
        )
        self._close()
        # First, so that what is tried again is not tried in the same way.
        self._owner.connection_gone(self, failure)
        self.lose_streams(Failure(failure.source, failure.code, failure.detail, retryable=retryable))

    def connection_ended(self) -> None:
        """It is closed in good order."""
        if not self._is_gone:
            self._is_gone = True
            self._close()
            self._owner.connection_gone(self, None)

    def _close(self) -> None:
        """Give up timers and the like."""
        raise NotImplementedError
