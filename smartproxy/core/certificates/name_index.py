"""The choice of what a client is shown in TLS by route and by name.

A route with a certificate of its own always shows that one. Any other shows, of all
the certificates there are, the one for exactly the name asked for, else one for
a wildcard above it (RFC 9525 §6.3: a star is one whole label), else the default.
There is one `ServedTls` for each pair of a certificate and the TLS settings of a
route: two lookups that find the same one mean that a connection made for one may
carry the requests of the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from smartproxy.core.certificates.served import ServedTls
from smartproxy.core.configuration import Route


class NameIndex:
    """TLS contexts by the names that their certificates are good for."""

    __slots__ = ("_by_name", "_by_parent", "default")

    def __init__(self, contexts: Mapping[str, ServedTls], default: ServedTls | None) -> None:
        """From lower-case names, `*.parent` for wildcards; `default` is for any other name, and for none."""
        self._by_name = {name: context for name, context in contexts.items() if not name.startswith("*.")}
        self._by_parent = {name[2:]: context for name, context in contexts.items() if name.startswith("*.")}
        self.default = default

    def lookup(self, server_name: str | None) -> ServedTls | None:
        """The context for a server name (any case, with or without a trailing dot)."""
        if server_name is None:
            return self.default
        name = server_name.lower().removesuffix(".")
        context = self._by_name.get(name)
        if context is None:
            context = self._by_parent.get(name.partition(".")[2])
        return context if context is not None else self.default


class CertificateIndex:
    """The name index of each route that terminates TLS. Routes with the same choice share one."""

    __slots__ = ("_by_position",)

    def __init__(self, indexes: Mapping[int, NameIndex]) -> None:
        """From the indexes by `Route.position`."""
        self._by_position = dict(indexes)

    def lookup(self, server_name: str | None, route: Route) -> ServedTls | None:
        """The context for a connection, or a request, of `route`.

        None when the route terminates no TLS, or when there is no certificate for the name.
        """
        index = self._by_position.get(route.position)
        return index.lookup(server_name) if index is not None else None
