"""Strategies for WebSocket frames (RFC 6455 §5): what one side may send the other."""

from __future__ import annotations

from hypothesis import strategies as st

from smartproxy.core.wire.websocket import Opcode, encode_close, encode_frame

masks = st.binary(min_size=4, max_size=4)
payload_sizes = st.one_of(st.integers(0, 8), st.integers(120, 130))

_control_opcodes = st.sampled_from([Opcode.PING, Opcode.PONG])


@st.composite
def messages(draw: st.DrawFn, from_client: bool) -> list[bytes]:
    """The frames of a few whole messages, control frames between them and within, at times a Close behind."""

    def mask() -> bytes | None:
        return draw(masks) if from_client else None

    frames: list[bytes] = []
    for _ in range(draw(st.integers(0, 3))):
        opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
        fragments = draw(st.integers(1, 3))
        for number in range(fragments):
            for _ in range(draw(st.integers(0, 1))):
                control = draw(_control_opcodes)
                frames.append(encode_frame(control, draw(st.binary(max_size=125)), mask_key=mask()))
            payload = b"x" * draw(payload_sizes)
            frames.append(
                encode_frame(
                    Opcode.CONTINUATION if number else opcode,
                    payload,
                    fin=number == fragments - 1,
                    mask_key=mask(),
                )
            )
    if draw(st.booleans()):
        code = draw(st.sampled_from([1000, 1001, 1005, 1011, 3000, 4999]))
        reason = "" if code == 1005 else draw(st.text(max_size=40))
        frames.append(encode_close(code, reason, mask_key=mask()))
    return frames
