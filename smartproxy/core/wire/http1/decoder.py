"""What both decoders share: the input held, the content's framing, the end of messages."""

from __future__ import annotations

from typing import ClassVar, Final, Generic, NoReturn, TypeVar

from smartproxy.core.http.messages import (
    NO_BODY,
    UNKNOWN_LENGTH,
    EndOfMessage,
    Fields,
    RequestHead,
    ResponseHead,
)
from smartproxy.core.wire.http1 import judge
from smartproxy.core.wire.http1.errors import LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.http1.fields import keep_trailers
from smartproxy.core.wire.http1.limits import DEFAULT_LIMITS, Http1Limits
from smartproxy.core.wire.http1.syntax import (
    FIRST_CHUNK_LINE,
    NEXT_CHUNK_LINE,
    PARTIAL_FIRST_CHUNK_LINE,
    PARTIAL_NEXT_CHUNK_LINE,
    SPLIT_FIELD_LINES,
    TRAILER_SECTION,
)

Head = TypeVar("Head", RequestHead, ResponseHead)

IDLE: Final = 0
"""A response decoder of which nothing is expected."""
HEAD: Final = 1
LENGTH: Final = 2
FIRST_CHUNK: Final = 3
NEXT_CHUNK: Final = 4
CHUNK_DATA: Final = 5
TRAILERS: Final = 6
UNTIL_CLOSE: Final = 7
END: Final = 8
COMPLETE: Final = 9
SWITCHED: Final = 10
"""Past a 101, or a 2xx to CONNECT: what follows is not HTTP/1.1."""
TAKEN: Final = 11
FAILED: Final = 12

_FREE_BYTES_PER_CHUNK_LINE: Final = 16


class MessageDecoder(Generic[Head]):
    """Bytes in, one event at a time out. Use `RequestDecoder` or `ResponseDecoder`.

    Unread input is `_buffer[_position:]`: the very object received while it can be
    read as it is, a bytearray (always at position 0) while it grows over several
    reads. An empty buffer is always b"" at position 0, so that a decoder between
    messages holds nothing.
    """

    __slots__ = (
        "_buffer",
        "_chunk_overhead",
        "_eof",
        "_limits",
        "_position",
        "_remaining",
        "_scanned",
        "_state",
    )

    _first_state: ClassVar[int]
    """What a decoder does between two messages."""

    def __init__(self, limits: Http1Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer: bytes | bytearray = b""
        self._position = 0
        # Bytes of an incomplete section that have been searched for its end; not 0 only for those.
        self._scanned = 0
        self._state = self._first_state
        # Content bytes still to come, of the message or of the chunk.
        self._remaining = 0
        self._chunk_overhead = 0
        self._eof = False

    # Input.

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the peer. Raises LocalProtocolError after `receive_eof` or `take_buffered`."""
        if self._eof or self._state >= TAKEN:
            if self._state == FAILED:
                return
            raise LocalProtocolError("data after the end of input")
        if not self._buffer:
            self._buffer = data
            return
        buffer = self._buffer
        if isinstance(buffer, bytes):
            buffer = self._buffer = bytearray(memoryview(buffer)[self._position :])
            self._position = 0
        buffer += data

    def receive_eof(self) -> None:
        """The peer will send no more. What is buffered can still be read."""
        self._eof = True

    # Output.

    def next_event(self) -> Head | bytes | EndOfMessage | None:
        """The next head, stretch of content (never empty) or end of a message.

        None while more data is needed, after the end of a message until
        `start_next_message`, and once HTTP/1.1 has been left. Raises
        RemoteProtocolError for malformed, ambiguous or over-long input and for an
        end of input in the middle of a message, and from then on always.
        """
        state = self._state
        try:
            if state == LENGTH:
                return self._next_content()
            if state == HEAD:
                return self._next_head()
            if state == END:
                self._state = COMPLETE
                return EndOfMessage()
            if state == COMPLETE:
                return None
            if FIRST_CHUNK <= state <= CHUNK_DATA:
                return self._next_chunks()
            if state == TRAILERS:
                return self._next_trailers()
            if state == UNTIL_CLOSE:
                return self._next_until_close()
            if state == IDLE and self._buffer:
                raise RemoteProtocolError(400, "response without a request")
            if state == FAILED:
                raise RemoteProtocolError(400, "input after a malformed message")
            return None
        except RemoteProtocolError as error:
            self._state = FAILED
            self._buffer = b""
            self._position = self._scanned = self._remaining = 0
            self._attribute(error)
            raise

    def start_next_message(self) -> None:
        """Go on to the connection's next message.

        Raises LocalProtocolError unless this one's content has all been returned, if
        it has any; its `EndOfMessage` may be left unread.
        """
        if self._state != COMPLETE and self._state != END:
            raise LocalProtocolError("the message has not ended")
        self._state = self._first_state

    def take_buffered(self) -> bytes:
        """Everything unread, for whoever speaks on this connection now; the decoder is done with it."""
        unread = self._unread()
        self._buffer = b""
        self._position = self._scanned = self._remaining = 0
        if self._state != FAILED:
            self._state = TAKEN
        return unread

    @property
    def buffered_bytes(self) -> int:
        """Input received and not yet returned."""
        return len(self._buffer) - self._position

    @property
    def has_partial_message(self) -> bool:
        """Whether a head has begun to arrive and is not complete."""
        return self._state == HEAD and bool(self._buffer)

    # Content that goes another way.

    @property
    def remaining_body_bytes(self) -> int:
        """Bytes of a Content-Length body not yet returned; 0 outside of a body, -1 when not knowable."""
        if self._state == LENGTH:
            return self._remaining
        return -1 if FIRST_CHUNK <= self._state <= UNTIL_CLOSE else 0

    def skip_body(self, count: int) -> None:
        """`count` bytes of content were moved past the decoder.

        Only for content framed by its length or by the connection's end, and with
        nothing buffered. Raises LocalProtocolError otherwise.
        """
        if self._buffer or count < 0:
            raise LocalProtocolError("cannot skip what is buffered")
        if self._state == LENGTH and count <= self._remaining:
            self._remaining -= count
            if self._remaining == 0:
                self._state = END
        elif self._state != UNTIL_CLOSE:
            raise LocalProtocolError("not that much content to skip")

    # What requests and responses differ in.

    def _next_head(self) -> Head | None:
        raise NotImplementedError

    def _attribute(self, error: RemoteProtocolError) -> None:
        """Correct the status of an error to the side that made it."""

    def _refuse_overlong(self, window: bytes | bytearray) -> NoReturn:
        raise RemoteProtocolError(431, "fields too large")

    # Buffer.

    def _unread(self) -> bytes:
        buffer = self._buffer
        if self._position:
            buffer = buffer[self._position :]
        return bytes(buffer)

    def _whole_buffer(self) -> bytes:
        """The buffer as bytes, `_position` still pointing into it."""
        buffer = self._buffer
        if type(buffer) is bytes:
            return buffer
        whole = self._buffer = bytes(buffer)
        return whole

    def _consume_to(self, position: int) -> None:
        if position == len(self._buffer):
            self._buffer = b""
            self._position = 0
        else:
            self._position = position

    def _begin_content(self, body_length_bytes: int) -> None:
        if body_length_bytes == NO_BODY:
            self._state = END
        elif body_length_bytes == UNKNOWN_LENGTH:
            self._state = FIRST_CHUNK
            self._remaining = self._chunk_overhead = 0
        else:
            self._state = LENGTH
            self._remaining = body_length_bytes

    def _section_end(self) -> int:
        """Where the head or trailer section at `_position` ends, its empty line included; -1 if not yet.

        The verdict depends on the bytes alone and not on how they were cut: the first
        forbidden byte and the byte that reaches the limit count from wherever they stand.
        When the end is found the buffer is bytes.
        """
        buffer = self._buffer
        position = self._position
        limit = self._limits.header_bytes
        scanned = self._scanned
        end = buffer.find(b"\r\n\r\n", position + max(0, scanned - 3), position + limit)
        if end >= 0:
            self._scanned = 0
            self._whole_buffer()
            return end + 4
        if isinstance(buffer, bytes):
            buffer = self._buffer = bytearray(memoryview(buffer)[position:])
            self._position = 0
        length = len(buffer)
        judge.refuse_forbidden_byte(buffer, scanned, min(length, limit))
        if length >= limit:
            self._refuse_overlong(buffer[:limit])
        self._await_rest()
        self._scanned = length
        return -1

    # Content.

    def _next_content(self) -> bytes | None:
        buffer = self._buffer
        if type(buffer) is not bytes:
            buffer = self._whole_buffer()
        if not buffer:
            self._await_rest()
            return None
        position = self._position
        available = len(buffer) - position
        remaining = self._remaining
        if available <= remaining:
            self._buffer = b""
            self._position = 0
            self._remaining = remaining = remaining - available
            if remaining == 0:
                self._state = END
            return buffer[position:] if position else buffer
        end = position + remaining
        self._position = end
        self._remaining = 0
        self._state = END
        return buffer[position:end]

    def _await_rest(self) -> None:
        if self._eof:
            raise RemoteProtocolError(400, "connection ended in the middle of a message")

    def _next_until_close(self) -> bytes | EndOfMessage | None:
        if self._buffer:
            content = self._unread()
            self._buffer = b""
            self._position = 0
            return content
        if self._eof:
            self._state = COMPLETE
            return EndOfMessage()
        return None

    def _next_chunks(self) -> bytes | EndOfMessage | None:
        """The content of every chunk at hand as one (RFC 9112 §7.1)."""
        buffer = self._whole_buffer()
        length = len(buffer)
        position = self._position
        state = self._state
        remaining = self._remaining
        pieces: list[bytes] = []
        while position < length:
            if state == CHUNK_DATA:
                end = position + remaining
                if end > length:
                    end = length
                pieces.append(buffer[position:end] if position or end < length else buffer)
                remaining -= end - position
                position = end
                if remaining:
                    break
                state = NEXT_CHUNK
                continue
            pattern = NEXT_CHUNK_LINE if state == NEXT_CHUNK else FIRST_CHUNK_LINE
            line = pattern.match(buffer, position)
            if line is None:
                fault = self._fault_of_chunk_line(buffer, position, state)
            elif line.end() - position > _FREE_BYTES_PER_CHUNK_LINE or self._chunk_overhead:
                fault = self._count_chunk_overhead(line.end() - position, int(line[1], 16))
            else:
                fault = ""
            if fault and not pieces:
                raise RemoteProtocolError(400, fault)
            if fault or line is None:
                # Content before a faulty line is returned first, wherever the input was cut.
                break
            remaining = int(line[1], 16)
            position = line.end()
            if remaining == 0:
                state = TRAILERS
                break
            state = CHUNK_DATA
        if position == length:
            self._buffer = b""
            position = 0
        elif position and not pieces and state != TRAILERS:
            # What is left is a few bytes of a line: let go of the chunks before it.
            self._buffer = buffer[position:]
            position = 0
        self._position = position
        self._state = state
        self._remaining = remaining
        if pieces:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if state == TRAILERS:
            return self._next_trailers()
        self._await_rest()
        return None

    def _fault_of_chunk_line(self, buffer: bytes, position: int, state: int) -> str:
        """What is wrong with a line that is no chunk line yet; empty if it may become one."""
        window = buffer[position : position + self._limits.chunk_line_bytes]
        pattern = PARTIAL_NEXT_CHUNK_LINE if state == NEXT_CHUNK else PARTIAL_FIRST_CHUNK_LINE
        if pattern.fullmatch(window) is None:
            if state == NEXT_CHUNK and window[:2] != b"\r\n":
                return "chunk longer than its size"
            return "malformed chunk size"
        return "chunk line too long" if len(window) >= self._limits.chunk_line_bytes else ""

    def _count_chunk_overhead(self, line_bytes: int, chunk_bytes: int) -> str:
        """What is wrong with the size of chunk lines so far; empty for nothing."""
        if line_bytes > self._limits.chunk_line_bytes:
            return "chunk line too long"
        overhead = self._chunk_overhead + line_bytes - _FREE_BYTES_PER_CHUNK_LINE - 2 * chunk_bytes
        if overhead > self._limits.chunk_overhead_bytes:
            return "too much overhead in chunks"
        self._chunk_overhead = max(0, overhead)
        return ""

    def _next_trailers(self) -> EndOfMessage | None:
        position = self._position
        buffer = self._buffer
        if buffer.startswith(b"\r\n", position):
            self._scanned = 0
            self._whole_buffer()
            self._consume_to(position + 2)
            self._state = COMPLETE
            return EndOfMessage()
        if not buffer:
            self._await_rest()
            return None
        end = self._section_end()
        if end < 0:
            return None
        trailers = self._parse_trailers(self._whole_buffer()[self._position : end])
        self._consume_to(end)
        self._state = COMPLETE
        return EndOfMessage(trailers)

    def _parse_trailers(self, section: bytes) -> Fields:
        match = TRAILER_SECTION.fullmatch(section)
        if match is not None:
            field_lines = SPLIT_FIELD_LINES.findall(match[1])
            if len(field_lines) > self._limits.header_count:
                raise RemoteProtocolError(431, "too many fields")
        else:
            judge.refuse_forbidden_byte(section, 0, len(section))
            field_lines = judge.judge_field_lines(section[:-4].split(b"\r\n"), self._limits)
        return keep_trailers(field_lines)
