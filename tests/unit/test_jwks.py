"""Fetching a key set: from a real server, which says and does what it should not."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from smartproxy.jwks import make_fetch

KEYS = b'{"keys": []}'


class Origin(BaseHTTPRequestHandler):
    """Answers by path."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []
    elsewhere = ""
    #: Set when the test is over, so that nothing hangs longer than it.
    over = threading.Event()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name, _, argument = self.path.lstrip("/").partition("/")
        getattr(self, f"answer_{name}")(argument)

    def answer_keys(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(KEYS)))
        self.end_headers()
        self.wfile.write(KEYS)

    def answer_fields(self, _: str) -> None:
        content = f"{self.headers['Accept']} {self.headers['User-Agent']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer_unframed(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(KEYS)
        self.close_connection = True

    def answer_status(self, status: str) -> None:
        self.send_response(int(status))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer_size(self, size: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", size)
        self.end_headers()
        self.wfile.write(b"x" * int(size))

    def answer_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.over.is_set():
                self.wfile.write(b"x" * 65536)
        except OSError:
            self.close_connection = True

    def answer_truncated(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(KEYS)
        self.close_connection = True

    def answer_silence(self, _: str) -> None:
        self.over.wait(10)
        self.close_connection = True

    def answer_drip(self, _: str) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.over.wait(0.01):
                self.wfile.write(b"X-More: 1\r\n")
        except OSError:
            self.close_connection = True

    def answer_nonsense(self, _: str) -> None:
        self.wfile.write(b"nonsense\r\n\r\n")
        self.close_connection = True

    def answer_hops(self, left: str) -> None:
        self.redirect(f"/hops/{int(left) - 1}" if int(left) else "/keys")

    def answer_to(self, target: str) -> None:
        self.redirect(target)

    def answer_elsewhere(self, path: str) -> None:
        self.redirect(f"{self.elsewhere}/{path}")

    def answer_nowhere(self, _: str) -> None:
        self.send_response(302)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """The test tells enough."""


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what is tested."""


def serve(context: ssl.SSLContext | None) -> Iterator[str]:
    Origin.asked = []
    Origin.over.clear()
    server = Server(("127.0.0.1", 0), Origin)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"{'http' if context is None else 'https'}://localhost:{server.server_port}"
    Origin.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def plain() -> Iterator[str]:
    yield from serve(None)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    yield from serve(context)


def failure(fetch: Callable[[], bytes]) -> str:
    with pytest.raises(OSError) as caught:
        fetch()
    # The text is all that an operator gets.
    return str(caught.value)


def test_a_set_is_fetched(plain: str) -> None:
    fetch = make_fetch(f"{plain}/keys")
    assert fetch() == KEYS
    assert fetch() == KEYS
    assert Origin.asked == ["/keys", "/keys"]


def test_it_is_asked_for_by_name(plain: str) -> None:
    accept, *_, agent = make_fetch(f"{plain}/fields")().split(b" ")
    assert accept == b"application/jwk-set+json,"
    assert agent == b"smartproxy"


def test_a_set_without_a_length_is_fetched(plain: str) -> None:
    assert make_fetch(f"{plain}/unframed")() == KEYS


@pytest.mark.parametrize("status", [204, 304, 404, 500, 503])
def test_a_status_that_is_not_200_fails(plain: str, status: int) -> None:
    assert failure(make_fetch(f"{plain}/status/{status}")) == f"the status is {status}"


def test_the_size_is_bounded(plain: str) -> None:
    assert len(make_fetch(f"{plain}/size/1000", max_bytes=1000)()) == 1000
    assert "more than 1000 bytes" in failure(make_fetch(f"{plain}/size/1001", max_bytes=1000))
    assert "more than 1000 bytes" in failure(make_fetch(f"{plain}/endless", max_bytes=1000))


def test_what_is_cut_off_is_not_taken(plain: str) -> None:
    assert failure(make_fetch(f"{plain}/truncated")) == "the connection ended before the content"


def test_nonsense_fails(plain: str) -> None:
    assert "nonsense" in failure(make_fetch(f"{plain}/nonsense"))


@pytest.mark.parametrize("path", ["silence", "drip"])
def test_the_time_is_bounded_however_the_server_spends_it(plain: str, path: str) -> None:
    assert failure(make_fetch(f"{plain}/{path}", timeout_s=0.2)) == "no complete answer in 0.2 s"


def test_a_port_where_nobody_listens(plain: str) -> None:
    port = plain.rpartition(":")[2]
    assert make_fetch(f"{plain}/keys")() == KEYS
    with Server(("127.0.0.1", 0), Origin) as free:
        unused = free.server_port
    assert str(unused) != port
    assert "refused" in failure(make_fetch(f"http://127.0.0.1:{unused}/"))


def test_redirects_are_followed(plain: str) -> None:
    assert make_fetch(f"{plain}/hops/2")() == KEYS
    assert Origin.asked == ["/hops/2", "/hops/1", "/hops/0", "/keys"]


def test_redirects_are_few(plain: str) -> None:
    assert failure(make_fetch(f"{plain}/hops/3")) == "more than 3 redirects"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file:///etc/passwd", "neither https nor http"),
        ("ftp://localhost/keys", "neither https nor http"),
        ("data:application/json,{}", "neither https nor http"),
        ("http://user:secret@localhost/", "user name"),
        ("http://localhost:port/", "no valid port"),
        ("http://[::1/", "Invalid IPv6 URL"),
    ],
)
def test_redirects_lead_to_http_only(plain: str, target: str, reason: str) -> None:
    assert reason in failure(make_fetch(f"{plain}/to/{target}"))


def test_a_redirect_without_a_target_fails(plain: str) -> None:
    assert failure(make_fetch(f"{plain}/nowhere")) == "a redirect says not where to"


def test_a_set_is_fetched_over_tls(secure: str, trusting: ssl.SSLContext) -> None:
    assert make_fetch(f"{secure}/keys", tls_context=trusting)() == KEYS


def test_a_certificate_is_verified(secure: str) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in failure(make_fetch(f"{secure}/keys"))


def test_redirects_do_not_lead_out_of_tls(secure: str, trusting: ssl.SSLContext) -> None:
    fetch = make_fetch(f"{secure}/to/http://localhost:1/keys", tls_context=trusting)
    assert failure(fetch) == "a redirect leads from https to http"


def test_the_time_is_bounded_over_tls(secure: str, trusting: ssl.SSLContext) -> None:
    fetch = make_fetch(f"{secure}/drip", timeout_s=0.3, tls_context=trusting)
    assert failure(fetch) == "no complete answer in 0.3 s"


def test_the_time_is_bounded_in_the_handshake(plain: str, trusting: ssl.SSLContext) -> None:
    silent = plain.replace("http:", "https:")
    assert failure(make_fetch(f"{silent}/keys", timeout_s=0.2, tls_context=trusting))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.example/keys",
        "a.example/keys",
        "",
        "https://",
        "https://user@a.example/",
        "https://a.example:99999/",
        "https://a.example:0/",
        "https://a.example/a b",
        "https://a.example/\r\nX: y",
        "https://[::1/",
    ],
)
def test_other_urls_are_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError):
        make_fetch(url)
