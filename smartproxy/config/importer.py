"""From the JSON configuration of @push.rocks/smartproxy to the native form.

Names become snake_case, milliseconds and seconds become durations. Whatever has
no counterpart is listed. Where a condition or an access rule of a route is lost,
the route is carried over disabled, so that it never takes more than it should.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import tomli_w

from smartproxy.config import planned
from smartproxy.config.import_tables import (
    ACTION,
    CODE,
    HEADERS,
    MATCH,
    ROOT,
    SECURITY,
    SWITCHES,
    TARGET,
    Importing,
    table_of,
)
from smartproxy.config.problems import TOP_LEVEL, ConfigError, Problem, place_text, shown
from smartproxy.core.http.field_rules import FIELD_VARIABLES, Template

_PASSTHROUGH_KEYS = ("mode",)
_BRACES = re.compile(r"\{[^{}]*\}|[{}]")


@dataclass(frozen=True, slots=True)
class ImportResult:
    """A configuration in the native form.

    `config` is a mapping for `parse_config`, and `text_toml` the same as a file.
    `not_carried` lists what was left out, and what is carried over but belongs to a
    later version, which this one will refuse by name.
    """

    config: dict[str, Any]
    text_toml: str
    not_carried: list[str]


def import_smartproxy_json(data: object) -> ImportResult:
    """Convert `data`, the parsed JSON of an `ISmartProxyOptions`.

    Raises ConfigError when it is no such thing.
    """
    if not isinstance(data, dict):
        raise ConfigError([Problem(TOP_LEVEL, "must be an object", shown(data))])
    routes = data.get("routes", [])
    if not isinstance(routes, list):
        raise ConfigError([Problem("routes", "must be a list", shown(routes))])
    importing = Importing()
    rest = {
        key: value
        for key, value in data.items()
        if key not in ("routes", "defaults") and not (key in SWITCHES and value is False)
    }
    config = importing.table(rest, "", ROOT)
    defaults = data.get("defaults")
    if defaults is not None:
        config["defaults"] = _defaults(defaults, importing)
    converted = [_route(source, f"routes[{position}]", importing) for position, source in enumerate(routes)]
    config["routes"] = [route for route in converted if route is not None]
    if any(line.startswith("defaults.security") for line in importing.not_carried):
        importing.lose(
            "defaults.security", "every route is carried over disabled, because a rule for all was lost"
        )
        for route in config["routes"]:
            route["enabled"] = False
    config = _plain(config, "", importing)
    importing.not_carried += _planned_in(config)
    return ImportResult(config, _toml(config, importing.not_carried), importing.not_carried)


def _defaults(source: Any, importing: Importing) -> dict[str, Any]:
    options = {"target": ("target", _default_target), "security": ("security", table_of(SECURITY))}
    if not isinstance(source, dict):
        importing.lose("defaults", "it is not a table")
        return {}
    defaults = importing.table(source, "defaults", options)
    return {key: value for key, value in defaults.items() if value is not None}


def _default_target(source: Any, place: str, importing: Importing) -> dict[str, Any] | None:
    return _target(source, place, importing)


def _route(source: Any, place: str, importing: Importing) -> dict[str, Any] | None:
    if not isinstance(source, dict) or not isinstance(source.get("match"), dict):
        importing.lose(place, "it is not a route")
        return None
    route: dict[str, Any] = {
        key: source[key] for key in ("id", "name", "priority", "enabled") if source.get(key) is not None
    }
    losses = len(importing.not_carried)
    route["match"] = importing.table(source["match"], f"{place}.match", MATCH)
    security = source.get("security")
    if isinstance(security, dict):
        route["security"] = importing.table(security, f"{place}.security", SECURITY)
    elif security is not None:
        importing.lose(f"{place}.security", "it is not a table")
    if len(importing.not_carried) > losses:
        route["enabled"] = False
        importing.lose(
            place, "it is carried over disabled, because a condition or an access rule of it was lost"
        )
    route["action"] = _action(source.get("action"), f"{place}.action", importing)
    _fit_http3(route, place, importing)
    headers = source.get("headers")
    if isinstance(headers, dict):
        route["headers"] = importing.table(headers, f"{place}.headers", HEADERS)
    elif headers is not None:
        importing.lose(f"{place}.headers", "it is not a table")
    known = {"id", "name", "priority", "enabled", "match", "security", "action", "headers"}
    for key in source.keys() - known:
        importing.lose(f"{place}.{key}", "there is no such option")
    return route


def _fit_http3(route: dict[str, Any], place: str, importing: Importing) -> None:
    """QUIC that carries HTTP/3 is a protocol of its own here, and options for it need UDP to act on."""
    match, udp = route["match"], route["action"].get("udp")
    if not _enables_http3(udp):
        return
    if match.get("protocol") == "quic":
        match["protocol"] = "http3"
    if match.get("transport", "tcp") == "tcp":
        importing.lose(f"{place}.action.udp", "it has no effect on a route for TCP")
        del route["action"]["udp"]
    elif match.get("protocol") == "http3":
        match["transport"] = "udp"


def _enables_http3(udp: Any) -> bool:
    quic = udp.get("quic") if isinstance(udp, dict) else None
    return isinstance(quic, dict) and quic.get("enable_http3") is True


def _action(source: Any, place: str, importing: Importing) -> dict[str, Any]:
    if not isinstance(source, dict):
        importing.lose(place, "it is not an action; the route blocks its traffic instead")
        return _blocking({})
    action = importing.table(source, place, ACTION)
    kind = action.get("type")
    if action.get("forwarding_engine") == "node":
        del action["forwarding_engine"]
    _drop_passthrough_options(action, f"{place}.tls", importing)
    if kind == "socket-handler":
        importing.lose(place, f"{CODE}; the route blocks its traffic instead")
        return _blocking(action)
    if kind != "forward":
        importing.lose(f"{place}.type", "there is no such action; the route blocks its traffic instead")
        return _blocking(action)
    if "targets" in action:
        action["targets"] = _targets(action["targets"], f"{place}.targets", importing)
        if not action["targets"]:
            importing.lose(
                f"{place}.targets", "none could be carried over; the route blocks its traffic instead"
            )
            return _blocking(action)
    return action


def _blocking(action: dict[str, Any]) -> dict[str, Any]:
    """What takes the place of an action that is lost: nobody else must get its traffic."""
    blocking: dict[str, Any] = {"type": "handler", "handler": {"block": {}}}
    tls = action.get("tls")
    if isinstance(tls, dict) and tls.get("mode") in ("terminate", "terminate-and-reencrypt"):
        blocking["tls"] = {**tls, "mode": "terminate"}
    return blocking


def _drop_passthrough_options(action: dict[str, Any], place: str, importing: Importing) -> None:
    tls = action.get("tls")
    if isinstance(tls, dict) and tls.get("mode") == "passthrough":
        for key in [key for key in tls if key not in _PASSTHROUGH_KEYS]:
            importing.lose(f"{place}.{key}", "it has no effect on TLS that is passed through")
            del tls[key]


def _targets(source: Any, place: str, importing: Importing) -> list[dict[str, Any]]:
    if not isinstance(source, list):
        importing.lose(place, "it is not a list")
        return []
    targets = [_target(each, f"{place}[{index}]", importing) for index, each in enumerate(source)]
    return [target for target in targets if target is not None]


def _target(source: Any, place: str, importing: Importing) -> dict[str, Any] | None:
    if not isinstance(source, dict):
        importing.lose(place, "it is not a target")
        return None
    missing = [key for key in ("host", "port") if source.get(key) is None]
    if missing:
        importing.lose(
            place, f"its {' and '.join(missing)} is a function or missing; functions are given in Python"
        )
        return None
    losses = len(importing.not_carried)
    target = importing.table(source, place, TARGET)
    lost_conditions = [line for line in importing.not_carried[losses:] if line.startswith(f"{place}.match")]
    if lost_conditions:
        importing.lose(place, "it is left out, because a condition of it was lost")
        return None
    return target


def _plain(value: Any, place: str, importing: Importing) -> Any:
    """`value` without what TOML or the native form would read differently."""
    if isinstance(value, dict):
        return {
            _text(key): _header_template(item)
            if _is_header(place)
            else _plain(item, f"{place}.{key}", importing)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_plain(item, place, importing) for item in value if item is not None]
    return _literal(value) if isinstance(value, str) else value


def _is_header(place: str) -> bool:
    return place.endswith((".headers.request", ".headers.response"))


def _header_template(value: Any) -> Any:
    """Braces that are no variable here were just braces there."""
    return _literal(_BRACES.sub(_known_or_escaped, value)) if isinstance(value, str) else value


def _known_or_escaped(match: re.Match[str]) -> str:
    try:
        Template.compile(match[0], allowed=FIELD_VARIABLES)
    except ValueError:
        return match[0].replace("{", "{{").replace("}", "}}")
    return match[0]


def _literal(text: str) -> str:
    """The text so that nothing in it is a reference."""
    escaped = _text(text).replace("${", "$${")
    return f"$${escaped}" if escaped.startswith("file:") else escaped


def _text(text: str) -> str:
    # JSON can spell lone surrogates, which no UTF-8 file can.
    return text.encode("utf-8", "replace").decode("utf-8")


def _planned_in(config: dict[str, Any]) -> list[str]:
    """Options in `config` that this version does not have yet."""
    found = _planned_keys(config, "proxy", ())
    found += _planned_keys(
        config.get("defaults", {}).get("security", {}), "security", ("defaults", "security")
    )
    for position, route in enumerate(config["routes"]):
        place: tuple[str | int, ...] = ("routes", position)
        action = route["action"]
        found += _planned_values(route["match"], "match", (*place, "match"))
        found += _planned_keys(route.get("security", {}), "security", (*place, "security"))
        found += _planned_keys(action, "action", (*place, "action"))
        tls, tls_place = action.get("tls", {}), (*place, "action", "tls")
        found += _planned_keys(tls, "tls", tls_place) + _planned_values(tls, "tls", tls_place)
        found += _planned_udp(route, place)
        for index, target in enumerate(action.get("targets", [])):
            target_place = (*place, "action", "targets", index)
            found += _planned_keys(target, "target", target_place) + _planned_values(
                target, "target", target_place
            )
    return found


def _planned_udp(route: dict[str, Any], place: tuple[str | int, ...]) -> list[str]:
    """What a route has for datagrams and for QUIC without HTTP/3."""
    udp = route["action"].get("udp", {})
    udp_place = (*place, "action", "udp")
    found = _planned_keys(udp, "udp", udp_place)
    if not _enables_http3(udp):
        match = route["match"]
        wanted = {"transport": ("udp", "all"), "protocol": ("http3",)}
        found += [
            _later((*place, "match", key)) + f' ("{match[key]}")'
            for key, values in wanted.items()
            if match.get(key) in values
        ]
        quic = udp.get("quic", {})
        found += [_later((*udp_place, "quic", key)) for key in quic if key != "enable_http3"]
    return found


def _planned_keys(table: dict[str, Any], section: str, place: tuple[str | int, ...]) -> list[str]:
    later = planned.KEYS.get(section, frozenset())
    return [_later((*place, key)) for key in table if key in later]


def _planned_values(table: dict[str, Any], section: str, place: tuple[str | int, ...]) -> list[str]:
    return [
        _later((*place, key)) + f' ("{value}")'
        for key, value in table.items()
        if isinstance(value, str) and value in planned.VALUES.get((section, key), ())
    ]


def _later(place: tuple[str | int, ...]) -> str:
    return f"{place_text(place)}: is carried over, but this version of smartproxy does not have it yet"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _toml(config: dict[str, Any], not_carried: list[str]) -> str:
    lines = ["# Imported from the configuration of @push.rocks/smartproxy."]
    if any("terminate-and-reencrypt" in str(route["action"].get("tls", "")) for route in config["routes"]):
        lines += [
            "# Certificates of backends are verified here. Where that cannot be, say so:",
            "# tls.backend = { verify = false }, or better { ca = ... } or { fingerprint = ... }.",
        ]
    lines += [f"# Not carried over: {_printable(line)}" for line in not_carried]
    return "\n".join(lines) + "\n\n" + tomli_w.dumps(config)
