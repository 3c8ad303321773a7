"""SmartProxy: a proxy inside a program, under asyncio or trio."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from smartproxy.challenges import BUILT_IN_PROVIDER_ID, register_built_in
from smartproxy.config import (
    ConfigError,
    Problem,
    ProxyConfig,
    RouteConfig,
    compile_configuration,
    parse_config,
)
from smartproxy.config.compile_security import blocked_addresses
from smartproxy.config.models import SecurityPolicyConfig
from smartproxy.core.configuration import Configuration
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.records import AccessRecord, Level, Record
from smartproxy.core.security.challenge.provider import ChallengeProvider
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.logs import LogBridge
from smartproxy.logs.bridge import access_fields

_T = TypeVar("_T")

Listener = Callable[[Mapping[str, object]], None]
Routes = Iterable[RouteConfig | Mapping[str, Any]]

EVENTS = ("access", "error", "record", "started", "stopped")
"""What `SmartProxy.on` accepts."""

CERTIFICATE_CHECK_S = 10.0
"""How often certificate files are looked at for a change."""

_PORT_ATTEMPTS = 8
"""How many numbers the system may pick before one is free on TCP and UDP alike."""

_log = logging.getLogger("smartproxy.proxy")


def _facts(event: str, **fields: object) -> dict[str, object]:
    """What `extra` makes of a log record: its event and the facts that formatters show."""
    return {"event": event, "fields": fields}


class Driver(Protocol):
    """What SmartProxy needs of a driver; see `smartproxy.drivers`."""

    def listen(self, listening_port: int, hosts: Sequence[str]) -> int: ...
    def stop_listening(self, listening_port: int) -> None: ...
    def listen_udp(self, listening_port: int, hosts: Sequence[str], bind_port: int | None = None) -> int: ...
    def stop_listening_udp(self, listening_port: int) -> None: ...
    def listening_udp_ports(self) -> dict[int, int]: ...
    def listening_ports(self) -> dict[int, int]: ...
    def call_after(self, delay_s: float, function: Callable[[], None]) -> None: ...
    def apply(self, engine_input: Callable[[float], _T]) -> _T: ...
    async def start(self) -> None: ...
    async def wait_idle(self, timeout_s: float) -> bool: ...
    async def aclose(self) -> None: ...


def _runs_in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _make_driver(engine: Engine, on_records: Callable[[list[Record | AccessRecord]], None]) -> Driver:
    """The driver for the event loop that is running."""
    if _runs_in_asyncio():
        from smartproxy.drivers.asyncio import AsyncioDriver

        return AsyncioDriver(engine, on_records=on_records)
    if "trio" in sys.modules and sys.modules["trio"].lowlevel.in_trio_run():
        from smartproxy.drivers.trio import TrioDriver

        return TrioDriver(engine, on_records=on_records)
    raise RuntimeError("SmartProxy runs inside asyncio or trio; no event loop is running")


class SmartProxy:
    """A proxy that a program starts, changes while it runs, and stops.

    ```python
    route = {"match": {"ports": 8080},
             "action": {"type": "forward", "targets": [{"host": "127.0.0.1", "port": 3000}]}}
    async with SmartProxy(routes=[route]):
        await asyncio.Event().wait()
    ```

    `routes` are mappings in the native form or `RouteConfig` models; any other
    option of the configuration is a keyword argument (see docs/configuration.md),
    or give a whole `ProxyConfig` as `config`. Raises ConfigError, with every
    mistake in it, before anything is started.
    """

    def __init__(
        self,
        routes: Routes | None = None,
        *,
        config: ProxyConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if config is not None and (routes is not None or options):
            raise TypeError("give either config, or routes and options")
        self._config = _as_config(
            config if config is not None else {"routes": _plain(routes or ()), **options}
        )
        self._compiled = compile_configuration(self._config)
        self._log_bridge = LogBridge()
        self._listeners: dict[str, list[Listener]] = {event: [] for event in EVENTS}
        self._engine = Engine(self._compiled.configuration, Env(entropy=os.urandom, wall_clock=time.time))
        self._own_providers: set[str] = set()
        self._register_built_in_challenges()
        self._driver: Driver | None = None
        self._added_ports: set[int] = set()
        self._compiled_at = time.monotonic()
        self._stopping = False

    # Life.

    async def start(self) -> None:
        """Bind every port the routes name, then serve.

        Raises OSError, with nothing left bound, when a port cannot be had, and
        RuntimeError when the proxy was started before.
        """
        if self._driver is not None:
            raise RuntimeError("a SmartProxy starts once; make another one to start again")
        driver = _make_driver(self._engine, self._on_records)
        self._tune()
        configuration = self._engine.configuration
        try:
            _open_ports(driver, configuration, configuration.table.listening_ports())
            _open_udp_ports(driver, configuration)
        except BaseException:
            await driver.aclose()
            raise
        self._driver = driver
        await driver.start()
        driver.apply(self._engine.handle_started)
        driver.call_after(CERTIFICATE_CHECK_S, self._check_certificates)
        for problem in self.warnings:
            _log.warning("%s", problem, extra=_facts("config_warning", problem=str(problem)))
        ports, udp_ports = sorted(driver.listening_ports().values()), sorted(self._udp_ports().values())
        _log.info(
            "listening on %s%s",
            _names(ports) or ("no TCP port" if udp_ports else "no port"),
            f", and for HTTP/3 on UDP {_names(udp_ports)}" if udp_ports else "",
            extra=_facts("started", ports=ports, udp_ports=udp_ports),
        )
        self._tell("started", {"ports": self.ports, "udp_ports": self._udp_ports()})

    async def stop(self) -> None:
        """Stop listening, let what is under way finish for `graceful_shutdown_timeout`, close the rest."""
        driver = self._driver
        if driver is None or self._stopping:
            return
        self._stopping = True
        # UDP ports stay until the end: what is under way over QUIC goes through them.
        for port in list(driver.listening_ports()):
            driver.stop_listening(port)
        driver.apply(self._engine.handle_drain)
        try:
            finished = await driver.wait_idle(self._engine.configuration.timeouts.graceful_shutdown_s)
            if not finished:
                _log.warning(
                    "closing %d connections that did not finish in time",
                    self._engine.connection_count,
                    extra={
                        "event": "drain_timed_out",
                        "fields": {"connections": self._engine.connection_count},
                    },
                )
        finally:
            driver.apply(self._engine.handle_shutdown)
            await driver.aclose()
        _log.info("stopped", extra=_facts("stopped"))
        self._tell("stopped", {})

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # Changes while it runs.

    @property
    def warnings(self) -> list[Problem]:
        """What the configuration says that is probably not meant."""
        return self._compiled.warnings

    def _check_certificates(self) -> None:
        """Present certificates whose files have changed; replace session ticket keys when they are old."""
        driver = self._driver
        if driver is None or self._stopping:
            return
        driver.call_after(CERTIFICATE_CHECK_S, self._check_certificates)
        age_s = time.monotonic() - self._compiled_at
        if not self._compiled.files.changed() and age_s < self._compiled.refresh_after_s:
            return
        try:
            compiled = compile_configuration(self._config)
        except ConfigError as error:
            # What is presented now still serves; the change is looked at again when the files change again.
            _log.error(
                "the changed certificates are not used: %s", error, extra=_facts("certificates_refused")
            )
            self._compiled_at = time.monotonic()
            return
        self._compiled = compiled
        self._compiled_at = time.monotonic()
        certificates = compiled.configuration.certificates
        driver.apply(lambda now: self._engine.handle_certificates(certificates, now))

    @property
    def config(self) -> ProxyConfig:
        """The configuration in force."""
        return self._config

    @property
    def engine(self) -> Engine:
        """The state machine inside, for what it can tell."""
        return self._engine

    async def update_routes(self, routes: Routes) -> None:
        """Replace all routes at once. A set that does not hold changes nothing and raises ConfigError.

        Ports the new routes need are opened first (OSError changes nothing
        either), ports they no longer name are closed. Connections keep the routes
        they began with; an HTTP one ends after the response under way.
        """
        await self.update_config(self._config.with_routes(routes))

    async def update_config(self, config: ProxyConfig | Mapping[str, Any]) -> None:
        """Replace the whole configuration, as `update_routes` does the routes."""
        new_config = _as_config(config)
        compiled = compile_configuration(new_config)
        driver = self._running_driver()
        listening = driver.listening_ports()
        wanted = set(compiled.configuration.table.listening_ports()) | self._added_ports
        opened = sorted(wanted - listening.keys())
        _open_ports(driver, compiled.configuration, opened)
        older = self._engine.configuration
        driver.apply(lambda now: self._engine.handle_configuration(compiled.configuration, now))
        self._register_built_in_challenges()
        try:
            # The engine takes UDP sockets for the routes in force only.
            _open_udp_ports(driver, compiled.configuration)
        except OSError:
            for port in opened:
                driver.stop_listening(port)
            driver.apply(lambda now: self._engine.handle_configuration(older, now))
            _open_udp_ports(driver, older)
            raise
        self._config = new_config
        self._compiled = compiled
        self._compiled_at = time.monotonic()
        for port in listening.keys() - wanted:
            driver.stop_listening(port)

    async def update_security_policy(self, policy: SecurityPolicyConfig | Mapping[str, Any]) -> None:
        """Replace the block policy (`blocked_ips`, `blocked_cidrs`); nothing else changes.

        It holds from the next connection on, and the connections of those it keeps out end at once.
        Raises ConfigError, and changes nothing, for a policy that does not hold. A long one is read
        in a thread.
        """
        model, blocked = await _in_thread(partial(_read_security_policy, policy))
        self._config = self._config.model_copy(update={"security_policy": model})
        if self._driver is None:
            self._engine.handle_blocked_addresses(blocked, time.monotonic())
        else:
            self._running_driver().apply(lambda now: self._engine.handle_blocked_addresses(blocked, now))

    def register_challenge_provider(self, provider_id: str, provider: ChallengeProvider) -> None:
        """Have `provider` make the challenges of the routes that name `provider_id`.

        It may be registered before the start or while the proxy runs, and replaced; until it is
        there its routes answer 503 to whoever would be challenged. Its methods may be sync or
        async; sync ones run in the event loop and must not block.
        """
        self._own_providers.add(provider_id)
        self._engine.register_challenge_provider(provider_id, provider)

    def _register_built_in_challenges(self) -> None:
        # Who registers something else under that name means it.
        if BUILT_IN_PROVIDER_ID not in self._own_providers:
            register_built_in(self._engine)

    def _udp_ports(self) -> dict[int, int]:
        """Configured UDP port → bound port, of those that routes name; others are only being left."""
        if self._driver is None:
            return {}
        wanted = self._engine.configuration.table.udp_listening_ports()
        return {port: bound for port, bound in self._driver.listening_udp_ports().items() if port in wanted}

    def _running_driver(self) -> Driver:
        if self._driver is None or self._stopping:
            raise RuntimeError("the proxy is not running")
        return self._driver

    async def add_listening_port(self, port: int) -> int:
        """Listen on `port` too, whatever routes name; returns the port that was bound. Raises OSError."""
        driver = self._running_driver()
        listening = driver.listening_ports()
        self._added_ports.add(port)
        if port in listening:
            return listening[port]
        try:
            return driver.listen(port, self._engine.configuration.listen_hosts)
        except OSError:
            self._added_ports.discard(port)
            raise

    async def remove_listening_port(self, port: int) -> None:
        """Accept no more connections on `port`; those there are stay. Unknown ports are no error."""
        driver = self._running_driver()
        self._added_ports.discard(port)
        if port in driver.listening_ports():
            driver.stop_listening(port)

    def get_listening_ports(self) -> list[int]:
        """The ports that are bound, in order; for a configured port 0 the one the system picked."""
        return sorted(set(self.ports.values()))

    @property
    def ports(self) -> dict[int, int]:
        """Configured port → bound port. UDP has the number that TCP has, where a port has both."""
        return {**self._udp_ports(), **self._driver.listening_ports()} if self._driver is not None else {}

    def get_backend_protocols(self) -> dict[str, dict[str, object]]:
        """What is known of the HTTP versions of each backend that may have several, by `host:port`.

        `mode` is the configured `backend_protocol`, `best` what a new connection would be tried in
        first (None: ALPN will say), `learned` what ALPN last chose, and `alternatives` lists what the
        backend advertised (Alt-Svc): each `alternative` with its `availability` ("ready",
        "suppressed", "trial_due", "on_trial") and how often it has failed. At most 256 backends.
        """
        return {
            endpoint: {
                "mode": snapshot.mode.value,
                "best": snapshot.best.value if snapshot.best is not None else None,
                "learned": snapshot.learned.value if snapshot.learned is not None else None,
                "alternatives": [
                    {
                        "alternative": str(state.alternative),
                        "availability": state.availability.value,
                        "failure_count": state.failure_count,
                    }
                    for state in snapshot.alternatives
                ],
            }
            for endpoint, snapshot in self._engine.backend_protocols()
        }

    # Events.

    def on(self, event: str, listener: Listener) -> Self:
        """Call `listener(facts)` at each `event`: one of `EVENTS`. Raises ValueError for another name.

        `error`: a record of level error, such as `internal_error`. `record`: every
        record. `access`: every finished exchange or connection. Listeners run inside
        the event loop and must not block; one that raises is logged.
        """
        if event not in self._listeners:
            raise ValueError(f"no event {event!r}; there are {', '.join(EVENTS)}")
        self._listeners[event].append(listener)
        self._tune()
        return self

    def _tune(self) -> None:
        """Have the engine make only the records that somebody hears."""
        context = self._engine.context
        self._log_bridge.tune(context)
        if self._listeners["access"]:
            context.wants_access_records = True
        if self._listeners["record"]:
            context.record_level = Level.DEBUG

    def _tell(self, event: str, facts: Mapping[str, object]) -> None:
        for listener in self._listeners[event]:
            try:
                listener(facts)
            except Exception:
                _log.exception("a listener of %r raised", event)

    def _on_records(self, records: list[Record | AccessRecord]) -> None:
        self._log_bridge.emit(records)
        listeners = self._listeners
        if listeners["access"] or listeners["error"] or listeners["record"]:
            for record in records:
                if isinstance(record, AccessRecord):
                    self._tell("access", {"event": "access", **access_fields(record)})
                else:
                    facts = {"event": record.event, "area": record.area, **record.fields}
                    self._tell("record", facts)
                    if record.level >= Level.ERROR:
                        self._tell("error", facts)


async def _in_thread(function: Callable[[], _T]) -> _T:
    """What `function` returns or raises, while the event loop goes on."""
    if _runs_in_asyncio():
        return await asyncio.to_thread(function)
    import trio

    return await trio.to_thread.run_sync(function)


def _read_security_policy(
    policy: SecurityPolicyConfig | Mapping[str, Any],
) -> tuple[SecurityPolicyConfig, IpSet]:
    if not isinstance(policy, SecurityPolicyConfig):
        policy = SecurityPolicyConfig.model_validate(policy)
    return policy, blocked_addresses(policy)


def _names(ports: Iterable[int]) -> str:
    return ", ".join(map(str, ports))


def _open_ports(driver: Driver, configuration: Configuration, ports: Iterable[int]) -> None:
    """Bind TCP `ports`, 0 to a number that is free on UDP too where it is wanted there.

    Raises OSError; then none of them is left bound.
    """
    hosts = configuration.listen_hosts
    udp_too = 0 in configuration.table.udp_listening_ports()
    opened: list[int] = []
    try:
        for port in ports:
            if port == 0 and udp_too:
                _listen_on_any(driver, hosts)
            else:
                driver.listen(port, hosts)
            opened.append(port)
    except OSError:
        for port in opened:
            driver.stop_listening(port)
        raise


def _listen_on_any(driver: Driver, hosts: Sequence[str]) -> None:
    """Bind port 0 to one number that is free on TCP and UDP alike. Raises OSError."""
    attempts_left = _PORT_ATTEMPTS
    while True:
        attempts_left -= 1
        picked = driver.listen(0, hosts)
        try:
            driver.listen_udp(0, hosts, picked)
        except OSError as error:
            driver.stop_listening(0)
            if error.errno != errno.EADDRINUSE or not attempts_left:
                raise
        else:
            return


def _open_udp_ports(driver: Driver, configuration: Configuration) -> None:
    """Bind the UDP ports that are not bound yet, to the numbers that TCP has where it has them.

    Raises OSError; then none of them is left bound.
    """
    bound = driver.listening_udp_ports()
    opened: list[int] = []
    try:
        for port in configuration.table.udp_listening_ports():
            if port not in bound:
                driver.listen_udp(port, configuration.listen_hosts, driver.listening_ports().get(port))
                opened.append(port)
    except OSError:
        for port in opened:
            driver.stop_listening_udp(port)
        raise


def _plain(routes: Routes) -> list[Any]:
    return [route.plain() if isinstance(route, RouteConfig) else dict(route) for route in routes]


def _as_config(config: ProxyConfig | Mapping[str, Any]) -> ProxyConfig:
    return config if isinstance(config, ProxyConfig) else parse_config(config)


__all__ = ["EVENTS", "ConfigError", "SmartProxy"]
