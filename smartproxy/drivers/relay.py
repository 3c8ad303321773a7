"""Bytes from one socket straight to another: `splice` for bulk on Linux, one shared buffer otherwise."""

from __future__ import annotations

import errno
import os
import sys

from smartproxy.core.ops import RelayOutcome, StartRelay
from smartproxy.drivers.sockets import StreamSocket, lost_reason

if sys.platform == "linux":
    import fcntl

CAN_SPLICE = sys.platform == "linux" and hasattr(os, "splice")

TURN_BYTES = 1024 * 1024
"""One relay moves at most about this much before the other connections have their turn."""

BUFFER_BYTES = 128 * 1024
PIPE_BYTES = 1024 * 1024
BULK_BYTES = 32 * 1024
"""Reads at least this long make a relay change over to `splice`; shorter ones change it back."""

MAX_PIPES = 64
"""Of 1 MiB each at most: the share of pipe memory that Linux lets one ordinary user have (64 MiB)."""


class Pipe:
    """A kernel buffer between two sockets."""

    __slots__ = ("read_fd", "write_fd")

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd


class RelayBuffers:
    """What the relays of one pump share: empty pipes, and one buffer in user space."""

    def __init__(self, max_pipes: int = MAX_PIPES) -> None:
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.pipe_count = 0
        self._idle: list[Pipe] = []
        self._max_pipes = max_pipes if CAN_SPLICE else 0

    def take_pipe(self) -> Pipe | None:
        """An empty pipe; None when there are enough, or the system has none to give."""
        if self._idle:
            return self._idle.pop()
        if self.pipe_count >= self._max_pipes:
            return None
        try:
            read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            # Over the user's share of pipe memory: this pipe stays as small as it came.
            pass
        self.pipe_count += 1
        return Pipe(read_fd, write_fd)

    def give_back(self, pipe: Pipe) -> None:
        """Only a pipe that is empty: what is left in it would go to someone else."""
        self._idle.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        os.close(pipe.read_fd)
        os.close(pipe.write_fd)
        self.pipe_count -= 1

    def close(self) -> None:
        while self._idle:
            self.discard(self._idle.pop())


class Relay:
    """One direction between two sockets, from `StartRelay` to its outcome.

    It reads only when the sink has taken everything before, so it never holds
    more than one pipe's or one buffer's worth, and holds no pipe while it waits
    for its source.
    """

    __slots__ = ("_buffers", "_bulk", "_can_splice", "_pipe", "operation", "piped_bytes", "sink", "source")

    def __init__(
        self, operation: StartRelay, source: StreamSocket, sink: StreamSocket, buffers: RelayBuffers
    ) -> None:
        self.operation = operation
        self.source = source
        self.sink = sink
        self.piped_bytes = 0
        """In the pipe: taken from the source, not yet given to the sink."""
        self._buffers = buffers
        self._bulk = False
        self._can_splice = CAN_SPLICE
        self._pipe: Pipe | None = None

    @property
    def wants_source(self) -> bool:
        """The sink has taken everything, so the source may be read."""
        sink = self.sink
        return not (self.piped_bytes or sink.has_unsent or sink.failure)

    def move(self) -> RelayOutcome | None:
        """Move what can be moved now; the outcome once there is one. The sink's own bytes must be out."""
        outcome = self._move()
        if not self.piped_bytes and self._pipe is not None:
            self._buffers.give_back(self._pipe)
            self._pipe = None
        return outcome

    def _move(self) -> RelayOutcome | None:
        operation = self.operation
        budget = TURN_BYTES
        while True:
            if self.piped_bytes:
                outcome = self._splice_to_sink()
                if outcome is not None or not self.wants_source:
                    return outcome
            count = PIPE_BYTES
            if operation.length_bytes >= 0:
                count = min(count, operation.length_bytes - operation.moved_bytes)
                if count <= 0:
                    return RelayOutcome.COMPLETE
            if self.source.eof_received:
                return RelayOutcome.SOURCE_EOF
            if budget <= 0:
                return None
            if self._bulk and self._can_splice and (self._pipe is not None or self._take_pipe()):
                outcome = self._splice_from_source(count)
                if outcome is not None or not self.piped_bytes:
                    return outcome
                budget -= self.piped_bytes
            else:
                copied, outcome = self._copy(min(count, BUFFER_BYTES))
                if outcome is not None or copied == 0:
                    return outcome
                budget -= copied

    def _take_pipe(self) -> bool:
        self._pipe = self._buffers.take_pipe()
        return self._pipe is not None

    def _splice_from_source(self, count: int) -> RelayOutcome | None:
        pipe = self._pipe
        assert pipe is not None
        try:
            received = os.splice(self.source.fd, pipe.write_fd, count, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                self._can_splice = False
                return None
            return self._source_failed(error)
        if received == 0:
            self.source.eof_received = True
            return RelayOutcome.SOURCE_EOF
        self.piped_bytes = received
        self.source.link.bytes_received += received
        self._bulk = received >= BULK_BYTES
        return None

    def _splice_to_sink(self) -> RelayOutcome | None:
        pipe = self._pipe
        assert pipe is not None
        try:
            while self.piped_bytes:
                sent = os.splice(pipe.read_fd, self.sink.fd, self.piped_bytes, flags=_SPLICE_FLAGS)
                self.piped_bytes -= sent
                self._sent(sent)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                return self._sink_failed(error)
            self._can_splice = False
            self._leave_rest_to_sink(pipe)
        return None

    def _copy(self, count: int) -> tuple[int, RelayOutcome | None]:
        sink = self.sink
        buffer = self._buffers.buffer
        try:
            received = self.source.sock.recv_into(buffer, count)
        except BlockingIOError:
            return 0, None
        except OSError as error:
            return 0, self._source_failed(error)
        if received == 0:
            self.source.eof_received = True
            return 0, RelayOutcome.SOURCE_EOF
        self.source.link.bytes_received += received
        self._bulk = received >= BULK_BYTES
        try:
            sent = sink.sock.send(buffer[:received])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return received, self._sink_failed(error)
        self._sent(received)
        if sent < received:
            sink.unsent = memoryview(bytes(buffer[sent:received]))
            return 0, None
        return received, None

    def _sent(self, count: int) -> None:
        self.operation.moved_bytes += count
        self.sink.link.bytes_sent += count

    def _source_failed(self, error: OSError) -> RelayOutcome:
        self.source.failure = lost_reason(error.errno)
        return RelayOutcome.SOURCE_LOST

    def _sink_failed(self, error: OSError) -> RelayOutcome:
        self.sink.failure = lost_reason(error.errno)
        return RelayOutcome.SINK_LOST

    def release(self) -> None:
        """The relay is over: what it still holds becomes the rest the sink has yet to send.

        Of a sink that is lost, what it had not taken is counted out of `moved_bytes`.
        """
        pipe = self._pipe
        sink = self.sink
        if pipe is not None:
            self._pipe = None
            if sink.failure is None:
                self._leave_rest_to_sink(pipe)
                self._buffers.give_back(pipe)
            else:
                self._buffers.discard(pipe)
                self.piped_bytes = 0
        elif sink.failure is not None and sink.unsent is not None:
            self._sent(-min(len(sink.unsent), self.operation.moved_bytes))

    def _leave_rest_to_sink(self, pipe: Pipe) -> None:
        parts: list[bytes] = []
        while self.piped_bytes:
            part = os.read(pipe.read_fd, self.piped_bytes)
            self.piped_bytes -= len(part)
            self._sent(len(part))
            parts.append(part)
        self.sink.unsent = memoryview(b"".join(parts))


_SPLICE_FLAGS = (os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK) if CAN_SPLICE else 0
