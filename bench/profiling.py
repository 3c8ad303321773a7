"""Where smartproxy's time goes in one scenario, by Python's own profiler.

The profiler makes Python calls dearer than the system calls and C code between them, so read
its shares, not its seconds.
"""

from __future__ import annotations

import io
import pstats
from pathlib import Path

SHOWN_FUNCTIONS = 40


def profile_text(path: Path) -> str:
    """The functions with the most time of their own, then with what they call.

    Raises ValueError when there is no profile.
    """
    if not path.exists():
        raise ValueError("smartproxy left no profile: it did not end by itself when asked to")
    text = io.StringIO()
    statistics = pstats.Stats(str(path), stream=text).strip_dirs()
    statistics.sort_stats(pstats.SortKey.TIME).print_stats(SHOWN_FUNCTIONS)
    statistics.sort_stats(pstats.SortKey.CUMULATIVE).print_stats(SHOWN_FUNCTIONS)
    return text.getvalue()
