"""From TOML, YAML and JSON to a validated configuration, and the syntax errors on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smartproxy.config import ConfigError, ForwardActionConfig, HandlerActionConfig, load_config, parse_config
from smartproxy.config.loading import Format

TOML = """
trusted_proxy_ips = ["10.0.0.0/8"]
send_proxy_protocol = false
max_connection_lifetime = "24h"

[defaults]
target = { host = "127.0.0.1", port = 3000 }
security = { ip_block_list = ["203.0.113.0/24"] }

[limits]
header_bytes = "32KiB"

[[routes]]
name = "app"
priority = 10
match = { ports = 443, domains = ["app.example.com", "*.app.example.com"], path = "/v1/*" }
security = { ip_allow_list = ["10.0.0.0/8"] }

[routes.headers]
request = { X-Real-IP = "{clientIp}", X-Powered-By = false }
response = { Strict-Transport-Security = "max-age=31536000" }

[routes.action]
type = "forward"
tls = { mode = "terminate", certificate = { cert_file = "app.pem", key_file = "/etc/app.key" } }
options = { backend_protocol = "auto" }

[[routes.action.targets]]
host = ["10.0.0.1", "10.0.0.2"]
port = 8080
load_balancing = { algorithm = "least-connections" }

[[routes]]
name = "to-https"
match = { ports = 80 }
action = { type = "handler", handler = { http_redirect = { url = "https://{domain}{path}", code = 301 } } }

[[routes]]
name = "mail"
match = { ports = [25, { from = 2500, to = 2599 }], inbound_proxy_protocol = { mode = "required" } }
action = { type = "forward", targets = [{ host = "127.0.0.1", port = 10025 }] }
"""

YAML = """
routes:
  - match: { ports: 80 }
    action:
      type: forward
      targets:
        - host: backend
          port: 3000
          headers: { request: { X-Old: null, Sunset: 2026-01-01 } }
"""


def test_the_documented_shape_loads(tmp_path: Path) -> None:
    file = tmp_path / "smartproxy.toml"
    file.write_text(TOML)
    loaded = load_config(file)
    app, to_https, mail = loaded.config.routes
    assert loaded.config.max_connection_lifetime == 86400
    assert loaded.config.limits.header_bytes == 32 * 1024
    assert isinstance(app.action, ForwardActionConfig)
    assert app.action.tls is not None
    assert app.action.tls.certificate is not None
    # Relative to the file; absolute as it is.
    assert app.action.tls.certificate.cert_file == str(tmp_path / "app.pem")
    assert app.action.tls.certificate.key_file == "/etc/app.key"
    assert app.headers.request == {"X-Real-IP": "{clientIp}", "X-Powered-By": None}
    assert isinstance(to_https.action, HandlerActionConfig)
    assert to_https.action.handler.kind == "http_redirect"
    assert mail.match.model_dump(by_alias=True)["ports"] == [25, {"from": 2500, "to": 2599}]
    assert loaded.source == str(file)
    assert loaded.files == (file,)


def test_the_three_formats_mean_the_same(tmp_path: Path) -> None:
    from_yaml = parse_config(YAML, "yaml")
    data: dict[str, Any] = {
        "routes": [
            {
                "match": {"ports": 80},
                "action": {
                    "type": "forward",
                    "targets": [
                        {
                            "host": "backend",
                            "port": 3000,
                            "headers": {"request": {"X-Old": None, "Sunset": "2026-01-01"}},
                        }
                    ],
                },
            }
        ]
    }
    for name, text in (("a.yml", YAML), ("a.json", json.dumps(data)), ("a.yaml", YAML)):
        (tmp_path / name).write_text(text)
        assert load_config(tmp_path / name).config == from_yaml == parse_config(data)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfserver_name = 'edge'")
    assert load_config(tmp_path / "a.toml").config.server_name == "edge"


def test_an_empty_file_is_an_empty_configuration() -> None:
    assert parse_config("", "toml") == parse_config("", "yaml") == parse_config("{}", "json")


@pytest.mark.parametrize(
    ("format_", "text", "place"),
    [
        ("toml", "a = 1\nb = = 2", "line 2, column 5"),
        ("toml", "a = 1\na = 2", "line 2, column 6"),
        ("toml", 'a = "x', "line 1, column 7"),
        ("toml", "a = {" * 5000, "file"),
        ("toml", "a = " + "1" * 5000, "line 1"),
        ("yaml", "a: 1\nb: [1,", "line 2, column 7"),
        ("yaml", "a: 1\nb: 2\na: 3", "line 3, column 1"),
        ("yaml", "a: *unknown", "line 1, column 4"),
        ("yaml", "a: !!python/object:os.system x", "line 1, column 4"),
        ("yaml", "a: !!int _", "line 1, column 4"),
        ("yaml", "a: \x07", "line 1, column 4"),
        ("yaml", "? [1]\n: 2", "line 1"),
        ("yaml", "[" * 5000, "file"),
        ("json", '{\n "a": 1,\n "a": 2}', "line 3, column 2"),
        ("json", '{"b": {"a": 1}, "c": {"a": 1, "d": [{"a": 1, "a": 2}]}}', "line 1, column 46"),
        ("json", '{"a": NaN}', "line 1, column 7"),
        ("json", '{"a": -Infinity}', "line 1, column 7"),
        ("json", '{"a": 1,}', "line 1"),
        ("json", '{"a": "NaN", "b": ' + "9" * 5000 + "}", "line 1, column 19"),
        ("json", "[" * 100_000, "file"),
        ("json", "", "line 1, column 1"),
    ],
)
def test_syntax_errors_give_line_and_column(format_: Format, text: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, format_)
    (problem,) = caught.value.problems
    assert problem.place.startswith(place)
    assert problem.message


def test_keys_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("limits: {on: 1, 2: 3}", "yaml")
    assert [(problem.place, problem.given) for problem in caught.value.problems] == [
        ("limits", "True"),
        ("limits", "2"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "\n".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(9)
        ),
    ],
    ids=["of itself", "of too much"],
)
def test_yaml_aliases_do_not_grow_without_bound(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartproxy.config.references.NODE_LIMIT", 100_000)
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "yaml")
    assert [problem.message for problem in caught.value.problems] == ["is too large or too deeply nested"]


def test_a_file_of_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.toml, \.yaml, \.yml or \.json"):
        load_config(tmp_path / "smartproxy.ini")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "absent.toml")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="must be UTF-8 text; byte 5 is not"):
        load_config(tmp_path / "a.toml")


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("routs = []")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "a.toml")
    assert caught.value.source == str(tmp_path / "a.toml")
    assert str(caught.value).startswith(f"{tmp_path / 'a.toml'}: 1 error in the configuration\n")


def test_warnings_do_not_keep_a_configuration_from_loading(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert [problem.message for problem in load_config(tmp_path / "a.json").warnings] == [
        "no route is enabled"
    ]
