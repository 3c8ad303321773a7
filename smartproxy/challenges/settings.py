"""What routes may set for the built-in challenges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUILT_IN_PROVIDER_ID = "smartproxy"
"""The provider id that routes name the built-in challenges by."""

WAIT = "wait"
PROOF_OF_WORK = "proof-of-work"
CHALLENGE_TYPES = (WAIT, PROOF_OF_WORK)

LEAST_WAIT_S = 1
GREATEST_WAIT_S = 3600
LEAST_DIFFICULTY = 1
GREATEST_DIFFICULTY = 32
TITLE_LIMIT = 200
"""Characters."""
MESSAGE_LIMIT = 1000
"""Characters."""

_WORDING = ("title", "message")


@dataclass(frozen=True, slots=True)
class WaitSettings:
    """Of `wait`."""

    wait_seconds: float = 5.0
    """1 to 3600. A wait as long as the pending challenge's life could never be passed."""
    title: str = "One moment, please"
    message: str = (
        "Before the page opens, this site asks your browser to wait a little. "
        "That keeps automated traffic away."
    )


@dataclass(frozen=True, slots=True)
class ProofOfWorkSettings:
    """Of `proof-of-work`."""

    difficulty: int = 16
    """Leading zero bits, 1 to 32. Each bit doubles the work: 16 is a moment, 20 some seconds on a phone,
    and from 26 on many phones are not done before a pending challenge expires."""
    title: str = "Checking your browser"
    message: str = (
        "Before the page opens, your browser solves a small puzzle by itself. "
        "That keeps automated traffic away."
    )


def read_wait_settings(settings: Mapping[str, Any]) -> WaitSettings:
    """What a route has set, over the defaults. Raises ValueError."""
    _check_keys(settings, ("wait_seconds", *_WORDING))
    default = WaitSettings()
    return WaitSettings(
        wait_seconds=_number(settings, "wait_seconds", default.wait_seconds, LEAST_WAIT_S, GREATEST_WAIT_S),
        title=_text(settings, "title", default.title, TITLE_LIMIT),
        message=_text(settings, "message", default.message, MESSAGE_LIMIT),
    )


def read_proof_of_work_settings(settings: Mapping[str, Any]) -> ProofOfWorkSettings:
    """What a route has set, over the defaults. Raises ValueError."""
    _check_keys(settings, ("difficulty", *_WORDING))
    difficulty = settings.get("difficulty", ProofOfWorkSettings().difficulty)
    if not isinstance(difficulty, int):
        raise ValueError(f"difficulty must be a whole number of bits, not {_shown(difficulty)}")
    default = ProofOfWorkSettings()
    return ProofOfWorkSettings(
        difficulty=int(_number(settings, "difficulty", difficulty, LEAST_DIFFICULTY, GREATEST_DIFFICULTY)),
        title=_text(settings, "title", default.title, TITLE_LIMIT),
        message=_text(settings, "message", default.message, MESSAGE_LIMIT),
    )


def check_settings(challenge_type: str, settings: Mapping[str, Any]) -> None:
    """Whether a route may ask for this. Raises ValueError, whose text says what is wrong.

    For an unknown challenge type, an unknown setting, a value of the wrong type or out of range.
    """
    if challenge_type == WAIT:
        read_wait_settings(settings)
    elif challenge_type == PROOF_OF_WORK:
        read_proof_of_work_settings(settings)
    else:
        raise unknown_type(challenge_type)


def unknown_type(challenge_type: str) -> ValueError:
    """The error that names the challenge types that there are."""
    return ValueError(
        f"unknown challenge type {_shown(challenge_type)}; built in are: {', '.join(CHALLENGE_TYPES)}"
    )


def _check_keys(settings: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in settings:
        if key not in known:
            raise ValueError(f"unknown setting {_shown(key)}; known are: {', '.join(known)}")


def _number(settings: Mapping[str, Any], key: str, default: float, least: int, greatest: int) -> float:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} must be a number, not {_shown(value)}")
    if not least <= value <= greatest:
        raise ValueError(f"{key} must be between {least} and {greatest}, not {_shown(value)}")
    return value


def _text(settings: Mapping[str, Any], key: str, default: str, limit: int) -> str:
    value = settings.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text, not {_shown(value)}")
    if not value.strip():
        raise ValueError(f"{key} must not be blank; leave it out for the default")
    if len(value) > limit:
        raise ValueError(f"{key} must have at most {limit} characters, not {len(value)}")
    return value


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:  # An int beyond sys.get_int_max_str_digits.
        return "a huge number"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
