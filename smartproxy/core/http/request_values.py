"""The values behind the `{name}` variables of header and URL templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.http.messages import RequestHead
from smartproxy.core.upstream.selection import RouteContext

if TYPE_CHECKING:
    from smartproxy.core.downstream.client import ClientFacts


class RequestValues:
    """One request's template values, made when they are asked for."""

    __slots__ = ("_client", "_head", "_params", "_request_id", "_route_name")

    def __init__(
        self, client: ClientFacts, head: RequestHead, params: dict[str, str], route_name: str
    ) -> None:
        self._client = client
        self._head = head
        self._params = params
        self._route_name = route_name
        self._request_id = ""

    def value_of(self, name: str) -> str:
        """The value of variable `name`; empty for what this request does not have."""
        if name.startswith("param."):
            return self._params.get(name[6:], "")
        if name.startswith("header."):
            wanted = name[7:].lower().encode("latin-1", "replace")
            return ", ".join(v.decode("latin-1") for n, v in self._head.fields if n == wanted)
        client = self._client
        match name:
            case "clientIp":
                return client.client_ip
            case "clientPort":
                return str(client.client[1])
            case "domain":
                return client.host_of(self._head.authority)
            case "path":
                return self._head.target.partition(b"?")[0].decode("ascii", "replace")
            case "port":
                return str(client.local_port)
            case "method":
                return self._head.method.decode("ascii")
            case "scheme":
                return "https" if client.tls_version else "http"
            case "routeName":
                return self._route_name
            case "uuid":
                return self._uuid()
            case "requestId":
                return self.request_id()
            case "timestamp":
                return str(int(client.context.env.wall_clock()))
            case "tlsVersion":
                return client.tls_version
        return ""

    def _uuid(self) -> str:
        random = bytearray(self._client.context.env.entropy(16))
        # RFC 9562 §5.4: version 4, variant 10.
        random[6] = random[6] & 0x0F | 0x40
        random[8] = random[8] & 0x3F | 0x80
        digits = random.hex()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def request_id(self) -> str:
        """An id of this request, the same each time it is asked for."""
        if not self._request_id:
            self._request_id = self._uuid()
        return self._request_id


def route_context(
    client: ClientFacts, head: RequestHead, params: dict[str, str], route_name: str
) -> RouteContext:
    """What a host or port function of the user's is told of a request."""
    path, _, query = head.target.partition(b"?")
    return RouteContext(
        port=client.local_port,
        client_ip=client.client_ip,
        client_port=client.client[1],
        route_name=route_name,
        domain=client.host_of(head.authority),
        path=path.decode("ascii", "replace"),
        query=query.decode("ascii", "replace"),
        method=head.method.decode("ascii"),
        tls_version=client.tls_version,
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.fields},
        params=params,
    )
