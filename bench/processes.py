"""Processes under measurement: pinned to a core, with what they and their children cost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0


class ServiceFailed(Exception):
    """A process did not start, or ended by itself; carries what it printed."""


def _session_of(pid: int) -> int:
    """The session of a process, or 0 for one that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The command's name is in parentheses and may hold anything, also spaces.
    return int(stat.rpartition(")")[2].split()[3])


class Service:
    """A server in a session of its own, so that its children are found and ended with it."""

    def __init__(
        self, name: str, command: list[str], core: int, directory: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self._output_path = directory / "output"
        with self._output_path.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *command],
                cwd=directory,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """The end of what it printed."""
        return self._output_path.read_text(errors="replace")[-2000:]

    def check_running(self) -> None:
        """Raise ServiceFailed when it has ended."""
        if self._process.poll() is not None:
            raise ServiceFailed(f"{self.name} ended with {self._process.returncode}: {self.output()}")

    def wait_until_listening(self, port: int) -> None:
        """Return once it accepts connections on 127.0.0.1; raises ServiceFailed otherwise."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check_running()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        raise ServiceFailed(f"{self.name} does not listen on port {port}: {self.output()}")

    def pids(self) -> list[int]:
        """It and all its descendants."""
        session = self._process.pid
        return [
            int(name) for name in os.listdir("/proc") if name.isdigit() and _session_of(int(name)) == session
        ]

    def cpu_s(self) -> float:
        """CPU seconds used so far, by every thread of every process, also ended threads."""
        # The kernel's number for the CPU clock of another process (clock_getcpuclockid(3)).
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids())

    def pss_bytes(self) -> int:
        """Resident memory, with each shared page counted in proportion to its users."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        """End it and its children, asked first and killed if that does not help."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def busy_share(seconds: float) -> float:
    """The share of all cores' time that goes to something (0 to 1), watched for so long."""

    def busy_and_all() -> tuple[int, int]:
        user, nice, system, idle, io_wait, *others = map(int, Path("/proc/stat").read_text().split()[1:9])
        busy = user + nice + system + sum(others)
        return busy, busy + idle + io_wait

    before = busy_and_all()
    time.sleep(seconds)
    after = busy_and_all()
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def free_port() -> int:
    """A port that nothing listens on at the moment, by TCP or by UDP."""
    while True:
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as datagram_probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with contextlib.suppress(OSError):
                datagram_probe.bind(("127.0.0.1", port))
                return port


def free_ports(count: int) -> list[int]:
    """As many different ones."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)
