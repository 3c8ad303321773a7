"""The files that certificates and keys came from, so that a change is noticed."""

from __future__ import annotations

from pathlib import Path

from smartproxy.config.references import read_small_file

_Stamp = tuple[int, int, int] | None


class CertificateFiles:
    """Reads files and remembers what they were like when they were read."""

    def __init__(self) -> None:
        self._stamps: dict[str, _Stamp] = {}
        self._contents: dict[str, bytes] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """The files read so far."""
        return tuple(self._stamps)

    def read(self, path: str) -> bytes:
        """The content of a file, read once. Raises `UnreadableFile`; a change of that file counts too."""
        content = self._contents.get(path)
        if content is None:
            # The stamp is taken first, so that a change while reading is a change.
            self._stamps[path] = _stamp(path)
            content = self._contents[path] = read_small_file(path)
        return content

    def forget_contents(self) -> None:
        """Keep the stamps only: there are private keys among the contents."""
        self._contents.clear()

    def changed(self) -> bool:
        """Whether any file is not what it was when it was read, or at the last call.

        So a change is told once: certificates that could not be used are not tried
        again before they change again.
        """
        now = {path: _stamp(path) for path in self._stamps}
        changed = now != self._stamps
        self._stamps = now
        return changed


def _stamp(path: str) -> _Stamp:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
