"""What every verb shares: where it prints, and how it says what is wrong."""

from __future__ import annotations

import sys
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from smartproxy.config import ConfigError, LoadedConfig, Problem, load_config

INVALID_CONFIG = 1
CANNOT_START = 3
NO_ROUTE = 4

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show_problem(problem: Problem, *, warning: bool = False) -> None:
    """One problem, on standard error."""
    kind = "[yellow]warning[/]" if warning else "[red]error[/]"
    err.print(f"{kind} {escape(str(problem))}")


def load_or_exit(path: str) -> LoadedConfig:
    """The configuration in a file; every mistake in it is printed, and the process ends with 1."""
    try:
        return load_config(path)
    except ConfigError as error:
        exit_invalid(path, error)
    except OSError as error:
        err.print(f"[red]error[/] {escape(path)}: {error.strerror or error}")
        sys.exit(CANNOT_START)


def exit_invalid(path: str, error: ConfigError) -> NoReturn:
    for problem in error.problems:
        show_problem(problem)
    count = len(error.problems)
    err.print(f"{escape(path)} has {count} mistake{'s' if count != 1 else ''}.")
    sys.exit(INVALID_CONFIG)
