"""The far end of an HTTP/2 connection of an engine driven by hand: raw frames, and what a stream has seen."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from typing import Protocol

from engine_by_hand import End, EngineByHand
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2 import ErrorCode, frames

HOST = b"app.example.com"
FRAME_BYTES = 16384


class Carrier(Protocol):
    """An `End`, or TLS on one."""

    def send(self, data: bytes) -> None: ...
    def take(self) -> bytes: ...


class Seen:
    """What one stream has brought to this end."""

    def __init__(self) -> None:
        self.heads: list[dict[bytes, bytes]] = []
        """Header sections in order: interim responses, the head, trailers. Repeated fields are joined."""
        self.data = b""
        self.ended = False
        self.reset: int | None = None
        self.credit_bytes = 0
        """The sum of its WINDOW_UPDATEs."""
        self.frames: list[str] = []

    @property
    def head(self) -> dict[bytes, bytes]:
        """The message's own head."""
        head = self.head_or_none
        assert head is not None, self
        return head

    @property
    def head_or_none(self) -> dict[bytes, bytes] | None:
        return next((head for head in self.heads if not head.get(b":status", b"").startswith(b"1")), None)

    @property
    def status(self) -> int:
        return int(self.head[b":status"])

    @property
    def trailers(self) -> dict[bytes, bytes]:
        assert self.ended
        assert len(self.heads) > 1
        return self.heads[-1]

    def __repr__(self) -> str:
        return (
            f"<Seen {self.heads} {len(self.data)} bytes {'ended' if self.ended else ''} reset={self.reset}>"
        )


class Http2End:
    """A client or a server of raw frames; answers SETTINGS and PING, and gives credit, unless told not to."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        client: bool,
        settings: dict[int, int] | None = None,
        gives_credit: bool = True,
        answers: bool = True,
    ) -> None:
        self.carrier = carrier
        self.is_client = client
        self.gives_credit = gives_credit
        self.answers = answers
        self.encoder = Encoder()
        self.decoder = Decoder()
        # Sections over the size of a decoder's own liking are what some tests are about.
        self.decoder.max_header_list_size = 1 << 20
        self.streams: defaultdict[int, Seen] = defaultdict(Seen)
        self.settings: dict[int, int] = {}
        self.goaways: list[GoAwayFrame] = []
        self.pings = 0
        self.connection_credit_bytes = 0
        self.next_id = 1
        self._incoming = bytearray()
        self._replies = b""
        self._preface = b"" if client else frames.PREFACE
        self._block: list[bytes] = []
        self.feed((frames.PREFACE if client else b"") + frames.encode_settings(settings or {}))

    # What comes.

    def look(self) -> Http2End:
        """Take what has come, until nothing more does."""
        for _ in range(100_000):
            data = self.carrier.take()
            if not data:
                return self
            self._incoming += data
            self._replies += self._read()
            self.send_replies()
        raise AssertionError("it does not end")

    def send_replies(self) -> None:
        """What is answered unasked waits while the engine reads nothing."""
        if self._replies and self.is_open and self.is_read:
            replies, self._replies = self._replies, b""
            self.carrier.send(replies)

    @property
    def end(self) -> End:
        end = self.carrier if isinstance(self.carrier, End) else self.carrier.end  # type: ignore[attr-defined]  # TlsEnd
        assert isinstance(end, End)
        return end

    @property
    def is_open(self) -> bool:
        return self.end.is_open

    @property
    def is_read(self) -> bool:
        """Whether the engine takes anything from it now."""
        return self.end.is_read()

    def _read(self) -> bytes:
        incoming = self._incoming
        if self._preface and len(incoming) >= len(self._preface):
            assert incoming.startswith(self._preface)
            del incoming[: len(self._preface)]
            self._preface = b""
        replies = []
        while len(incoming) >= 9 and not self._preface:
            length = int.from_bytes(incoming[:3], "big")
            if len(incoming) < 9 + length:
                break
            frame, _ = Frame.parse_frame_header(memoryview(bytes(incoming[:9])))
            frame.parse_body(memoryview(bytes(incoming[9 : 9 + length])))
            del incoming[: 9 + length]
            replies.append(self._note(frame))
        return b"".join(replies)

    def _note(self, frame: Frame) -> bytes:
        seen = self.streams[frame.stream_id] if frame.stream_id else None
        if seen is not None:
            assert seen.reset is None, "a frame behind RST_STREAM"
            assert not seen.ended or isinstance(frame, RstStreamFrame | WindowUpdateFrame | ContinuationFrame)
            seen.frames.append(type(frame).__name__.removesuffix("Frame"))
        if isinstance(frame, HeadersFrame | ContinuationFrame):
            assert seen is not None
            self._block.append(bytes(frame.data))
            seen.ended |= "END_STREAM" in frame.flags
            if "END_HEADERS" in frame.flags:
                self._note_section(seen)
        elif isinstance(frame, DataFrame):
            assert seen is not None
            seen.data += frame.data
            seen.ended |= "END_STREAM" in frame.flags
            if self.gives_credit and frame.data:
                size = len(frame.data)
                reply = frames.encode_window_update(0, size)
                return reply if seen.ended else reply + frames.encode_window_update(frame.stream_id, size)
        elif isinstance(frame, RstStreamFrame):
            assert seen is not None
            seen.reset = frame.error_code
        elif isinstance(frame, WindowUpdateFrame):
            if seen is not None:
                seen.credit_bytes += frame.window_increment
            else:
                self.connection_credit_bytes += frame.window_increment
        elif isinstance(frame, SettingsFrame):
            self.settings |= frame.settings
            if self.answers and "ACK" not in frame.flags:
                return frames.encode_frame(frames.SETTINGS, frames.ACK, 0)
        elif isinstance(frame, PingFrame):
            if "ACK" not in frame.flags:
                self.pings += 1
                if self.answers:
                    return frames.encode_frame(frames.PING, frames.ACK, 0, frame.opaque_data)
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append(frame)
        return b""

    def _note_section(self, seen: Seen) -> None:
        block, self._block = b"".join(self._block), []
        section: dict[bytes, bytes] = {}
        for name, value in self.decoder.decode(block, raw=True):
            name, value = bytes(name), bytes(value)
            section[name] = section[name] + b", " + value if name in section else value
        seen.heads.append(section)

    def stream(self, stream_id: int) -> Seen:
        """What a stream has brought so far."""
        self.look()
        return self.streams[stream_id]

    def new_streams(self) -> list[int]:
        """As a server: the requests whose heads have come, and have not been asked for here before."""
        self.look()
        found = [stream_id for stream_id, seen in self.streams.items() if seen.heads]
        found = [stream_id for stream_id in sorted(found) if stream_id >= self.next_id]
        if found:
            self.next_id = found[-1] + 2
        return found

    def new_stream(self) -> int:
        [stream_id] = self.new_streams()
        return stream_id

    @property
    def goaway_code(self) -> ErrorCode:
        """Of the last GOAWAY."""
        self.look()
        return ErrorCode(self.goaways[-1].error_code)

    # What goes.

    def feed(self, data: bytes) -> None:
        self.carrier.send(data)
        if self.answers:
            self.look()

    def headers(self, stream_id: int, lines: Fields, *, end: bool = False) -> bytes:
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        return frames.encode_frame(frames.HEADERS, flags, stream_id, self.encoder.encode(lines))

    def request(
        self,
        method: bytes = b"GET",
        path: bytes = b"/",
        *fields: tuple[bytes, bytes],
        body: bytes | None = None,
        ends: bool = True,
        host: bytes = HOST,
        scheme: bytes = b"http",
    ) -> int:
        """Open a stream, with the body if there is one; `ends` is whether the request is complete."""
        stream_id = self.next_id
        self.next_id += 2
        lines: Fields = [
            (b":method", method),
            (b":scheme", scheme),
            (b":path", path),
            (b":authority", host),
            *fields,
        ]
        data = self.headers(stream_id, lines, end=ends and body is None)
        if body is not None:
            data += data_frames(stream_id, body, end=ends)
        self.feed(data)
        return stream_id

    def respond(
        self,
        stream_id: int,
        status: int = 200,
        *fields: tuple[bytes, bytes],
        body: bytes | None = b"hello",
        ends: bool = True,
    ) -> None:
        data = self.headers(stream_id, [(b":status", b"%d" % status), *fields], end=ends and body is None)
        if body is not None:
            data += data_frames(stream_id, body, end=ends)
        self.feed(data)

    def trailers(self, stream_id: int, *fields: tuple[bytes, bytes]) -> None:
        self.feed(self.headers(stream_id, list(fields), end=True))

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.feed(data_frames(stream_id, data, end=end))

    def reset(self, stream_id: int, code: ErrorCode = ErrorCode.CANCEL) -> None:
        self.feed(frames.encode_rst_stream(stream_id, code))

    def give_credit(self, stream_id: int, size: int) -> None:
        """On a stream, and as much on the connection."""
        self.feed(frames.encode_window_update(0, size) + frames.encode_window_update(stream_id, size))

    def go_away(self, last_stream_id: int, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        self.feed(frames.encode_goaway(last_stream_id, code))


def data_frames(stream_id: int, data: bytes, *, end: bool = False) -> bytes:
    pieces = [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)] or [b""]
    return b"".join(
        frames.encode_frame(
            frames.DATA, frames.END_STREAM if end and piece is pieces[-1] else 0, stream_id, piece
        )
        for piece in pieces
    )


def http2_client(
    hand: EngineByHand,
    *,
    settings: dict[int, int] | None = None,
    gives_credit: bool = True,
    answers: bool = True,
    ip: str | None = None,
) -> Http2End:
    """A client with prior knowledge."""
    end = hand.connect() if ip is None else hand.connect(ip=ip)
    return Http2End(end, client=True, settings=settings, gives_credit=gives_credit, answers=answers)


def http2_backend(
    hand: EngineByHand,
    *,
    settings: dict[int, int] | None = None,
    gives_credit: bool = True,
    answers: bool = True,
) -> Http2End:
    """The backend that the connect under way reaches."""
    return Http2End(hand.open(), client=False, settings=settings, gives_credit=gives_credit, answers=answers)


def connect_websocket(client: Http2End, path: bytes = b"/chat", *fields: tuple[bytes, bytes]) -> int:
    """Open a WebSocket's stream."""
    handshake = ((b":protocol", b"websocket"), (b"sec-websocket-version", b"13"))
    return client.request(b"CONNECT", path, *handshake, *fields, ends=False)


def switching(head: bytes) -> bytes:
    """The 101 to an HTTP/1.1 handshake."""
    [key] = [line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: ")]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
