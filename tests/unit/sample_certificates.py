"""Certificates for tests, made on the spot."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives import serialization

from smartproxy.config import CertificateConfig

CA = trustme.CA()
OTHER_CA = trustme.CA()
NOW = datetime.datetime.now(datetime.UTC)


def ca_pem(ca: trustme.CA = CA) -> str:
    return ca.cert_pem.bytes().decode()


def leaf(*names: str, ca: trustme.CA = CA, expired: bool = False) -> tuple[str, str]:
    """A certificate with its chain, and its key, as PEM text."""
    not_after = NOW - datetime.timedelta(days=1) if expired else None
    made = ca.issue_cert(*names, not_after=not_after)
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    return chain.decode(), made.private_key_pem.bytes().decode()


def certificate(*names: str) -> dict[str, str]:
    cert, key = leaf(*names)
    return {"cert": cert, "key": key}


def certificate_model(*names: str) -> CertificateConfig:
    return CertificateConfig.model_validate(certificate(*names))


def write_leaf(folder: Path, *names: str) -> dict[str, str]:
    """Files `app.pem` and `app.key`, and the options that name them."""
    cert, key = leaf(*names)
    (folder / "app.pem").write_text(cert)
    (folder / "app.key").write_text(key)
    return {"cert_file": "app.pem", "key_file": "app.key"}


def encrypted(key_pem: str) -> str:
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    ).decode()


class Handshake:
    """A TLS handshake between two contexts, in memory."""

    def __init__(
        self, server: ssl.SSLContext, client: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        self._to_server, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self._to_server, self._to_client, server_side=True)
        self.client = client.wrap_bio(self._to_client, self._to_server, server_hostname=server_name)
        pending = [self.client, self.server]
        for _ in range(10):
            for side in list(pending):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                pending.remove(side)
        assert not pending
        # TLS 1.3 tells a client only now that its certificate is refused.
        self.server.write(b"x")
        assert self.client.read() == b"x"

    def shown_names(self) -> list[str]:
        """The DNS names of the certificate that the server showed; the client must verify it."""
        shown: Any = self.client.getpeercert() or {}
        return [value for _, value in shown.get("subjectAltName", ())]


def trusting_client(**options: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    context.check_hostname = options.get("check_hostname", True)
    return context
