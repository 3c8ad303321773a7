"""Fields meant for one hop only (RFC 9110 §7.6.1)."""

from __future__ import annotations

from smartproxy.core.http.messages import Fields

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        # Credentials and challenges are between the sender and the next proxy (RFC 9110 §11.7): here,
        # that is us. A backend must not see the ones, nor pose as the proxy with the others.
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
    }
)

_DROPPED = (
    _HOP_BY_HOP
    # CGI-like backends read these spellings as the ones above.
    | frozenset(name.replace(b"-", b"_") for name in _HOP_BY_HOP)
    # `Connection: close` nominates a field of that name too.
    | {b"close"}
    # A backend's alternatives are not ours: its ports would be taken for this proxy's (RFC 7838 §2).
    | {b"alt-svc"}
    # No field of HTTP, but CGI passes it on as HTTP_PROXY, which clients obey (CVE-2016-5385).
    | {b"proxy"}
)

_NEVER_NOMINATED = frozenset(
    b"""
    accept accept-encoding accept-language accept-ranges access-control-allow-credentials
    access-control-allow-headers access-control-allow-methods access-control-allow-origin
    access-control-expose-headers access-control-max-age age allow authorization cache-control
    content-disposition content-encoding content-language content-length content-location content-range
    content-security-policy content-type cookie date etag expect expires forwarded host if-match
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards origin
    pragma proxy-status range referer retry-after set-cookie strict-transport-security trailer
    true-client-ip user-agent vary via www-authenticate x-content-type-options x-frame-options
    x-real-ip x-request-id
    """.split()
)


def _may_be_nominated(name: bytes) -> bool:
    # To strip these by `Connection` is an attack on whoever believes or needs them: a front proxy's
    # X-Forwarded-For, the credentials it added, the message's own length. RFC 9110 §7.6.1 forbids
    # nominating fields meant for all recipients; the nomination is ignored rather than the message
    # refused, since the field then arrives exactly as it would have without the attempt.
    return name not in _NEVER_NOMINATED and not name.startswith((b"x-forwarded", b"x_forwarded", b"sec-"))


def end_to_end_fields(
    fields: Fields, connection_options: frozenset[bytes], *, keep_te_trailers: bool = False
) -> Fields:
    """The field lines that go on to the next hop, in order, as a new list.

    Dropped are the connection-specific fields, those that Connection nominates
    (`connection_options`, lower case) unless they are meant for every recipient,
    and `Proxy`. Trailer stays: it describes the content. With `keep_te_trailers`
    a TE field with the member `trailers` becomes `te: trailers`; who then writes
    HTTP/1.1 nominates it in its own Connection field (RFC 9110 §10.1.4).
    """
    dropped = _DROPPED
    if connection_options and not connection_options <= dropped:
        dropped = dropped.union(name for name in connection_options if _may_be_nominated(name))
    kept = [line for line in fields if line[0] not in dropped]
    if keep_te_trailers and _accepts_trailers(fields):
        kept.append((b"te", b"trailers"))
    return kept


def _accepts_trailers(fields: Fields) -> bool:
    return any(
        member.strip(b" \t").lower() == b"trailers"
        for name, value in fields
        if name == b"te"
        for member in value.split(b",")
    )


def without_length(fields: Fields) -> Fields:
    """The field lines of a 1xx or 204 response, which may not have a Content-Length (RFC 9110 §8.6)."""
    return [line for line in fields if line[0] != b"content-length"]
