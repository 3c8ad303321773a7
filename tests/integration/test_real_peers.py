"""`smartproxy run` between real peers: curl in front, nginx and HAProxy behind."""

from __future__ import annotations

import hashlib
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from real_peers import Certificate, HAProxy, Nginx, SmartproxyRun, free_port

pytestmark = pytest.mark.integration

FindProgram = Callable[[str], str]

GIB = 1024**3


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.cert_pem.bytes())
    return path


@pytest.fixture
def curl(real_program: FindProgram, ca_file: Path) -> Callable[..., str]:
    binary = real_program("curl")

    def run(*arguments: str) -> str:
        command = [
            binary,
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--cacert",
            str(ca_file),
            *arguments,
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        return result.stdout + result.stderr

    return run


def at(name: str, port: int) -> list[str]:
    """curl's arguments that make `name` mean this machine."""
    return ["--resolve", f"{name}:{port}:127.0.0.1"]


def test_terminates_tls_in_front_of_nginx(
    tmp_path: Path, authority: trustme.CA, real_program: FindProgram, curl: Callable[..., str]
) -> None:
    backend, port = free_port(), free_port()
    certificate = Certificate(authority, tmp_path, "app.example.com")
    server = (
        f"server {{ listen 127.0.0.1:{backend};"
        'location / { return 200 "nginx saw $http_x_forwarded_proto $http_host $request_uri\\n"; } }'
    )
    config = f"""
[[routes]]
name = "app"
match = {{ ports = {port}, domains = ["app.example.com"] }}
action.type = "forward"
action.targets = [{{ host = "127.0.0.1", port = {backend} }}]
action.tls = {{ mode = "terminate", certificate = {certificate.as_toml()} }}
"""
    with (
        Nginx(real_program("nginx"), tmp_path / "nginx", server),
        SmartproxyRun(tmp_path / "run", config) as run,
    ):
        url = f"https://app.example.com:{port}/a/%2e%2e/b?q=1"
        answer = curl(*at("app.example.com", port), "--path-as-is", url)
        assert answer == f"nginx saw https app.example.com:{port} /a/%2e%2e/b?q=1\n"
        assert "tls_version" not in run.wait_for("200")


def test_reencrypts_to_a_verified_backend_and_refuses_a_wrong_one(
    tmp_path: Path,
    authority: trustme.CA,
    ca_file: Path,
    real_program: FindProgram,
    curl: Callable[..., str],
) -> None:
    good, stranger, port = free_port(), free_port(), free_port()
    front = Certificate(authority, tmp_path, "front.example.com")
    backend = Certificate(authority, tmp_path, "localhost")
    other_authority = trustme.CA()
    (tmp_path / "other").mkdir()
    untrusted = Certificate(other_authority, tmp_path / "other", "localhost")
    servers = "".join(
        f"server {{ listen 127.0.0.1:{listen} ssl; ssl_certificate {c.cert_file};"
        f"ssl_certificate_key {c.key_file};"
        'location / { return 200 "over $ssl_protocol\\n"; } }\n'
        for listen, c in ((good, backend), (stranger, untrusted))
    )

    def route(path: str, target: str) -> str:
        return f"""
[[routes]]
match = {{ ports = {port}, domains = ["front.example.com"], path = "{path}" }}
action.type = "forward"
action.targets = [{target}]
action.tls = {{ mode = "terminate-and-reencrypt", certificate = {front.as_toml()} }}
"""

    config = (
        route("/good", f'{{ host = "localhost", port = {good}, tls = {{ ca = "{ca_file}" }} }}')
        + route("/untrusted", f'{{ host = "localhost", port = {stranger}, tls = {{ ca = "{ca_file}" }} }}')
        + route("/wrong-name", f'{{ host = "127.0.0.1", port = {good}, tls = {{ ca = "{ca_file}" }} }}')
        + route("/system-store", f'{{ host = "localhost", port = {good} }}')
    )
    with (
        Nginx(real_program("nginx"), tmp_path / "nginx", servers),
        SmartproxyRun(tmp_path / "run", config) as run,
    ):
        base = f"https://front.example.com:{port}"
        resolve = at("front.example.com", port)
        assert curl(*resolve, base + "/good") == "over TLSv1.3\n"
        for path in ("/untrusted", "/wrong-name", "/system-store"):
            answer = curl(*resolve, "--include", base + path)
            assert "HTTP/2 502" in answer
            assert "error=tls_certificate_error" in answer
            assert "127.0.0.1" not in answer
            assert "tls_certificate_error" in run.wait_for("502")


def test_passes_two_names_through_beside_one_it_terminates(
    tmp_path: Path, authority: trustme.CA, real_program: FindProgram, curl: Callable[..., str]
) -> None:
    first, second, plain, port = (free_port() for _ in range(4))
    certificates = {
        name: Certificate(authority, tmp_path, f"{name}.example.com") for name in ("one", "two", "three")
    }
    servers = f'server {{ listen 127.0.0.1:{plain}; location / {{ return 200 "three\\n"; }} }}\n'
    for name, listen in (("one", first), ("two", second)):
        c = certificates[name]
        servers += (
            f"server {{ listen 127.0.0.1:{listen} ssl; ssl_certificate {c.cert_file};"
            f'ssl_certificate_key {c.key_file}; location / {{ return 200 "{name}\\n"; }} }}\n'
        )
    config = "".join(
        f"""
[[routes]]
name = "{name}"
match = {{ ports = {port}, domains = ["{name}.example.com"] }}
action.type = "forward"
action.targets = [{{ host = "127.0.0.1", port = {listen} }}]
action.tls = {{ {tls} }}
"""
        for name, listen, tls in (
            ("one", first, 'mode = "passthrough"'),
            ("two", second, 'mode = "passthrough"'),
            ("three", plain, f'mode = "terminate", certificate = {certificates["three"].as_toml()}'),
        )
    )
    with Nginx(real_program("nginx"), tmp_path / "nginx", servers), SmartproxyRun(tmp_path / "run", config):
        for name in ("one", "two", "three"):
            host = f"{name}.example.com"
            assert curl(*at(host, port), f"https://{host}:{port}/") == f"{name}\n"
        unknown = curl(*at("four.example.com", port), f"https://four.example.com:{port}/")
        assert "unrecognized name" in unknown
        # A name that another TLS serves, asked for on this connection.
        misdirected = curl(
            *at("three.example.com", port),
            "-i",
            "-H",
            "Host: one.example.com",
            f"https://three.example.com:{port}/",
        )
        assert "HTTP/2 421" in misdirected


@pytest.mark.parametrize("mode", ["http", "tcp"])
def test_keeps_the_clients_address_between_two_haproxies(
    mode: str, tmp_path: Path, real_program: FindProgram, curl: Callable[..., str]
) -> None:
    entry, middle, last = (free_port() for _ in range(3))
    sections = f"""
listen entry
  mode tcp
  bind 127.0.0.1:{entry}
  server smartproxy 127.0.0.1:{middle} send-proxy-v2
frontend last
  mode http
  bind 127.0.0.1:{last} accept-proxy
  http-request return status 200 content-type text/plain lf-string \
"client %[src] for %[req.hdr(x-forwarded-for)]"
"""
    protocol = 'protocol = "tcp", ' if mode == "tcp" else ""
    config = f"""
trusted_proxy_ips = ["127.0.0.1"]

[[routes]]
name = "middle"
match = {{ ports = {middle}, {protocol}inbound_proxy_protocol = {{ mode = "required" }} }}
action = {{ type = "forward", targets = [{{ host = "127.0.0.1", port = {last}, send_proxy_protocol = 2 }}] }}
"""
    with (
        HAProxy(real_program("haproxy"), tmp_path / "haproxy", sections),
        SmartproxyRun(tmp_path / "run", config) as run,
    ):
        answer = curl("--interface", "127.0.0.5", f"http://127.0.0.1:{entry}/")
        assert answer.split(" for ")[0] == "client 127.0.0.5"
        if mode == "http":
            assert answer.endswith("127.0.0.5")
        assert "127.0.0.5" in run.wait_for("[middle]")
        # Straight to the proxy, without a PROXY header: closed, and said why.
        assert "(52) Empty reply" in curl(f"http://127.0.0.1:{middle}/")
        assert "PROXY header required" in run.wait_for("proxy_protocol_error")


@pytest.fixture
def gibibyte(tmp_path: Path) -> Iterator[Path]:
    """1 GiB whose every block differs, mostly holes on disk."""
    folder = tmp_path / "files"
    folder.mkdir()
    path = folder / "big"
    with path.open("wb") as file:
        for position in range(0, GIB, 1 << 20):
            file.seek(position)
            file.write(position.to_bytes(8, "big") * 16)
        file.truncate(GIB)
    yield path
    path.unlink()


class HashingHandler(socketserver.StreamRequestHandler):
    """Answers an upload with its SHA-256, reading it through a small window."""

    def handle(self) -> None:
        length = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        digest = hashlib.sha256()
        while length:
            data = self.rfile.read1(min(length, 1 << 18))
            digest.update(data)
            length -= len(data)
        answer = digest.hexdigest().encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


@pytest.fixture
def hashing_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HashingHandler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.timeout(300)
def test_a_gibibyte_each_way_is_byte_exact_in_flat_memory(
    tmp_path: Path, real_program: FindProgram, gibibyte: Path, hashing_port: int
) -> None:
    backend, port = free_port(), free_port()
    curl = real_program("curl")
    server = f"server {{ listen 127.0.0.1:{backend}; location / {{ root {gibibyte.parent}; }} }}"
    config = f"""
[[routes]]
name = "files"
match = {{ ports = {port} }}
action = {{ type = "forward", targets = [{{ host = "127.0.0.1", port = {backend} }}] }}

[[routes]]
name = "uploads"
match = {{ ports = {port}, methods = ["PUT"] }}
action = {{ type = "forward", targets = [{{ host = "127.0.0.1", port = {hashing_port} }}] }}
"""
    with gibibyte.open("rb") as file:
        expected = hashlib.file_digest(file, "sha256").hexdigest()
    with (
        Nginx(real_program("nginx"), tmp_path / "nginx", server),
        SmartproxyRun(tmp_path / "run", config) as run,
    ):
        base = f"http://127.0.0.1:{port}"
        assert b"404" in subprocess.run([curl, "-sS", f"{base}/nothing"], capture_output=True).stdout
        before = run.peak_memory_bytes()
        with subprocess.Popen([curl, "-sSf", f"{base}/big"], stdout=subprocess.PIPE) as download:
            assert download.stdout is not None
            digest = hashlib.sha256()
            while data := download.stdout.read(1 << 20):
                digest.update(data)
        assert digest.hexdigest() == expected
        upload = [curl, "-sSf", "-H", "Expect:", "-T", str(gibibyte), f"{base}/up"]
        assert subprocess.run(upload, capture_output=True, text=True).stdout == expected
        assert run.peak_memory_bytes() - before < 16 * 1024 * 1024
