"""Which engine a connection gets."""

from __future__ import annotations

from smartproxy.core.wire.http2.engine import Http2Engine, Http2EngineName
from smartproxy.core.wire.http2.errors import LocalProtocolError
from smartproxy.core.wire.http2.header_compression import COMPILED_CODER_IS_THERE
from smartproxy.core.wire.http2.library_engine import LIBRARIES, LibraryEngine
from smartproxy.core.wire.http2.limits import Http2Limits
from smartproxy.core.wire.http2.native_engine import NativeEngine

AVAILABLE_ENGINES: tuple[Http2EngineName, ...] = (*LIBRARIES, "native-hpack", "native")
"""Engines that are installed; the last one is the fastest and the default."""


def create_engine(name: Http2EngineName | None, *, client_side: bool, limits: Http2Limits) -> Http2Engine:
    """An engine for one connection; None: the fastest. Raises LocalProtocolError if it is not installed."""
    if name is None or name == "native" or name == "native-hpack":
        compiled = COMPILED_CODER_IS_THERE and name != "native-hpack"
        return NativeEngine(client_side=client_side, limits=limits, compiled_headers=compiled)
    library = LIBRARIES.get(name)
    if library is None:
        raise LocalProtocolError(f"the HTTP/2 engine {name} is not installed")
    return LibraryEngine(library, client_side=client_side, limits=limits)
