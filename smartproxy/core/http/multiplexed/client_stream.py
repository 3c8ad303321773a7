"""One request's stream on a multiplexed backend connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.client_stream import ResponseReceiver
from smartproxy.core.http.messages import NO_BODY, Fields, RequestHead, ResponseHead
from smartproxy.core.http.multiplexed.session import STREAM_HIGH_WATER_BYTES
from smartproxy.core.http.multiplexed.tunnel_stream import TunnelStream
from smartproxy.core.stream import ByteStream, Link

if TYPE_CHECKING:
    from smartproxy.core.http.multiplexed.client import MultiplexedBackend


class RequestedStream:
    """The backend's side of one exchange; a `ClientStream`.

    Content that its receiver does not take is held, unacknowledged: the stream's window bounds it.
    """

    __slots__ = (
        "_backend",
        "_held",
        "_held_end",
        "_is_paused",
        "_receiver",
        "_request_ended",
        "_response_begun",
        "id",
        "tunnel",
    )

    def __init__(self, backend: MultiplexedBackend) -> None:
        self._backend = backend
        #: -1 until the request is sent.
        self.id = -1
        self._receiver: ResponseReceiver | None = None
        self._request_ended = False
        self._response_begun = False
        self._is_paused = False
        self._held: list[bytes] = []
        self._held_end: Fields | None = None
        self.tunnel: TunnelStream | None = None

    # What the exchange asks for.

    @property
    def version(self) -> int:
        return self._backend.version

    @property
    def sent_bytes(self) -> int:
        return self._backend.sent_bytes

    @property
    def request_sink(self) -> Link | None:
        """None: content is framed."""
        return None

    def send_request(self, head: RequestHead, receiver: ResponseReceiver) -> None:
        """Open the stream. Raises `LocalProtocolError` if the request cannot be written safely."""
        backend = self._backend
        ended = head.body_length_bytes == NO_BODY and not head.protocol
        self.id = backend.wire.send_request(head, end_stream=ended)
        self._request_ended = ended
        self._receiver = receiver
        backend.stream_opened(self)

    def send_data(self, data: bytes) -> bool:
        backend = self._backend
        unsent = backend.wire.send_data(self.id, data, backend.context.now)
        backend.flush_soon()
        if unsent > STREAM_HIGH_WATER_BYTES or backend.transport_is_full:
            backend.await_writable(self.id)
            return True
        return False

    def send_end(self, trailers: Fields) -> None:
        if not self._request_ended:
            self._backend.wire.send_trailers(self.id, trailers)
            self._request_ended = True
            self._backend.flush_soon()

    def cancel(self) -> None:
        """Reset the stream; the connection and its other streams go on."""
        self._receiver = None
        backend = self._backend
        if self.id >= 0:
            backend.reset(self.id, backend.codes.cancelled)
            if not self._response_begun:
                # If it is silent because it is dead, the other streams should learn of it.
                backend.ask_for_life()
        self._over()

    def pause_response(self) -> None:
        self._is_paused = True

    def resume_response(self) -> None:
        if not self._is_paused:
            return
        self._is_paused = False
        held = self._held
        while held and not self._is_paused:
            data = held.pop(0)
            if self._receiver is None:
                return
            self._receiver.response_data(data)
            self._acknowledge(len(data))
        if not held and not self._is_paused and self._held_end is not None:
            trailers, self._held_end = self._held_end, None
            self._finish(trailers)

    def relay_body(self, sink: Link, least_bytes: int) -> bool:
        """Content is framed here: it cannot pass by."""
        return False

    @property
    def relayed_bytes(self) -> int:
        return 0

    def take_over(self) -> tuple[ByteStream, bytes]:
        """Give the stream away after a 2xx to an extended CONNECT; DATA is the tunnel's from here on."""
        self._receiver = None
        tunnel = self.tunnel = TunnelStream(self._backend, self.id)
        received = tunnel.take_over(self._held, peer_ended=self._held_end is not None)
        self._held.clear()
        return tunnel, received

    # From the session.

    def receive_head(self, head: ResponseHead, *, ended: bool) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        if head.status < 200:
            receiver.response_informational(head)
            return
        self._response_begun = True
        self._backend.note_response(head)
        receiver.response_head(head)
        if ended:
            self.receive_end([])

    def receive_data(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.receive_data(data)
        elif self._receiver is None:
            self._acknowledge(len(data))
        elif self._is_paused or self._held:
            self._held.append(data)
        else:
            self._receiver.response_data(data)
            self._acknowledge(len(data))

    def receive_end(self, trailers: Fields) -> None:
        if self.tunnel is not None:
            self.tunnel.receive_end()
        elif self._held:
            self._held_end = trailers
        else:
            self._finish(trailers)

    def _finish(self, trailers: Fields) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if not self._request_ended:
            # RFC 9113 §8.1, RFC 9114 §4.1: an early response; nobody is going to read the rest.
            self._backend.reset(self.id, self._backend.codes.no_error)
        self._over()
        receiver.response_end(trailers)

    def lost(self, failure: Failure) -> None:
        if self._held_end is not None and self._receiver is not None:
            # The response is here in full; its receiver only takes it slowly.
            self._over()
            return
        receiver, self._receiver = self._receiver, None
        self._held.clear()
        if self.tunnel is not None:
            self.tunnel.lost(failure)
        self._over()
        if receiver is not None:
            receiver.response_failed(self._judged(failure))

    def _judged(self, failure: Failure) -> Failure:
        code = failure.code
        if self._response_begun and code is FailureCode.CONNECTION_TERMINATED:
            code = FailureCode.HTTP_RESPONSE_INCOMPLETE
        # RFC 9110 §9.2.2: a request that got no answer where others had got theirs is unjudged.
        retryable = failure.retryable and not self._response_begun
        return Failure(
            FailureSource.BACKEND, code, failure.detail, retryable=retryable, unprocessed=failure.unprocessed
        )

    def writable(self) -> None:
        if self.tunnel is not None:
            self.tunnel.writable()
        elif self._receiver is not None:
            self._receiver.request_writable()

    def _acknowledge(self, byte_count: int) -> None:
        self._backend.wire.acknowledge_received_data(self.id, byte_count)
        self._backend.flush_soon()

    def _over(self) -> None:
        self._backend.stream_over(self.id)
