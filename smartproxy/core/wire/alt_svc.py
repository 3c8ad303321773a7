"""Alt-Svc (RFC 7838 §3): the field's syntax alone. What to do about it is `AltSvcCache`'s business.

    header = parse_alt_svc(b'h3=":443"; ma=2592000, h2="alt.example.com:8443"')
    header.entries[0].port
    format_alt_svc(AltSvcHeader((AltSvcEntry(b"h3", port=443),)))

A value that leaves the grammar is refused whole, for nobody can say where its next
alternative would begin. An alternative within the grammar that cannot be used (port 0, a host
that is none, an encoding that is not the one RFC 7838 §3 prescribes, `ma` twice) is passed
over alone; the others stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from smartproxy.core.wire.ip_text import canonical_ip

MAX_VALUE_BYTES = 8 * 1024
MAX_ALTERNATIVES = 32
"""Longer values, or more alternatives than this, are refused."""

DEFAULT_MAX_AGE_S = 86400
"""RFC 7838 §3.1."""
LONGEST_MAX_AGE_S = 2**31
"""A longer `ma` means this (RFC 9111 §1.2.2)."""

_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_QUOTED = rb'"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+)"'
_LIST_GAP = re.compile(rb"[ \t]*+(?:,[ \t]*+)*+")
_CLEAR = re.compile(rb"clear(?!" + _TCHAR + rb"|=)")
_ALTERNATIVE = re.compile(rb"(" + _TCHAR + rb"++)=" + _QUOTED)
_PARAMETER = re.compile(rb"[ \t]*+;[ \t]*+(" + _TCHAR + rb"++)=(?:(" + _TCHAR + rb"++)|" + _QUOTED + rb")")
_SEPARATOR = re.compile(rb"[ \t]*+(?:,[ \t,]*+|\Z)")
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)

_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]++)\]|([0-9A-Za-z_\-.]*+)):([1-9][0-9]{0,4}+)")
_LABEL = r"[0-9a-z_\-]{1,63}+"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*+")
_MAX_HOST_BYTES = 253
_DELTA_SECONDS = re.compile(rb"[0-9]++")

_PERCENT_ENCODED = re.compile(rb"%([0-9A-F]{2})")
_UNENCODED = frozenset(b"!#$&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_MAX_PROTOCOL_ID_BYTES = 255


class AltSvcError(ValueError):
    """The value does not follow the field's grammar, or is over the bounds of this module."""


@dataclass(frozen=True, slots=True)
class AltSvcEntry:
    """One alternative service, as advertised.

    `protocol_id` is the ALPN protocol name, percent-decoded. `host` is a lower case
    name without trailing dot or an IP address in its RFC 5952 spelling without
    brackets; empty: the origin's own. `max_age_s` counts from the response's
    making. `persist`: outlives a change of network.
    """

    protocol_id: bytes
    host: str = ""
    port: int = 443
    max_age_s: int = DEFAULT_MAX_AGE_S
    persist: bool = False


@dataclass(frozen=True, slots=True)
class AltSvcHeader:
    """A whole field value: `clear`, or alternatives in the server's order of preference.

    Neither is possible: every alternative was one to pass over. Such a value, too,
    replaces what was known of its origin (RFC 7838 §3.1).
    """

    entries: tuple[AltSvcEntry, ...] = ()
    clear: bool = False


CLEAR = AltSvcHeader(clear=True)
"""All alternatives of the origin are to be forgotten."""


def parse_alt_svc(value: bytes) -> AltSvcHeader:
    """Read an Alt-Svc field value; several field lines are joined with commas first (RFC 9110 §5.3).

    Unknown parameters and empty list elements are passed over. `clear` beside
    alternatives wins over them (RFC 7838 §3). Raises AltSvcError for what is not in
    the grammar, names no alternative, or is over `MAX_VALUE_BYTES` or `MAX_ALTERNATIVES`.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise AltSvcError(f"an Alt-Svc value of {len(value)} bytes")
    entries: list[AltSvcEntry] = []
    alternative_count = 0
    clear = False
    position = _end_of(_LIST_GAP, value, 0)
    if position == len(value):
        raise AltSvcError("an empty Alt-Svc value")
    while position < len(value):
        alternative = _ALTERNATIVE.match(value, position)
        if alternative is not None:
            alternative_count += 1
            if alternative_count > MAX_ALTERNATIVES:
                raise AltSvcError(f"more than {MAX_ALTERNATIVES} alternatives")
            parameters, position = _parameters(value, alternative.end())
            entry = _entry(alternative[1], _unquoted(alternative[2]), parameters)
            if entry is not None:
                entries.append(entry)
        elif _CLEAR.match(value, position) is not None:
            clear = True
            position += len(b"clear")
        separator = _SEPARATOR.match(value, position)
        if separator is None:
            raise AltSvcError(f"malformed Alt-Svc value at {value[position : position + 32]!r}")
        position = separator.end()
    return CLEAR if clear else AltSvcHeader(tuple(entries))


def _end_of(pattern: re.Pattern[bytes], value: bytes, position: int) -> int:
    match = pattern.match(value, position)
    return position if match is None else match.end()


def _parameters(value: bytes, position: int) -> tuple[list[tuple[bytes, bytes]], int]:
    parameters: list[tuple[bytes, bytes]] = []
    while (match := _PARAMETER.match(value, position)) is not None:
        position = match.end()
        token = match[2]
        parameters.append((match[1].lower(), token if token is not None else _unquoted(match[3])))
    return parameters, position


def _unquoted(text: bytes) -> bytes:
    return _QUOTED_PAIR.sub(rb"\1", text) if b"\\" in text else text


def _entry(encoded_id: bytes, authority: bytes, parameters: list[tuple[bytes, bytes]]) -> AltSvcEntry | None:
    """The alternative, or None if it is one to pass over."""
    protocol_id = _PERCENT_ENCODED.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), encoded_id)
    # RFC 7838 §3: one spelling per name, so that names can be compared as they are.
    if len(protocol_id) > _MAX_PROTOCOL_ID_BYTES or _encode_protocol_id(protocol_id) != encoded_id:
        return None
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return None
    host = _host(parts)
    port = int(parts[3])
    if host is None or port > 0xFFFF:
        return None
    max_age_s: int | None = None
    persist: bool | None = None
    for name, text in parameters:
        if name == b"ma":
            # Two readers would keep it for two different times.
            if max_age_s is not None or _DELTA_SECONDS.fullmatch(text) is None:
                return None
            max_age_s = _delta_seconds(text)
        elif name == b"persist":
            if persist is not None:
                return None
            # RFC 7838 §3.1: no other value has a meaning.
            persist = text == b"1"
    return AltSvcEntry(
        protocol_id, host, port, DEFAULT_MAX_AGE_S if max_age_s is None else max_age_s, persist is True
    )


def _host(parts: re.Match[bytes]) -> str | None:
    bracketed = parts[1]
    if bracketed is not None:
        return _ipv6(str(bracketed, "ascii"))
    name = str(parts[2], "ascii").lower().removesuffix(".")
    if not parts[2]:
        return ""
    return name if _is_host_name(name) else None


def _ipv6(text: str) -> str | None:
    try:
        canonical = canonical_ip(text)
    except ValueError:
        return None
    return canonical if ":" in canonical else None


def _is_host_name(name: str) -> bool:
    return len(name) <= _MAX_HOST_BYTES and _HOST_NAME.fullmatch(name) is not None


def _delta_seconds(digits: bytes) -> int:
    significant = digits.lstrip(b"0")
    if len(significant) > 10:
        return LONGEST_MAX_AGE_S
    return min(int(significant or b"0"), LONGEST_MAX_AGE_S)


def format_alt_svc(header: AltSvcHeader) -> bytes:
    """The field value of `header`; `parse_alt_svc` gives it back.

    `ma` is always written. Raises AltSvcError for a header that is neither `clear`
    nor has alternatives, has more than `MAX_ALTERNATIVES`, or an entry that could
    not be read back: an empty or over-long protocol, a host that is neither name
    nor address, a port outside 1 to 65535, a `max_age_s` outside 0 to 2**31.
    """
    if header.clear:
        return b"clear"
    if not 0 < len(header.entries) <= MAX_ALTERNATIVES:
        raise AltSvcError(f"{len(header.entries)} alternatives")
    value = b", ".join(map(_format_entry, header.entries))
    if len(value) > MAX_VALUE_BYTES:
        raise AltSvcError(f"an Alt-Svc value of {len(value)} bytes")
    return value


def _format_entry(entry: AltSvcEntry) -> bytes:
    if not 0 < len(entry.protocol_id) <= _MAX_PROTOCOL_ID_BYTES:
        raise AltSvcError(f"an ALPN protocol name of {len(entry.protocol_id)} bytes")
    if not 0 < entry.port <= 0xFFFF:
        raise AltSvcError(f"port {entry.port}")
    if not 0 <= entry.max_age_s <= LONGEST_MAX_AGE_S:
        raise AltSvcError(f"ma={entry.max_age_s}")
    host = entry.host
    if ":" in host:
        address = _ipv6(host)
        if address is None:
            raise AltSvcError(f"host {host[:64]!r}")
        host = f"[{address}]"
    elif host and not _is_host_name(host):
        raise AltSvcError(f"host {host[:64]!r}")
    value = _encode_protocol_id(entry.protocol_id) + f'="{host}:{entry.port}"; ma={entry.max_age_s}'.encode()
    return value + b"; persist=1" if entry.persist else value


def _encode_protocol_id(protocol_id: bytes) -> bytes:
    if _UNENCODED.issuperset(protocol_id):
        return protocol_id
    return b"".join(b"%c" % byte if byte in _UNENCODED else b"%%%02X" % byte for byte in protocol_id)
