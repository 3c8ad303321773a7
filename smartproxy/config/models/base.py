"""What every configuration model shares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from smartproxy.config.explain import explain
from smartproxy.config.problems import ConfigError, shown
from smartproxy.config.referenced import as_referenced, as_written, holds_reference

REVEAL = {"reveal": True}
"""Serialisation context in which referenced values keep their text; for making models from models."""


class ConfigModel(BaseModel):
    """A frozen table of options that refuses unknown keys.

    Values that came through an environment or file reference are shown as the
    reference in `repr` and dumps, so a dump can be loaded again and gives nothing away.
    `model_validate` raises ConfigError; the constructor raises pydantic's own error.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    section: ClassVar[str] = ""
    """The name under which `planned` knows this model's keys."""
    tag: ClassVar[str] = ""
    """The union tag that selects this model among others that may stand in its place."""

    _referenced: dict[str, Any] = PrivateAttr(default_factory=dict)
    """By field name: the raw value, where it holds references."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """A model of a mapping. Raises ConfigError with every mistake in it."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, obj)) from None

    @classmethod
    def validated(cls, data: Any, context: dict[str, Any]) -> Self:
        """A model of a mapping. `context["base_dir"]` is what file names are relative to.

        `context["has_references"]` is false where `data` is known to hold none, which saves looking.
        Raises pydantic's ValidationError, for `explain`.
        """
        return super().model_validate(data, context=context)

    @model_validator(mode="wrap")
    @classmethod
    def _remember_references(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        model = handler(data)
        if info.context is not None and info.context.get("has_references") is False:
            return model
        if isinstance(data, dict) and holds_reference(data):
            for name, field in cls.model_fields.items():
                alias = field.validation_alias
                raw = data.get(alias) if isinstance(alias, str) and alias in data else data.get(name)
                if holds_reference(raw):
                    model._referenced[name] = raw
        return model

    @model_serializer(mode="wrap")
    def _show_references(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        revealing = bool(info.context and info.context.get("reveal"))
        for name, raw in self._referenced.items():
            alias = type(self).model_fields[name].serialization_alias
            key = alias if info.by_alias and alias is not None else name
            if key in dumped:
                show = as_referenced if revealing else as_written
                dumped[key] = show(dumped[key], raw)
        return dumped

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            raw = self._referenced.get(name) if name is not None else None
            yield name, value if raw is None else as_written(value, raw)

    def hides(self, field: str) -> bool:
        """Whether `field` came through a reference, so that messages must not show it."""
        return field in self._referenced

    def shown(self, field: str) -> str:
        """The value of `field` for a message; empty when it came through a reference."""
        return "" if self.hides(field) else shown(getattr(self, field))

    def plain(self) -> dict[str, Any]:
        """What was set, as a mapping that validates to the same model: secrets and references intact."""
        return self.model_dump(exclude_unset=True, by_alias=True, context=REVEAL)


class SwitchableConfig(ConfigModel):
    """A rule that a route may have, and that it may be without although `defaults` has it."""

    enabled: bool = Field(
        default=True, description="With `false` there is no such rule, not that of `defaults` either."
    )

    def require(self, *fields: str) -> None:
        """For validators: each of `fields` must be given, unless the rule is switched off."""
        missing = [
            InitErrorDetails(type="missing", loc=(field,), input=None)
            for field in fields
            if self.enabled and getattr(self, field) is None
        ]
        if missing:
            raise ValidationError.from_exception_data(type(self).__name__, missing)


SwitchableT = TypeVar("SwitchableT", bound=SwitchableConfig)


def in_force(own: SwitchableT | None, default: SwitchableT | None) -> SwitchableT | None:
    """The rule that holds for a route: its own, else that of `defaults`; None where there is none."""
    chosen = default if own is None else own
    return chosen if chosen is not None and chosen.enabled else None
