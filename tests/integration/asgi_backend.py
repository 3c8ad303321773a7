"""What hypercorn serves: the paths of origin_server.py, and an echoing WebSocket on /websocket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from origin_server import DOWNLOAD

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await _answer(scope, receive, send)
    elif scope["type"] == "websocket":
        await _echo_messages(scope, receive, send)
    else:
        await _acknowledge_lifespan(receive, send)


async def _acknowledge_lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    body = bytearray()
    more_body = True
    while more_body:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more_body = message.get("more_body", False)
    path = scope["path"]
    status, content = 200, b""
    trailers = path == "/echo" and "http.response.trailers" in scope["extensions"]
    if path == "/info":
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        headers["x-peer-protocol"] = scope["http_version"]
        content = json.dumps({"method": scope["method"], "path": path, "headers": headers}).encode()
    elif path == "/upload":
        content = hashlib.sha256(body).hexdigest().encode()
    elif path == "/download":
        content = DOWNLOAD
    elif path == "/echo":
        content = bytes(body)
    else:
        status = 404
    await send({"type": "http.response.start", "status": status, "headers": [], "trailers": trailers})
    await send({"type": "http.response.body", "body": content})
    if trailers:
        digest = hashlib.sha256(body).hexdigest().encode()
        fields = [(b"grpc-status", b"0"), (b"x-digest", digest)]
        await send({"type": "http.response.trailers", "headers": fields})


async def _echo_messages(scope: Scope, receive: Receive, send: Send) -> None:
    """Say which HTTP the handshake came in, then echo until the client closes."""
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            offered = scope["subprotocols"]
            await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
            await send({"type": "websocket.send", "text": f"HTTP/{scope['http_version']}"})
        elif message["type"] == "websocket.receive":
            kind = "text" if message.get("text") is not None else "bytes"
            await send({"type": "websocket.send", kind: message[kind]})
        else:
            return
