"""Who a client must prove to be."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, Tag, model_validator

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel, SwitchableConfig
from smartproxy.config.models.scalars import (
    LIST,
    SCALAR,
    TABLE,
    AnyDuration,
    CookieName,
    FieldValue,
    PemOrFile,
    SettableFieldName,
    Shown,
    as_list,
    by_shape,
    is_pem,
)

# RFC 7617 §2: neither holds control characters, and the first colon ends the name.
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_NOT_FOR_IDENTITIES = frozenset(
    {
        "authorization",
        "cookie",
        "forwarded",
        "proxy-authorization",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
    }
)


def _check_user_name(name: str) -> str:
    if not name or ":" in name or _CONTROL.search(name):
        raise invalid("must be a user name", allowed="text without colons and control characters")
    return name


def _check_password(password: SecretStr) -> SecretStr:
    text = password.get_secret_value()
    if not text:
        raise invalid("must not be empty")
    if _CONTROL.search(text):
        raise invalid("must not hold control characters, which no client can send")
    return password


def _check_identity_field(name: str) -> str:
    if name.lower().replace("_", "-") in _NOT_FOR_IDENTITIES:
        raise invalid("must be a field that means nothing else", allowed="such as X-User")
    return name


def _check_token_field(name: str) -> str:
    if name.lower() == "cookie":
        raise invalid("must be another field: tokens in cookies are what `cookie` is for")
    return name


UserName = Annotated[str, AfterValidator(_check_user_name), Shown("user name")]
Password = Annotated[SecretStr, AfterValidator(_check_password)]
IdentityField = Annotated[SettableFieldName, AfterValidator(_check_identity_field), Shown("field name")]
TokenField = Annotated[SettableFieldName, AfterValidator(_check_token_field), Shown("field name")]
Realm = Annotated[FieldValue, Field(min_length=1, max_length=256), Shown("text")]


class BasicUserConfig(ConfigModel):
    """One user."""

    section: ClassVar[str] = "basic_user"

    username: UserName = Field(description="The name.")
    password: Password = Field(
        description="The password, or its hash of bcrypt, argon2 or scrypt (`smartproxy hash-password`)."
    )


class BasicAuthConfig(SwitchableConfig):
    """Names and passwords (RFC 7617)."""

    section: ClassVar[str] = "basic_auth"

    users: (
        Annotated[
            Annotated[list[BasicUserConfig], Field(min_length=1), Tag(LIST)]
            | Annotated[dict[UserName, Password], Field(min_length=1), Tag(TABLE)],
            by_shape("must be a list of users, or a table of user name = password"),
            Shown("list of table [`basic_user`](#basic_user), or table of user name → password, secret"),
        ]
        | None
    ) = Field(
        default=None,
        description="Who gets in. Required. Passwords are plain, or better hashes of bcrypt, argon2 or "
        "scrypt (`smartproxy hash-password`).",
    )
    realm: Realm = Field(default="Restricted", description="What the browser tells the user this is for.")
    strip_credentials: bool = Field(default=False, description="Keep the password from the backend.")
    user_header: IdentityField | None = Field(
        default=None,
        description="The request field that tells the backend the user's name. Clients' own never passes.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.require("users")
        names = [name for name, _ in self.credentials()]
        if len(set(names)) < len(names):
            raise invalid("must not have a user twice", field="users")
        return self

    def credentials(self) -> list[tuple[str, str]]:
        """User names and passwords, in the clear."""
        if isinstance(self.users, dict):
            return [(name, password.get_secret_value()) for name, password in self.users.items()]
        return [(user.username, user.password.get_secret_value()) for user in self.users or ()]


def _not_none(value: object) -> object:
    if isinstance(value, str) and value.lower() == "none":
        raise invalid("must be a way to sign: anybody could write tokens that have no signature")
    return value


Algorithm = Annotated[
    Literal[
        "HS256",
        "HS384",
        "HS512",
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "ES256K",
        "EdDSA",
    ],
    BeforeValidator(_not_none),
]
Audiences = Annotated[
    Annotated[str, Field(min_length=1), Tag(SCALAR)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), Tag(LIST)],
    by_shape("must be an audience or a list of audiences"),
    Shown("text, or a list"),
]

_URL_ALLOWED = "https://HOST/PATH"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_key_set_url(text: str) -> str:
    try:
        parts: SplitResult = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise invalid("must be a URL", allowed=_URL_ALLOWED) from None
    if parts.scheme not in ("http", "https") or not host or not text.isascii() or not text.isprintable():
        raise invalid("must be a URL", allowed=_URL_ALLOWED)
    if " " in text or parts.fragment:
        raise invalid("must be a URL without spaces and fragment", allowed=_URL_ALLOWED)
    if parts.username is not None or parts.password is not None:
        raise invalid("must be a URL without credentials", allowed=_URL_ALLOWED)
    if parts.scheme == "http" and not _is_loopback(host):
        raise invalid(
            "must be an https URL: over http anybody on the way could put in a key of their own",
            allowed=f"{_URL_ALLOWED}, or http to this machine itself",
        )
    return text


def _check_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text:
        raise invalid("must not be empty")
    if is_pem(text) or text.startswith(("ssh-", "ecdsa-sha2-")):
        # RFC 8725 §2.1: a public key is no secret, and whoever knows it could write tokens.
        raise invalid("is a key pair's key, which is no secret", allowed="`public_key` is the place for it")
    return secret


def _claims_differ(table: dict[str, Any]) -> dict[str, Any]:
    fields: set[str] = set()
    for claim, name in table.items():
        if not claim or not all(claim.split(".")):
            raise invalid("must be the name of a claim, or names joined by dots", field=claim)
        if name.lower() in fields:
            raise invalid("names a field that another claim has", field=claim)
        fields.add(name.lower())
    return table


class JwtAuthConfig(SwitchableConfig):
    """JSON Web Tokens (RFC 7519), as bearer tokens (RFC 6750)."""

    section: ClassVar[str] = "jwt_auth"

    secret: Annotated[SecretStr, AfterValidator(_check_secret)] | None = Field(
        default=None, description="The secret that tokens are signed with, for HS256, HS384 and HS512."
    )
    public_key: PemOrFile | None = Field(
        default=None, description="The public key, or a certificate with it, of who signs the tokens."
    )
    jwks_url: Annotated[str, AfterValidator(_check_key_set_url), Shown("URL")] | None = Field(
        default=None,
        description="Where their public keys are (RFC 7517), fetched when they are first needed and again "
        "when they change. Exactly one of `secret`, `public_key` and `jwks_url` is given.",
    )
    algorithm: Algorithm | None = Field(
        default=None,
        description='How tokens are signed. Left out: "HS256" with `secret`, with `public_key` what is usual '
        "for a key of its type. With `jwks_url` this or `algorithms` is required.",
    )
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] | None = Field(
        default=None, description="Several such, any of which is good."
    )
    issuer: str | None = Field(
        default=None, min_length=1, description="What the claim `iss` must be. Left out: anything."
    )
    audience: Audiences | None = Field(
        default=None, description="What the claim `aud` must be, or have among others. Left out: anything."
    )
    leeway: AnyDuration = Field(
        default=0.0, description="How far the clock of who signs may be from this one."
    )
    header: TokenField = Field(
        default="Authorization",
        description="The request field with the token: after `Bearer` in `Authorization`, alone in others.",
    )
    cookie: CookieName | None = Field(
        default=None, description="The cookie with the token, for requests without that field."
    )
    realm: Realm = Field(default="Restricted", description="The realm that clients are told.")
    strip_token: bool = Field(default=False, description="Keep the token from the backend.")
    claims_to_headers: Annotated[
        dict[str, IdentityField], AfterValidator(_claims_differ), Shown("table of claim → field name")
    ] = Field(
        default={},
        description="Claims that the backend is told, and in which request fields; dots reach into objects. "
        "Clients' own such fields never pass.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = [name for name in ("secret", "public_key", "jwks_url") if getattr(self, name) is not None]
        if len(given) > 1:
            raise invalid(f"cannot be given together with `{given[0]}`", field=given[1])
        if self.algorithm is not None and self.algorithms is not None:
            raise invalid("cannot be given together with `algorithm`", field="algorithms")
        if not self.enabled:
            return self
        if not given:
            raise invalid("is required", allowed="`secret`, `public_key` or `jwks_url`", field="secret")
        named, field = self.named_algorithms(), "algorithm" if self.algorithm is not None else "algorithms"
        if given[0] == "jwks_url" and not named:
            raise invalid("is required with `jwks_url`", allowed='such as "RS256"', field="algorithm")
        self._check_family(named, field, has_secret=given[0] == "secret")
        return self

    def _check_family(self, named: tuple[str, ...], field: str, *, has_secret: bool) -> None:
        # RFC 8725 §2.1: with both, a token signed with the public key as if it were a secret would be good.
        symmetric = [name.startswith("HS") for name in named]
        if any(symmetric) and not all(symmetric):
            raise invalid(
                "must not mix HMAC with signatures: whoever has the public key could write tokens",
                allowed="HS256, HS384, HS512, or any of the others",
                field=field,
            )
        if has_secret and named and not all(symmetric):
            raise invalid(
                "is for key pairs, and `secret` is none", allowed="HS256, HS384, HS512", field=field
            )
        if not has_secret and any(symmetric):
            raise invalid(
                "is for a shared secret: with a public key in its place anybody could write tokens",
                allowed="RS256, PS256, ES256, EdDSA and the like, or `secret`",
                field=field,
            )

    def named_algorithms(self) -> tuple[str, ...]:
        """The algorithms that are given; empty for those usual with the key."""
        return (self.algorithm,) if self.algorithm is not None else tuple(self.algorithms or ())

    def audiences(self) -> tuple[str, ...]:
        """The audiences, one or many; empty for any."""
        return tuple(as_list(self.audience))
