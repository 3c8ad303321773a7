"""What happened, line by line: `>` an input to the engine, `<` what was drained after it, `!` the weather."""

from __future__ import annotations

import zlib
from collections import deque

from smartproxy.drivers.simulation.clock import Clock

PREVIEW_BYTES = 40
PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\r\n"


class Transcript:
    """The last `limit` lines of a run; all of them when `limit` is None."""

    __slots__ = ("_clock", "_lines", "dropped_lines")

    def __init__(self, clock: Clock, limit: int | None) -> None:
        self._clock = clock
        self._lines: deque[str] = deque(maxlen=limit)
        self.dropped_lines = 0

    def __len__(self) -> int:
        return len(self._lines)

    def input(self, text: str) -> None:
        self._append(">", text)

    def output(self, text: str) -> None:
        self._append("<", text)

    def weather(self, text: str) -> None:
        self._append("!", text)

    def note(self, text: str) -> None:
        """Add a remark of a script's."""
        self._append("#", text)

    def _append(self, mark: str, text: str) -> None:
        if len(self._lines) == self._lines.maxlen:
            self.dropped_lines += 1
        self._lines.append(f"{self._clock.now - self._clock.start_s:12.6f} {mark} {text}")

    def to_text(self) -> str:
        """The transcript, a line each, in seconds since the start of the run."""
        head = [f"({self.dropped_lines} earlier lines dropped)"] if self.dropped_lines else []
        return "\n".join([*head, *self._lines]) + "\n"

    def tail(self, count: int = 30) -> str:
        """The last `count` lines."""
        return "\n".join(list(self._lines)[-count:])


class LabelledTranscript(Transcript):
    """The lines of one writer among several, each after `label`, in the transcript they share."""

    __slots__ = ("_label", "_shared")

    def __init__(self, shared: Transcript, label: str) -> None:
        super().__init__(shared._clock, 0)
        self._shared = shared
        self._label = label

    def _append(self, mark: str, text: str) -> None:
        self._shared._append(mark, self._label + text)


class PayloadDescription:
    """Describes the bytes of one connection in a way that is the same in every replay.

    Once a TLS record header was seen in either direction only lengths are told:
    OpenSSL's random bytes do not come from the seed, but their number does.
    """

    __slots__ = ("_last_byte_in", "_last_byte_out", "is_tls")

    def __init__(self) -> None:
        self.is_tls = False
        self._last_byte_in = b""
        self._last_byte_out = b""

    def describe_input(self, data: bytes) -> str:
        if not self.is_tls:
            self.is_tls = b"\x16\x03" in self._last_byte_in + data
            self._last_byte_in = data[-1:]
        return self._describe(data)

    def describe_output(self, data: bytes) -> str:
        if not self.is_tls:
            self.is_tls = b"\x16\x03" in self._last_byte_out + data
            self._last_byte_out = data[-1:]
        return self._describe(data)

    def _describe(self, data: bytes) -> str:
        if self.is_tls:
            return f"{len(data)} bytes of TLS"
        preview = data[:PREVIEW_BYTES]
        binary_count = len(preview.translate(None, PRINTABLE))
        shown = (
            preview[: PREVIEW_BYTES // 4].hex(" ") if 4 * binary_count > len(preview) else repr(preview)[1:]
        )
        if len(data) <= PREVIEW_BYTES // 4 or (len(data) <= PREVIEW_BYTES and not binary_count):
            return shown
        return f"{shown}… {len(data)} bytes, crc32 {zlib.crc32(data):08x}"
