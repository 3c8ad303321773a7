"""Engine records become log records under `smartproxy.*`, their facts in `record.fields`."""

from __future__ import annotations

import logging
from dataclasses import fields as dataclass_fields

from smartproxy.core.context import Context
from smartproxy.core.records import AccessRecord, Level, Record

_ACCESS_FIELDS = tuple(f.name for f in dataclass_fields(AccessRecord))


def access_fields(record: AccessRecord) -> dict[str, object]:
    """An access record's facts, without those it does not have."""
    values: dict[str, object] = {}
    for name in _ACCESS_FIELDS:
        value = getattr(record, name)
        if value != "" and not (value == 0 and name in ("status", "close_code")):
            values[name] = value
    values["duration_s"] = round(record.duration_s, 6)
    return values


def access_line(record: AccessRecord) -> str:
    """An access record as a sentence for people."""
    where = f" -> {record.backend}" if record.backend else ""
    why = f" ({record.failure})" if record.failure else ""
    duration_ms = record.duration_s * 1000
    if record.method:
        # What a client sent stands escaped: a log line must stay one line.
        request = f"{record.method} {record.scheme}://{record.authority}{record.target}"
        what = request.encode("unicode_escape").decode("ascii")
        return (
            f"{record.client_ip} {what} {record.status} {record.bytes_sent}B {duration_ms:.1f}ms"
            f" [{record.route or '-'}]{where}{why}"
        )
    name = f" {record.authority}" if record.authority else ""
    status = f" {record.status}" if record.status else ""
    return (
        f"{record.client_ip} {record.protocol}{name}{status} in {record.bytes_received}B out"
        f" {record.bytes_sent}B {duration_ms:.1f}ms [{record.route or '-'}]{where}{why}"
    )


class LogBridge:
    """Give its `emit` to a driver as `on_records`.

    Every record goes to the logger `smartproxy.<area>`, access records to
    `smartproxy.access` at INFO. `tune(context)` tells the engine which records
    nobody would see, so that it does not make them.
    """

    __slots__ = ("_access", "_loggers")

    def __init__(self) -> None:
        self._access = logging.getLogger("smartproxy.access")
        self._loggers: dict[str, logging.Logger] = {}

    def tune(self, context: Context) -> None:
        root = logging.getLogger("smartproxy")
        context.record_level = Level(min(max(root.getEffectiveLevel(), 10), 40) // 10 * 10)
        context.wants_access_records = self._access.isEnabledFor(logging.INFO) and self._access.hasHandlers()

    def emit(self, records: list[Record | AccessRecord]) -> None:
        for record in records:
            if isinstance(record, AccessRecord):
                if self._access.isEnabledFor(logging.INFO):
                    self._access.info(
                        "%s",
                        access_line(record),
                        extra={"event": "access", "fields": access_fields(record)},
                    )
            else:
                logger = self._loggers.get(record.area)
                if logger is None:
                    logger = self._loggers[record.area] = logging.getLogger(f"smartproxy.{record.area}")
                if logger.isEnabledFor(record.level):
                    logger.log(
                        record.level,
                        "%s",
                        _sentence(record),
                        extra={"event": record.event, "fields": record.fields},
                    )


def _sentence(record: Record) -> str:
    facts = " ".join(
        f"{name}={_shown(value)}" for name, value in record.fields.items() if name != "traceback"
    )
    sentence = f"{record.event.replace('_', ' ')} {facts}".rstrip()
    traceback = record.fields.get("traceback")
    return f"{sentence}\n{traceback}" if traceback else sentence


def _shown(value: object) -> str:
    text = str(value)
    if not text.isprintable() or " " in text or not text:
        return repr(text)
    return text
