"""Requests of one client, most of which say the same things of different paths."""

from __future__ import annotations

from smartproxy.core.http.messages import Fields, RequestHead
from smartproxy.core.wire.field_sections import section_bytes
from smartproxy.core.wire.http1.syntax import ORIGIN_FORM
from smartproxy.core.wire.http2.heads import decode_request
from smartproxy.core.wire.http2.limits import Http2Limits

_REMEMBERED_SECTIONS = 3
_MAX_REMEMBERED_BYTES = 4096
# Who never repeats itself is not asked whether it does any more.
_MISSES_TO_GIVE_UP = 64


class _Section:
    """A section that was found to be in order, apart from its path."""

    __slots__ = ("after", "before", "end_stream", "head", "line_count", "path_index", "room_bytes", "types")

    def __init__(
        self, lines: Fields, path_index: int, end_stream: bool, head: RequestHead, room_bytes: int
    ) -> None:
        self.line_count = len(lines)
        self.path_index = path_index
        self.before = lines[:path_index]
        self.after = lines[path_index + 1 :]
        self.types = list(map(type, lines))
        self.end_stream = end_stream
        # A copy: the other is going to be somebody's to change.
        self.head = head.with_same_fields(head.method, head.target)
        #: The longest path that neither limit refuses.
        self.room_bytes = room_bytes

    def is_same(self, lines: Fields, end_stream: bool) -> bool:
        index = self.path_index
        return (
            len(lines) == self.line_count
            and end_stream == self.end_stream
            and lines[index + 1 :] == self.after
            and lines[:index] == self.before
            # A line that is never to be indexed is equal to one that may be, but not the same.
            and list(map(type, lines)) == self.types
        )


class RequestMemory:
    """Decodes requests as `decode_request` does, what it has seen of late at a glance."""

    __slots__ = ("_limits", "_misses", "_sections")

    def __init__(self, limits: Http2Limits) -> None:
        self._limits = limits
        self._sections: list[_Section] = []
        self._misses = 0

    def decode(self, lines: Fields, end_stream: bool) -> RequestHead:
        """The head in a request's field section. Raises StreamError or RefusedRequest."""
        sections = self._sections
        for section in sections:
            if section.is_same(lines, end_stream):
                name, path = lines[section.path_index]
                if (
                    name == b":path"
                    and len(path) <= section.room_bytes
                    and ORIGIN_FORM.fullmatch(path) is not None
                ):
                    self._misses = 0
                    return section.head.with_same_fields(section.head.method, path)
        head = decode_request(lines, end_stream, self._limits, extended_connect=True)
        if self._misses < _MISSES_TO_GIVE_UP:
            self._misses += 1
            self._remember(lines, end_stream, head)
        elif sections:
            sections.clear()
        return head

    def _remember(self, lines: Fields, end_stream: bool, head: RequestHead) -> None:
        size = section_bytes(lines)
        if size > _MAX_REMEMBERED_BYTES or not head.target:
            return
        limits = self._limits
        path_index = [name for name, _ in lines].index(b":path")
        room_bytes = min(limits.target_bytes, limits.header_bytes - size + len(head.target))
        if len(self._sections) >= _REMEMBERED_SECTIONS:
            self._sections.pop()
        self._sections.insert(0, _Section(lines, path_index, end_stream, head, room_bytes))
