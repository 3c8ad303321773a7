"""How many requests get in."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from smartproxy.config.explain import invalid
from smartproxy.config.models.base import ConfigModel, SwitchableConfig
from smartproxy.config.models.challenge import ChallengeConfig
from smartproxy.config.models.scalars import Count, Duration, FieldName, KeyCount
from smartproxy.config.units import DURATION_ALLOWED


def _status_as_text(value: object) -> object:
    return "429" if value == 429 and not isinstance(value, bool) else value


def _check_window(seconds: float) -> float:
    if seconds < 0.001:
        raise invalid("must be at least one millisecond", allowed=DURATION_ALLOWED)
    return seconds


class OnExceededConfig(ConfigModel):
    """What becomes of requests over the limit."""

    section: ClassVar[str] = "on_exceeded"

    type: Annotated[
        Literal["429", "challenge"],
        BeforeValidator(_status_as_text),
        WithJsonSchema({"enum": ["429", 429, "challenge"]}),
    ] = Field(
        default="429",
        description='"429": they are refused. "challenge": browsers are shown `challenge`, and requests that '
        "it does not apply to are refused.",
    )
    challenge: ChallengeConfig | None = Field(default=None, description='With "challenge": which one.')
    clearance_effect: Literal["bypass-rate-limit", "none"] = Field(
        default="bypass-rate-limit",
        description='Whether the limit is lifted for who has solved the challenge, or with "none" is not.',
    )

    @model_validator(mode="after")
    def _challenge_if_asked_for(self) -> Self:
        if self.type == "challenge":
            if self.challenge is None:
                raise invalid("is required with type `challenge`", field="challenge")
            if not self.challenge.enabled:
                raise invalid("cannot be disabled with type `challenge`", field="challenge")
            return self
        for field in ("challenge", "clearance_effect"):
            if field in self.model_fields_set and getattr(self, field) is not None:
                raise invalid('has no effect without `type = "challenge"`', field=field)
        return self


class RateLimitConfig(SwitchableConfig):
    """Never more than so many requests in any span of time, counted by route."""

    section: ClassVar[str] = "rate_limit"

    max_requests: Count | None = Field(
        default=None, description="Requests of one key that get in within `window`. Required."
    )
    window: Annotated[Duration, AfterValidator(_check_window)] | None = Field(
        default=None, description="The span of time. Required."
    )
    key_by: Literal["ip", "path", "header"] = Field(
        default="ip",
        description='What is counted apart. "ip": client addresses, an IPv6 client by its /64. "path": '
        'paths, for all clients together. "header": values of `header_name`, and addresses where it is '
        'absent. With "ip" the connections of a route that sees no HTTP are counted.',
    )
    header_name: FieldName | None = Field(default=None, description='The field, with `key_by = "header"`.')
    error_message: str = Field(default="", description="What a refused client is told.")
    on_exceeded: OnExceededConfig = Field(
        default=OnExceededConfig(), description="What becomes of requests over the limit."
    )
    max_keys: KeyCount = Field(
        default=100_000, description="Keys remembered at a time; beyond them the least telling is forgotten."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.require("max_requests", "window")
        if self.key_by == "header" and self.header_name is None and self.enabled:
            raise invalid('is required with `key_by = "header"`', field="header_name")
        if self.key_by != "header" and self.header_name is not None:
            raise invalid('has no effect without `key_by = "header"`', field="header_name")
        return self
