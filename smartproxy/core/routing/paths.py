"""Request paths as rules see them, and patterns over them.

A rule must hold however a request spells its path, whatever the backend makes of
that spelling. So a target is reduced to the one path that rules are matched on
(`normalise_path`), and a target that can be read as two paths is refused:

- Percent-encoding is decoded once (RFC 3986 §2.1), as UTF-8. A `%` without two hex
  digits, and bytes that are not UTF-8 (overlong forms included), are refused.
- What is still percent-encoded after that (`%252F`, `%2561`) is refused: a backend
  that decodes twice would see another path.
- `/./` and `/../` are removed (RFC 3986 §5.2.4), also when they were spelt `%2E`;
  a `..` that climbs above the root is refused.
- `%2F` separates segments like `/`. Together with a dot segment it is refused,
  because then it matters which of the two is undone first.
- Empty segments (`//`) count as one slash. Together with `..` they are refused, because
  it may remove an empty segment or the one before.
- A segment's parameters (`;v=1`, RFC 3986 §3.3) are left out, since some backends ignore
  them; `..;` is refused. An encoded `%3B` is an ordinary character.
- Backslashes (also `%5C`), control characters (also `%00`) and `#` are refused.

The backend gets the target as the client sent it.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

T = TypeVar("T")

NO_PARAMETERS: Final[dict[str, str]] = {}
"""What a match without parameters returns; shared, so never to be changed."""

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH = re.compile(b"%2[Ff]")
_DOT_SEGMENT_WITH_PARAMETERS = re.compile(rb"/(?:\.|%2[Ee]){1,2};")
_PARAMETERS = re.compile(b";[^/]*")
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
_CONTROL_OR_BACKSLASH = re.compile(r"[\x00-\x1f\x7f\\]")
_PARAMETER_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def normalise_path(target: bytes) -> str | None:
    """The path that rules are matched on; None for a target to be refused with 400.

    `target` is a request's origin-form (RFC 9112 §3.2.1); its query is dropped.
    `*` and the empty target of a CONNECT come back as they are, and match only
    what asks for no path.
    """
    try:
        text = target.decode("ascii")
    except UnicodeDecodeError:
        return _normalise_odd_path(target)
    query = text.find("?")
    if query >= 0:
        text = text[:query]
    if (
        text[:1] == "/"
        and "%" not in text
        and "//" not in text
        and "/." not in text
        and ";" not in text
        and "\\" not in text
        and "#" not in text
        and text.isprintable()
    ):
        return text
    return _normalise_odd_path(target)


def _normalise_odd_path(target: bytes) -> str | None:
    if target in (b"*", b""):
        return target.decode("ascii")
    raw = target.partition(b"?")[0]
    if raw[:1] != b"/" or b"#" in raw:
        return None
    separated = _ENCODED_SLASH.sub(b"/", raw)
    path = _decode(separated)
    if path is not None and b";" in separated:
        # The parameters are dropped only now: what could not be a path must not hide in them either.
        if _DOT_SEGMENT_WITH_PARAMETERS.search(separated) is not None:
            return None
        path = _decode(_PARAMETERS.sub(b"", separated))
    if path is None or ("/." not in path and "//" not in path):
        return path
    return _without_dot_segments(path, has_encoded_slash=len(separated) < len(raw))


def _decode(raw: bytes) -> str | None:
    """Percent-encoding undone once; None where that leaves no single meaning."""
    if _BAD_ESCAPE.search(raw) is not None:
        return None
    try:
        text = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if _CONTROL_OR_BACKSLASH.search(text) is not None or _ESCAPE.search(text) is not None:
        return None
    return text


def _without_dot_segments(path: str, *, has_encoded_slash: bool) -> str | None:
    segments = path.split("/")[1:]
    kept: list[str] = []
    has_empty = False
    for segment in segments:
        if segment == "":
            has_empty = True
        elif segment == "." or segment == "..":
            if has_encoded_slash:
                return None
            if segment == "..":
                if has_empty or not kept:
                    return None
                kept.pop()
        else:
            kept.append(segment)
    if segments[-1] in ("", ".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


class PathPattern:
    """A compiled path rule.

    `/exact` is that path alone; `/users/:id` takes any one segment, not empty, as
    the parameter `id`; a last `*` takes anything, nothing included. So `/api/*` is
    `/api/` and all below it but not `/api`, and `/api*` is both and `/apix` too.
    Escapes in a pattern are decoded like those of a request.
    """

    __slots__ = ("is_prefix", "literal", "parameter_names", "segments", "specificity", "text")

    def __init__(
        self, text: str, segments: tuple[str | None, ...], names: tuple[str, ...], is_prefix: bool
    ) -> None:
        self.text = text
        #: What stands between the slashes, decoded; None for a parameter. A prefix ends within its last one.
        self.segments = segments
        self.parameter_names = names
        self.is_prefix = is_prefix
        #: The decoded text of a pattern without parameters, else empty.
        self.literal = "".join(f"/{segment}" for segment in segments) if not names else ""
        literal_length = len(segments) + sum(len(segment) for segment in segments if segment is not None)
        #: Greater for the more specific pattern: an exact path, then more literal characters, then no star.
        self.specificity = (not is_prefix and not names, literal_length, not is_prefix)

    @classmethod
    def compile(cls, text: str) -> PathPattern:
        """Raises ValueError, naming the pattern, for one that is malformed or could never match."""
        try:
            return cls._compile(text)
        except ValueError as error:
            raise ValueError(f"path {text!r}: {error}") from None

    @classmethod
    def _compile(cls, text: str) -> PathPattern:
        if not text.startswith("/"):
            raise ValueError("a path begins with a slash")
        is_prefix = text.endswith("*")
        body = text.removesuffix("*")
        if "*" in body:
            raise ValueError("a star stands only at the end (%2A is a literal one)")
        if "?" in body or "#" in body or ";" in body:
            raise ValueError(
                "a query, a fragment and ;parameters are not part of a path (write %3F, %23 or %3B)"
            )
        raw_segments = body[1:].split("/")
        last = len(raw_segments) - 1
        segments: list[str | None] = []
        names: list[str] = []
        for position, raw_segment in enumerate(raw_segments):
            if raw_segment.startswith(":"):
                name = raw_segment[1:]
                if _PARAMETER_NAME.fullmatch(name) is None:
                    raise ValueError(f"{raw_segment!r} is not a parameter (:name of letters, digits and '_')")
                if name in names:
                    raise ValueError(f"the parameter {raw_segment!r} stands there twice")
                if is_prefix and position == last:
                    raise ValueError("a parameter is a whole segment: a star needs a slash before it")
                names.append(name)
                segments.append(None)
                continue
            segment = None if _ENCODED_SLASH.search(raw_segment.encode()) else _decode(raw_segment.encode())
            if segment is None:
                raise ValueError(
                    f"{raw_segment!r} is in no path that reaches a rule: encoded slashes, backslashes, "
                    "control characters and double encoding do not"
                )
            if (segment == "" and position < last) or (
                segment in (".", "..") and not (is_prefix and position == last)
            ):
                raise ValueError("empty segments, '.' and '..' are removed before rules are matched")
            segments.append(segment)
        return cls(text, tuple(segments), tuple(names), is_prefix)

    def match(self, path: str) -> dict[str, str] | None:
        """The parameters of a normalised `path`, or None when it does not match."""
        names = self.parameter_names
        if not names:
            matches = path.startswith(self.literal) if self.is_prefix else path == self.literal
            return NO_PARAMETERS if matches else None
        count = len(self.segments)
        parts = path.split("/", count if self.is_prefix else count + 1)
        if len(parts) != count + 1:
            return None
        values: list[str] = []
        for position, segment in enumerate(self.segments, start=1):
            part = parts[position]
            if segment is None:
                if not part:
                    return None
                values.append(part)
            elif part != segment and not (self.is_prefix and position == count and part.startswith(segment)):
                return None
        return dict(zip(names, values, strict=True))

    def __repr__(self) -> str:
        return f"<PathPattern {self.text}>"


class _Node(Generic[T]):
    """One place in the tree of patterns that are not exact: after some number of segments."""

    __slots__ = ("children", "ends", "parameter", "prefix_lengths", "prefixes")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.ends: list[T] = []
        self.prefixes: dict[str, list[T]] = {}
        self.prefix_lengths: list[int] = []


class PathIndex(Generic[T]):
    """Finds the items of every pattern that matches a path, at a cost that many patterns do not raise."""

    __slots__ = ("_depth", "_exact", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._root: _Node[T] = _Node()
        self._depth = 0
        """The most segments that any pattern in the tree takes before its end or its prefix."""

    def add(self, pattern: PathPattern, item: T) -> None:
        """Items of patterns that match the same paths are found in the order they were added."""
        segments = pattern.segments
        if not pattern.is_prefix and not pattern.parameter_names:
            self._exact.setdefault(pattern.literal, []).append(item)
            return
        node = self._root
        for segment in segments[:-1] if pattern.is_prefix else segments:
            if segment is not None:
                node = node.children.setdefault(segment, _Node())
            else:
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
        self._depth = max(self._depth, len(segments))
        if not pattern.is_prefix:
            node.ends.append(item)
            return
        prefix = segments[-1] or ""
        if len(prefix) not in node.prefix_lengths:
            node.prefix_lengths.append(len(prefix))
        node.prefixes.setdefault(prefix, []).append(item)

    def find(self, path: str) -> list[list[T]]:
        """One list of items for each pattern that matches the normalised `path`."""
        found: list[list[T]] = []
        exact = self._exact.get(path)
        if exact is not None:
            found.append(exact)
        if self._depth:
            # One split more than any pattern takes, so that a segment taken never holds a slash.
            segments = path.split("/", self._depth + 1)
            _collect(self._root, path, segments, found)
        return found


def _collect(root: _Node[T], path: str, segments: list[str], found: list[list[T]]) -> None:
    """Walk down every branch that matches; the tree's size bounds the walk, whatever the path."""
    branches = [(root, 1, 1)]
    while branches:
        node, position, offset = branches.pop()
        if position == len(segments):
            if node.ends:
                found.append(node.ends)
            continue
        for length in node.prefix_lengths:
            if offset + length <= len(path):
                items = node.prefixes.get(path[offset : offset + length])
                if items is not None:
                    found.append(items)
        segment = segments[position]
        offset += len(segment) + 1
        child = node.children.get(segment)
        if child is not None:
            branches.append((child, position + 1, offset))
        if node.parameter is not None and segment:
            branches.append((node.parameter, position + 1, offset))
