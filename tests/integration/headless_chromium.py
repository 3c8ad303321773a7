"""Chromium without a window, driven over its DevTools pipe; its network log tells what it spoke."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ANSWER_S = 30.0


def spki_fingerprint(cert_file: Path) -> str:
    """What --ignore-certificate-errors-spki-list takes: SHA-256 of the public key, in base64."""
    key = x509.load_pem_x509_certificate(cert_file.read_bytes()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


class Chromium:
    """A browser with a profile of its own. Every name is 127.0.0.1 to it, and it trusts one certificate."""

    def __init__(self, binary: str, folder: Path, cert_file: Path, *switches: str) -> None:
        self._net_log_file = folder / "net-log.json"
        self._output_file = folder / "output"
        self._next_id = 0
        self._received = b""
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        command = [
            binary,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
            f"--ignore-certificate-errors-spki-list={spki_fingerprint(cert_file)}",
            "--host-resolver-rules=MAP * 127.0.0.1",
            f"--log-net-log={self._net_log_file}",
            "--net-log-capture-mode=IncludeSensitive",
            *switches,
            "about:blank",
        ]
        # The browser reads commands on 3 and answers on 4.
        script = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
        with self._output_file.open("wb") as output:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", script, "bash", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(commands_out, answers_in),
                env={**os.environ, "HOME": str(folder)},
            )
        os.close(commands_out)
        os.close(answers_in)
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def _call(self, method: str, session: str = "", **parameters: Any) -> Any:
        self._next_id += 1
        message: dict[str, Any] = {"id": self._next_id, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _ANSWER_S
        while True:
            answer = self._next_message(deadline)
            if answer.get("id") == self._next_id:
                assert "error" not in answer, answer
                return answer["result"]

    def _next_message(self, deadline: float) -> Any:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 16) if ready else b""
            if not data:
                raise TimeoutError(f"Chromium does not answer\n{self._output_file.read_text()[-4000:]}")
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise, what it resolves to."""
        answer = self._call(
            "Runtime.evaluate",
            self._session,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def load(self, url: str) -> None:
        """Navigate, and wait until the page has loaded."""
        self._call("Page.enable", self._session)
        answer = self._call("Page.navigate", self._session, url=url)
        assert not answer.get("errorText"), answer
        deadline = time.monotonic() + _ANSWER_S
        while self.evaluate("document.readyState + location.href") != f"complete{url}":
            assert time.monotonic() < deadline, f"{url} does not load"

    def quit(self) -> NetLog:
        """End the browser; its network log."""
        self._call("Browser.close")
        self._process.wait(_ANSWER_S)
        return NetLog(json.loads(self._net_log_file.read_text()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)


class NetLog:
    """What Chromium's network stack did, event by event."""

    def __init__(self, log: dict[str, Any]) -> None:
        names = {number: name for name, number in log["constants"]["logEventTypes"].items()}
        self.events: list[tuple[str, dict[str, Any]]] = [
            (names[event["type"]], event.get("params", {})) for event in log["events"]
        ]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The parameters of every event of that name."""
        return [parameters for event, parameters in self.events if event == name]

    def request_heads(self, name: str) -> list[dict[str, str]]:
        """The fields of every request head sent with that event (of HTTP/2 or HTTP/3), by name."""
        heads = []
        for parameters in self.of(name):
            lines = parameters.get("headers", [])
            if isinstance(lines, dict):
                heads.append({key: str(value) for key, value in lines.items()})
            else:
                pairs = (line.partition(": ") for line in lines)
                heads.append({key: value for key, _, value in pairs})
        return heads
