"""From pydantic's errors to problems: one plain line per mistake."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from smartproxy.config import planned
from smartproxy.config.problems import Problem, place_text, shown
from smartproxy.config.referenced import Referenced

INVALID = "invalid_value"
"""The type of the errors that our own validators raise."""

IS_REQUIRED = "is required"

_TAGS: set[str] = set()

_TYPE_MESSAGES = {
    "bool": "must be true or false",
    "dict": "must be a table",
    "float": "must be a number",
    "int": "must be a whole number",
    "list": "must be a list",
    "mapping": "must be a table",
    "model": "must be a table",
    "string": "must be text",
}
_BOUNDS = {
    "greater_than": ("ge", "must be more than {gt}"),
    "greater_than_equal": ("ge", "must be at least {ge}"),
    "less_than": ("lt", "must be less than {lt}"),
    "less_than_equal": ("le", "must be at most {le}"),
    "too_short": ("", "must not be empty"),
    "too_long": ("", "must have at most {max_length} entries"),
    "string_too_short": ("", "must not be empty"),
    "string_too_long": ("", "must be at most {max_length} characters long"),
    "finite_number": ("", "must be a finite number"),
}


def tag_of(name: str) -> str:
    """The union tag `name`, marked so that it is not taken for a key in the location of an error."""
    tag = f"<{name}>"
    _TAGS.add(tag)
    return tag


def invalid(message: str, *, allowed: str = "", detail: str = "", field: str = "") -> PydanticCustomError:
    """The error for a validator to raise.

    `message` must not quote the value. `detail` may, and is dropped where the value
    must not be seen. `field` names the key of the table at fault.
    """
    context = {"message": message, "allowed": allowed, "detail": detail, "field": field}
    return PydanticCustomError(INVALID, "{message}", context)


def explain(
    error: ValidationError, model: type[BaseModel], data: object, place: Sequence[str | int] = ()
) -> list[Problem]:
    """Every mistake that `error` tells of `data`, which was to become a `model`.

    `place` is where `data` stands in the configuration.
    """
    problems: dict[tuple[str, str], Problem] = {}
    for details in error.errors(include_url=False):
        problem = _problem(details, model, data, tuple(place))
        problems.setdefault((problem.place, problem.message), problem)
    return list(problems.values())


def _problem(
    details: ErrorDetails, model: type[BaseModel], data: object, place: tuple[str | int, ...]
) -> Problem:
    kind = details["type"]
    context: dict[str, Any] = details.get("ctx", {})
    steps, value = _follow(details["loc"], data)
    key = str(steps[-1]) if steps else ""
    if details["loc"][-1:] == ("[key]",):
        value = key
    if kind == INVALID and context["field"] and isinstance(value, (dict, BaseModel)):
        key = context["field"]
        steps = (*steps, key)
        value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        location: tuple[str | int, ...] = (*details["loc"], key)
    else:
        location = details["loc"]
    owners = _owners(model, location)
    where = place_text((*place, *steps))

    if kind == "missing":
        return Problem(where, IS_REQUIRED)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown_key(where, key, owners)
    refused = _planned_value(owners, key, value)
    if refused:
        return Problem(where, refused)

    hidden = (
        isinstance(value, Referenced)
        or isinstance(details["input"], Referenced)
        or _is_secret(model, location)
    )
    given = "" if hidden else shown(value)
    if kind == INVALID and context["field"] and key != context["field"]:
        return Problem(where, "must be a table", given)
    if kind == INVALID:
        message = context["message"]
        if message.startswith(IS_REQUIRED):
            given = ""
        if context["detail"] and not hidden:
            message += f" ({context['detail']})"
        return Problem(where, message, given, context["allowed"])
    if kind in ("literal_error", "enum"):
        return _unknown_choice(where, given, value, owners, key)
    return Problem(where, _message(kind, context, details["msg"], hidden), given)


def _message(kind: str, context: Mapping[str, Any], pydantic_message: str, hidden: bool) -> str:
    if kind in _BOUNDS:
        return _BOUNDS[kind][1].format(**context)
    if kind == "int_from_float":
        return _TYPE_MESSAGES["int"]
    if kind == "invalid_key":
        return "keys must be text"
    for suffix in ("_type", "_parsing", "_attributes_type", "_parsing_size"):
        message = _TYPE_MESSAGES.get(kind.removesuffix(suffix))
        if message is not None:
            return message
    return "is not valid" if hidden else pydantic_message[:1].lower() + pydantic_message[1:]


def _unknown_key(where: str, key: str, owners: Sequence[type[BaseModel]]) -> Problem:
    for owner in owners:
        if key in planned.KEYS.get(getattr(owner, "section", ""), ()):
            return Problem(where, f"`{key}` is not available in this version of smartproxy")
    known = sorted({known_key for owner in owners for known_key in _fields(owner)})
    close = get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return Problem(where, "unknown key", suggestion=close[0])
    return Problem(where, "unknown key", allowed=", ".join(known))


def _planned_value(owners: Sequence[type[BaseModel]], key: str, value: object) -> str:
    for owner in owners:
        section = getattr(owner, "section", "")
        if isinstance(value, str) and value in planned.VALUES.get((section, key), ()):
            given = "this value" if isinstance(value, Referenced) else f'`{key} = "{value}"`'
            return f"{given} is not available in this version of smartproxy"
        if (section, key) in planned.FUNCTIONS and callable(value):
            return f"a function as `{key}` is not available in this version of smartproxy"
    return ""


def _unknown_choice(
    where: str, given: str, value: object, owners: Sequence[type[BaseModel]], key: str
) -> Problem:
    choices: dict[object, None] = {}
    for owner in owners:
        annotation = _fields(owner).get(key)
        if annotation is not None:
            choices.update(dict.fromkeys(_literals(annotation)))
    allowed = ", ".join(shown(choice) for choice in choices)
    names = [choice for choice in choices if isinstance(choice, str)]
    close = get_close_matches(value, names, n=1, cutoff=0.6) if given and isinstance(value, str) else []
    return Problem(where, "must be one of the allowed values", given, allowed, close[0] if close else "")


def _follow(location: Iterable[str | int], data: object) -> tuple[tuple[str | int, ...], object]:
    """The keys and list positions of a pydantic location, without union tags, and what stands there."""
    steps: list[str | int] = []
    value = data
    for step in location:
        if isinstance(step, int):
            # One entry that may stand without its list has no position.
            if isinstance(value, (list, tuple)):
                value = value[step] if step < len(value) else None
                steps.append(step)
        elif step == "[key]" or step in _TAGS:
            continue
        else:
            value = value.get(step) if isinstance(value, dict) else getattr(value, step, None)
            steps.append(step)
    return tuple(steps), value


def _owners(model: type[BaseModel], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models one of whose keys the last key of `location` is, or would be."""
    keys = [step for step in location if isinstance(step, str)]
    while keys and keys[-1] in _TAGS:
        keys.pop()
    owners: list[type[BaseModel]] = [model]
    for step in keys[:-1]:
        if step in _TAGS:
            tagged = [owner for owner in owners if getattr(owner, "tag", "") == step]
            owners = tagged or owners
        else:
            owners = [inner for owner in owners for inner in _models(_fields(owner).get(step))]
    return owners


@cache
def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Annotations by the key that a file uses."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        alias = info.validation_alias
        fields[alias if isinstance(alias, str) else name] = info.annotation
    return fields


def _models(annotation: object) -> list[type[BaseModel]]:
    return [leaf for leaf in _leaves(annotation) if isinstance(leaf, type) and issubclass(leaf, BaseModel)]


def _is_secret(model: type[BaseModel], location: Sequence[str | int]) -> bool:
    """Whether what stands at `location` is a secret, belongs to one, or is in place of a table with one."""
    owners: list[type[BaseModel]] = [model]
    for step in location:
        if not isinstance(step, str):
            continue
        if step in _TAGS:
            owners = [owner for owner in owners if getattr(owner, "tag", "") == step] or owners
            continue
        leaves = [leaf for owner in owners for leaf in _leaves(_fields(owner).get(step))]
        if SecretStr in leaves:
            return True
        owners = [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, BaseModel)]
    return any(_has_secret(owner) for owner in owners)


@cache
def _has_secret(model: type[BaseModel]) -> bool:
    return any(SecretStr in _leaves(annotation) for annotation in _fields(model).values())


def _leaves(annotation: object) -> list[object]:
    origin = get_origin(annotation)
    if origin is None or origin is Literal or origin is Callable:
        return [] if annotation is None or isinstance(annotation, types.NoneType) else [annotation]
    arguments = get_args(annotation)[:1] if origin is Annotated else get_args(annotation)
    return [leaf for argument in arguments for leaf in _leaves(argument)]


def _literals(annotation: object) -> list[object]:
    return [
        choice for leaf in _leaves(annotation) if get_origin(leaf) is Literal for choice in get_args(leaf)
    ]
