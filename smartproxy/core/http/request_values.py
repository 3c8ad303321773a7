"""The values behind the `{name}` variables of header and URL templates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartproxy.core.http.messages import RequestHead

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection


class RequestValues:
    """One request's template values, made when they are asked for."""

    __slots__ = ("_connection", "_head", "_params", "_request_id", "_route_name")

    def __init__(
        self, connection: ClientConnection, head: RequestHead, params: dict[str, str], route_name: str
    ) -> None:
        self._connection = connection
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
        getter = _GETTERS.get(name)
        return getter(self) if getter is not None else ""

    def _uuid(self) -> str:
        random = bytearray(self._connection.context.env.entropy(16))
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

    def _path(self) -> str:
        return self._head.target.partition(b"?")[0].decode("ascii", "replace")

    def _domain(self) -> str:
        return self._connection.host_of(self._head.authority)


_GETTERS: dict[str, Callable[[RequestValues], str]] = {
    "clientIp": lambda v: v._connection.client_ip,
    "clientPort": lambda v: str(v._connection.client[1]),
    "domain": RequestValues._domain,
    "path": RequestValues._path,
    "port": lambda v: str(v._connection.local_port),
    "method": lambda v: v._head.method.decode("ascii"),
    "scheme": lambda v: "https" if v._connection.tls_version else "http",
    "routeName": lambda v: v._route_name,
    "uuid": RequestValues._uuid,
    "requestId": RequestValues.request_id,
    "timestamp": lambda v: str(int(v._connection.context.env.wall_clock())),
    "tlsVersion": lambda v: v._connection.tls_version,
}
