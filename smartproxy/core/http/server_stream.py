"""What an exchange may ask of the client's side, whatever the version there."""

from __future__ import annotations

from typing import Protocol

from smartproxy.core.http.messages import Fields, ResponseHead
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.timers import Timer


class ServerStream(Protocol):
    """The client's side of one exchange: an HTTP/1.1 connection, or a stream of a multiplexed one."""

    @property
    def timer(self) -> Timer:
        """The deadline of the exchange under way; the exchange arms it, and is called back by it."""

    @property
    def link(self) -> Link | None:
        """The link that response content may be relayed to; None where it must be framed or encrypted."""

    @property
    def sent_bytes(self) -> int:
        """A count that grows while what was sent here makes its way to the client."""

    @property
    def request_ended(self) -> bool:
        """Whether the whole request has been read."""

    @property
    def client_ended(self) -> bool:
        """Whether the client will send nothing more at all."""

    def want_request_body(self) -> None:
        """Deliver the request's content, now and as it comes."""

    def pause_request_body(self) -> None: ...
    def resume_request_body(self) -> None: ...

    def relay_request_body(self, sink: Link, least_bytes: int) -> None:
        """Let the driver move the rest of the request's content to `sink`, where that is possible.

        `Exchange.request_relayed` hears of what was moved, `request_end` comes as ever.
        """

    def stop_request_relay(self) -> None:
        """Take the content back from the driver."""

    @property
    def relayed_request_bytes(self) -> int:
        """What the relay of the request's content has moved and not told yet."""

    def discard_request_body(self) -> None:
        """Read past the request's content as far as it is here; nobody is going to have it."""

    def send_informational(self, head: ResponseHead) -> bool:
        """As `send_data`."""

    def send_head(self, head: ResponseHead) -> None:
        """Raises `LocalProtocolError`, having sent nothing, if the head cannot be written safely."""

    def send_data(self, data: bytes) -> bool:
        """All of `data` is taken. True: enough is waiting for the client; `response_writable` will come."""

    def send_end(self, trailers: Fields) -> None: ...

    def abort_response(self) -> None:
        """Make the client see that the response under way is cut."""

    def open_tunnel(self, head: ResponseHead) -> tuple[ByteStream, bytes]:
        """Accept what the request asked for by `head`, and give the stream away.

        `head` is a 101 for a client of HTTP/1.1, a 2xx for an extended CONNECT. Returns what
        the client has sent behind its request too. When the tunnel is over, `tunnel_ended`.
        Raises `LocalProtocolError`, having sent nothing, if the head cannot be written safely.
        """

    def tunnel_ended(self) -> None:
        """Both directions of the tunnel are closed."""

    def close_after_response(self) -> None: ...
