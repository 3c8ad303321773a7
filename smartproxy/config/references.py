"""Environment and file references in the strings of a configuration.

`${NAME}` is an environment variable, `${NAME:-default}` one that may be unset or
empty, and `$${` a literal `${`. A string that begins with `file:` is the content
of that file without its last line break; `$$file:` begins a literal `file:`.
Environment references in the file's name are resolved first.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smartproxy.config.problems import Problem, place_text, shortened
from smartproxy.config.referenced import Referenced

FILE_LIMIT_BYTES = 1024 * 1024
NODE_LIMIT = 5_000_000
DEPTH_LIMIT = 64

_FILE = "file:"
_ESCAPED_FILE = "$$file:"
_REFERENCE = re.compile(r"\$?\$\{")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}", re.ASCII)


class UnreadableFile(Exception):
    """A file that cannot be read as it should be; the text says why, without the content."""


def read_small_file(path: str | Path) -> bytes:
    """A regular file of at most 1 MiB. Raises `UnreadableFile`."""
    try:
        # A FIFO would block the open, a device never end: only then is the content looked at.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UnreadableFile(_reason(error)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableFile("it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            content = file.read(FILE_LIMIT_BYTES + 1)
        except OSError as error:
            raise UnreadableFile(_reason(error)) from None
    if len(content) > FILE_LIMIT_BYTES:
        raise UnreadableFile(f"it is larger than {FILE_LIMIT_BYTES} bytes")
    return content


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "its name is not valid"


class ReferenceResolver:
    """Resolves the references of one configuration.

    `problems` collects what could not be resolved, `files` what was read;
    `found_any` tells whether there was any reference.
    """

    def __init__(self, base_dir: Path, environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.files: list[Path] = []
        self._base_dir = base_dir
        self._environ = environ
        self.found_any = False
        self._nodes_left = NODE_LIMIT
        self._gave_up = False

    def resolve(self, value: Any, place: tuple[str | int, ...] = ()) -> Any:
        """`value` with every string's references replaced, as `Referenced`.

        Mappings and lists become dicts and lists of their own. Keys must be text.
        """
        self._nodes_left -= 1
        if self._gave_up:
            return None
        if self._nodes_left < 0 or len(place) > DEPTH_LIMIT:
            # A YAML alias can stand for more than memory holds, or for itself.
            self._gave_up = True
            self.problems.append(Problem(place_text(place[:3]), "is too large or too deeply nested"))
            return None
        if isinstance(value, str):
            if isinstance(value, Referenced):
                self.found_any = True
                return value
            return self._resolve_text(value, place)
        if isinstance(value, Mapping):
            return {
                key: self.resolve(item, (*place, key))
                for key, item in value.items()
                if self._is_key(key, place)
            }
        if isinstance(value, (list, tuple)):
            return [self.resolve(item, (*place, index)) for index, item in enumerate(value)]
        return value

    def _is_key(self, key: object, place: tuple[str | int, ...]) -> bool:
        if isinstance(key, str):
            return True
        self.problems.append(
            Problem(place_text(place), "keys must be text: put quotes around it", shortened(repr(key)))
        )
        return False

    def _resolve_text(self, text: str, place: tuple[str | int, ...]) -> str:
        if text.startswith(_ESCAPED_FILE):
            return self._expand(text[2:], text, place)
        if text.startswith(_FILE):
            return self._read(text, place)
        return self._expand(text, text, place) if "${" in text else text

    def _expand(self, text: str, written: str, place: tuple[str | int, ...]) -> str:
        parts: list[str] = []
        position = 0
        while (match := _REFERENCE.search(text, position)) is not None:
            parts.append(text[position : match.start()])
            position = match.end()
            if match[0] == "$${":
                parts.append("${")
                continue
            name = _NAME.match(text, position)
            if name is None:
                self.problems.append(
                    Problem(
                        place_text(place),
                        "has a malformed reference",
                        allowed="${NAME}, ${NAME:-default}, or $${ for the characters themselves",
                    )
                )
                return text
            position = name.end()
            found = self._environ.get(name[1])
            if not found and name[2] is not None:
                found = name[2]
            if found is None:
                self.problems.append(
                    Problem(
                        place_text(place), f"refers to the environment variable {name[1]}, which is not set"
                    )
                )
                return text
            parts.append(found)
        parts.append(text[position:])
        # What was an escape must not be taken for a reference later, so it is marked too.
        self.found_any = True
        return Referenced.of(written, "".join(parts))

    def _read(self, written: str, place: tuple[str | int, ...]) -> str:
        count = len(self.problems)
        name = self._expand(written[len(_FILE) :], written, place)
        if len(self.problems) > count:
            return written
        path = self._base_dir / name
        try:
            content = read_small_file(path).decode("utf-8")
        except UnreadableFile as error:
            self.problems.append(
                Problem(place_text(place), f"refers to a file that cannot be read: {error}", written)
            )
            return written
        except UnicodeDecodeError:
            self.problems.append(
                Problem(place_text(place), "refers to a file that is not UTF-8 text", written)
            )
            return written
        self.files.append(path)
        self.found_any = True
        return Referenced.of(written, content.removesuffix("\n").removesuffix("\r"))
