"""A proxy in a thread of its own, for tests that are not async themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from smartproxy.config import ProxyConfig, RouteConfig
from smartproxy.proxy import SmartProxy

_T = TypeVar("_T")

_ANSWER_S = 30.0


class RunningProxy:
    """Starts a `SmartProxy` on an asyncio loop in a background thread; a context manager.

    Takes what `SmartProxy` takes; `listen` defaults to 127.0.0.1. Use port 0 in
    routes and read the port that was bound from `port` or `ports`. `records` grows
    with every record, access records included, each as a mapping with its `event`.
    """

    def __init__(
        self,
        routes: Iterable[RouteConfig | Mapping[str, Any]] | None = None,
        *,
        config: ProxyConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if config is None:
            options.setdefault("listen", ["127.0.0.1"])
            self.proxy = SmartProxy(routes or [], **options)
        else:
            self.proxy = SmartProxy(config=config)
        self.records: list[Mapping[str, object]] = []
        self._record_came = threading.Condition()
        self.proxy.on("record", self._remember)
        self.proxy.on("access", self._remember)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="smartproxy", daemon=True)

    def _remember(self, facts: Mapping[str, object]) -> None:
        with self._record_came:
            self.records.append(facts)
            self._record_came.notify_all()

    def wait_for_record(
        self, event: str, *, timeout_s: float = _ANSWER_S, **facts: object
    ) -> Mapping[str, object]:
        """The first record of `event` with these facts, once there is one. Raises TimeoutError."""

        def find() -> Mapping[str, object] | None:
            for record in self.records:
                if record["event"] == event and all(
                    record.get(name) == value for name, value in facts.items()
                ):
                    return record
            return None

        with self._record_came:
            found = self._record_came.wait_for(find, timeout_s)
        if found is None:
            seen = sorted({str(record["event"]) for record in self.records})
            raise TimeoutError(
                f"no record {event} {facts} in {timeout_s} s; there were {', '.join(seen) or 'none'}"
            )
        return found

    def call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run `coroutine` on the proxy's loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_ANSWER_S)

    @property
    def ports(self) -> dict[int, int]:
        """Configured port → bound port."""
        return self.proxy.ports

    @property
    def port(self) -> int:
        """The one port that is bound. Raises ValueError when there are several."""
        (port,) = self.proxy.get_listening_ports()
        return port

    def update_routes(self, routes: Iterable[RouteConfig | Mapping[str, Any]]) -> None:
        """`SmartProxy.update_routes`, from this thread."""
        self.call(self.proxy.update_routes(routes))

    def start(self) -> Self:
        """Bind and serve; returns once the ports are bound. Raises what `SmartProxy.start` does."""
        self._thread.start()
        try:
            self.call(self.proxy.start())
        except BaseException:
            self._end_loop()
            raise
        return self

    def stop(self) -> None:
        """Drain and stop; may be called again."""
        if self._thread.is_alive():
            try:
                self.call(self.proxy.stop())
            finally:
                self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
