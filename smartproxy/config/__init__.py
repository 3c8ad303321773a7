"""Configuration: what users write, checked, and compiled to what the core runs on."""

from __future__ import annotations

from smartproxy.config.compile import CompiledConfiguration, compile_configuration
from smartproxy.config.loading import LoadedConfig, load_config, parse_config
from smartproxy.config.models import *  # noqa: F403 - every model is public
from smartproxy.config.models import __all__ as _models
from smartproxy.config.problems import ConfigError, Problem, Severity
from smartproxy.config.schema import json_schema
from smartproxy.config.validator import RouteValidator
