"""The checks between a client and a backend, and configurations in which they refuse."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

STRANGER = "192.0.2.1"


class Check(IntEnum):
    """What stands between a client and its backend, in order."""

    BLOCK_POLICY = 1
    CONNECTIONS_PER_IP = 2
    CONNECTION_RATE = 3
    ROUTE_CONNECTIONS = 4
    IP_BLOCK_LIST = 5
    IP_ALLOW_LIST = 6
    RATE_LIMIT = 7
    CHALLENGE = 8
    AUTHENTICATION = 9
    NONE = 10


def refusing_options(first: Check, client_ip: str) -> dict[str, Any]:
    """The configuration's keys with which `first`, and all that come after it, refuse a second connection."""
    options: dict[str, Any] = {}
    if first <= Check.BLOCK_POLICY:
        options["security_policy"] = {"blocked_ips": [client_ip]}
    if first <= Check.CONNECTIONS_PER_IP:
        options["max_connections_per_ip"] = 1
    if first <= Check.CONNECTION_RATE:
        options["connection_rate_limit_per_minute"] = 1
    return options


def refusing_access(first: Check, client_ip: str) -> dict[str, Any]:
    """The route's keys to the same end, up to its lists."""
    security: dict[str, Any] = {}
    if first <= Check.ROUTE_CONNECTIONS:
        security["max_connections"] = 1
    if first <= Check.IP_BLOCK_LIST:
        # Whoever is allowed is kept out all the same: a block wins.
        security.update(ip_block_list=[client_ip], ip_allow_list=[client_ip])
    elif first <= Check.IP_ALLOW_LIST:
        security["ip_allow_list"] = [STRANGER]
    return security
