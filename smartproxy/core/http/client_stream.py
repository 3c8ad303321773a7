"""What an exchange may ask of the backend's side, whatever the version there."""

from __future__ import annotations

from typing import Protocol

from smartproxy.core.failure import Failure
from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.stream import ByteStream, Link


class ResponseReceiver(Protocol):
    """Who asked: hears the response to the request it sent."""

    def response_informational(self, head: ResponseHead) -> None: ...
    def response_head(self, head: ResponseHead) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_relayed(self, byte_count: int) -> None: ...
    def response_end(self, trailers: Fields) -> None: ...
    def response_failed(self, failure: Failure) -> None: ...
    def request_writable(self) -> None: ...


class ClientStream(Protocol):
    """The backend's side of one exchange: an HTTP/1.1 connection, or a stream of a multiplexed one."""

    @property
    def version(self) -> int:
        """11, 20 or 30."""

    @property
    def sent_bytes(self) -> int:
        """A count that grows while what was sent here makes its way to the backend."""

    @property
    def request_sink(self) -> Link | None:
        """The link that request content may be relayed to; None where it must be framed or encrypted."""

    def send_request(self, head: RequestHead, receiver: ResponseReceiver) -> None:
        """Send a head. Raises `LocalProtocolError`, having sent nothing, if it cannot be written safely."""

    def send_data(self, data: bytes) -> bool:
        """All of `data` is taken. True: enough is waiting for the backend; `request_writable` will come."""

    def send_end(self, trailers: Fields) -> None: ...

    def cancel(self) -> None:
        """The exchange is over before its response is. The receiver hears no more."""

    def pause_response(self) -> None:
        """Take no more of the response from the backend; what is under way may still come."""

    def resume_response(self) -> None: ...

    def relay_body(self, sink: Link, least_bytes: int) -> bool:
        """Let the driver move the rest of the response's content to `sink`, where that is possible.

        True: the bytes pass by this object from here on, and `response_end` comes when they all have.
        """

    @property
    def relayed_bytes(self) -> int:
        """What the relay under way has moved; it is told by `response_relayed` when it ends by itself."""

    def take_over(self) -> tuple[ByteStream, bytes]:
        """Give the stream away after a 101, or a 2xx to an extended CONNECT.

        Returns what came behind that head too.
        """
