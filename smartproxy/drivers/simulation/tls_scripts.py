"""TLS for scripts, on memory buffers."""

from __future__ import annotations

import ssl

from smartproxy.core.ops import Address
from smartproxy.drivers.simulation.scripts import ByteConnection

PLAINTEXT_BYTES = 16 * 1024


class TlsConnection(ByteConnection):
    """TLS over another connection. Make one with `TlsConnection.start`."""

    def __init__(self, below: ByteConnection, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        super().__init__()
        self._below = below
        self._incoming = incoming
        self._outgoing = outgoing
        self.tls: ssl.SSLObject

    @classmethod
    async def start(
        cls,
        below: ByteConnection,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
    ) -> TlsConnection:
        """Do the handshake. Raises ssl.SSLError when it fails, EOFError when the peer leaves in it."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self = cls(below, incoming, outgoing)
        self.tls = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_name)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise EOFError("the peer ended the connection during the TLS handshake") from None
                continue
            except ssl.SSLError:
                # The alert that says why.
                await self._flush()
                raise
            await self._flush()
            return self

    @property
    def local(self) -> Address:
        return self._below.local

    @property
    def peer(self) -> Address:
        return self._below.peer

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            await self._below.send(data)

    async def _fill(self) -> bool:
        data = await self._below.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), PLAINTEXT_BYTES):
            self.tls.write(data[start : start + PLAINTEXT_BYTES])
            await self._flush()

    async def send_eof(self) -> None:
        """Send close_notify; receiving goes on (RFC 8446 §6.1)."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self._flush()

    async def _receive_some(self, max_bytes: int) -> bytes:
        while True:
            try:
                return self.tls.read(max_bytes)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def close(self) -> None:
        """Close the connection below, without close_notify unless `send_eof` came before."""
        self._below.close()

    def reset(self) -> None:
        self._below.reset()
