"""A value that did not stand in the configuration file itself."""

from __future__ import annotations

from typing import Any


class Referenced(str):
    """What an environment or file reference stood for; `written` is the reference.

    Models and errors show `written` and never the text itself. References in it
    are not looked for again.
    """

    __slots__ = ("written",)

    written: str

    @classmethod
    def of(cls, written: str, text: str) -> Referenced:
        """The value `text` of the reference `written`."""
        referenced = cls(text)
        referenced.written = written
        return referenced

    def __deepcopy__(self, memo: dict[int, Any]) -> Referenced:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Referenced.of, (self.written, str(self))


def holds_reference(value: object) -> bool:
    """Whether `value` is or contains a `Referenced`."""
    if type(value) is Referenced:
        return True
    if isinstance(value, dict):
        return any(holds_reference(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(holds_reference(item) for item in value)
    return False


def as_referenced(value: object, raw: object) -> Any:
    """`value`, with each text in it that `raw` took from a reference marked as `Referenced` again."""
    if type(raw) is Referenced:
        return Referenced.of(raw.written, value) if isinstance(value, str) else raw
    if not holds_reference(raw):
        return value
    if isinstance(raw, dict) and isinstance(value, dict):
        return {key: as_referenced(item, raw.get(key)) for key, item in value.items()}
    if isinstance(raw, (list, tuple)) and isinstance(value, (list, tuple)) and len(raw) == len(value):
        return [as_referenced(item, raw_item) for item, raw_item in zip(value, raw, strict=True)]
    return value


def as_written(value: object, raw: object) -> Any:
    """`value`, with each part that `raw` took from a reference replaced by the reference's text.

    `raw` is what the validated or dumped `value` was made from.
    """
    if type(raw) is Referenced:
        return raw.written
    if not holds_reference(raw):
        return value
    if isinstance(raw, dict):
        if not isinstance(value, dict):
            # A model that was made from `raw` hides its own references.
            return value
        return {key: as_written(item, raw.get(key)) for key, item in value.items()}
    assert isinstance(raw, (list, tuple))
    if isinstance(value, (list, tuple)) and len(raw) == len(value):
        return [as_written(item, raw_item) for item, raw_item in zip(value, raw, strict=True)]
    return [item.written for item in raw if type(item) is Referenced]
