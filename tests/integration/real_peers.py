"""nginx, HAProxy and `smartproxy run`, each in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

FindProgram = Callable[[str], str]


def free_port() -> int:
    """A port that nobody listens on at the moment, neither with TCP nor with UDP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Certificate:
    """A certificate and its key in files, from an authority made for the tests."""

    def __init__(self, authority: trustme.CA, folder: Path, *names: str) -> None:
        issued = authority.issue_cert(*names, key_type=trustme.KeyType.ECDSA)
        stem = names[0].replace("*", "any")
        self.cert_file = folder / f"{stem}.pem"
        self.key_file = folder / f"{stem}.key"
        self.cert_file.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key_file.write_bytes(issued.private_key_pem.bytes())

    def as_toml(self) -> str:
        return f'{{ cert_file = "{self.cert_file}", key_file = "{self.key_file}" }}'


@dataclass(frozen=True, slots=True)
class Trust:
    """An authority in a file, and certificates from it: *.example.com with localhost, the backend."""

    ca_file: Path
    front: Certificate
    backend: Certificate


class _Daemon:
    """A server that goes to the background once its ports are bound, so nobody has to wait for them."""

    def __init__(self, command: list[str], pid_file: Path) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        self._pid_file = pid_file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.kill(int(self._pid_file.read_text()), signal.SIGTERM)


class Nginx(_Daemon):
    """nginx with the given `server { … }` blocks."""

    def __init__(self, binary: str, folder: Path, servers: str) -> None:
        folder.mkdir()
        # Its workers give up root, and must still reach the files they serve.
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == os.getuid() and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
        config = folder / "nginx.conf"
        temporary = "\n".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{ worker_connections 512; }}\n"
            f"http {{ access_log off; {temporary} client_max_body_size 0;\n{servers}\n}}\n"
        )
        super().__init__([binary, "-c", str(config), "-e", f"{folder}/error.log"], folder / "pid")


class HAProxy(_Daemon):
    """HAProxy with the given sections."""

    def __init__(self, binary: str, folder: Path, sections: str) -> None:
        folder.mkdir()
        config = folder / "haproxy.cfg"
        config.write_text(
            "global\n  maxconn 500\n"
            "defaults\n  timeout connect 10s\n  timeout client 30s\n  timeout server 30s\n" + sections
        )
        super().__init__([binary, "-D", "-f", str(config), "-p", f"{folder}/pid"], folder / "pid")


class SmartproxyRun:
    """`smartproxy run` on a configuration, serving once it is constructed."""

    def __init__(self, folder: Path, config: str) -> None:
        folder.mkdir()
        path = folder / "smartproxy.toml"
        path.write_text('listen = ["127.0.0.1"]\n' + config)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smartproxy", "run", str(path)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        self.log: list[str] = []
        self.wait_for("listening on")

    def wait_for(self, text: str) -> str:
        """Read its log up to the line that has `text`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} not in the log:\n{''.join(self.log)}")

    def peak_memory_bytes(self) -> int:
        """The most memory it ever had resident."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self.log += self.process.stderr.readlines()
        self.process.stderr.close()
        assert self.process.wait(40) == 0
        assert not any("internal_error" in line or "Traceback" in line for line in self.log), "".join(
            self.log
        )
