"""The core is pure: checked in the source, in what its modules hold, and by running it without a machine."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import smartproxy.core

CORE = Path(smartproxy.core.__file__).parent
SOURCES = sorted(CORE.rglob("*.py"))
ROOT = CORE.parents[1]

PURE_MODULES = {
    # The language and its data structures.
    "__future__", "abc", "array", "bisect", "collections", "collections.abc", "contextlib", "copy",
    "dataclasses", "enum", "functools", "heapq", "itertools", "math", "operator", "types", "typing",
    "weakref",
    # Text, numbers and formats.
    "base64", "binascii", "fnmatch", "html", "http", "ipaddress", "json", "re", "string", "struct",
    "textwrap", "traceback", "unicodedata", "urllib.parse", "zlib",
    # Cryptography on bytes in memory. `ssl` is bound further by IMPURE_ATTRIBUTES.
    "hashlib", "hmac", "ssl",
}  # fmt: skip

PURE_PACKAGES = {
    "aioquic",
    "cryptography",
    "h11",
    "h2",
    "hpack",
    "hyperframe",
    "idna",
    "jh2",
    "jwt",
    "pylsqpack",
    "qh3",
    "re2",
}

IMPURE_ATTRIBUTES = {
    # What `ssl` does beyond bytes in memory.
    "RAND_bytes", "create_connection", "create_default_context", "get_server_certificate",
    "get_default_verify_paths", "load_cert_chain", "load_default_certs", "load_verify_locations",
    "set_default_verify_paths", "wrap_socket",
}  # fmt: skip

IMPURE_BUILTINS = {"open", "print", "input", "breakpoint", "__import__", "eval", "exec"}

MACHINE_MODULES = {
    "_io", "_random", "_socket", "_thread", "asyncio", "concurrent", "datetime", "io", "logging",
    "multiprocessing", "os", "pathlib", "posix", "random", "secrets", "select", "selectors", "signal",
    "socket", "subprocess", "tempfile", "threading", "time", "trio", "uuid",
}  # fmt: skip

DEPENDENCIES = """
# They may use the machine while they are imported; the core may not.
import base64, binascii, collections.abc, contextlib, dataclasses, enum, functools, hashlib, heapq, hmac
import html, http, importlib, ipaddress, itertools, json, math, re, ssl, string, struct, sys, traceback
import typing, urllib.parse, zlib, cryptography.x509, h11, idna, jwt, re2
import aioquic.quic.connection, h2.connection, hyperframe.frame, jh2.connection, pylsqpack
import qh3.quic.connection
import asyncio, builtins, os, random, select, socket, threading, time
"""

POISON = """
class Touched(BaseException):
    pass

def poison(owner, name):
    def touched(*args, **kwargs):
        raise Touched(f"{getattr(owner, '__name__', owner)}.{name}")
    setattr(owner, name, touched)

for owner, names in {
    time: "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns sleep process_time",
    os: "urandom getrandom open read write pipe fork getpid getenv system",
    random: "random randint randrange choice choices shuffle getrandbits Random SystemRandom",
    socket: "socket create_connection getaddrinfo gethostbyname socketpair",
    select: "select poll epoll",
    threading: "Thread Lock RLock Event Condition Timer",
    asyncio: "get_event_loop get_running_loop new_event_loop create_task run sleep",
    builtins: "open print input",
}.items():
    for name in names.split():
        poison(owner, name)
"""

COMPILE = """
from smartproxy.config import compile_configuration, parse_config
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.ops import Opened
compiled = compile_configuration(parse_config({"routes": [{
    "match": {"ports": 80, "domains": "app.example.com"},
    "action": {"type": "forward", "targets": [{"host": "10.0.0.1", "port": 8080}]},
    "headers": {"request": {"X-Request-Id": "{requestId}", "X-When": "{timestamp}"}},
}]}))
"""

EXCHANGE = """
engine = Engine(compiled.configuration, Env(entropy=bytes, wall_clock=lambda: 0.0))

def drain():
    for link in engine.poll_dirty_links():
        written[link.peer[0]] = written.get(link.peer[0], b"") + link.pull()
    engine.poll_records()
    return engine.poll_operations()

written = {}
client = engine.handle_accepted(80, ("198.51.100.7", 50211), ("203.0.113.9", 80), 0.0)
engine.handle_data(client, b"GET / HTTP/1.1\\r\\nHost: app.example.com\\r\\n\\r\\n", 0.1)
[connect] = drain()
engine.handle_result(connect.id, Opened(("203.0.113.9", 40000)), 0.2)
drain()
engine.handle_data(connect.link, b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi", 0.3)
drain()
engine.handle_data(client, b"GET / HTTP/1.1\\r\\nHost: other.example.com\\r\\n\\r\\n", 0.4)
drain()
engine.handle_data(client, b"nonsense\\r\\n\\r\\n", 0.5)
drain()
while engine.poll_timeout() < math.inf:
    engine.handle_timeout(engine.poll_timeout())
    drain()
assert b"GET / HTTP/1.1" in written["10.0.0.1"]
assert b"x-request-id: " in written["10.0.0.1"].lower()
statuses = re.findall(rb"HTTP/1.1 ([0-9]+)", written["198.51.100.7"])
assert statuses == [b"200", b"404", b"400"], statuses
assert engine.connection_count == 0
"""


def run_without_a_machine(
    body: str, *, before: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `body` where clocks, sockets, files, threads and randomness raise; `before`, while they work."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join([DEPENDENCIES, before, POISON, body])],
        cwd=cwd or ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield node.module or ""


def is_pure(module: str) -> bool:
    return (
        module in PURE_MODULES
        or module.partition(".")[0] in PURE_PACKAGES
        or module.startswith("smartproxy.core")
    )


def test_the_core_imports_only_what_is_pure() -> None:
    assert not [
        f"{place(path)}: {module}"
        for path in SOURCES
        for module in imported_modules(ast.parse(path.read_text()))
        if not is_pure(module)
    ]


def impure_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in IMPURE_ATTRIBUTES:
            yield f"{node.lineno}: .{node.attr}"
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS
        ):
            yield f"{node.lineno}: {node.func.id}()"


def test_the_core_calls_nothing_that_reaches_the_machine() -> None:
    assert not [
        f"{place(path)}:{call}" for path in SOURCES for call in impure_calls(ast.parse(path.read_text()))
    ]


def module_name(path: Path) -> str:
    return place(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULE_NAMES = [module_name(path) for path in SOURCES]


def test_there_is_a_core_to_check() -> None:
    assert {"smartproxy.core", "smartproxy.core.stream", "smartproxy.core.wire.tls"} <= set(MODULE_NAMES)


def test_no_core_module_holds_a_piece_of_the_machine() -> None:
    held = []
    for module in map(importlib.import_module, MODULE_NAMES):
        for name, value in vars(module).items():
            if name.startswith("__"):
                continue
            origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(origin, str) and origin.partition(".")[0] in MACHINE_MODULES:
                held.append(f"{module.__name__}.{name} is {value!r}")
    assert not held


def test_the_core_is_imported_without_a_machine() -> None:
    result = run_without_a_machine(f"for name in {MODULE_NAMES!r}: importlib.import_module(name)")
    assert result.returncode == 0, result.stderr


def test_an_exchange_is_proxied_without_a_machine() -> None:
    result = run_without_a_machine(EXCHANGE, before=COMPILE)
    assert result.returncode == 0, result.stderr


def test_a_touched_machine_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "impure.py").write_text("from time import monotonic\nSTARTED = monotonic()\n")
    result = run_without_a_machine("importlib.import_module('impure')", cwd=tmp_path)
    assert result.returncode == 1
    assert "Touched: time.monotonic" in result.stderr
