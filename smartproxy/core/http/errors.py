"""Responses that the proxy makes itself: a status, its reason for programs and people, and no more."""

from __future__ import annotations

import json
import re
from html import escape
from http import HTTPStatus

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import Fields, ResponseHead

EXPLANATION_LIMIT = 4096
"""Characters of an explanation that are shown."""

_ACCEPT_MEMBERS_READ = 64

_MEANINGS: dict[FailureCode, tuple[int, str, str]] = {
    # Status, error type registered for Proxy-Status (RFC 9209 §2.3), and what may be told about it.
    FailureCode.DNS_TIMEOUT: (504, "dns_timeout", "the backend's name was not resolved in time"),
    FailureCode.DNS_ERROR: (502, "dns_error", "the backend's name could not be resolved"),
    FailureCode.DESTINATION_NOT_FOUND: (502, "destination_not_found", "no backend is known for this request"),
    FailureCode.DESTINATION_UNAVAILABLE: (503, "destination_unavailable", "no backend is healthy"),
    FailureCode.DESTINATION_IP_UNROUTABLE: (
        502,
        "destination_ip_unroutable",
        "the backend cannot be reached",
    ),
    FailureCode.CONNECTION_REFUSED: (502, "connection_refused", "the backend refused the connection"),
    FailureCode.CONNECTION_TERMINATED: (502, "connection_terminated", "the backend closed the connection"),
    FailureCode.CONNECTION_TIMEOUT: (504, "connection_timeout", "the backend was not connected in time"),
    FailureCode.CONNECTION_READ_TIMEOUT: (504, "connection_read_timeout", "the backend sent nothing in time"),
    FailureCode.CONNECTION_WRITE_TIMEOUT: (
        504,
        "connection_write_timeout",
        "the backend took nothing in time",
    ),
    FailureCode.CONNECTION_LIMIT_REACHED: (
        503,
        "connection_limit_reached",
        "too many connections are in use",
    ),
    FailureCode.TLS_PROTOCOL_ERROR: (502, "tls_protocol_error", "TLS with the backend failed"),
    FailureCode.TLS_CERTIFICATE_ERROR: (
        502,
        "tls_certificate_error",
        "the backend's certificate is not trusted",
    ),
    FailureCode.TLS_ALERT_RECEIVED: (502, "tls_alert_received", "the backend refused the TLS handshake"),
    FailureCode.HTTP_REQUEST_ERROR: (400, "http_request_error", "the request is not valid"),
    FailureCode.HTTP_REQUEST_DENIED: (403, "http_request_denied", "the request is not allowed"),
    FailureCode.HTTP_RESPONSE_INCOMPLETE: (
        502,
        "http_response_incomplete",
        "the backend's response broke off",
    ),
    FailureCode.HTTP_RESPONSE_TIMEOUT: (504, "http_response_timeout", "the backend did not answer in time"),
    FailureCode.HTTP_PROTOCOL_ERROR: (502, "http_protocol_error", "the backend's response is not valid"),
    FailureCode.HTTP_UPGRADE_FAILED: (502, "http_upgrade_failed", "the backend did not switch protocols"),
    FailureCode.PROXY_INTERNAL_ERROR: (500, "proxy_internal_error", "the proxy failed"),
    FailureCode.PROXY_INTERNAL_RESPONSE: (500, "proxy_internal_response", "the proxy answered"),
    FailureCode.PROXY_CONFIGURATION_ERROR: (500, "proxy_configuration_error", "the proxy is misconfigured"),
    FailureCode.PROXY_PROTOCOL_ERROR: (400, "http_request_error", "the PROXY header is not valid"),
    FailureCode.CLIENT_HELLO_ERROR: (400, "http_request_error", "the TLS handshake is not valid"),
    FailureCode.NO_ROUTE: (404, "destination_not_found", "no route matches this request"),
    FailureCode.ACCESS_DENIED: (403, "http_request_denied", "access is not allowed"),
    FailureCode.RATE_LIMITED: (429, "http_request_denied", "too many requests"),
    FailureCode.AUTHENTICATION_FAILED: (401, "http_request_denied", "authentication is required"),
    FailureCode.INITIAL_DATA_TIMEOUT: (408, "http_request_error", "the request did not arrive in time"),
    FailureCode.IDLE_TIMEOUT: (504, "connection_read_timeout", "the connection was idle for too long"),
    FailureCode.LIFETIME_REACHED: (503, "connection_terminated", "the connection reached its greatest age"),
    FailureCode.DRAINED: (503, "destination_unavailable", "the proxy is shutting down"),
}

_CLIENT_FAULTS: dict[FailureCode, tuple[int, str, str]] = {
    # The same kinds of failure, on the client's side of the proxy.
    FailureCode.CONNECTION_TERMINATED: (400, "http_request_error", "the client closed the connection"),
    FailureCode.CONNECTION_TIMEOUT: (408, "http_request_error", "the request did not arrive in time"),
    FailureCode.CONNECTION_READ_TIMEOUT: (408, "http_request_error", "the request did not arrive in time"),
    FailureCode.CONNECTION_WRITE_TIMEOUT: (408, "http_request_error", "the response was not read in time"),
    FailureCode.IDLE_TIMEOUT: (408, "http_request_error", "the request did not arrive in time"),
    FailureCode.TLS_PROTOCOL_ERROR: (400, "http_request_error", "TLS with the client failed"),
    FailureCode.TLS_CERTIFICATE_ERROR: (400, "http_request_error", "the client's certificate is not trusted"),
    FailureCode.TLS_ALERT_RECEIVED: (400, "http_request_error", "the client refused the TLS handshake"),
    FailureCode.HTTP_PROTOCOL_ERROR: (400, "http_request_error", "the request is not valid"),
    FailureCode.HTTP_UPGRADE_FAILED: (400, "http_request_error", "the upgrade asked for is not possible"),
}

_SENTENCES = {
    400: "The request could not be understood.",
    401: "Authentication is required.",
    403: "Access to this resource is not allowed.",
    404: "Nothing is served at this address.",
    408: "The request did not arrive in time.",
    413: "The request's content is too large.",
    414: "The request's URL is too long.",
    421: "This connection does not serve that host. Open a connection of its own for it.",
    417: "The expectation that the request names cannot be met.",
    426: "The request asks for another version of a protocol than is spoken here.",
    429: "Too many requests. Try again later.",
    431: "The request's header section is too large.",
    500: "Something went wrong in the proxy.",
    501: "The request asks for something the proxy does not support.",
    502: "The server behind the proxy could not be reached, or gave no valid answer.",
    503: "The service is not available at the moment. Try again later.",
    504: "The server behind the proxy did not answer in time.",
}

_TITLES = {status.value: status.phrase for status in HTTPStatus} | {
    # RFC 9110's names, which HTTPStatus has from Python 3.13 on.
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}

_SF_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")

_QVALUE = re.compile(rb"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")

_JSON = b"application/problem+json"
_HTML = b"text/html; charset=utf-8"
_TEXT = b"text/plain; charset=utf-8"

# In the order in which they are preferred where the client has no preference.
_OFFERS = (
    (_JSON, (b"application/problem+json", b"application/json", b"application/*", b"*/*")),
    (_HTML, (b"text/html", b"text/*", b"*/*")),
    (_TEXT, (b"text/plain", b"text/*", b"*/*")),
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{status} {title}</title>
<style>
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; line-height: 1.5;
  font-family: system-ui, sans-serif; color: #1f2328; background: #f6f8fa }}
main {{ max-width: 36rem; padding: 2rem }}
.status {{ margin: 0; font-size: 4rem; line-height: 1; font-weight: 200; color: #59636e }}
h1 {{ margin: .5rem 0 1rem; font-size: 1.5rem }}
.detail {{ white-space: pre-line; overflow-wrap: anywhere }}
footer {{ margin-top: 2rem; font-size: .8rem; color: #59636e }}
@media (prefers-color-scheme: dark) {{
  body {{ color: #e6edf3; background: #0d1117 }}
  .status, footer {{ color: #9198a1 }}
}}
</style>
</head>
<body>
<main>
<p class="status">{status}</p>
<h1>{title}</h1>
<p class="detail">{detail}</p>
{footer}</main>
</body>
</html>
"""


def _meaning(failure: Failure) -> tuple[int, str, str]:
    if failure.source is FailureSource.CLIENT and failure.code in _CLIENT_FAULTS:
        return _CLIENT_FAULTS[failure.code]
    return _MEANINGS[failure.code]


def status_for(failure: Failure) -> int:
    """The status that tells a client of `failure`, where whoever noticed it did not know a better one.

    A codec does: 413, 414, 431 and 501 are its own, and so is routing's 421.
    """
    return _meaning(failure)[0]


def proxy_status(proxy_name: str, status: int, failure: Failure | None) -> bytes:
    """A Proxy-Status field value (RFC 9209).

    The details are a fixed phrase for the kind of failure; `failure.detail`, which
    may name addresses, is not in it.
    """
    if failure is None:
        return f"{_sf_item(proxy_name)}; error=proxy_internal_response".encode("ascii")
    meant_status, error, phrase = _meaning(failure)
    if meant_status != status and failure.source is FailureSource.CLIENT:
        phrase = _TITLES.get(status, phrase).lower()
    return f'{_sf_item(proxy_name)}; error={error}; details="{phrase}"'.encode("ascii")


def _sf_item(text: str) -> str:
    """A token where `text` can be one, else a string (RFC 8941 §3.3)."""
    if _SF_TOKEN.fullmatch(text):
        return text
    printable = re.sub(r"[^\x20-\x7e]", "?", text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


def error_response(
    status: int,
    failure: Failure | None = None,
    *,
    proxy_name: str = "smartproxy",
    accept: bytes = b"",
    explanation: str = "",
    retry_after_s: int | None = None,
    request_id: str = "",
) -> tuple[ResponseHead, bytes]:
    """The head and content of a response that reports an error.

    `accept` is the request's Accept value (RFC 9110 §12.5.1). The content is RFC
    9457 problem JSON, unless HTML or plain text is preferred; a client that
    accepts none of them gets JSON too. `explanation` is shown as it is, cut to
    `EXPLANATION_LIMIT`, so it must not tell what clients should not know.
    `retry_after_s` becomes Retry-After. For HEAD, send the head without the content.
    """
    title = _TITLES.get(status, "Error")
    sentence = _SENTENCES.get(status, "")
    if len(explanation) > EXPLANATION_LIMIT:
        explanation = explanation[: EXPLANATION_LIMIT - 1] + "…"
    # It may quote the request, and is read in terminals too.
    explanation = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", explanation)
    detail = explanation or sentence
    content_type = _preferred(accept)
    if content_type is _JSON:
        body = _problem(status, title, detail, request_id)
    elif content_type is _HTML:
        body = _page(status, title, detail, request_id)
    else:
        lines = [f"{status} {title}", detail, f"Request {request_id}" if request_id else ""]
        body = "".join(f"{line}\n" for line in lines if line).encode("utf-8", "replace")
    fields: Fields = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"proxy-status", proxy_status(proxy_name, status, failure)),
    ]
    if content_type is _HTML:
        fields.append((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"))
    if retry_after_s is not None:
        fields.append((b"retry-after", str(retry_after_s).encode("ascii")))
    return ResponseHead(status, fields, reason=title.encode("ascii"), body_length_bytes=len(body)), body


def _problem(status: int, title: str, detail: str, request_id: str) -> bytes:
    problem: dict[str, object] = {"type": "about:blank", "title": title, "status": status}
    if detail:
        problem["detail"] = detail
    if request_id:
        problem["request_id"] = request_id
    return json.dumps(problem).encode("ascii") + b"\n"


def _page(status: int, title: str, detail: str, request_id: str) -> bytes:
    page = _PAGE.format(
        status=status,
        title=escape(title),
        detail=escape(detail),
        footer=f"<footer>Request {escape(request_id)}</footer>\n" if request_id else "",
    )
    return page.encode("utf-8", "replace")


def _preferred(accept: bytes) -> bytes:
    """The content type that `accept` weighs highest."""
    if not accept:
        return _JSON
    qualities: dict[bytes, float] = {}
    for member in accept.split(b",", _ACCEPT_MEMBERS_READ)[:_ACCEPT_MEMBERS_READ]:
        media_range, *parameters = (part.strip(b" \t").lower() for part in member.split(b";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                # A weight that is none makes the member worth nothing: it cannot be told what was meant.
                quality = float(parameter[2:]) if _QVALUE.fullmatch(parameter[2:]) else 0.0
        qualities[media_range] = max(quality, qualities.get(media_range, 0.0))
    best_quality = 0.0
    best = _JSON
    for content_type, ranges in _OFFERS:
        # The most specific range that matches decides (RFC 9110 §12.5.1).
        quality = next((qualities[r] for r in ranges if r in qualities), 0.0)
        if quality > best_quality:
            best_quality = quality
            best = content_type
    return best
