"""TLS: towards clients and towards backends."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel
from smartproxy.config.models.scalars import Duration, FileName, HostName, PemOrFile, Shown
from smartproxy.config.units import DURATION_ALLOWED

_SHA256 = re.compile(r"(?:sha-?256[:=/])?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.IGNORECASE)


def _check_fingerprint(text: str) -> str:
    match = _SHA256.fullmatch(text.strip())
    if match is None:
        raise invalid(
            "must be the SHA-256 fingerprint of a certificate", allowed="64 hex digits, colons or not"
        )
    return match[1].replace(":", "").lower()


Fingerprint = Annotated[str, AfterValidator(_check_fingerprint), Shown("SHA-256 fingerprint")]
TlsVersion = Literal["TLSv1.2", "TLSv1.3"]


def _check_session_timeout(seconds: float) -> float:
    # Sessions end by new ticket keys, and those come with new contexts for every route.
    if seconds < 60:
        raise invalid("must be at least one minute", allowed=DURATION_ALLOWED)
    return seconds


class CertificateConfig(ConfigModel):
    """A certificate and its private key, each as PEM text or as a PEM file.

    Files are read again when they change. The server's own certificate comes first, then its chain.
    """

    section: ClassVar[str] = "certificate"

    cert_file: FileName | None = Field(default=None, description="PEM file of the certificate and its chain.")
    key_file: FileName | None = Field(default=None, description="PEM file of the private key, unencrypted.")
    cert: str | None = Field(default=None, description="The certificate and its chain as PEM text.")
    key: SecretStr | None = Field(default=None, description="The private key as PEM text, unencrypted.")
    ca: PemOrFile | None = Field(
        default=None, description="Further certificates of the chain, sent after those of the certificate."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for text, file in (("cert", "cert_file"), ("key", "key_file")):
            given = (getattr(self, text) is not None) + (getattr(self, file) is not None)
            if given != 1:
                fault = "is required" if given == 0 else f"cannot be given together with `{text}`"
                raise invalid(fault, field=file)
        return self


class ClientAuthConfig(ConfigModel):
    """Client certificates: only clients that show one get in."""

    section: ClassVar[str] = "client_auth"

    ca: PemOrFile = Field(description="Authorities that client certificates must come from.")


class OriginTlsConfig(ConfigModel):
    """How a backend's certificate is checked."""

    section: ClassVar[str] = "backend_tls"

    verify: bool = Field(
        default=True,
        description="Verify the backend's certificate. Without it anyone on the way can read and change "
        "the traffic.",
    )
    ca: PemOrFile | None = Field(
        default=None, description="Authorities to verify with, in place of the system's store."
    )
    fingerprint: Fingerprint | None = Field(
        default=None,
        description="SHA-256 fingerprint of the one certificate to accept, in place of authorities.",
    )
    server_name: HostName | None = Field(
        default=None, description="Name to send as SNI and to verify, in place of the target's host."
    )

    @model_validator(mode="after")
    def _one_way_to_verify(self) -> Self:
        if not self.verify and (self.ca is not None or self.fingerprint is not None):
            raise invalid("cannot be false together with `ca` or `fingerprint`", field="verify")
        if self.ca is not None and self.fingerprint is not None:
            raise invalid(
                "cannot be given together with `ca`: a pinned certificate is the only one",
                field="fingerprint",
            )
        return self


class TargetTlsConfig(OriginTlsConfig):
    """TLS towards this target, where it differs from the route's. Left out: as the route's."""

    section: ClassVar[str] = "target_tls"

    mode: Literal["terminate", "terminate-and-reencrypt"] = Field(
        default="terminate-and-reencrypt",
        description='"terminate": plain towards this target. "terminate-and-reencrypt": TLS towards it, '
        "also for clients that came without TLS.",
    )


class RouteTlsConfig(ConfigModel):
    """What a route does with TLS from its clients."""

    section: ClassVar[str] = "tls"

    mode: Literal["passthrough", "terminate", "terminate-and-reencrypt"] = Field(
        description='"passthrough": routed by SNI, bytes untouched. "terminate": plain towards the backend. '
        '"terminate-and-reencrypt": decrypted here, and TLS towards the backend.'
    )
    certificate: CertificateConfig | None = Field(
        default=None,
        description="The certificate shown to clients. Left out: one of another route that is good for "
        "the name, else the default certificate.",
    )
    versions: Annotated[list[TlsVersion], Field(min_length=1)] = Field(
        default=["TLSv1.2", "TLSv1.3"], description="TLS versions that clients may use."
    )
    ciphers: str | None = Field(
        default=None,
        min_length=1,
        description="OpenSSL cipher list for TLS 1.2. TLS 1.3 has its own fixed suites.",
    )
    honor_cipher_order: bool = Field(
        default=False, description="Prefer the order of `ciphers` over the client's (TLS 1.2)."
    )
    http2: bool = Field(
        default=True, description="Offer HTTP/2 to clients (ALPN). Otherwise they get HTTP/1.1 over TCP."
    )
    session_timeout: Annotated[Duration, AfterValidator(_check_session_timeout)] | None = Field(
        default=None,
        description="The longest time a session can be resumed, at least one minute. Left out: as long as "
        "OpenSSL allows, two hours.",
    )
    client_auth: ClientAuthConfig | None = Field(
        default=None, description="Ask clients for a certificate and refuse those without a valid one."
    )
    backend: OriginTlsConfig | None = Field(
        default=None,
        description='How backend certificates are checked, with "terminate-and-reencrypt". '
        "Targets may differ.",
    )
