"""`make run`: every line it prints works when pasted."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def printed_lines(real_program: Callable[[str], str]) -> Iterator[list[str]]:
    real_program("curl")
    process = subprocess.Popen(
        [sys.executable, "examples/quickstart.py"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if "Ctrl-C" in line:
            break
    yield lines
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(30) == 0


def test_the_printed_lines_work(printed_lines: list[str]) -> None:
    curls = [line for line in printed_lines if line.startswith("curl")]
    assert len(curls) == 5

    def paste(line: str) -> str:
        # The environment may be another one than make's.
        line = line.replace(".venv/bin/smartproxy", f"{sys.executable} -m smartproxy")
        return subprocess.run(
            ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=30
        ).stdout

    pair, redirect, secure, passthrough, nothing = curls
    assert sorted(paste(pair).split(".")[0] for _ in range(2)) == [
        "Hello from backend one",
        "Hello from backend two",
    ]
    answer = paste(redirect)
    assert "301 Moved Permanently" in answer
    assert "location: https://secure.localhost:8443/secure/page" in answer
    answer = paste(secure)
    assert answer.startswith("HTTP/2 200")
    assert 'alt-svc: h3=":8443"; ma=86400' in answer
    assert "Hello from backend one" in answer or "Hello from backend two" in answer
    assert "x-forwarded-proto: https" in answer
    assert "Hello from backend three (its own TLS)" in paste(passthrough)
    assert "No route matches GET /nothing" in paste(nothing)
    (explain,) = [line for line in printed_lines if "smartproxy route" in line]
    answer = paste(explain)
    assert "to-https" in answer
    assert "pair" in answer
