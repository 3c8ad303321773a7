"""The built-in handlers' answers to HTTP requests."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.configuration import HandlerAction, HandlerKind
from smartproxy.core.http.messages import RequestHead, ResponseHead

REDIRECT_VARIABLES = ("domain", "path", "port", "clientIp")


def handler_response(
    action: HandlerAction, head: RequestHead, value_of: Callable[[str], str]
) -> tuple[ResponseHead, bytes] | None:
    """The head and body a handler answers with; None: the connection is just closed."""
    kind = action.kind
    if kind is HandlerKind.HTTP_REDIRECT:
        return _redirect(action, head, value_of)
    if kind in (HandlerKind.HTTP_RESPONSE, HandlerKind.HTTP_BLOCK):
        return _response(action.status, action.text, action.content_type)
    return None


def _response(status: int, text: str, content_type: str) -> tuple[ResponseHead, bytes]:
    body = text.encode()
    fields = [
        (b"content-type", content_type.encode("latin-1")),
        (b"content-length", str(len(body)).encode()),
    ]
    return ResponseHead(status, fields, body_length_bytes=len(body)), body


def _redirect(
    action: HandlerAction, head: RequestHead, value_of: Callable[[str], str]
) -> tuple[ResponseHead, bytes]:
    location = action.template.expand(value_of) if action.template is not None else action.text
    query = head.target.partition(b"?")[2]
    if query and "?" not in location:
        location += "?" + query.decode("ascii", "replace")
    response, body = _response(action.status, f"{location}\n", "text/plain; charset=utf-8")
    response.fields.append((b"location", location.encode()))
    return response, body
