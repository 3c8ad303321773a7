"""Messages onto the wire. Nothing that is encoded here can break out of its line."""

from __future__ import annotations

from http import HTTPStatus

from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http1.errors import LocalProtocolError
from smartproxy.core.wire.http1.syntax import CONTROL_BYTES, ORIGIN_FORM, TOKEN, TOKEN_BYTES
from smartproxy.core.wire.http1.targets import is_authority

_USUAL_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_DELICATE_NAMES = frozenset((b"", b"host", b"content-length", b"transfer-encoding"))

TEMPLATES_KEPT = 256
LONGEST_TEMPLATE_KEPT_BYTES = 1024

_templates: dict[tuple[bytes, ...], bytes] = {}
"""By the names of a head's fields, which mostly come in few combinations: see `_template`."""

_STATUS_LINES: dict[int, bytes] = {
    status.value: b"HTTP/1.1 %d %b" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}


def encode_request_head(head: RequestHead) -> bytes:
    """A request in origin-form (CONNECT: authority-form), as HTTP/1.1, Host first.

    The caller supplies content-length, transfer-encoding and connection fields.
    Raises LocalProtocolError for anything that the grammar has no place for, a
    `host` among the fields, and contradictory framing fields.
    """
    method = head.method
    target = head.target
    authority = head.authority
    if method not in _USUAL_METHODS and TOKEN.fullmatch(method) is None:
        raise LocalProtocolError("method is not a token")
    if authority and not is_authority(authority):
        raise LocalProtocolError("invalid authority")
    if method == b"CONNECT":
        if target or not authority:
            raise LocalProtocolError("CONNECT takes an authority and no target")
        target = authority
    elif ORIGIN_FORM.fullmatch(target) is None and not (target == b"*" and method == b"OPTIONS"):
        raise LocalProtocolError("invalid request target")
    start = b"%b %b HTTP/1.1\r\nhost: %b" % (method, target, authority)
    return _assemble(start, head.fields, 2)


def encode_response_head(head: ResponseHead) -> bytes:
    """A response head as HTTP/1.1, with the standard phrase where `reason` is empty.

    Raises LocalProtocolError as `encode_request_head` does.
    """
    status = head.status
    if head.reason:
        if not 100 <= status <= 999:
            raise LocalProtocolError("invalid status")
        start = b"HTTP/1.1 %d %b" % (status, head.reason)
    else:
        usual = _STATUS_LINES.get(status)
        if usual is None:
            if not 100 <= status <= 999:
                raise LocalProtocolError("invalid status")
            usual = b"HTTP/1.1 %d " % status
        start = usual
    return _assemble(start, head.fields, 1)


def encode_chunk(data: bytes) -> bytes:
    """`data` as one chunk; b"" for no data, since an empty chunk would end the message."""
    if not data:
        return b""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body. Raises LocalProtocolError as `encode_request_head` does."""
    if not trailers:
        return b"0\r\n\r\n"
    for name, _ in trailers:
        if name in (b"content-length", b"transfer-encoding"):
            raise LocalProtocolError("framing field in trailers")
    return _assemble(b"0", trailers, 1)


def _assemble(start: bytes, fields: Fields, line_count: int) -> bytes:
    if fields:
        names, values = zip(*fields, strict=True)
        template = _templates.get(names)
        if template is None:
            template = _template(names)
        wire = template % (start, *values)
    else:
        wire = start + b"\r\n\r\n"
    # Every control byte that is there must be one of the CRs and LFs put there by us.
    ours = 2 * (line_count + len(fields) + 1)
    if len(wire) - len(wire.translate(None, CONTROL_BYTES)) != ours:
        raise LocalProtocolError("control byte in a head")
    return wire


def _template(names: tuple[bytes, ...]) -> bytes:
    """A head with places for its first line and its values. Raises LocalProtocolError as its callers do."""
    _require_well_named(names)
    lines = [name.replace(b"%", b"%%") + b": %b\r\n" for name in names]
    template = b"%b\r\n" + b"".join(lines) + b"\r\n"
    if len(template) <= LONGEST_TEMPLATE_KEPT_BYTES:
        # Peers choose the names, so there is a bound. Starting afresh now and then is cheaper than
        # keeping an order of use all the time.
        if len(_templates) >= TEMPLATES_KEPT:
            _templates.clear()
        _templates[names] = template
    return template


def _require_well_named(names: tuple[bytes, ...]) -> None:
    if b"".join(names).translate(None, TOKEN_BYTES):
        raise LocalProtocolError("field name is not a token")
    if _DELICATE_NAMES.isdisjoint(names):
        return
    if b"" in names:
        raise LocalProtocolError("field name is not a token")
    if b"host" in names:
        raise LocalProtocolError("host among the fields")
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        raise LocalProtocolError("contradictory framing fields")
