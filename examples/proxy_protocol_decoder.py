"""A PROXY-protocol decoder in front of any asyncio server, which then sees the true client's address.

await loop.create_server(lambda: HeaderProtocol(AnyProtocol, trusted={"10.0.0.1"}), "", 8080)
"""

import asyncio
import sys
from collections.abc import Callable, Container
from typing import Any, cast

from smartproxy.core.wire.proxy_protocol import ProxyHeader, ProxyHeaderDecoder, ProxyProtocolError

HEADER_TIMEOUT_S = 5.0


class ClientTransport:
    """The connection's transport, with the addresses of the PROXY header in place of its own."""

    def __init__(self, transport: asyncio.Transport, header: ProxyHeader) -> None:
        self._transport = transport
        self._told = {"peername": header.source, "sockname": header.destination, "proxy_header": header}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # LOCAL and UNKNOWN carry no addresses: the connection's own hold.
        return self._told.get(name) or self._transport.get_extra_info(name, default)


class HeaderProtocol(asyncio.Protocol):
    """Reads the header, then hands the connection to the server's own protocol."""

    def __init__(self, server: Callable[[], asyncio.Protocol], trusted: Container[str]) -> None:
        self.server, self.trusted, self.decoder = server, trusted, ProxyHeaderDecoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.timeout = asyncio.get_running_loop().call_later(HEADER_TIMEOUT_S, self.transport.abort)
        if transport.get_extra_info("peername")[0] not in self.trusted:
            self.transport.abort()  # anyone else could claim any address

    def data_received(self, data: bytes) -> None:
        try:
            header = self.decoder.receive_data(data)
        except ProxyProtocolError as error:
            print(f"refused: {error}", file=sys.stderr)
            self.transport.abort()
            return
        if header is not None:
            self.timeout.cancel()
            protocol = self.server()
            self.transport.set_protocol(protocol)
            protocol.connection_made(cast(asyncio.Transport, ClientTransport(self.transport, header)))
            if self.decoder.remainder:
                protocol.data_received(self.decoder.remainder)

    def connection_lost(self, error: Exception | None) -> None:
        self.timeout.cancel()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, port = writer.get_extra_info("peername")[:2]
    writer.write(await reader.readline() + f"from {host} port {port}\n".encode())
    writer.close()


def streams() -> asyncio.Protocol:
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), greet)


async def main() -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: HeaderProtocol(streams, {"127.0.0.1"}), "", 8080) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
