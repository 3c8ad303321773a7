"""From a file, a text or a mapping to a validated configuration."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from smartproxy.config.explain import explain
from smartproxy.config.models import ProxyConfig, RouteConfig
from smartproxy.config.problems import ConfigError, Problem, Severity
from smartproxy.config.references import ReferenceResolver
from smartproxy.config.validator import RouteValidator

Format = Literal["toml", "yaml", "json"]

CONFIG_LIMIT_CHARACTERS = 64 * 1024 * 1024

_OPTIONS_ROUTES_DEPEND_ON = (
    "trusted_proxy_ips",
    "defaults",
    "default_certificate",
    "disable_default_cert",
    "listen",
    "challenge",
)

_FORMATS: dict[str, Format] = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A validated configuration and where it came from.

    `warnings` are problems that do not keep it from being used; `files` are the
    file itself and those that `file:` references named.
    """

    config: ProxyConfig
    base_dir: Path
    source: str = ""
    warnings: tuple[Problem, ...] = ()
    files: tuple[Path, ...] = field(default=())


class _SyntaxProblem(Exception):
    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.problem = Problem(f"line {line}, column {column}", message)


def load_config(path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None) -> LoadedConfig:
    """Read a configuration file; its ending says whether it is TOML, YAML or JSON.

    Relative file names in it are relative to it. `environ` stands in for the
    process's environment. Raises ConfigError with everything that is wrong, and
    OSError when the file cannot be read.
    """
    file = Path(path)
    source = str(path)
    format_ = _FORMATS.get(file.suffix.lower())
    if format_ is None:
        raise ConfigError(
            [Problem("file name", "must end in .toml, .yaml, .yml or .json", given=f'"{file.name}"')], source
        )
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            text = stream.read(CONFIG_LIMIT_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise ConfigError(
            [Problem("file", f"must be UTF-8 text; byte {error.start} is not")], source
        ) from None
    if len(text) > CONFIG_LIMIT_CHARACTERS:
        raise ConfigError([Problem("file", f"is longer than {CONFIG_LIMIT_CHARACTERS} characters")], source)
    return _load(text, format_, file.parent, source, (file,), environ)


def parse_config(
    content: str | Mapping[str, Any],
    format: Format = "toml",
    base_dir: str | os.PathLike[str] = ".",
    *,
    environ: Mapping[str, str] | None = None,
) -> ProxyConfig:
    """A configuration from text in `format`, or from a mapping such as one of these texts holds.

    Relative file names are relative to `base_dir`. Raises ConfigError with everything that is wrong.
    """
    return _load(content, format, Path(base_dir), "", (), environ).config


def _load(
    content: str | Mapping[str, Any],
    format_: Format,
    base_dir: Path,
    source: str,
    files: tuple[Path, ...],
    environ: Mapping[str, str] | None,
) -> LoadedConfig:
    if isinstance(content, str):
        try:
            data = _PARSERS[format_](content)
        except _SyntaxProblem as error:
            raise ConfigError([error.problem], source) from None
        except RecursionError:
            raise ConfigError([Problem("file", "is too deeply nested")], source) from None
    else:
        data = content
    resolver = ReferenceResolver(base_dir, os.environ if environ is None else environ)
    resolved = resolver.resolve(data)
    if resolver.problems:
        # The other problems would be about values that are not known.
        raise ConfigError(resolver.problems, source)
    config, problems = _validate(resolved, {"base_dir": base_dir, "has_references": resolver.found_any})
    if config is None:
        raise ConfigError(problems, source)
    return LoadedConfig(config, base_dir, source, tuple(problems), (*files, *resolver.files))


def _validate(data: Any, context: dict[str, Any]) -> tuple[ProxyConfig | None, list[Problem]]:
    """The configuration unless there are errors, and all problems."""
    try:
        config = ProxyConfig.validated(data, context)
    except ValidationError as error:
        problems = explain(error, ProxyConfig, data)
        return None, problems + _problems_between_valid_routes(data, context)
    problems = RouteValidator.validate(config.routes, config)
    has_error = any(problem.severity is Severity.ERROR for problem in problems)
    return (None if has_error else config), problems


def _problems_between_valid_routes(data: Any, context: dict[str, Any]) -> list[Problem]:
    """What can be said about the routes that are right in themselves, so that all errors come at once."""
    raw_routes = data.get("routes") if isinstance(data, dict) else None
    if not isinstance(raw_routes, list):
        return []
    routes: dict[int, RouteConfig] = {}
    for position, raw_route in enumerate(raw_routes):
        try:
            routes[position] = RouteConfig.validated(raw_route, context)
        except ValidationError:
            continue
    options = {name: data[name] for name in _OPTIONS_ROUTES_DEPEND_ON if name in data}
    try:
        config = ProxyConfig.validated(options, context)
    except ValidationError:
        return RouteValidator.validate_some(routes, None)
    return RouteValidator.validate_some(routes, config)


# The three formats. Each parser raises `_SyntaxProblem` or RecursionError.

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def _parse_toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except ValueError as error:
        message = str(error)
        place = _TOML_PLACE.search(message)
        if place is None or place[1] is None:
            line, column = _line_and_column(text, len(text))
        else:
            line, column = int(place[1]), int(place[2])
        raise _SyntaxProblem(_sentence(_TOML_PLACE.sub("", message)), line, column) from None


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object_without_duplicates, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _SyntaxProblem(_sentence(error.msg), error.lineno, error.colno) from None
    except ValueError:
        message, position = _find_json_oddity(text)
        raise _SyntaxProblem(message, *_line_and_column(text, position)) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is there twice")
    return table


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)


def _find_json_oddity(text: str) -> tuple[str, int]:
    """What is wrong, and where, with a text that is JSON but for duplicate keys and odd numbers."""
    keys_of_objects: list[set[str] | None] = []
    may_be_key = False
    for match in _JSON_TOKEN.finditer(text):
        piece = match[0]
        if piece in ("{", "["):
            keys_of_objects.append(set() if piece == "{" else None)
            may_be_key = piece == "{"
            continue
        if piece in ("}", "]"):
            keys_of_objects.pop()
        elif piece[0] == '"' and may_be_key:
            keys = keys_of_objects[-1]
            key = json.loads(piece, strict=False)
            if keys is not None and key in keys:
                return "this key is there twice in one object", match.start()
            if keys is not None:
                keys.add(key)
        elif piece in ("NaN", "Infinity", "-Infinity"):
            return f"{piece} is not JSON", match.start()
        elif len(piece) > 4000 and piece[0] != '"':
            return "this number is too long", match.start()
        may_be_key = piece == ","
    return "not valid JSON", 0


class _YamlLoader(yaml.SafeLoader):
    """YAML without duplicate keys; a date stays text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError):
            # PyYAML's own constructors stumble over some scalars that their resolvers let through.
            raise yaml.constructor.ConstructorError(
                None, None, "not a valid value", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, True)
            if not isinstance(key, Hashable):
                continue
            if key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, "this key is there twice in one table", key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parse_yaml(text: str) -> Any:
    try:
        # The loader is a SafeLoader: it constructs plain values only.
        data = yaml.load(text, Loader=_YamlLoader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        raise _SyntaxProblem(_sentence(error.problem or "not valid YAML"), line, column) from None
    except yaml.reader.ReaderError as error:
        line, column = _line_and_column(text, error.position)
        raise _SyntaxProblem("a character that YAML does not allow", line, column) from None
    return {} if data is None else data


_PARSERS: dict[Format, Callable[[str], Any]] = {"toml": _parse_toml, "yaml": _parse_yaml, "json": _parse_json}


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:]
