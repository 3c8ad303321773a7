"""Just enough HTTP/1.1 for a body to play a client or a backend."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness import Connection


@dataclass
class Message:
    """A message as it came: `first` is its request or status line."""

    first: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key == name]
        return ", ".join(values) if values else None


def _parse_fields(lines: list[str]) -> list[tuple[str, str]]:
    pairs = (line.split(":", 1) for line in lines)
    return [(name.lower(), value.strip()) for name, value in pairs]


async def receive_head(connection: Connection) -> Message:
    """A head, with what follows it left unread."""
    head = (await connection.receive_until(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    return Message(first, _parse_fields(lines))


async def receive_chunk(connection: Connection) -> bytes:
    """One chunk's content; b"" for the last, whose trailer section is left unread."""
    size = int((await connection.receive_until(b"\r\n")).split(b";")[0], 16)
    if size == 0:
        return b""
    data = await connection.receive_exactly(size)
    assert await connection.receive_exactly(2) == b"\r\n"
    return data


async def receive_body(connection: Connection, message: Message) -> None:
    """The content of a message that has one, by its framing."""
    if message.get("transfer-encoding") == "chunked":
        while chunk := await receive_chunk(connection):
            message.body += chunk
        lines = []
        while (line := (await connection.receive_until(b"\r\n")).decode("latin-1").strip()) != "":
            lines.append(line)
        message.trailers = _parse_fields(lines)
    elif (length := message.get("content-length")) is not None:
        message.body = await connection.receive_exactly(int(length))


async def receive_message(connection: Connection) -> Message:
    """A head and its content."""
    message = await receive_head(connection)
    await receive_body(connection, message)
    return message


def request(method: str, target: str, body: bytes = b"", *extra: str) -> bytes:
    """A request to send; its content has a length unless there is none."""
    lines = [f"{method} {target} HTTP/1.1", "Host: app.example.com", *extra]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def response(status: int, body: bytes = b"", *extra: str) -> bytes:
    """A response to send, with a length."""
    lines = [f"HTTP/1.1 {status} Reason", *extra]
    if status >= 200 and status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def head(first: str, *fields: str) -> bytes:
    """Any head to send."""
    return "\r\n".join([first, *fields, "", ""]).encode()
