"""The command line as a person meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smartproxy.cli import main

ROUTES = """
listen = ["127.0.0.1"]

[[routes]]
name = "hello"
match = {{ ports = {port}, domains = ["a.example.com"] }}
action = {{ type = "handler", handler = {{ http_response = {{ body = "{body}" }} }} }}

[[routes]]
name = "api"
match = {{ ports = {port}, path = "/api/*" }}
action = {{ type = "handler", handler = {{ http_block = {{ status = 418, message = "no" }} }} }}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def smartproxy(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "smartproxy.toml"
    path.write_text(ROUTES.format(port=8080, body="hello"))
    return path


def test_validate_accepts(config: Path) -> None:
    result = smartproxy("validate", str(config))
    assert result.exit_code == 0
    assert "2 routes, listening on 8080" in result.output


def test_validate_reports_every_mistake_with_its_place(config: Path) -> None:
    text = config.read_text().replace("ports = 8080, path", "portz = 8080, path").replace("418", '"no"')
    config.write_text(text)
    result = smartproxy("validate", str(config))
    assert result.exit_code == 1
    assert "routes[1].match.portz" in result.output
    assert "ports" in result.output
    assert "routes[1].action.handler.http_block.status" in result.output
    assert re.search(r"has \d mistakes", result.output)


def test_validate_says_where_toml_is_broken(config: Path) -> None:
    config.write_text("[[routes]\nname = 1")
    result = smartproxy("validate", str(config))
    assert result.exit_code == 1
    assert "line 1" in result.output


def test_a_file_that_is_not_there() -> None:
    result = smartproxy("validate", "/nowhere/smartproxy.toml")
    assert result.exit_code == 3
    assert "/nowhere/smartproxy.toml" in result.output
    assert "Traceback" not in result.output


def test_what_is_planned_is_refused_never_ignored(config: Path) -> None:
    config.write_text("acme = { email = 'a@b.example' }\n" + config.read_text())
    result = smartproxy("validate", str(config))
    assert result.exit_code == 1
    assert "acme" in result.output
    assert "not available" in result.output


@pytest.mark.parametrize("key", ["rate_limit", "basic_auth", "jwt_auth", "challenge"])
def test_what_is_half_written_is_refused_never_ignored(config: Path, key: str) -> None:
    config.write_text(config.read_text() + f"security = {{ {key} = {{ }} }}\n")
    result = smartproxy("validate", str(config))
    assert result.exit_code == 1
    assert f"routes[1].security.{key}" in result.output
    assert "is required" in result.output


def test_route_explains(config: Path) -> None:
    result = smartproxy("route", str(config), "http://a.example.com:8080/api/x")
    assert result.exit_code == 0
    assert "hello" in result.output
    assert "api" in result.output


def test_route_in_json(config: Path) -> None:
    result = smartproxy("route", str(config), "http://b.example.com:8080/api/x", "--json")
    assert result.exit_code == 0
    assert json.loads(result.output)["winner"] == "api"


def test_route_without_a_winner(config: Path) -> None:
    result = smartproxy("route", str(config), "http://b.example.com:8080/other")
    assert result.exit_code == 4
    assert "/api/*" in result.output


@pytest.mark.parametrize("url", ["ftp://x/", "http://x:99999/", "tcp://x"])
def test_route_of_a_url_that_is_none(config: Path, url: str) -> None:
    assert smartproxy("route", str(config), url).exit_code == 2


def test_schema_is_a_json_schema() -> None:
    schema = json.loads(smartproxy("schema").output)
    assert "routes" in schema["properties"]


def test_version() -> None:
    assert re.match(r"smartproxy \d+\.\d+", smartproxy("version").output)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = smartproxy("completion", shell)
    assert result.exit_code == 0
    assert "_SMARTPROXY_COMPLETE" in result.output


def test_import_prints_the_native_form_and_what_is_lost(tmp_path: Path) -> None:
    source = tmp_path / "old.json"
    source.write_text(
        json.dumps(
            {
                "routes": [
                    {
                        "name": "app",
                        "match": {"ports": 8080, "domains": "app.example.com"},
                        "action": {"type": "forward", "targets": [{"host": "10.0.0.1", "port": 3000}]},
                        "security": {"rateLimit": {"enabled": True, "maxRequests": 5, "window": 60}},
                    }
                ],
                "rustBinaryPath": "/usr/bin/x",
            }
        )
    )
    result = smartproxy("import", str(source))
    assert result.exit_code == 0
    assert 'host = "10.0.0.1"' in result.stdout
    assert "rustBinaryPath" in result.stderr
    assert "rate_limit" in result.output


class Running:
    """`smartproxy run` in a process of its own, its log read line by line."""

    def __init__(self, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smartproxy", "run", str(config)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )

    def wait_for(self, text: str) -> str:
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} not in {''.join(seen)}")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Running, Path, int]]:
    port = free_port()
    path = tmp_path / "smartproxy.toml"
    path.write_text(ROUTES.format(port=port, body="one"))
    running = Running(path)
    running.wait_for("listening on")
    yield running, path, port
    running.process.kill()
    running.process.wait()
    assert running.process.stderr is not None
    running.process.stderr.close()


def fetch(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n")
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        return received


def test_run_serves_reloads_and_drains(running: tuple[Running, Path, int]) -> None:
    run, path, port = running
    assert fetch(port).endswith(b"one")

    path.write_text(ROUTES.format(port=port, body="two"))
    run.process.send_signal(signal.SIGHUP)
    run.wait_for("loaded")
    assert fetch(port).endswith(b"two")

    path.write_text(ROUTES.format(port=port, body="three").replace("match", "mach", 1))
    run.process.send_signal(signal.SIGHUP)
    run.wait_for("mach")
    run.wait_for("old routes stay")
    assert fetch(port).endswith(b"two")

    path.unlink()
    run.process.send_signal(signal.SIGHUP)
    run.wait_for("old routes stay")
    assert fetch(port).endswith(b"two")

    run.process.send_signal(signal.SIGTERM)
    run.wait_for("stopped")
    assert run.process.wait(20) == 0


def test_ctrl_c_stops_without_a_traceback(running: tuple[Running, Path, int]) -> None:
    run, _, _ = running
    run.process.send_signal(signal.SIGINT)
    rest = run.process.communicate(timeout=20)[1]
    assert run.process.returncode == 0
    assert "Traceback" not in rest


def test_a_second_signal_ends_it_at_once(running: tuple[Running, Path, int]) -> None:
    run, _, port = running
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: half")
        run.process.send_signal(signal.SIGTERM)
        run.wait_for("stopping")
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(20) == 0


def test_a_second_start_says_the_port_is_taken(running: tuple[Running, Path, int]) -> None:
    _, path, port = running
    second = subprocess.run(
        [sys.executable, "-m", "smartproxy", "run", str(path)], capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 3
    assert str(port) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_wrong_config_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "smartproxy.toml"
    path.write_text("routs = []")
    result = smartproxy("run", str(path))
    assert result.exit_code == 1
    assert "routes" in result.output
