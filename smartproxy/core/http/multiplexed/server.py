"""A client's multiplexed connection: each of its requests becomes an exchange of its own."""

from __future__ import annotations

from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.errors import error_response
from smartproxy.core.http.multiplexed.server_stream import ServedStream
from smartproxy.core.http.multiplexed.session import MultiplexedSession, Transport
from smartproxy.core.records import Level
from smartproxy.core.wire.http3.events import (
    Http3Event,
    RequestReceived,
    RequestRefused,
    StreamReset,
)

_REFUSAL_TEXTS = {
    414: "The request target is too long.",
    417: "The expectation cannot be met.",
    431: "The request's header fields are too large.",
}


class MultiplexedServer(MultiplexedSession[ServedStream]):
    """The streams of one client connection. A subclass knows when the connection ends."""

    __slots__ = ("client", "retiring", "served_any")

    def __init__(self, client: ClientFacts, transport: Transport) -> None:
        super().__init__(client.context, transport)
        self.client = client
        #: Whether the client has been told to take its next requests elsewhere.
        self.retiring = False
        #: Whether there ever was a request.
        self.served_any = False

    def drain(self) -> None:
        """Take no new requests, finish those under way, then close."""
        raise NotImplementedError

    def retire(self) -> None:
        """The routes have changed: the same as a drain."""
        self.drain()

    def _handle_event(self, event: Http3Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, RequestRefused):
            self._refuse(event)
        else:
            self._other_event(event)

    def _other_event(self, event: Http3Event) -> None:
        """What only a transport knows of."""

    def _begin(self, event: RequestReceived) -> None:
        self.served_any = True
        stream = self.streams[event.stream_id] = ServedStream(
            self, event.stream_id, request_ended=event.end_stream
        )
        if not self.retiring and not self.client.may_stay():
            self.drain()
        stream.begin(event.head)

    def _failure_of_reset(self, event: StreamReset) -> Failure:
        if event.by_peer:
            return Failure(FailureSource.CLIENT, FailureCode.CONNECTION_TERMINATED, "stream reset")
        return Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_ERROR, event.reason)

    def _refuse(self, event: RequestRefused) -> None:
        """Answer a request that is over a limit."""
        client = self.client
        failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_ERROR, event.reason)
        head, body = error_response(
            event.status,
            failure,
            proxy_name=client.generation.configuration.server_name,
            explanation=_REFUSAL_TEXTS.get(event.status, ""),
        )
        head.fields.append((b"date", client.http_date()))
        self.wire.send_response(event.stream_id, head, end_stream=not body)
        if body:
            self.wire.send_data(event.stream_id, body, self.context.now, end_stream=True)
        self.flush_soon()
        client.context.record(
            "http",
            "request_refused",
            Level.INFO,
            client_ip=client.client_ip,
            status=event.status,
            reason=event.reason,
        )
        client.log_refusal(event.status, failure, f"HTTP/{self.version // 10}")
