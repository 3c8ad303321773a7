"""Start smartproxy on quickstart.toml, with backends and certificates of its own, and say what to try."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import signal
import ssl
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from smartproxy import ConfigError, SmartProxy, load_config

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".run" / "quickstart"
CONFIG = ROOT / "examples" / "quickstart.toml"

TRY = """\
smartproxy is running on examples/quickstart.toml. Try, in another terminal, from this folder:

  # two backends in turn: run it twice
  curl -H 'Host: demo.localhost' http://127.0.0.1:8080/

  # a redirect to HTTPS
  curl -i -H 'Host: demo.localhost' http://127.0.0.1:8080/secure/page

  # TLS ends at the proxy; the answer comes over HTTP/2, and its alt-svc line offers HTTP/3
  curl -i --cacert .run/quickstart/ca.pem --resolve secure.localhost:8443:127.0.0.1 https://secure.localhost:8443/

  # TLS passes through to the backend, routed by its name
  curl --cacert .run/quickstart/ca.pem --resolve passthrough.localhost:8443:127.0.0.1 https://passthrough.localhost:8443/

  # no route: the answer says why
  curl http://127.0.0.1:8080/nothing

  # which route would it be, and why not the others
  .venv/bin/smartproxy route examples/quickstart.toml http://demo.localhost:8080/secure/page

Ctrl-C stops it.
"""


def make_certificates(folder: Path) -> None:
    """A demo authority, and a certificate from it for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    ca_key = ec.generate_private_key(ec.SECP256R1())
    key_usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = (
        x509.CertificateBuilder()
        .subject_name(name("smartproxy demo authority"))
        .issuer_name(name("smartproxy demo authority"))
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for host in ("secure", "passthrough"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(f"{host}.localhost"))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{host}.localhost")]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        key_file = folder / f"{host}.key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / f"{host}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


async def start_backend(
    stack: contextlib.AsyncExitStack, name: str, host: str, port: int, tls: ssl.SSLContext | None
) -> None:
    """A small HTTP server that says who it is and what it was asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Ctrl-C cancels it, too: that is how a demo ends, and nothing to show a traceback for.
        endings = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError)
        with contextlib.suppress(*endings):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = [line for line in head.decode("latin-1").split("\r\n") if line]
                body = f"Hello from backend {name}. You asked:\n  " + "\n  ".join(lines) + "\n"
                fields = f"content-type: text/plain\r\ncontent-length: {len(body)}"
                writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}".encode())
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    stack.callback(server.close)


async def main() -> int:
    make_certificates(STATE)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(STATE / "passthrough.pem", STATE / "passthrough.key")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with contextlib.AsyncExitStack() as stack:
            await start_backend(stack, "one", "127.0.0.1", 9001, None)
            await start_backend(stack, "two", "127.0.0.2", 9001, None)
            await start_backend(stack, "three (its own TLS)", "127.0.0.1", 9443, tls)
            await stack.enter_async_context(SmartProxy(config=load_config(CONFIG).config))
            print(TRY, flush=True)
            await stop.wait()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
