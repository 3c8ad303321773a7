"""Log and metric events as data. The engine appends them; whoever drives it decides what they become."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Level(IntEnum):
    """Severity, numbered as in the standard library's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(slots=True)
class Record:
    """Something worth telling an operator.

    `area` is the part that speaks (`connection`, `http`, `upstream`, `tls`,
    `config`, `engine`) and becomes the logger `smartproxy.<area>`. `event` is a
    stable snake_case name in the past tense or a state; `fields` are its facts,
    with units in their names.
    """

    area: str
    event: str
    level: Level = Level.INFO
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class AccessRecord:
    """One finished HTTP exchange or raw connection, for the access log."""

    client_ip: str
    client_port: int
    protocol: str
    route: str
    duration_s: float
    bytes_received: int
    bytes_sent: int
    method: str = ""
    scheme: str = ""
    authority: str = ""
    target: str = ""
    status: int = 0
    backend: str = ""
    backend_protocol: str = ""
    tls_version: str = ""
    request_id: str = ""
    close_code: int = 0
    """A WebSocket's (RFC 6455 §7.4), where an option had its frames opened; 0 for none."""
    failure: str = ""
    failure_detail: str = ""
    user_agent: str = ""
    referer: str = ""
