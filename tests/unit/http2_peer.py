"""The other end of an HTTP/2 connection, made of raw frames, for saying what no library would."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import Frame

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2 import (
    AVAILABLE_ENGINES,
    DEFAULT_LIMITS,
    Http2Connection,
    Http2EngineName,
    Http2Event,
    Http2Limits,
    RemoteProtocolError,
    frames,
)

ENGINE_NAMES: tuple[Http2EngineName, ...] = ("h2", "jh2", "native", "native-hpack")
ENGINES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in AVAILABLE_ENGINES, reason=f"{name} is not installed; to get it: pip install {name}"
        ),
    )
    for name in ENGINE_NAMES
]

REQUEST: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/"),
    (b":authority", b"a.example"),
]
POST: Fields = [(b":method", b"POST"), *REQUEST[1:]]


class RawPeer:
    """A client or server of raw frames, in front of the connection under test."""

    def __init__(
        self,
        engine: Http2EngineName,
        *,
        client: bool = True,
        limits: Http2Limits = DEFAULT_LIMITS,
        settings: dict[int, int] | None = None,
    ) -> None:
        self.now = 100.0
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.connection = Http2Connection(client_side=not client, limits=limits, engine=engine)
        self.connection.initiate(self.now)
        self.events: list[Http2Event] = []
        self.feed((frames.PREFACE if client else b"") + frames.encode_settings(settings or {}))
        self.feed(frames.encode_frame(frames.SETTINGS, frames.ACK, 0))
        self.greeting = self.take_frames()
        self.events.clear()

    def feed(self, data: bytes) -> list[Http2Event]:
        events = self.connection.receive_data(data, self.now)
        self.events.extend(events)
        return events

    def feed_expecting_end(self, data: bytes) -> RemoteProtocolError:
        """Feed what ends the connection; the GOAWAY says the same as the error."""
        with pytest.raises(RemoteProtocolError) as raised:
            self.feed(data)
        assert self.connection.ended
        goaways = [frame for frame in self.take_frames() if frame.type == frames.GOAWAY]
        assert goaways[-1].error_code == raised.value.error_code  # type: ignore[attr-defined]  # GoAwayFrame
        assert self.connection.receive_data(b"more", self.now) == []
        return raised.value

    def take_frames(self) -> list[Frame]:
        """What the connection has written."""
        data = memoryview(self.connection.data_to_send())
        if data[: len(frames.PREFACE)] == frames.PREFACE:
            data = data[len(frames.PREFACE) :]
        taken = []
        while data:
            frame, length = Frame.parse_frame_header(data[:9])
            frame.parse_body(data[9 : 9 + length])
            taken.append(frame)
            data = data[9 + length :]
        return taken

    def headers(self, stream_id: int, lines: Fields, *, end_stream: bool = True) -> bytes:
        flags = frames.END_HEADERS | (frames.END_STREAM if end_stream else 0)
        return frames.encode_frame(frames.HEADERS, flags, stream_id, self.encoder.encode(lines))

    def decode(self, frame: Frame) -> Fields:
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(frame.data, raw=True)]  # type: ignore[attr-defined]  # HeadersFrame


def data_frame(
    stream_id: int, data: bytes = b"", *, end_stream: bool = False, padding: int | None = None
) -> bytes:
    flags = frames.END_STREAM if end_stream else 0
    if padding is not None:
        data = bytes([padding]) + data + bytes(padding)
        flags |= frames.PADDED
    return frames.encode_frame(frames.DATA, flags, stream_id, data)


def types_of(taken: list[Frame]) -> list[int]:
    return [int(frame.type or 0) for frame in taken]
