"""What browsers must do before they get in."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, SecretStr, Tag, model_validator

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel, SwitchableConfig
from smartproxy.config.models.scalars import (
    LIST,
    SCALAR,
    CookieName,
    Duration,
    Methods,
    PathText,
    Shown,
    as_list,
    by_shape,
)
from smartproxy.core.routing.paths import normalise_path

SHORTEST_SIGNING_KEY_BYTES = 16

_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()+,=@-]+)+", re.ASCII)


def _check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    try:
        copied: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        allowed = "text, finite numbers, true, false, null, and lists and tables of these"
        raise invalid("must hold values of JSON only", allowed=allowed) from None
    return copied


def _check_signing_key(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value().encode("utf-8", "replace")) < SHORTEST_SIGNING_KEY_BYTES:
        raise invalid(f"must be at least {SHORTEST_SIGNING_KEY_BYTES} bytes long")
    return key


def _check_prefix(text: str) -> str:
    # Dots and percent signs would let requests spell it in more ways than one.
    plain = _PLAIN_PATH.fullmatch(text) is not None and normalise_path(text.encode("ascii")) == text
    if not plain:
        allowed = "such as /.well-known/challenge: no slash at the end, no query, no percent sign"
        raise invalid("must be a plain path below /", allowed=allowed)
    return text


_SigningKey = Annotated[SecretStr, AfterValidator(_check_signing_key)]
SigningKeys = Annotated[
    Annotated[_SigningKey, Tag(SCALAR)]
    | Annotated[list[_SigningKey], Field(min_length=1, max_length=8), Tag(LIST)],
    by_shape("must be a key or a list of keys"),
    Shown("text or list of text, secret"),
]
PathTexts = Annotated[
    Annotated[PathText, Tag(SCALAR)] | Annotated[list[PathText], Field(min_length=1), Tag(LIST)],
    by_shape("must be a path pattern or a list of path patterns"),
    Shown("path pattern, or a list"),
]


class ApplyToConfig(ConfigModel):
    """Which requests a challenge applies to; the others need none."""

    section: ClassVar[str] = "apply_to"

    methods: Methods | None = Field(default=None, description="Those with these methods. Left out: all.")
    paths: PathTexts | None = Field(default=None, description="Those for these paths. Left out: all.")
    browser_navigations_only: bool = Field(
        default=False, description="Those that open a page in a browser, going by the fields of the request."
    )


class ClearanceConfig(ConfigModel):
    """How long a solved challenge counts, and where."""

    section: ClassVar[str] = "clearance"

    ttl: Duration = Field(default=1800.0, description="How long.")
    bind_to_host: bool = Field(default=True, description="For the host that it was solved on only.")
    bind_to_route: bool = Field(default=True, description="For the route that it was solved on only.")
    bind_to_ip: bool = Field(
        default=False,
        description="For the address that it was solved from only, of IPv6 the /64. Clients that change "
        "networks are challenged again.",
    )


class ChallengeConfig(SwitchableConfig):
    """A challenge: a page that browsers must solve before they get in."""

    section: ClassVar[str] = "challenge"

    provider_id: str = Field(
        default="smartproxy",
        min_length=1,
        description="Whose challenge. Others than the built-in ones are registered by the program "
        "(`SmartProxy.register_challenge_provider`); until then requests get 503.",
    )
    challenge_type: str | None = Field(
        default=None,
        min_length=1,
        description='Which of them. Required. Built in: "wait" and "proof-of-work".',
    )
    policy_ref: str = Field(default="", description="A name that means something to the provider.")
    settings: Annotated[
        dict[str, Any], AfterValidator(_check_settings), Shown("table of what the provider takes")
    ] = Field(default={}, description="The provider's own options. The place for secrets is the provider.")
    apply_to: ApplyToConfig = Field(
        default=ApplyToConfig(), description="Which requests it applies to; the others need none."
    )
    clearance: ClearanceConfig = Field(
        default=ClearanceConfig(), description="How long a solved challenge counts, and where."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.require("challenge_type")
        return self


class ChallengeSettingsConfig(ConfigModel):
    """What holds for the challenges of every route."""

    section: ClassVar[str] = "challenge_settings"

    cookie_signing_key: SigningKeys | None = Field(
        default=None,
        description="What cookies are signed with, at least 16 bytes. Of a list, of at most 8, the first "
        "signs and all are good. Left out: one is made at start, so that a restart forgets who has solved a "
        "challenge.",
    )
    pending_cookie_name: CookieName = Field(
        default="__smartproxy_challenge_pending", description="The cookie of a challenge under way."
    )
    clearance_cookie_name: CookieName = Field(
        default="__smartproxy_clearance", description="The cookie of a solved one."
    )
    reserved_path_prefix: Annotated[str, AfterValidator(_check_prefix), Shown("path")] = Field(
        default="/.well-known/smartproxy-challenge",
        description="Below it answers are submitted, on routes that have challenges.",
    )
    relay_timeout: Duration = Field(
        default=5.0, description="Time for all that a provider does for one request; then it gets 503."
    )
    pending_ttl: Duration = Field(default=300.0, description="How long a challenge may be under way.")

    @model_validator(mode="after")
    def _cookies_differ(self) -> Self:
        if self.pending_cookie_name == self.clearance_cookie_name:
            raise invalid("must differ from `pending_cookie_name`", field="clearance_cookie_name")
        return self

    def signing_keys(self) -> tuple[bytes, ...]:
        """The keys, the one that signs first; empty where one is to be made."""
        keys: list[SecretStr] = as_list(self.cookie_signing_key)
        return tuple(key.get_secret_value().encode("utf-8", "replace") for key in keys)
