"""What can go wrong, as data: whose fault, what kind, and whether another try may help."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FailureSource(Enum):
    """The side a failure came from."""

    CLIENT = "client"
    PROXY = "proxy"
    BACKEND = "backend"


class FailureCode(Enum):
    """Kinds of failure; where RFC 9209 §2.3 names one, the value is its name."""

    DNS_TIMEOUT = "dns_timeout"
    DNS_ERROR = "dns_error"
    DESTINATION_NOT_FOUND = "destination_not_found"
    DESTINATION_UNAVAILABLE = "destination_unavailable"
    DESTINATION_IP_UNROUTABLE = "destination_ip_unroutable"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_TERMINATED = "connection_terminated"
    CONNECTION_TIMEOUT = "connection_timeout"
    CONNECTION_READ_TIMEOUT = "connection_read_timeout"
    CONNECTION_WRITE_TIMEOUT = "connection_write_timeout"
    CONNECTION_LIMIT_REACHED = "connection_limit_reached"
    TLS_PROTOCOL_ERROR = "tls_protocol_error"
    TLS_CERTIFICATE_ERROR = "tls_certificate_error"
    TLS_ALERT_RECEIVED = "tls_alert_received"
    HTTP_REQUEST_ERROR = "http_request_error"
    HTTP_REQUEST_DENIED = "http_request_denied"
    HTTP_RESPONSE_INCOMPLETE = "http_response_incomplete"
    HTTP_RESPONSE_TIMEOUT = "http_response_timeout"
    HTTP_PROTOCOL_ERROR = "http_protocol_error"
    HTTP_UPGRADE_FAILED = "http_upgrade_failed"
    PROXY_INTERNAL_ERROR = "proxy_internal_error"
    PROXY_INTERNAL_RESPONSE = "proxy_internal_response"
    PROXY_CONFIGURATION_ERROR = "proxy_configuration_error"
    # Beyond RFC 9209: what happens before there is an HTTP request.
    PROXY_PROTOCOL_ERROR = "proxy_protocol_error"
    CLIENT_HELLO_ERROR = "client_hello_error"
    NO_ROUTE = "no_route"
    ACCESS_DENIED = "access_denied"
    RATE_LIMITED = "rate_limited"
    AUTHENTICATION_FAILED = "authentication_failed"
    INITIAL_DATA_TIMEOUT = "initial_data_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    LIFETIME_REACHED = "lifetime_reached"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure: `source` is whose fault it was, `code` its kind.

    `retryable` says that no byte of the request can have been acted on, so that
    another connection may be tried (RFC 9110 §9.2.2). `unprocessed` is stronger: the
    backend itself says that it has not acted on the request (REFUSED_STREAM, GOAWAY).
    `detail` is for the operator's log and is never sent to a client.
    """

    source: FailureSource
    code: FailureCode
    detail: str = ""
    retryable: bool = False
    unprocessed: bool = False


class LostReason(Enum):
    """Why a driver says a stream is gone or could not be opened."""

    RESET = "reset"
    REFUSED = "refused"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    NAME_NOT_FOUND = "name_not_found"
    NAME_LOOKUP_FAILED = "name_lookup_failed"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    ERROR = "error"
