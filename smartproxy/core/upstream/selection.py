"""From a forward action to one backend: the target that matches, then a host of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from smartproxy.core.configuration import BackendProtocol, ForwardAction, Target, TargetMatch
from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import Fields
from smartproxy.core.ops import UNIX_PORT, CallFunction, OperationFailed, Result, Returned
from smartproxy.core.records import Level
from smartproxy.core.routing.paths import PathPattern
from smartproxy.core.upstream.balancing import HostGroup
from smartproxy.core.upstream.dial import Endpoint
from smartproxy.core.upstream.health import Host
from smartproxy.core.upstream.pool import Pool, Pools

POOLS_PER_TARGET = 1024
DYNAMIC_GROUPS_PER_TARGET = 1024
HOSTS_PER_ANSWER = 256
"""The most hosts that a host function may return."""

_HOST = re.compile(r"[0-9A-Za-z_](?:[0-9A-Za-z._-]{0,252})|[0-9A-Fa-f:.]{2,45}")


def _is_host(name: str) -> bool:
    return _HOST.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What a host or port function of the user's gets to decide by."""

    port: int
    client_ip: str
    client_port: int
    route_name: str
    domain: str = ""
    path: str = ""
    query: str = ""
    method: str = ""
    tls_version: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


class TargetState:
    """A target with what is learnt about its hosts, and the pools found for them."""

    __slots__ = (
        "_backend_protocol",
        "_dynamic_groups",
        "_path",
        "_pools",
        "asks_functions",
        "group",
        "target",
    )

    def __init__(self, target: Target, backend_protocol: BackendProtocol = BackendProtocol.AUTO) -> None:
        self.target = target
        self._backend_protocol = backend_protocol
        #: Whether the user's functions say which host and port it is.
        self.asks_functions = target.host_function is not None or target.port_function is not None
        self.group = HostGroup(target)
        self._pools: dict[tuple[str, int], Pool] = {}
        self._dynamic_groups: dict[tuple[str, ...], HostGroup] = {}
        match = target.match
        self._path = PathPattern.compile(match.path) if match is not None and match.path else None

    @property
    def has_known_hosts(self) -> bool:
        """Whether hosts and port are written down, so that they can be probed."""
        target = self.target
        if target.unix_path is not None:
            return True
        return not self.asks_functions and target.port != "preserve"

    def matches(self, port: int, path: str | None, method: bytes, fields: Fields) -> bool:
        """Whether the target's own match lets this through; `path` None: not HTTP."""
        match: TargetMatch | None = self.target.match
        if match is None:
            return True
        if match.ports and not any(low <= port <= high for low, high in match.ports):
            return False
        if path is None:
            return self._path is None and not match.fields and not match.methods
        if self._path is not None and self._path.match(path) is None:
            return False
        if match.methods and method not in match.methods:
            return False
        return all(condition.matches(fields) for condition in match.fields)

    def pool(self, pools: Pools, host: str, port: int) -> Pool:
        key = (host, port)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= POOLS_PER_TARGET:
                self._pools.clear()
            pool = self._pools[key] = pools.pool(
                Endpoint(host, port, self.target.tls, self._backend_protocol)
            )
        return pool

    def dynamic_group(self, hosts: tuple[str, ...]) -> HostGroup:
        """The group of a host list that a function returned; the last ones used are remembered."""
        groups = self._dynamic_groups
        group = groups.pop(hosts, None)
        if group is None:
            if len(groups) >= DYNAMIC_GROUPS_PER_TARGET:
                del groups[next(iter(groups))]
            group = HostGroup(Target(hosts=hosts, weights=(1,) * len(hosts), balancing=self.target.balancing))
        groups[hosts] = group
        return group


@dataclass(slots=True, eq=False)
class Choice:
    """The backend chosen for one request or connection."""

    state: TargetState
    group: HostGroup
    host: Host
    pool: Pool


class Chooser(Protocol):
    """Who a backend is chosen for."""

    def route_context(self) -> RouteContext: ...
    def host_chosen(self, choice: Choice) -> None: ...
    def selection_failed(self, failure: Failure) -> None: ...


class Selection:
    """Chooses, and chooses again when a host could not be reached.

    `choose` ends in the chooser's `host_chosen` or `selection_failed`: at once, or
    after the user's host and port functions have answered.
    """

    __slots__ = (
        "_chooser",
        "_client_key",
        "_context",
        "_group",
        "_local_port",
        "_operation_id",
        "_pools",
        "_port",
        "_state",
        "tried",
    )

    def __init__(
        self,
        context: Context,
        pools: Pools,
        state: TargetState,
        client_key: bytes,
        local_port: int,
        chooser: Chooser,
    ) -> None:
        self._context = context
        self._pools = pools
        self._state = state
        self._client_key = client_key
        self._local_port = local_port
        self._chooser = chooser
        self._group: HostGroup | None = None
        self._port: int | None = None
        self._operation_id = 0
        self.tried: Collection[Host] = ()

    def choose(self) -> None:
        target = self._state.target
        if self._group is None:
            if target.host_function is not None:
                self._call(target.host_function, self._hosts_returned)
                return
            self._group = self._state.group
        if self._port is None:
            if target.port_function is not None:
                self._call(target.port_function, self._port_returned)
                return
            if target.unix_path is not None:
                self._port = UNIX_PORT
            else:
                self._port = self._local_port if target.port == "preserve" else target.port
        host = self._group.choose(self._client_key, self._context.now, self.tried)
        if host is None:
            self._chooser.selection_failed(
                Failure(FailureSource.BACKEND, FailureCode.DESTINATION_UNAVAILABLE, "no healthy host")
            )
            return
        pool = self._state.pool(self._pools, host.name, self._port)
        self._chooser.host_chosen(Choice(self._state, self._group, host, pool))

    def exclude(self, host: Host) -> bool:
        """Do not choose `host` again. False: there is no other one to try."""
        self.tried = (*self.tried, host)
        return self._group is not None and len(self.tried) < min(len(self._group.hosts), 3)

    def cancel(self) -> None:
        if self._operation_id:
            self._context.cancel(self._operation_id)
            self._operation_id = 0

    def retry_after_s(self) -> int:
        group = self._group or self._state.group
        return group.retry_after_s(self._context.now)

    def _call(self, function: Callable[..., object], on_result: Callable[[Result], None]) -> None:
        operation = CallFunction(
            self._context.next_operation_id(), function, (self._chooser.route_context(),)
        )
        self._operation_id = self._context.start(operation, on_result)

    def _hosts_returned(self, result: Result) -> None:
        self._operation_id = 0
        value = result.value if isinstance(result, Returned) else result
        hosts = (value,) if isinstance(value, str) else value
        if not isinstance(hosts, (list, tuple)) or not 0 < len(hosts) <= HOSTS_PER_ANSWER:
            self._function_failed("host", value)
            return
        names = tuple(h.removeprefix("[").removesuffix("]") if isinstance(h, str) else "" for h in hosts)
        if not all(_is_host(name) for name in names):
            self._function_failed("host", value)
            return
        self._group = self._state.dynamic_group(names)
        self.choose()

    def _port_returned(self, result: Result) -> None:
        self._operation_id = 0
        value = result.value if isinstance(result, Returned) else result
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
            self._function_failed("port", value)
            return
        self._port = value
        self.choose()

    def _function_failed(self, which: str, value: object) -> None:
        if isinstance(value, OperationFailed):
            detail = f"the {which} function failed: {value.detail or value.reason.value}"
        else:
            detail = f"the {which} function returned {_shortened(value)}"
        self._context.record("upstream", "function_failed", Level.ERROR, which=which, detail=detail)
        self._chooser.selection_failed(
            Failure(FailureSource.PROXY, FailureCode.PROXY_CONFIGURATION_ERROR, detail)
        )


def _shortened(value: object) -> str:
    try:
        return repr(value)[:200]
    except Exception as error:
        # The value is a user's, and so is what makes its text.
        return f"a {type(value).__name__} whose repr raises {type(error).__name__}"


def find_target(
    action: ForwardAction,
    states: dict[Target, TargetState],
    port: int,
    path: str | None,
    method: bytes,
    fields: Fields,
) -> TargetState | None:
    """The first of the action's targets whose own match holds."""
    for target in action.targets:
        if target.match is None:
            return states[target]
        state = states[target]
        if state.matches(port, path, method, fields):
            return state
    return None
