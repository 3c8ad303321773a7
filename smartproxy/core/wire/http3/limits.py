"""How much one QUIC connection may make us hold or do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Http3Limits:
    """Limits of one connection. What a peer may hold of ours is told to it; what it may cost is counted."""

    concurrent_streams: int = 100
    """Requests a client may have open. Over it: STREAM_LIMIT_ERROR, from the QUIC engine."""
    concurrent_unidirectional_streams: int = 8
    """Control, QPACK encoder and decoder streams are three of them (RFC 9114 §6.2)."""
    stream_window_bytes: int = 256 * 1024
    """Content of one stream received and not yet acknowledged by `acknowledge_received_data`."""
    connection_window_bytes: int = 1024 * 1024
    """The same over all streams of the connection; out-of-order bytes count too."""
    high_water_bytes: int = 256 * 1024
    """`unsent_bytes` at which `StreamWritable` is promised."""
    low_water_bytes: int = 64 * 1024
    """`unsent_bytes` at which it is kept."""
    in_flight_bytes: int = 2 * 1024 * 1024
    """Sent and unacknowledged content that is not counted by `unsent_bytes`, shared by the streams."""
    field_section_bytes: int = 65536
    """A header or trailer section, counted as RFC 9114 §4.2.2 does. Sent as SETTINGS_MAX_FIELD_SECTION_SIZE."""
    field_count: int = 128
    """Field lines of a section, pseudo-header fields included. Over either in a request: 431."""
    target_bytes: int = 16384
    """`:path`. Over it: 414."""
    dynamic_table_bytes: int = 4096
    """SETTINGS_QPACK_MAX_TABLE_CAPACITY; 0 keeps requests from ever waiting for one another."""
    encoder_table_bytes: int = 65536
    """The largest table of a peer that our encoder fills; a larger one is left empty."""
    blocked_streams: int = 16
    """SETTINGS_QPACK_BLOCKED_STREAMS."""
    control_frame_bytes: int = 4096
    """Payload of a SETTINGS or GOAWAY frame."""
    crypto_bytes: int = 65536
    """CRYPTO data ahead of what TLS has read. Over it: CRYPTO_BUFFER_EXCEEDED."""
    head_timeout_s: float = 30.0
    """From a request stream's first byte to its whole head. Over it: H3_REQUEST_INCOMPLETE."""
    resets_per_window: int = 100
    """Streams reset by the peer, or because of it, in `window_s`. Over it: H3_EXCESSIVE_LOAD."""
    valueless_frames_per_window: int = 1000
    """Empty DATA, unknown and control frames in `window_s`. Over it: H3_EXCESSIVE_LOAD."""
    window_s: float = 10.0
    """Length of the window in which the two above are counted."""
    idle_timeout_s: float = 30.0
    """max_idle_timeout (RFC 9000 §10.1)."""
    keep_alive_s: float = 0.0
    """Silence after which a PING is sent while a stream is open; 0 for never."""
    datagram_bytes: int = 1200
    """UDP payload we send at most; 1200 crosses every path QUIC may use (RFC 9000 §14)."""
    initial_congestion_window_datagrams: int = 10
    """RFC 9002 §7.2."""


DEFAULT_LIMITS = Http3Limits()


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """Limits of a server endpoint over all its connections."""

    connections: int = 10000
    """Over it: an Initial is answered with CONNECTION_REFUSED, and no state is made."""
    handshakes: int = 1000
    """Connections that have not finished their handshake, over which Initials are dropped."""
    handshakes_before_retry: int = 100
    """Connections that have not finished their handshake, above which an Initial has to come back
    with a Retry token (RFC 9000 §8.1.2). 0 demands it of every client."""
    retry_token_lifetime_s: float = 10.0
    """A client returns it at once."""
    stateless_packets_per_s: int = 1000
    """Version Negotiation, Retry, refusals and stateless resets together."""


DEFAULT_ENDPOINT_LIMITS = EndpointLimits()
