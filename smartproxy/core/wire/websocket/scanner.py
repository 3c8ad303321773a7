"""Finding frames in a byte stream without opening them (RFC 6455 §5)."""

from __future__ import annotations

from typing import NoReturn

from smartproxy.core.wire.websocket.errors import LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.websocket.extensions import extension_names
from smartproxy.core.wire.websocket.frames import (
    FIN,
    MASK_KEY_BYTES,
    MASKED,
    MAX_CONTROL_PAYLOAD_BYTES,
    CloseCode,
    Opcode,
    apply_mask,
    is_close_code,
)

_RSV_BITS = 0x70
_RSV1 = 0x40
_OPCODE_BITS = 0x0F

_REFUSED = 0
_MESSAGE_START = 1
_CONTINUATION = 2
_CONTROL = 3


def _kinds_of_first_bytes(rsv_of_message_start: int, rsv_of_others: int) -> bytes:
    """What each first byte of a frame begins, given the reserved bits that may be set."""
    kinds = bytearray(256)
    for first in range(256):
        opcode, rsv = first & _OPCODE_BITS, first & _RSV_BITS
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            if not rsv & ~rsv_of_message_start:
                kinds[first] = _MESSAGE_START
        elif rsv & ~rsv_of_others:
            continue
        elif opcode == Opcode.CONTINUATION:
            kinds[first] = _CONTINUATION
        elif opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG) and first & FIN:
            kinds[first] = _CONTROL
    return bytes(kinds)


_WITHOUT_EXTENSIONS = _kinds_of_first_bytes(0, 0)
# RFC 7692 §6: "Per-Message Compressed" is a bit of a message's first frame alone.
_WITH_DEFLATE = _kinds_of_first_bytes(_RSV1, 0)
_WITH_OTHERS = _kinds_of_first_bytes(_RSV_BITS, _RSV_BITS)


def _kinds_for(extensions: bytes) -> bytes:
    try:
        names = extension_names(extensions)
    except ValueError as error:
        raise LocalProtocolError(str(error)) from None
    if not names:
        return _WITHOUT_EXTENSIONS
    return _WITH_DEFLATE if set(names) == {b"permessage-deflate"} else _WITH_OTHERS


class FrameScanner:
    """One direction of an open WebSocket, passed through and watched.

        passed = scanner.receive_data(data)     # hand these on

    Payload is neither copied nor unmasked: a chunk inside a frame costs a comparison,
    whatever its size. What is handed on is whole headers and whole control frames, so
    that wherever `at_frame_boundary` holds, or at the offset `last_boundary` of what
    was just returned, another frame can be put in. At most 138 bytes are held back.

    `from_client`: frames must be masked, else they must not be (§5.1).
    `max_payload_bytes` limits a message over all its frames, as sent: compressed, if
    it is. `extensions` is the negotiated Sec-WebSocket-Extensions value; it says which
    reserved bits may be set (any, for an extension unknown here). Raises
    LocalProtocolError if it is malformed.
    """

    __slots__ = (
        "_closed",
        "_fragmented",
        "_held",
        "_kinds",
        "_least_header_bytes",
        "_mask_bit",
        "_message_bytes",
        "_payload_left",
        "_violation",
        "close_code",
        "close_reason",
        "expected_pong",
        "frame_count",
        "last_boundary",
        "max_payload_bytes",
        "ping_count",
        "pong_count",
    )

    def __init__(
        self, *, from_client: bool, max_payload_bytes: int | None = None, extensions: bytes = b""
    ) -> None:
        self.max_payload_bytes = max_payload_bytes
        self._mask_bit = MASKED if from_client else 0
        self._least_header_bytes = 2 + MASK_KEY_BYTES if from_client else 2
        self._kinds = _kinds_for(extensions)
        #: Bytes of the current data frame's payload still to come.
        self._payload_left = 0
        #: The beginning of a header or of a control frame.
        self._held = b""
        self._fragmented = False
        self._message_bytes = 0
        self._closed = False
        self._violation: tuple[int, str] | None = None
        #: Where in the bytes last returned a frame may be put in, the last such place; -1: nowhere.
        self.last_boundary = 0
        #: The code of the Close frame that passed, 1005 if it had none; None: none has passed.
        self.close_code: int | None = None
        self.close_reason = ""
        self.frame_count = 0
        self.ping_count = 0
        self.pong_count = 0
        #: The payload of a Ping of our own: its Pong is counted, and not handed on. Then None again.
        self.expected_pong: bytes | None = None

    @property
    def at_frame_boundary(self) -> bool:
        """Whether what was handed on so far ends between two frames."""
        return not self._payload_left

    @property
    def in_message(self) -> bool:
        """Whether what was handed on so far ends within a message. Control frames may still come between."""
        return self._fragmented or self._payload_left > 0

    def receive_data(self, data: bytes) -> bytes:
        """Scan the next bytes; what to hand on. After a Close frame that is nothing (RFC 6455 §1.4).

        Raises RemoteProtocolError for a frame that may not pass, 1009 for one that makes
        its message too big, and the same again whenever called after that.
        """
        size = len(data)
        if size < self._payload_left:
            self._payload_left -= size
            self.last_boundary = -1
            return data
        if self._closed:
            if self._violation is not None:
                raise RemoteProtocolError(*self._violation)
            self.last_boundary = 0
            return b""
        if self._held:
            data = self._held + data
            self._held = b""
        return self._scan(data)

    def _scan(self, data: bytes) -> bytes:
        kinds = self._kinds
        mask_bit = self._mask_bit
        least_header_bytes = self._least_header_bytes
        size = len(data)
        position = self._payload_left
        self._payload_left = 0
        while size - position >= 2:
            kind = kinds[data[position]]
            # Less than 128 only where the mask bit is as it must be.
            length = data[position + 1] ^ mask_bit
            if kind == _REFUSED or length >= MASKED:
                self._refuse(data, position)
            header_end = position + least_header_bytes
            if length > MAX_CONTROL_PAYLOAD_BYTES:
                if kind == _CONTROL:
                    self._fail(CloseCode.PROTOCOL_ERROR, "control frame over 125 bytes", data, position)
                extended_bytes = 2 if length == 126 else 8
                if size - position < 2 + extended_bytes:
                    break
                header_end += extended_bytes
                length = self._extended_length(data, position, extended_bytes)
            if kind == _CONTROL:
                end = header_end + length
                if end > size:
                    break
                if self._take_control(data, position, header_end, end):
                    data = data[:position] + data[end:]
                    size = len(data)
                else:
                    position = end
                if self._closed:
                    self.last_boundary = position
                    return data[:position]
                continue
            message_bytes = self._message_size(kind, data, position, length)
            if header_end > size:
                break
            self._message_bytes = message_bytes
            self._fragmented = data[position] < FIN
            self.frame_count += 1
            end = header_end + length
            if end > size:
                self.last_boundary = position
                self._payload_left = end - size
                return data
            position = end
        self.last_boundary = position
        if position == size:
            return data
        self._held = data[position:]
        return data[:position]

    def _extended_length(self, data: bytes, position: int, extended_bytes: int) -> int:
        length = int.from_bytes(data[position + 2 : position + 2 + extended_bytes], "big")
        # RFC 6455 §5.2: the shortest form, and the most significant bit 0.
        if length <= (MAX_CONTROL_PAYLOAD_BYTES if extended_bytes == 2 else 0xFFFF):
            self._fail(CloseCode.PROTOCOL_ERROR, "payload length not in its shortest form", data, position)
        if length >> 63:
            self._fail(CloseCode.PROTOCOL_ERROR, "payload length over 63 bits", data, position)
        return length

    def _message_size(self, kind: int, data: bytes, position: int, length: int) -> int:
        """The message's size with this frame (RFC 6455 §5.4)."""
        if kind == _MESSAGE_START:
            if self._fragmented:
                self._fail(CloseCode.PROTOCOL_ERROR, "message begun within a message", data, position)
            message_bytes = length
        else:
            if not self._fragmented:
                self._fail(CloseCode.PROTOCOL_ERROR, "continuation of no message", data, position)
            message_bytes = self._message_bytes + length
        limit = self.max_payload_bytes
        if limit is not None and message_bytes > limit:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "message too big", data, position)
        return message_bytes

    def _take_control(self, data: bytes, start: int, header_end: int, end: int) -> bool:
        """Look at a whole control frame. True: it is the answer to our own Ping, and goes no further."""
        self.frame_count += 1
        opcode = data[start] & _OPCODE_BITS
        if opcode == Opcode.PING:
            self.ping_count += 1
            return False
        payload = data[header_end:end]
        if self._mask_bit:
            payload = apply_mask(payload, data[header_end - MASK_KEY_BYTES : header_end])
        if opcode == Opcode.PONG:
            self.pong_count += 1
            if payload != self.expected_pong:
                return False
            self.expected_pong = None
            return True
        self._take_close(payload, data, start)
        return False

    def _take_close(self, payload: bytes, data: bytes, start: int) -> None:
        code: int = CloseCode.NO_STATUS_RECEIVED
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not is_close_code(code):
                self._fail(CloseCode.PROTOCOL_ERROR, "invalid close code", data, start)
            try:
                self.close_reason = payload[2:].decode("utf-8")
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_PAYLOAD, "close reason is not UTF-8", data, start)
        self.close_code = code
        self._closed = True

    def _refuse(self, data: bytes, position: int) -> NoReturn:
        first = data[position]
        opcode = first & _OPCODE_BITS
        if opcode not in Opcode.__members__.values():
            reason = "reserved opcode"
        elif opcode >= Opcode.CLOSE and not first & FIN:
            reason = "fragmented control frame"
        elif self._kinds[first] == _REFUSED:
            reason = "reserved bit without its extension"
        else:
            reason = "unmasked frame from a client" if self._mask_bit else "masked frame from a server"
        self._fail(CloseCode.PROTOCOL_ERROR, reason, data, position)

    def _fail(self, close_code: CloseCode, reason: str, data: bytes, position: int) -> NoReturn:
        self._closed = True
        self.last_boundary = position
        self._violation = (close_code, reason)
        raise RemoteProtocolError(close_code, reason, data[:position])
