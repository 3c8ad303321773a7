"""How much one QUIC peer may cost: memory, frames per window of time, patience."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Http3Limits:
    """Limits of one connection. Those of frames count per `window_s` seconds.

    Over a limit the connection ends with H3_EXCESSIVE_LOAD, unless said otherwise. What a connection
    holds of the peer's is bounded by `connection_window_bytes`, one field section for each stream and
    `dynamic_table_bytes`; of ours, by what its user queues with `send_data` while `unsent_bytes` is
    below the user's own high-water mark, and `in_flight_bytes`.
    """

    concurrent_streams: int = 100
    """Requests a client may have open. Over it: STREAM_LIMIT_ERROR, from the QUIC engine."""
    unidirectional_streams: int = 8
    """Of the peer's; control, QPACK encoder and decoder stream are three (RFC 9114 §6.2)."""
    stream_window_bytes: int = 128 * 1024
    """Of one stream, received and not yet given back by `acknowledge_received_data`."""
    in_flight_bytes: int = 1024 * 1024
    """Sent and not acknowledged, shared by the streams; what goes beyond counts as unsent, so that a peer
    which acknowledges all but one packet cannot make us keep what followed it."""
    low_water_bytes: int = 32768
    """A stream whose backlog was this large and shrinks below it is announced as writable."""
    stalled_stream_s: float = 60.0
    """How long a stream may have content waiting for the peer's credit; then it is reset."""
    stalled_progress_bytes: int = 4096
    """What must get out of such a stream in that time for the wait to begin anew."""
    instruction_bytes: int = 65536
    """QPACK instructions and control frames waiting because the peer gives no credit for them."""

    header_bytes: int = 65536
    """One field section, encoded, and decoded in the measure of RFC 9114 §4.2.2; announced as
    SETTINGS_MAX_FIELD_SECTION_SIZE. Over it: 431 for a request."""
    header_count: int = 128
    """Field lines of a message, cookie crumbs joined. Over it: 431 for a request."""
    target_bytes: int = 16384
    """`:path`. Over it: 414."""
    interim_responses: int = 64
    """1xx responses to one request. Over it the stream is reset."""
    head_timeout_s: float = 30.0
    """From a stream's first byte to its whole request head. Over it the stream is reset with
    H3_REQUEST_INCOMPLETE. It frees streams that wait for QPACK entries which never come."""
    dynamic_table_bytes: int = 4096
    """SETTINGS_QPACK_MAX_TABLE_CAPACITY; 0 keeps requests from ever waiting for one another."""
    blocked_streams: int = 16
    """SETTINGS_QPACK_BLOCKED_STREAMS. Over it: QPACK_DECOMPRESSION_FAILED."""
    encoder_table_bytes: int = 65536
    """The largest table of a peer that our encoder fills; a larger one is left empty."""

    window_s: float = 10.0
    """Length of the counting window."""
    resets: int = 100
    """Streams the peer resets together with those it makes us reset, less the exchanges that ran to
    their end meanwhile. As a client, resets of our own requests are free."""
    empty_data: int = 100
    """DATA frames without content."""
    ignored_frames: int = 500
    """Frames and streams of unknown types, MAX_PUSH_ID, repeated GOAWAYs and the like."""
    settings_bytes: int = 4096
    """Payload of SETTINGS and of any other control frame that is read."""
    crypto_bytes: int = 65536
    """CRYPTO data ahead of what TLS has read. Over it: CRYPTO_BUFFER_EXCEEDED."""

    idle_timeout_s: float = 30.0
    """max_idle_timeout (RFC 9000 §10.1)."""
    keep_alive_s: float = 0.0
    """Silence on all streams after which a PING is sent while one is open; 0 for never."""
    datagram_bytes: int = 1200
    """UDP payload we send at most. 1200 crosses every path that QUIC may use (RFC 9000 §14)."""
    initial_congestion_window_datagrams: int = 10
    """RFC 9002 §7.2."""

    def __post_init__(self) -> None:
        """Raise ValueError for what QUIC cannot work with."""
        if self.concurrent_streams < 1 or self.unidirectional_streams < 3:
            raise ValueError("at least 1 request stream and 3 unidirectional streams")
        if self.stream_window_bytes < 4096 or self.stream_window_bytes < self.settings_bytes:
            raise ValueError("stream_window_bytes must be at least 4096, and at least settings_bytes")
        if self.datagram_bytes < 1200:
            raise ValueError("datagram_bytes must be at least 1200")

    @property
    def connection_window_bytes(self) -> int:
        """The connection's flow-control window: streams that nobody reads cannot starve the others."""
        return self.stream_window_bytes * (self.concurrent_streams + self.unidirectional_streams + 2)


DEFAULT_LIMITS = Http3Limits()


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Limits of a server endpoint over all its connections."""

    connections: int = 10000
    """Over it Initials are dropped."""
    handshakes: int = 1000
    """Connections whose handshake is not done, over which Initials are dropped."""
    handshakes_before_retry: int = 100
    """Connections whose handshake is not done, above which an Initial has to come back with a Retry
    token (RFC 9000 §8.1.2); -1 demands it of every client."""
    handshake_timeout_s: float = 10.0
    """From a client's first Initial to the end of its handshake."""
    retry_token_lifetime_s: float = 10.0
    """A client returns it at once."""
    stateless_packets_per_s: int = 1000
    """Version Negotiation, Retry and stateless resets together."""


DEFAULT_ENDPOINT_LIMITS = EndpointLimits()
