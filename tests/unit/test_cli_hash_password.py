"""`smartproxy hash-password`."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from smartproxy.cli import main
from smartproxy.passwords import ALGORITHMS, check_hash, verify_hash


def hash_password(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["hash-password", *arguments], input=stdin)


def at_a_terminal(*typed: bytes) -> tuple[int, str, bytes]:
    """Exit code, standard output and what is seen on the terminal, where `typed` answers the prompts."""
    terminal, end_of_command = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "smartproxy.cli", "hash-password", "--algorithm", "scrypt"],
        stdin=end_of_command,
        stdout=subprocess.PIPE,
        stderr=end_of_command,
        start_new_session=True,
    )
    os.close(end_of_command)
    seen = b""
    for line in typed:
        already = len(seen)
        # The space comes when the terminal no longer shows what is typed.
        while b": " not in seen[already:]:
            seen += os.read(terminal, 1024)
        os.write(terminal, line + b"\n")
    output, _ = command.communicate(timeout=60)
    try:
        while chunk := os.read(terminal, 1024):
            seen += chunk
    except OSError:
        # How Linux says that nobody has the other end any more.
        os.close(terminal)
    return command.returncode, output.decode(), seen


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_the_hash_is_printed(algorithm: str) -> None:
    result = hash_password("--stdin", "--algorithm", algorithm, stdin=b"secret\n")
    assert result.exit_code == 0
    assert result.stderr == ""
    line = result.stdout.removesuffix("\n")
    check_hash(line)
    assert line.startswith("$2b$" if algorithm == "bcrypt" else f"${algorithm}")
    assert verify_hash(line, b"secret")


@pytest.mark.parametrize("line", [b"secret", b"secret\n", b"secret\r\n", b"secret\nmore\n"])
def test_one_line_is_read(line: bytes) -> None:
    result = hash_password("--stdin", stdin=line)
    assert result.stdout.startswith("$argon2id$")
    assert verify_hash(result.stdout.strip(), b"secret")


def test_a_password_is_bytes() -> None:
    password = "pässword ".encode() + b"\xff"
    assert verify_hash(hash_password("--stdin", stdin=password + b"\n").stdout.strip(), password)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "the password is empty"),
        (b"\n", "the password is empty"),
        (b"a\tb\n", "control character"),
        (b"x" * 73 + b"\n", "first 72 bytes of a password only, and this one has 73"),
        (b"x" * 1025 + b"\n", "more than 1024 bytes"),
        (b"x" * 100_000, "more than 1024 bytes"),
    ],
)
def test_passwords_are_refused_with_the_reason(line: bytes, reason: str) -> None:
    result = hash_password("--stdin", "--algorithm", "bcrypt", stdin=line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert reason in result.stderr


def test_without_a_terminal_nothing_is_asked() -> None:
    result = hash_password(stdin=b"secret\nsecret\n")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "use --stdin" in result.stderr


def test_an_unknown_algorithm_is_refused() -> None:
    assert hash_password("--stdin", "--algorithm", "md5", stdin=b"secret\n").exit_code == 2


def test_a_terminal_is_asked_twice_and_shows_nothing() -> None:
    exit_code, output, seen = at_a_terminal(b"s3cr3t", b"s3cr3t")
    assert exit_code == 0
    assert verify_hash(output.strip(), b"s3cr3t")
    assert output.count("\n") == 1
    assert b"Password: " in seen
    assert b"s3cr3t" not in seen


def test_passwords_that_differ_are_refused() -> None:
    exit_code, output, seen = at_a_terminal(b"s3cr3t", b"secret")
    assert exit_code == 2
    assert output == ""
    assert b"the two passwords differ" in seen


def test_an_empty_password_is_asked_for_once() -> None:
    exit_code, output, seen = at_a_terminal(b"")
    assert exit_code == 2
    assert output == ""
    assert b"the password is empty" in seen
