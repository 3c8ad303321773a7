"""What a QUIC engine tells, turned into HTTP/3."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.wire.http3.connection_state import ConnectionState
from smartproxy.core.wire.http3.credentials import SessionTicket
from smartproxy.core.wire.http3.errors import ErrorCode, RemoteProtocolError, StreamError
from smartproxy.core.wire.http3.events import (
    ConnectionEnded,
    GoAwayReceived,
    HandshakeCompleted,
    SendingStopped,
    SettingsChanged,
    StreamReset,
)
from smartproxy.core.wire.http3.streams import AWAITING_HEAD, Stream

_UNIDIRECTIONAL = 2
_SERVER_INITIATED = 1


class QuicInput:
    """The `QuicHandler` of one connection."""

    __slots__ = ("_state", "on_connection_id_issued", "on_connection_id_retired", "on_session_ticket")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self.on_connection_id_issued: Callable[[bytes], None] | None = None
        self.on_connection_id_retired: Callable[[bytes], None] | None = None
        self.on_session_ticket: Callable[[SessionTicket], None] | None = None

    # The connection.

    def protocol_negotiated(self) -> None:
        state = self._state
        state.receiver.is_early = not state.client_side and not state.handshake_completed
        state.open_control_streams()

    def handshake_completed(self, *, resumed: bool, early_data_accepted: bool) -> None:
        state = self._state
        state.handshake_completed = True
        state.receiver.is_early = False
        state.open_control_streams()
        state.receiver.events.append(
            HandshakeCompleted(resumed=resumed, early_data_accepted=early_data_accepted)
        )

    def connection_terminated(
        self, error_code: int, reason: str, *, by_peer: bool, is_application: bool
    ) -> None:
        state = self._state
        if not state.ended:
            state.abandon()
            state.receiver.events.append(
                ConnectionEnded(error_code, reason, by_peer=by_peer, is_application=is_application)
            )

    def connection_id_issued(self, connection_id: bytes) -> None:
        if self.on_connection_id_issued is not None:
            self.on_connection_id_issued(connection_id)

    def connection_id_retired(self, connection_id: bytes) -> None:
        if self.on_connection_id_retired is not None:
            self.on_connection_id_retired(connection_id)

    def session_ticket_received(self, ticket: SessionTicket) -> None:
        if self.on_session_ticket is not None:
            self.on_session_ticket(ticket)

    # Streams.

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        state = self._state
        if state.ended:
            return
        # Not for every datagram: anyone can send those.
        state.heard_at = state.now
        try:
            if stream_id & _UNIDIRECTIONAL:
                self._receive_unidirectional(stream_id, data, end_stream)
            else:
                stream = state.streams.get(stream_id)
                if stream is None:
                    stream = self._begin(stream_id)
                if stream is None:
                    # Over on our side; its credit goes back for the sake of the connection's.
                    state.quic.consume(stream_id, len(data))
                else:
                    self._receive_message(stream, data, end_stream)
            state.send_instructions()
        except RemoteProtocolError as error:
            self._fail(error)

    def _begin(self, stream_id: int) -> Stream | None:
        state = self._state
        if stream_id & _SERVER_INITIATED:
            # RFC 9114 §6.1.
            raise RemoteProtocolError(ErrorCode.H3_STREAM_CREATION_ERROR, "stream of a kind nobody opens")
        return None if state.client_side else state.accept(stream_id)

    def _receive_message(self, stream: Stream, data: bytes, end_stream: bool) -> None:
        state = self._state
        unacknowledged = stream.unacknowledged_bytes
        try:
            consumed = state.receiver.receive(stream, data, end_stream)
        except StreamError as error:
            stream.unacknowledged_bytes = unacknowledged
            state.quic.consume(stream.stream_id, len(data))
            self._refuse(stream, error)
            return
        self._after_reading(stream, consumed)

    def _after_reading(self, stream: Stream, consumed: int) -> None:
        state = self._state
        if consumed:
            state.quic.consume(stream.stream_id, consumed)
        if stream.receiving != AWAITING_HEAD:
            state.awaiting_head.pop(stream.stream_id, None)
            if stream.received_everything:
                state.end_exchange_if_over(stream)

    def _resume(self, stream: Stream) -> None:
        state = self._state
        held = len(stream.held)
        unacknowledged = stream.unacknowledged_bytes
        try:
            consumed = state.receiver.resume(stream)
        except StreamError as error:
            stream.unacknowledged_bytes = unacknowledged
            stream.is_blocked = False
            state.quic.consume(stream.stream_id, held)
            self._refuse(stream, error)
            return
        self._after_reading(stream, consumed)

    def _refuse(self, stream: Stream, error: StreamError) -> None:
        """The peer's message is broken. What it makes us reset is counted like its own resets."""
        self._state.abort_and_report(stream, error.error_code, error.reason)
        if not self._state.client_side:
            self._state.count_provoked_reset()

    def _receive_unidirectional(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        state = self._state
        control = state.control
        unblocked, is_useless = control.receive(stream_id, data, end_stream)
        state.quic.consume(stream_id, len(data))
        if is_useless:
            state.quic.stop_stream(stream_id, ErrorCode.H3_STREAM_CREATION_ERROR)
        for unblocked_id in unblocked:
            stream = state.streams.get(unblocked_id)
            if stream is not None and stream.is_blocked:
                self._resume(stream)
        if control.settings_are_new:
            control.settings_are_new = False
            state.receiver.events.append(SettingsChanged())
        if control.is_go_away_new:
            control.is_go_away_new = False
            first_id = control.go_away_id
            rejected = state.reject_unprocessed(first_id) if state.client_side else []
            last_id = max(first_id - 4, 0) if state.client_side else first_id
            state.receiver.events.append(GoAwayReceived(last_id, ErrorCode.H3_NO_ERROR, rejected))

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        state = self._state
        if state.ended:
            return
        try:
            if stream_id & _UNIDIRECTIONAL:
                if state.control.is_critical(stream_id):
                    raise RemoteProtocolError(ErrorCode.H3_CLOSED_CRITICAL_STREAM, "critical stream reset")
                state.control.forget(stream_id)
                return
            stream = state.streams.get(stream_id)
            if stream is None:
                self._reset_unused(stream_id)
            else:
                stream.peer_ended = True
                self._end_by_peer(stream, error_code)
            state.send_instructions()
        except RemoteProtocolError as error:
            self._fail(error)

    def _reset_unused(self, stream_id: int) -> None:
        state = self._state
        stream = self._begin(stream_id)
        if stream is not None:
            # Nobody has heard of it, and nobody will answer it.
            stream.peer_ended = True
            state.abort(stream, ErrorCode.H3_REQUEST_CANCELLED)
            state.count_provoked_reset()

    def sending_stopped(self, stream_id: int, error_code: int) -> None:
        state = self._state
        if state.ended:
            return
        try:
            if stream_id & _UNIDIRECTIONAL:
                # RFC 9114 §6.2.1, RFC 9204 §4.2: those we opened are critical, all of them.
                raise RemoteProtocolError(ErrorCode.H3_CLOSED_CRITICAL_STREAM, "critical stream stopped")
            state.backlog.forget(stream_id)
            stream = state.streams.get(stream_id)
            if stream is None:
                return
            stream.sent_everything = True
            if state.client_side:
                state.receiver.events.append(SendingStopped(stream_id, error_code))
                state.end_exchange_if_over(stream)
            else:
                self._end_by_peer(stream, error_code)
            state.send_instructions()
        except RemoteProtocolError as error:
            self._fail(error)

    def _end_by_peer(self, stream: Stream, error_code: int) -> None:
        state = self._state
        state.abort(stream, ErrorCode.H3_REQUEST_CANCELLED)
        state.receiver.events.append(
            StreamReset(
                stream.stream_id,
                error_code,
                by_peer=True,
                unprocessed=state.client_side and error_code == ErrorCode.H3_REQUEST_REJECTED,
            )
        )
        if not state.client_side:
            state.count_provoked_reset()

    def _fail(self, error: RemoteProtocolError) -> None:
        self._state.quic.close(error.error_code, error.reason, is_application=True)
