"""Environment and file references, and what must never be shown."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from sample_certificates import leaf

from smartproxy.config import (
    ConfigError,
    ForwardActionConfig,
    ProxyConfig,
    compile_configuration,
    parse_config,
)
from smartproxy.config.referenced import Referenced
from smartproxy.config.references import FILE_LIMIT_BYTES

SECRET = "hunter2"


def configuration(**target: Any) -> dict[str, Any]:
    action = {"type": "forward", "targets": [{"host": "backend", "port": 3000, **target}]}
    return {"routes": [{"match": {"ports": 80}, "action": action}]}


def first_target(config: ProxyConfig) -> Any:
    action = config.routes[0].action
    assert isinstance(action, ForwardActionConfig)
    return action.targets[0]


def with_name(name: str, **environ: str) -> str:
    return parse_config({"server_name": name}, environ=environ).server_name


def test_environment_references_are_resolved() -> None:
    assert with_name("${NAME}", NAME="edge") == "edge"
    assert with_name("a-${NAME}-${OTHER}", NAME="b", OTHER="c") == "a-b-c"
    assert with_name("${NAME:-edge}") == "edge"
    assert with_name("${NAME:-edge}", NAME="") == "edge"
    assert with_name("${NAME:-edge}", NAME="core") == "core"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTPROXY_TEST_NAME", "edge")
    assert parse_config({"server_name": "${SMARTPROXY_TEST_NAME}"}).server_name == "edge"


def test_references_are_escaped() -> None:
    headers = {"request": {"X-A": "$${NAME}", "X-B": "$$file:x", "X-C": "$5 $$ $", "X-D": "$${A}${A}"}}
    config = parse_config(configuration(headers={"request": {"X-C": "$5 $$ $"}}))
    assert first_target(config).headers.request == {"X-C": "$5 $$ $"}
    body = {name: {"http_response": {"body": text}} for name, text in headers["request"].items()}
    routes = [
        {
            "name": name,
            "match": {"ports": 80, "path": f"/{name}"},
            "action": {"type": "handler", "handler": handler},
        }
        for name, handler in body.items()
    ]
    config = parse_config({"routes": routes}, environ={"A": "a"})
    dumped = [route.model_dump()["action"]["handler"]["http_response"]["body"] for route in config.routes]
    assert dumped == list(headers["request"].values())
    handlers = [getattr(route.action, "handler").http_response.body for route in config.routes]  # noqa: B009
    assert handlers == ["${NAME}", "file:x", "$5 $$ $", "${A}a"]


def test_values_are_not_looked_into_for_references_again() -> None:
    config = parse_config(configuration(host="${A:-x}"), environ={"A": "${B}"[2:-1]})
    assert first_target(config).host == "B"
    text = parse_config(
        {
            "routes": [
                {
                    "match": {"ports": 80},
                    "action": {"type": "handler", "handler": {"block": {"message": "${A}"}}},
                }
            ]
        },
        environ={"A": "${HOME}"},
    )
    again = parse_config(text.plain())
    assert getattr(again.routes[0].action, "handler").block.message == "${HOME}"  # noqa: B009


def test_numbers_and_switches_may_come_by_reference() -> None:
    data = configuration(port="${PORT}", send_proxy_protocol="${SEND}", priority="${PRIORITY}")
    data["disable_default_cert"] = "${OFF}"
    data["socket_timeout"] = "${TIMEOUT}"
    environ = {"PORT": "8080", "SEND": "true", "PRIORITY": "-3", "OFF": "true", "TIMEOUT": "1500ms"}
    config = parse_config(data, environ=environ)
    target = first_target(config)
    assert (target.port, target.send_proxy_protocol, target.priority) == (8080, 2, -3)
    assert config.disable_default_cert is True
    assert config.socket_timeout == 1.5


@pytest.mark.parametrize("text", ["${}", "${1A}", "${NAME", "${NA ME}", "x ${-A}"])
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(configuration(host=text), environ={"NAME": "a"})
    (problem,) = caught.value.problems
    assert problem.place == "routes[0].action.targets[0].host"
    assert problem.message == "has a malformed reference"


def test_every_missing_variable_is_reported_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(configuration(host="${A}", headers={"request": {"X": "${B}"}}), environ={})
    assert [str(problem) for problem in caught.value.problems] == [
        "routes[0].action.targets[0].host: refers to the environment variable A, which is not set",
        "routes[0].action.targets[0].headers.request.X: refers to the environment variable B, "
        "which is not set",
    ]


def test_file_references_are_relative_and_lose_one_line_break(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "name").write_text("edge\r\n")
    data = {"server_name": "file:${FOLDER}/name"}
    assert parse_config(data, base_dir=tmp_path, environ={"FOLDER": "secrets"}).server_name == "edge"
    (tmp_path / "name").write_text("${HOME}\n\n")
    handler = {"type": "handler", "handler": {"block": {"message": "file:name"}}}
    config = parse_config({"routes": [{"match": {"ports": 80}, "action": handler}]}, base_dir=tmp_path)
    assert getattr(config.routes[0].action, "handler").block.message == "${HOME}\n"  # noqa: B009


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (FILE_LIMIT_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        "absent": "cannot be read: No such file or directory",
        "large": "it is larger than 1048576 bytes",
        "binary": "is not UTF-8 text",
        "pipe": "it is not a regular file",
        ".": "it is not a regular file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ConfigError) as caught:
            parse_config({"server_name": f"file:{name}"}, base_dir=tmp_path)
        (problem,) = caught.value.problems
        assert problem.place == "server_name"
        assert reason in problem.message
        assert problem.given == f'"file:{name}"' or problem.given == f"file:{name}"


# What must never be shown.

LEAKS: list[dict[str, Any]] = [
    {"server_name": "${SECRET} "},
    {"listen": ["${SECRET}"]},
    {"trusted_proxy_ips": ["${SECRET}"]},
    {"connection_timeout": "${SECRET}"},
    {"logging": {"level": "${SECRET}"}},
    {"limits": {"header_bytes": "${SECRET}", "header_count": "${SECRET}"}},
    {"send_proxy_protocol": "${SECRET}"},
    {"routes": "${SECRET}"},
    {"routes": [{"match": {"ports": "${SECRET}"}, "action": "${SECRET}"}]},
    {"routes": [{"match": {"ports": ["${SECRET}"]}, "action": {"type": "${SECRET}"}}]},
    {"routes": [{"match": {"ports": 1, "domains": "${SECRET}..", "path": "${SECRET}*"}, "action": {}}]},
    {
        "routes": [
            {"match": {"ports": 1, "headers": {"x": "/${SECRET}(/"}, "methods": "${SECRET} "}, "action": {}}
        ]
    },
    {"routes": [{"match": {"ports": 1, "protocol": "${SECRET}", "client_ip": "${SECRET}"}, "action": {}}]},
    {"routes": [{"match": {"ports": 1}, "action": {}, "security": {"ip_allow_list": ["${SECRET}"]}}]},
    {"routes": [{"match": {"ports": 1}, "action": {}, "headers": {"request": {"x": "{${SECRET}}"}}}]},
    {
        "routes": [
            {
                "match": {"ports": 1},
                "action": {"type": "handler", "handler": {"http_redirect": {"url": "{${SECRET}}"}}},
            }
        ]
    },
    configuration(host="${SECRET}:80"),
    configuration(port="${SECRET}"),
    configuration(tls={"fingerprint": "${SECRET}"}),
    {"default_certificate": SECRET},
    {"default_certificate": {"key": SECRET, "cert": SECRET, "kye": SECRET}},
    {"default_certificate": {"key": ["hunter2"], "cert_file": "x"}},
    {"defaults": {"security": {"basic_auth": {"password": SECRET}}}},
    {"passwrod": SECRET},
    {"acme": {"email": SECRET}},
]


@pytest.mark.parametrize("data", LEAKS, ids=lambda data: str(data)[:60])
def test_errors_never_show_secrets(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, environ={"SECRET": SECRET})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert SECRET not in repr(caught.value.problems)


def secret_configuration(folder: Path) -> ProxyConfig:
    cert, key = leaf("hunter2.example")
    (folder / "key").write_text(key)
    target = {
        "host": ["${HOST}", {"host": "${HOST}", "weight": "${WEIGHT}"}],
        "port": "${PORT}",
        "headers": {"request": {"X-Key": "Bearer ${SECRET}", "X-Plain": "plain"}},
    }
    tls = {"mode": "terminate", "certificate": {"cert": cert, "key": "file:key"}}
    route = {
        "name": "${SECRET}",
        "match": {"ports": ["${PORT}", {"from": "${PORT}", "to": 9999}], "domains": "${DOMAIN}"},
        "action": {"type": "forward", "targets": [target], "tls": tls},
    }
    environ = {
        "SECRET": SECRET,
        "HOST": "hunter2.internal",
        "PORT": "4747",
        "WEIGHT": "3131",
        "DOMAIN": "hunter2.example",
    }
    return parse_config({"routes": [route]}, base_dir=folder, environ=environ)


def test_dumps_and_repr_show_the_references_instead(tmp_path: Path) -> None:
    config = secret_configuration(tmp_path)
    assert first_target(config).host[0] == "hunter2.internal"
    dumps = [
        repr(config),
        str(config),
        repr(config.model_dump()),
        repr(config.model_dump(exclude_unset=True, by_alias=True)),
        config.model_dump_json(),
        repr(config.routes[0].match),
        repr(copy.deepcopy(config)),
        repr(config.with_routes(config.routes)),
        repr(config.routes[0].model_copy(update={"priority": 3})),
    ]
    for text in dumps:
        assert "hunter2" not in text
        assert "PRIVATE KEY" not in text
        assert "4747" not in text
        assert "3131" not in text
        assert "${SECRET}" in text or "${PORT}" in text
    assert config.model_dump(by_alias=True)["routes"][0]["match"]["ports"] == [
        "${PORT}",
        {"from": "${PORT}", "to": 9999},
    ]


def test_a_dump_loads_to_the_same_configuration(tmp_path: Path) -> None:
    config = secret_configuration(tmp_path)
    plain = parse_config(config.plain())
    assert repr(plain) == repr(config)
    assert first_target(plain).host[0] == "hunter2.internal"
    assert compile_configuration(plain).configuration.table.routes[0].match.ports == (
        (4747, 4747),
        (4747, 9999),
    )


def test_problems_between_routes_do_not_show_references(tmp_path: Path) -> None:
    route = {
        "name": "${SECRET}",
        "match": {"ports": 80, "domains": "${SECRET}"},
        "action": {"type": "forward"},
    }
    data = {"routes": [route, route], "defaults": {"target": {"host": "${SECRET}", "port": 1}}}
    with pytest.raises(ConfigError) as caught:
        parse_config(data, environ={"SECRET": SECRET})
    assert [problem.place for problem in caught.value.problems] == ["routes[1].name"]
    assert SECRET not in str(caught.value)


def test_certificate_problems_do_not_show_references(tmp_path: Path) -> None:
    tls = {"mode": "terminate", "certificate": {"cert_file": "${SECRET}", "key_file": "${SECRET}"}}
    route = {
        "match": {"ports": 443},
        "action": {"type": "forward", "tls": tls, "targets": [{"host": "a", "port": 1}]},
    }
    config = parse_config({"routes": [route]}, base_dir=tmp_path, environ={"SECRET": SECRET})
    with pytest.raises(ConfigError) as caught:
        compile_configuration(config)
    assert SECRET not in str(caught.value)


def test_referenced_values_survive_copies() -> None:
    referenced = Referenced.of("${A}", "a")
    for other in (
        copy.copy(referenced),
        copy.deepcopy([referenced])[0],
        pickle.loads(pickle.dumps(referenced)),
    ):
        assert type(other) is Referenced
        assert (other, other.written) == ("a", "${A}")
