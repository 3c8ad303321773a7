"""curl, and what it got."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The final response. `http_version` as curl writes it: "1.1", "2"."""

    status: int
    http_version: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return json.loads(self.body)


class Curl:
    """curl that trusts `ca_file`, and for which every name is 127.0.0.1."""

    def __init__(self, binary: str, ca_file: Path, folder: Path) -> None:
        self._command = [binary, "--silent", "--show-error", "--max-time", "30", "--cacert", str(ca_file)]
        self._head, self._body = folder / "head", folder / "body"

    def __call__(
        self, url: str, *arguments: str, content: bytes | None = None, put: bytes | None = None
    ) -> Answer:
        """The answer of `url`; AssertionError if there was none.

        `content` is posted, its length being told; `put` is sent without telling its length.
        """
        command = [*self._command, "--connect-to", "::127.0.0.1:", "--write-out", "%{http_version}"]
        command += ["--dump-header", str(self._head), "--output", str(self._body), *arguments]
        if content is not None:
            command += ["--data-binary", "@-"]
        if put is not None:
            command += ["--upload-file", "-"]
        self._body.write_bytes(b"")
        result = subprocess.run([*command, url], input=content or put, capture_output=True, timeout=40)
        assert result.returncode == 0, f"{url}: {result.stderr.decode()}"
        return self._read(result.stdout.decode())

    def _read(self, http_version: str) -> Answer:
        status = 0
        headers: dict[str, str] = {}
        trailers: dict[str, str] = {}
        fields = headers
        for line in self._head.read_text().splitlines():
            if line.startswith("HTTP/"):
                status = int(line.split()[1])
                headers = fields = {}
                trailers = {}
            elif not line:
                fields = trailers
            else:
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
        return Answer(status, http_version, self._body.read_bytes(), headers, trailers)
