"""How much one HTTP/2 peer may cost: memory, frames per window of time, patience."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_WINDOW_BYTES = 65535
"""RFC 9113 §6.9.2: of a stream and of the connection, before anything is said about it."""
MAX_WINDOW_BYTES = 2**31 - 1
MAX_FRAME_BYTES = 16384
"""The largest frame payload we take or send: SETTINGS_MAX_FRAME_SIZE at its least, which is its default."""
HEADER_TABLE_BYTES = 4096
"""Dynamic table of either direction, whatever larger one the peer would grant (RFC 7541 §4.2)."""

LEAST_PEER_HEADER_BYTES = 4096
"""Of a peer's advisory SETTINGS_MAX_HEADER_LIST_SIZE: a peer that takes less could not be told of errors."""
UNLIMITED_HEADER_BYTES = 2**32
"""A peer that says nothing takes field sections of any size (RFC 9113 §6.5.2)."""


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """Limits of one connection. Those of frames count per `window_s` seconds unless they say otherwise.

    Over a limit the connection ends with ENHANCE_YOUR_CALM, unless said otherwise.
    What a connection holds is bounded by `concurrent_streams * stream_window_bytes` of
    content not yet consumed, one header block, one frame, `queued_reply_bytes`, and
    whatever its own user queues with `send_data`.
    """

    concurrent_streams: int = 100
    """Streams the peer may have open (server), or that we open at most (client). Announced, and enforced
    from the first frame on: a stream too many is reset with REFUSED_STREAM, and counts as a reset."""
    stream_window_bytes: int = 65536
    """Content of one stream that may be under way unconsumed (RFC 9113 §6.9); 65,535 to 2^31-1."""

    header_bytes: int = 65536
    """One header block on the wire, over which the connection ends, and one field section in the measure
    of RFC 9113 §6.5.2, over which a request gets 431 (and over its double the connection ends)."""
    header_count: int = 128
    """Field lines of a message, cookie crumbs joined. Over it a request gets 431; over four times as many,
    crumbs counted, the connection ends."""
    target_bytes: int = 16384
    """`:path`. Over it: 414."""
    continuations: int = 20
    """CONTINUATION frames of one header block."""
    interim_responses: int = 64
    """1xx responses to one request. Over it the stream is reset."""

    window_s: float = 10.0
    """Length of the counting window."""
    resets: int = 100
    """RST_STREAM frames from the peer together with those it provokes in us (Rapid Reset, MadeYouReset)
    and requests refused for their size, less the exchanges that ran to their end meanwhile. As a client,
    resets of our own requests are free."""
    pings: int = 100
    """PING frames beyond one for each DATA frame we sent, which is how gRPC measures its way."""
    settings: int = 50
    """SETTINGS frames, acknowledgements included."""
    empty_data: int = 100
    """DATA frames with neither content nor END_STREAM."""
    window_updates: int = 1000
    """WINDOW_UPDATE frames beyond ten for each sizeable DATA frame we sent."""
    priorities: int = 500
    """PRIORITY and PRIORITY_UPDATE frames. We take no notice of them."""
    ignored_frames: int = 500
    """Frames of unknown types, repeated GOAWAYs and the like."""
    queued_reply_bytes: int = 16384
    """Acknowledgements, resets and credit that wait because nobody takes `data_to_send`."""

    stalled_stream_s: float = 60.0
    """How long a stream may have content waiting for the peer's flow-control window; then it is reset."""
    stalled_progress_bytes: int = 4096
    """What must get out of such a stream in that time for the wait to begin anew."""
    settings_timeout_s: float = 30.0
    """From our SETTINGS to its acknowledgement: SETTINGS_TIMEOUT."""
    ping_timeout_s: float = 15.0
    """From our PING to its acknowledgement."""

    low_water_bytes: int = 32768
    """A stream whose backlog was this large and shrinks below it is announced as writable."""

    def __post_init__(self) -> None:
        """Raise ValueError for windows outside of what RFC 9113 §6.9 lets us announce at once."""
        if not DEFAULT_WINDOW_BYTES <= self.stream_window_bytes <= MAX_WINDOW_BYTES:
            # A smaller one would not bind the peer before it has read our SETTINGS.
            raise ValueError("stream_window_bytes must be 65535 to 2147483647")
        if self.concurrent_streams < 1:
            raise ValueError("concurrent_streams must be at least 1")

    @property
    def connection_window_bytes(self) -> int:
        """The connection's flow-control window.

        Twice what all streams together may hold: streams that nobody reads can then
        never starve the others, credit being returned in portions of up to half of it.
        """
        streams_bytes = self.concurrent_streams * self.stream_window_bytes
        return min(2 * streams_bytes + self.stream_window_bytes, MAX_WINDOW_BYTES)


DEFAULT_LIMITS = Http2Limits()
