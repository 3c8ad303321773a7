"""Fetching a JSON Web Key Set over HTTP: blocking, for a thread, and bounded in time and size."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.error import URLError
from urllib.parse import SplitResult, urljoin, urlsplit

MAX_REDIRECTS = 3

_FIELDS = {
    "Accept": "application/jwk-set+json, application/json;q=0.9, */*;q=0.1",
    "User-Agent": "smartproxy",
}
_REDIRECTS = (301, 302, 303, 307, 308)


def make_fetch(
    url: str,
    timeout_s: float = 5.0,
    max_bytes: int = 256 * 1024,
    *,
    tls_context: ssl.SSLContext | None = None,
) -> Callable[[], bytes]:
    """A function that fetches `url`, http or https, and returns the content of its 200 response.

    It raises OSError, which says why, for everything else. `timeout_s` is for all of it, redirects included;
    only the system's resolver has a timeout of its own. Redirects lead to https, or from http to http, and at
    most `MAX_REDIRECTS` are followed. Proxies are used as the environment says. `tls_context` is the system's
    trust by default.

    Raises ValueError for a URL that cannot be fetched.
    """
    reason = _refusal(_split(url))
    if reason:
        raise ValueError(f"{url} {reason}")

    def fetch() -> bytes:
        with _Deadline(timeout_s) as deadline:
            try:
                return _fetch(url, deadline, max_bytes, tls_context)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if deadline.has_passed or _is_timeout(error):
                    raise TimeoutError(f"no complete answer in {timeout_s:g} s") from error
                raise OSError(_text(error)) from error

    return fetch


class _Deadline:
    """Shuts the connections it knows down when the time is up, so that whoever reads from one sees its end.

    A socket's own timeout starts anew with every byte that arrives.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.has_passed = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(timeout_s, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def watch(self, connected: socket.socket) -> None:
        """Include this connection. TLS takes its descriptor over, so it is watched through another one."""
        with self._lock:
            self._sockets.append(connected.dup())
        if self.has_passed:
            self._pass()

    def _pass(self) -> None:
        self.has_passed = True
        with self._lock:
            for each in self._sockets:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # The peer was faster.
                    continue


class _Connection(http.client.HTTPConnection):
    deadline: _Deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """Its `connect` calls `_Connection`'s before the TLS handshake, which is watched thereby."""


class _Handler(urllib.request.AbstractHTTPHandler):
    """Opens http and https URLs; the response is returned whatever its status."""

    def __init__(self, deadline: _Deadline, tls_context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._deadline = deadline
        self._tls_context = tls_context

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._secure_connection, request)

    http_request = urllib.request.AbstractHTTPHandler.do_request_
    https_request = urllib.request.AbstractHTTPHandler.do_request_

    def _connection(self, host: str, /, **options: Any) -> _Connection:
        connection = _Connection(host, **options)
        connection.deadline = self._deadline
        return connection

    def _secure_connection(self, host: str, /, **options: Any) -> _SecureConnection:
        context = self._tls_context or ssl.create_default_context()
        connection = _SecureConnection(host, context=context, **options)
        connection.deadline = self._deadline
        return connection


def _fetch(url: str, deadline: _Deadline, max_bytes: int, tls_context: ssl.SSLContext | None) -> bytes:
    # Only these: `build_opener` would add file, ftp and data URLs, and redirects that are read without bound.
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(_Handler(deadline, tls_context))
    for _ in range(MAX_REDIRECTS + 1):
        request = urllib.request.Request(url, headers=_FIELDS)  # noqa: S310 - the scheme has been checked
        with opener.open(request, timeout=deadline.timeout_s) as response:
            if response.status not in _REDIRECTS:
                return _content(response, max_bytes, deadline)
            url = _redirected(url, response.headers.get("Location"))
    raise OSError(f"more than {MAX_REDIRECTS} redirects")


def _content(response: http.client.HTTPResponse, max_bytes: int, deadline: _Deadline) -> bytes:
    if response.status != 200:
        raise OSError(f"the status is {response.status}")
    content = response.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"the content has more than {max_bytes} bytes")
    # A response without a length ends in the same way when it is cut off.
    if response.length or deadline.has_passed:
        raise OSError("the connection ended before the content")
    return content


def _redirected(url: str, location: str | None) -> str:
    if location is None:
        raise OSError("a redirect says not where to")
    target = urljoin(url, location)
    split = _split(target)
    reason = _refusal(split)
    if reason:
        raise OSError(f"a redirect leads to a URL that {reason}")
    if split.scheme != "https" and urlsplit(url).scheme == "https":
        raise OSError("a redirect leads from https to http")
    return target


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{url} is not a URL: {error}") from error


def _refusal(url: SplitResult) -> str:
    """Why a URL is not fetched; empty for one that is."""
    if url.scheme not in ("http", "https"):
        return "is neither https nor http"
    if not url.hostname:
        return "has no host"
    if url.username is not None or url.password is not None:
        return "has a user name in it"
    try:
        if url.port == 0:
            return "has no valid port"
    except ValueError:
        return "has no valid port"
    if any(character <= " " or character == "\x7f" for character in url.geturl()):
        return "has a character that a URL cannot have"
    return ""


def _is_timeout(error: Exception) -> bool:
    reason = error.reason if isinstance(error, URLError) else error
    return isinstance(reason, TimeoutError)


def _text(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    return str(reason) or type(reason).__name__
