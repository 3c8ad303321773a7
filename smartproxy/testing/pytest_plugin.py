"""A pytest plugin, active wherever smartproxy is installed: the fixture `start_proxy`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from smartproxy.testing.running_proxy import RunningProxy


@pytest.fixture
def start_proxy() -> Iterator[Callable[..., RunningProxy]]:
    """Call it with what `SmartProxy` takes: a proxy runs on free ports until the test ends.

    ```python
    def test_redirects(start_proxy):
        proxy = start_proxy([{"match": {"ports": 0},
                              "action": {"type": "handler", "handler": {"http_redirect": {"url": "https://x/"}}}}])
        assert httpx.get(f"http://127.0.0.1:{proxy.port}/").status_code == 301
    ```
    """
    from smartproxy.testing.running_proxy import RunningProxy

    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> RunningProxy:
            return stack.enter_context(RunningProxy(*arguments, **options))

        yield start
