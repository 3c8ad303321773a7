"""A programmable proxy on pure protocol state machines, with thin asyncio and trio drivers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartproxy.config import ConfigError, LoadedConfig, Problem, ProxyConfig, RouteConfig, RouteValidator
    from smartproxy.config import load_config as load_config
    from smartproxy.config import parse_config as parse_config
    from smartproxy.config.route_tools import (
        clone_route,
        find_best_matching_route,
        find_matching_routes,
        generate_route_id,
        merge_route_configs,
    )
    from smartproxy.core.upstream.selection import RouteContext
    from smartproxy.proxy import SmartProxy

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "LoadedConfig",
    "Problem",
    "ProxyConfig",
    "RouteConfig",
    "RouteContext",
    "RouteValidator",
    "SmartProxy",
    "clone_route",
    "find_best_matching_route",
    "find_matching_routes",
    "generate_route_id",
    "load_config",
    "merge_route_configs",
    "parse_config",
]

_HOMES = {
    "RouteContext": "smartproxy.core.upstream.selection",
    "SmartProxy": "smartproxy.proxy",
    "clone_route": "smartproxy.config.route_tools",
    "find_best_matching_route": "smartproxy.config.route_tools",
    "find_matching_routes": "smartproxy.config.route_tools",
    "generate_route_id": "smartproxy.config.route_tools",
    "merge_route_configs": "smartproxy.config.route_tools",
}


def __getattr__(name: str) -> object:
    # Imported when first asked for: who embeds one codec of smartproxy.core loads nothing else.
    if name in __all__:
        value: object = getattr(importlib.import_module(_HOMES.get(name, "smartproxy.config")), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
