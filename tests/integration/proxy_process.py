"""`smartproxy run` whose log is JSON lines, read as they come."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from real_peers import Certificate

Record = dict[str, Any]

BACKEND_NAME = "backend.example.com"


def forward_route(
    name: str,
    listen: int,
    target: int,
    certificate: Certificate | None,
    *,
    domain: str = "",
    backend_ca: Path | None = None,
    backend_protocol: str = "auto",
    http3: bool = False,
    **action: Any,
) -> Record:
    """A route for `domain` (default: NAME.example.com), `certificate` (None: cleartext) in front.

    `backend_ca` vouches for backend.example.com, who is behind it; None: cleartext.
    """
    tls: Record = {}
    if certificate is not None:
        tls["mode"] = "terminate"
        tls["certificate"] = {"cert_file": str(certificate.cert_file), "key_file": str(certificate.key_file)}
    target_tls: Record = {"mode": "terminate"}
    if backend_ca is not None:
        target_tls = {"ca": str(backend_ca), "server_name": BACKEND_NAME}
        if certificate is not None:
            tls["mode"] = "terminate-and-reencrypt"
    return {
        "name": name,
        "match": {
            "ports": listen,
            "transport": "all" if http3 else "tcp",
            "domains": [domain or f"{name}.example.com"],
        },
        "action": {
            "type": "forward",
            "targets": [{"host": "127.0.0.1", "port": target, "tls": target_tls}],
            "options": {"backend_protocol": backend_protocol},
            **({"tls": tls} if tls else {}),
            **({"udp": {"quic": {"enable_http3": True}}} if http3 else {}),
            **action,
        },
    }


class ProxyProcess:
    """Serves `routes` on 127.0.0.1 once it is entered; `records` grows with every line that it logs.

    On leaving, it must end well, and never have had an internal error.
    """

    def __init__(self, folder: Path, routes: Sequence[Record], **options: Any) -> None:
        folder.mkdir()
        config = folder / "smartproxy.json"
        logging = {"format": "json", "level": "debug"}
        config.write_text(
            json.dumps({"listen": ["127.0.0.1"], "logging": logging, **options, "routes": routes}, indent=1)
        )
        self.records: list[Record] = []
        self._not_json: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "smartproxy", "run", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                try:
                    self.records.append(json.loads(line))
                except ValueError:
                    self._not_json.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def mark(self) -> int:
        """How many records there are, to look only at those that follow."""
        return len(self.records)

    def records_of(self, event: str, *, since: int = 0, **facts: object) -> list[Record]:
        """The records of `event` that have these facts, those before the mark `since` left out."""
        with self._changed:
            return [
                record
                for record in self.records[since:]
                if record["event"] == event
                and all(record.get(name) == value for name, value in facts.items())
            ]

    def wait_for(self, event: str, *, since: int = 0, timeout_s: float = 20.0, **facts: object) -> Record:
        """The first such record after `since`, once there is one; TimeoutError says what there was."""

        def is_there_or_never_will() -> bool:
            return bool(self.records_of(event, since=since, **facts)) or not self._reader.is_alive()

        with self._changed:
            self._changed.wait_for(is_there_or_never_will, timeout_s)
        found = self.records_of(event, since=since, **facts)
        if not found:
            raise TimeoutError(f"no {event} {facts} in {timeout_s} s; there was\n{self.log(since)}")
        return found[0]

    def log(self, since: int = 0) -> str:
        with self._changed:
            return "\n".join([*map(json.dumps, self.records[since:]), *self._not_json])

    def peak_memory_bytes(self) -> int:
        """The most memory it ever had resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def __enter__(self) -> Self:
        self._reader.start()
        try:
            self.wait_for("started")
        except BaseException:
            self._process.kill()
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._end()
            raise
        self._end()
        assert self._process.returncode == 0, self.log()
        failures = [record for record in self.records if record["event"] == "internal_error"]
        assert not failures, failures[0]
        assert not self._not_json, "".join(self._not_json)

    def _end(self) -> None:
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
