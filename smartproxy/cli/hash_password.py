"""`smartproxy hash-password`."""

from __future__ import annotations

import sys
from typing import NoReturn

import click
from rich.markup import escape

from smartproxy.cli.console import err

_INVALID_PASSWORD = 2
_MAX_PASSWORD_BYTES = 1024


@click.command("hash-password")
@click.option(
    "--algorithm",
    type=click.Choice(["argon2", "bcrypt", "scrypt"]),
    default="argon2",
    show_default=True,
    help="argon2 is argon2id.",
)
@click.option(
    "--stdin", "from_stdin", is_flag=True, help="Read the password from one line of standard input."
)
def hash_password(algorithm: str, from_stdin: bool) -> None:
    """Ask for a password, and print a hash of it for `basic_auth`."""
    # Neither library is loaded for the other verbs.
    from smartproxy import passwords

    password = _read_line() if from_stdin else _ask()
    if not password:
        _refuse("the password is empty")
    if len(password) > _MAX_PASSWORD_BYTES:
        _refuse(f"the password has more than {_MAX_PASSWORD_BYTES} bytes")
    try:
        click.echo(passwords.hash_password(password, algorithm))
    except ValueError as error:
        _refuse(str(error))


def _read_line() -> bytes:
    line = sys.stdin.buffer.readline(_MAX_PASSWORD_BYTES + 3)
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _ask() -> bytes:
    if not sys.stdin.isatty():
        _refuse("standard input is not a terminal; use --stdin to read the password from it")
    first = _prompt("Password")
    if first and first != _prompt("The same again"):
        _refuse("the two passwords differ")
    # Bytes that are not text in the terminal's encoding are taken as they were typed.
    return first.encode("utf-8", "surrogateescape")


def _prompt(text: str) -> str:
    entered: str = click.prompt(text, default="", show_default=False, hide_input=True, err=True)
    return entered


def _refuse(reason: str) -> NoReturn:
    err.print(f"[red]error[/] {escape(reason)}")
    sys.exit(_INVALID_PASSWORD)
