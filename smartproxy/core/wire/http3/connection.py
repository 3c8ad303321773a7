"""One QUIC connection carrying HTTP/3, either side: datagrams in, events out, and back (RFC 9114)."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.ops import Address
from smartproxy.core.wire.field_sections import section_bytes
from smartproxy.core.wire.http3 import frames
from smartproxy.core.wire.http3.connection_state import ConnectionState
from smartproxy.core.wire.http3.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.http3.events import Http3Event, StreamReset
from smartproxy.core.wire.http3.heads import (
    encode_request,
    encode_response,
    encode_trailers,
)
from smartproxy.core.wire.http3.quic_engine import (
    ClientParameters,
    EngineName,
    ServerParameters,
    make_client_engine,
    make_server_engine,
)
from smartproxy.core.wire.http3.quic_input import QuicInput
from smartproxy.core.wire.http3.receiving import SAFE_METHODS
from smartproxy.core.wire.http3.streams import AFTER_TRAILERS, AWAITING_HEAD, IN_CONTENT, Stream


class Http3Connection:
    """A client's or server's end of one connection, checked, counted and bounded.

        connection = Http3Connection(ClientParameters(limits, trust, entropy))
        connection.connect(("192.0.2.1", 443), now)
        send(connection.datagrams_to_send(now))         # after every call
        for event in connection.receive_datagram(data, address, now):
            ...                                         # HandshakeCompleted, ResponseReceived ...
        stream_id = connection.send_request(head, end_stream=True)

    A server's connections come from a `QuicServerEndpoint`. `now` is monotonic seconds. After
    `datagrams_to_send`, `poll_events` has what sending brought about (StreamWritable). `get_timer`
    says when `handle_timer` is due.

    Content that arrives is charged to the peer's windows until `acknowledge_received_data` says that it
    has been consumed. Content to send is queued, without bound: mind `unsent_bytes`, and StreamWritable.
    Sending on a stream that is over does nothing: its StreamReset may still be on the way to the caller.
    Sending out of turn raises LocalProtocolError. Nothing a peer sends makes a method raise: what it
    breaks ends in StreamReset or ConnectionEnded.
    """

    __slots__ = ("_early_data", "_is_dirty", "_state", "callbacks", "on_dirty", "owner")

    def __init__(
        self, parameters: ClientParameters | ServerParameters, engine: EngineName = "aioquic"
    ) -> None:
        """Raises ImportError when the engine is not installed."""
        client_side = isinstance(parameters, ClientParameters)
        self._state = ConnectionState(parameters.limits, client_side=client_side)
        #: `on_connection_id_issued`, `on_connection_id_retired`; with `keep_tickets` `on_session_ticket`.
        self.callbacks = QuicInput(self._state)
        if isinstance(parameters, ClientParameters):
            self._state.quic = make_client_engine(engine, parameters, self.callbacks)
            self._early_data = parameters.early_data
        else:
            self._state.quic = make_server_engine(engine, parameters, self.callbacks)
            self._early_data = False
        #: Called when a verb has made something for `datagrams_to_send`; once until that is called.
        self.on_dirty: Callable[[], None] | None = None
        self._is_dirty = False
        #: Whatever the user wants to find again with a connection.
        self.owner: object = None

    # The connection.

    def connect(self, address: Address, now: float) -> None:
        """As a client, begin the handshake. To be called once, before all else."""
        self._state.now = self._state.heard_at = now
        self._state.quic.connect(address, now)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> list[Http3Event]:
        """What one UDP payload brings."""
        state = self._state
        state.now = now
        state.counters.advance(now)
        state.quic.receive_datagram(data, address, now)
        return self.poll_events()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        """Take what is to be sent, in order, and where to."""
        self._state.now = now
        self._is_dirty = False
        return self._state.quic.datagrams_to_send(now)

    def _wake(self) -> None:
        if not self._is_dirty:
            self._is_dirty = True
            if self.on_dirty is not None:
                self.on_dirty()

    def poll_events(self) -> list[Http3Event]:
        """Take the events that no input has returned yet."""
        state = self._state
        if state.backlog:
            state.watch_backlogs()
        events = state.receiver.events
        if not events:
            return []
        state.receiver.events = []
        return events

    def get_timer(self) -> float | None:
        """When `handle_timer` is due, in monotonic seconds; None for never."""
        due = self._state.quic.get_timer()
        own = self._own_deadline()
        if due is None:
            return None if own == inf else own
        return own if own < due else due

    def handle_timer(self, now: float) -> list[Http3Event]:
        """Do what is due."""
        state = self._state
        state.now = now
        due = state.quic.get_timer()
        if due is not None and due <= now:
            state.quic.handle_timer(now)
        if not state.ended and self._own_deadline() <= now:
            self._do_what_is_due(now)
        return self.poll_events()

    def _own_deadline(self) -> float:
        state = self._state
        if state.ended:
            return inf
        deadline = state.go_away_deadline
        if state.awaiting_head:
            deadline = min(deadline, next(iter(state.awaiting_head.values())))
        if state.backlog:
            deadline = min(deadline, state.backlog.next_deadline())
        if state.limits.keep_alive_s and state.streams and state.handshake_completed:
            deadline = min(deadline, state.heard_at + state.limits.keep_alive_s)
        return deadline

    def _do_what_is_due(self, now: float) -> None:
        state = self._state
        if state.go_away_deadline <= now:
            state.finish_going_away()
            self._wake()
        for stream in state.overdue_heads():
            state.abort_and_report(stream, ErrorCode.H3_REQUEST_INCOMPLETE, "request head not in time")
        for stream_id in state.backlog.stalled(now):
            stalled = state.streams.get(stream_id)
            reason = "flow-control window closed for too long"
            if stalled is not None:
                state.abort_and_report(stalled, ErrorCode.H3_REQUEST_CANCELLED, reason)
            else:
                state.quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
                state.receiver.events.append(
                    StreamReset(stream_id, ErrorCode.H3_REQUEST_CANCELLED, by_peer=False, reason=reason)
                )
            state.backlog.forget(stream_id)
        self._flush_instructions()
        keep_alive_s = state.limits.keep_alive_s
        if keep_alive_s and state.streams and state.heard_at + keep_alive_s <= now:
            state.quic.send_ping()
            # Without an answer the idle timeout ends it.
            state.heard_at = now

    def close(self, error_code: int = ErrorCode.H3_NO_ERROR, reason: str = "") -> None:
        """End the connection and all its streams at once; ConnectionEnded is the last event."""
        if not self._state.ended:
            self._state.quic.close(error_code, reason, is_application=True)
            self._wake()

    def go_away(self, now: float, error_code: int = ErrorCode.H3_NO_ERROR) -> None:
        """Take no new requests and finish those under way (RFC 9114 §5.2); `drained` tells when.

        A server first announces it, and names the requests it serves `GO_AWAY_ANNOUNCED_S` later, or
        when asked again, so that none on its way is lost. Those that come after that it rejects with
        H3_REQUEST_REJECTED, so that they can be tried elsewhere. With an error the connection is over
        at once.
        """
        state = self._state
        state.now = now
        if state.ended:
            return
        if error_code != ErrorCode.H3_NO_ERROR:
            self.close(error_code)
        elif not state.has_gone_away:
            if state.client_side or state.go_away_id >= 0:
                state.finish_going_away()
            else:
                state.announce_going_away()
            self._wake()

    @property
    def ended(self) -> bool:
        """ConnectionEnded has been reported; what `datagrams_to_send` still has is the farewell."""
        return self._state.ended

    @property
    def is_terminated(self) -> bool:
        """The closing period is over too: the connection can be forgotten."""
        return self._state.quic.is_terminated

    @property
    def drained(self) -> bool:
        """One side said GOAWAY, we for the last time, and every stream is over: `close` is due."""
        state = self._state
        return (state.has_gone_away or state.control.go_away_id >= 0) and not state.streams

    @property
    def handshake_completed(self) -> bool:
        return self._state.handshake_completed

    @property
    def has_peer(self) -> bool:
        """A packet of the peer has been authenticated."""
        return self._state.quic.has_peer

    @property
    def unanswered_probes(self) -> int:
        """Probe timeouts since the peer last acknowledged anything (RFC 9002 §6.2); -1 for unknown."""
        return self._state.quic.unanswered_probes

    @property
    def connection_id(self) -> bytes:
        """Our first connection ID."""
        return self._state.quic.connection_id

    @property
    def quic_version(self) -> int:
        """`VERSION_1` or `VERSION_2`; 0 before it is known."""
        return self._state.quic.version

    @property
    def server_name(self) -> str | None:
        """As a server, the SNI; None when the client sent none."""
        return self._state.quic.server_name

    @property
    def buffered_bytes(self) -> int:
        """What the connection itself holds of the peer's: parts of frames, and what waits for QPACK."""
        return sum(len(stream.held) for stream in self._state.streams.values())

    # Streams.

    @property
    def open_streams(self) -> int:
        """Streams under way, and ended ones with content that is not consumed yet."""
        return len(self._state.streams) + len(self._state.unconsumed)

    @property
    def max_outbound_streams(self) -> int:
        """How many streams a client may have open now; 0 once either side is going away."""
        state = self._state
        if state.ended or state.go_away_id >= 0 or state.control.go_away_id >= 0:
            return 0
        return min(self.open_streams + state.quic.available_streams, state.limits.concurrent_streams)

    @property
    def peer_takes_extended_connect(self) -> bool:
        """Whether the server has announced SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 9220 §3)."""
        return self._state.control.extended_connect

    def send_request(self, head: RequestHead, *, end_stream: bool) -> int:
        """Open a stream with a request; an extended CONNECT if `head.protocol` is set (RFC 9220).

        Returns the stream's identifier. Raises LocalProtocolError also before HandshakeCompleted, unless
        the session is resumed with `early_data` and the request safe and without content (RFC 8470 §3),
        and if `open_streams` has reached `max_outbound_streams`.
        """
        state = self._state
        if not state.client_side:
            raise LocalProtocolError("a server sends no requests")
        if not state.handshake_completed:
            early = self._early_data and state.control_stream_id >= 0
            if not early or not end_stream or head.method not in SAFE_METHODS:
                raise LocalProtocolError("the handshake is not completed")
        if self.open_streams >= self.max_outbound_streams:
            raise LocalProtocolError("no more streams")
        if head.protocol and not state.control.extended_connect:
            raise LocalProtocolError("the server takes no extended CONNECT")
        fields = encode_request(head)
        self._require_size(fields)
        stream_id = state.quic.open_stream(unidirectional=False)
        stream = state.streams[stream_id] = Stream(stream_id, head.method)
        stream.sending = IN_CONTENT
        state.send_section(stream, fields, end_stream)
        self._wake()
        return stream_id

    def send_response(self, stream_id: int, head: ResponseHead, *, end_stream: bool) -> None:
        """Send a response's head; any number of interim ones (1xx) before the final one."""
        stream = self._sendable(stream_id)
        if stream is None:
            return
        if self._state.client_side or stream.sending != AWAITING_HEAD:
            raise LocalProtocolError("a response out of turn")
        interim = head.status < 200
        if interim and end_stream:
            raise LocalProtocolError("an interim response does not end a stream")
        fields = encode_response(head)
        self._require_size(fields)
        if not interim:
            stream.sending = IN_CONTENT
        self._state.send_section(stream, fields, end_stream)
        self._wake()

    def send_data(self, stream_id: int, data: bytes, now: float, *, end_stream: bool = False) -> int:
        """Send content, and the end of it; all of `data` is taken. Returns `unsent_bytes`."""
        stream = self._sendable(stream_id)
        if stream is None:
            return 0
        self._require_content(stream)
        state = self._state
        if data:
            data = b"\x00" + frames.encode_varint(len(data)) + data
        state.quic.send_stream_data(stream_id, data, end_stream)
        unsent = state.unsent_bytes(stream_id)
        state.backlog.update(stream_id, unsent, now)
        if end_stream:
            state.end_sending(stream)
        self._wake()
        return unsent

    def send_trailers(self, stream_id: int, fields: Fields) -> None:
        """End a stream with trailer fields, behind what is still queued; without fields, just end it."""
        stream = self._sendable(stream_id)
        if stream is None:
            return
        self._require_content(stream)
        state = self._state
        if fields:
            section = encode_trailers(fields)
            self._require_size(section)
            state.send_section(stream, section, True)
        else:
            state.quic.send_stream_data(stream_id, b"", True)
            state.end_sending(stream)
        self._wake()

    def reset_stream(self, stream_id: int, error_code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """End a stream in both directions. What it has queued is dropped, what it received credited.

        A message already sent in full is still delivered; then only the rest of the peer's is
        refused, as after an early response (RFC 9114 §4.1).
        """
        stream = self._state.streams.get(stream_id)
        if stream is not None and not self._state.ended:
            self._state.abort(stream, error_code)
            self._flush_instructions()
            self._wake()

    def acknowledge_received_data(self, stream_id: int, byte_count: int) -> None:
        """`byte_count` bytes of a stream's DataReceived have been consumed: the peer may send as many more.

        Credit goes out in portions. Not needed for streams that were reset.
        """
        state = self._state
        stream = state.streams.get(stream_id)
        if stream is not None:
            byte_count = min(byte_count, stream.unacknowledged_bytes)
            stream.unacknowledged_bytes -= byte_count
        else:
            left = state.unconsumed.get(stream_id, 0)
            byte_count = min(byte_count, left)
            if byte_count < left:
                state.unconsumed[stream_id] = left - byte_count
            elif left:
                del state.unconsumed[stream_id]
        if byte_count > 0 and not state.ended:
            state.quic.consume(stream_id, byte_count)
            self._wake()

    def unsent_bytes(self, stream_id: int) -> int:
        """Content of a stream that has not been sent, and of what was sent and not acknowledged
        the part beyond its share of `in_flight_bytes`."""
        return self._state.unsent_bytes(stream_id)

    def _flush_instructions(self) -> None:
        try:
            self._state.send_instructions()
        except RemoteProtocolError as error:
            self.close(error.error_code, error.reason)

    def _sendable(self, stream_id: int) -> Stream | None:
        """The stream, or None if it is over. Raises LocalProtocolError if there never was one."""
        state = self._state
        stream = state.streams.get(stream_id)
        if stream is None:
            if not state.client_side and not state.ended and stream_id >= state.next_peer_id:
                raise LocalProtocolError("no such stream")
            return None
        # STOP_SENDING came: what is sent goes nowhere, and the response is awaited (RFC 9114 §4.1).
        return None if stream.sent_everything and stream.sending != AFTER_TRAILERS else stream

    def _require_content(self, stream: Stream) -> None:
        if stream.sending != IN_CONTENT:
            raise LocalProtocolError("content out of turn")

    def _require_size(self, fields: Fields) -> None:
        most = self._state.control.max_field_section_bytes
        if 0 <= most < section_bytes(fields):
            # RFC 9114 §4.2.2.
            raise LocalProtocolError("more fields than the peer takes")
