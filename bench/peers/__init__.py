"""The proxies that are measured: one module each, which writes a configuration and names a command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from bench.gates import CASES, Case, Check

SERVER_NAME = "bench.example"
IDLE_TIMEOUT_S = 300
MAX_CONNECTIONS = 6000
POOLED_CONNECTIONS = 256


class Front(Enum):
    """What the proxy listens for, and so which of its parts is measured."""

    HTTP = "http"
    """HTTP/1.1 to an HTTP/1.1 backend over kept-alive connections."""
    HTTPS = "https"
    """TLS 1.3 terminated, then as HTTP."""
    HTTP2 = "http2"
    """HTTP/2 over TLS 1.3, to the backend as HTTP."""
    HTTP3 = "http3"
    """HTTP/3 on the UDP port of the same number as a TCP port for HTTPS, to the backend as HTTP."""
    WEBSOCKET = "websocket"
    """HTTP/1.1, and its upgrade to WebSocket handed on to the backend."""
    GATED = "gated"
    """As HTTP, on a port for each of the cases of `bench.gates`, which say what is checked first."""
    TCP = "tcp"
    """A connection handed on as it is."""
    PASSTHROUGH = "passthrough"
    """A TLS connection routed by its SNI and handed on as it is."""

    @property
    def is_http(self) -> bool:
        """Requests are read, not bytes handed on."""
        return self not in (Front.TCP, Front.PASSTHROUGH)

    @property
    def is_tls_terminated(self) -> bool:
        return self in (Front.HTTPS, Front.HTTP2, Front.HTTP3)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one proxy process is to do; it listens and connects on 127.0.0.1 only."""

    front: Front
    listen_port: int
    backend_port: int
    certificate: Path
    """PEM, ECDSA P-256, for SERVER_NAME."""
    key: Path
    directory: Path
    """The process's own, for its configuration and whatever it writes."""
    case_ports: Mapping[str, int] = field(default_factory=dict)
    """For `Front.GATED`: a port for each case, by its name. One of them is `listen_port`."""

    def cases(self) -> list[tuple[Case, int]]:
        """Each case with its port."""
        return [(case, self.case_ports[case.name]) for case in CASES if case.name in self.case_ports]


class PeerMissing(Exception):
    """The proxy is not installed; says how to get it."""


class Peer(Protocol):
    """A proxy that can be measured, with one worker, no access log and pooled backend connections."""

    name: str
    fronts: frozenset[Front]
    checks: frozenset[Check]
    """What it can check, of what `Front.GATED` may ask for."""

    def version(self) -> str:
        """Its version; PeerMissing when it is not installed."""

    def command(self, assignment: Assignment) -> list[str]:
        """Write the configuration into the assignment's directory; return the command that serves it
        in the foreground."""

    def environment(self, assignment: Assignment) -> dict[str, str]:
        """What to add to the process's environment."""


def find_program(name: str, how_to_get_it: str) -> str:
    """A program beside this interpreter, on PATH or in a servers' directory; PeerMissing otherwise."""
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    )
    found = shutil.which(name, path=path)
    if found is None:
        raise PeerMissing(f"{name} is not installed; to get it: {how_to_get_it}")
    return found


def version_in(command: list[str]) -> str:
    """The first dotted number that a command prints."""
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    # The program's path may hold a version of something else.
    found = re.search(r"\d+\.\d+(?:\.\d+)*", (result.stdout + result.stderr).replace(command[0], ""))
    if found is None:
        raise PeerMissing(f"{command[0]} printed no version")
    return found.group()
