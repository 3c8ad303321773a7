"""Routes with TLS, compiled, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smartproxy.config import CompiledConfiguration, ConfigError, compile_configuration, parse_config


def tls_route(
    domain: str | None = None, *, target: dict[str, Any] | None = None, **tls: Any
) -> dict[str, Any]:
    action = {
        "type": "forward",
        "targets": [{"host": "backend.example", "port": 443, **(target or {})}],
        "tls": {"mode": "terminate", **tls},
    }
    return {"match": {"ports": 443} | ({"domains": domain} if domain else {}), "action": action}


def compiled(*routes: dict[str, Any], base_dir: Path | None = None, **options: Any) -> CompiledConfiguration:
    return compile_configuration(parse_config({"routes": list(routes), **options}, base_dir=base_dir or "."))


def rejection(*routes: dict[str, Any], base_dir: Path | None = None, **options: Any) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        compiled(*routes, base_dir=base_dir, **options)
    (problem,) = caught.value.problems
    return problem.place, problem.message
