"""Time of one route look-up, at 10 and at 10,000 routes, and of the steps around it.

Run it with `python bench/lookup.py`. Each number is the best of several runs, in µs of one core.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

from smartproxy.core.configuration import ForwardAction, Route, RouteMatch
from smartproxy.core.routing.domains import normalise_host
from smartproxy.core.routing.paths import normalise_path
from smartproxy.core.routing.table import FirstBytes, PortPlan, RouteTable
from smartproxy.core.security.ip_rules import IPV4_BASE, IpSet, ip_number, ip_text

SIZES = (10, 10_000)
IP_RULES = 100_000
CLIENT = ip_number("192.0.2.1")


def microseconds(work: Callable[[], object], number: int = 20_000, repeat: int = 7) -> float:
    """Best time of one call of `work`."""
    return min(timeit.repeat(work, number=number, repeat=repeat)) / number * 1e6


def _plan(matches: list[RouteMatch]) -> PortPlan:
    routes = [
        Route(position, f"route{position}", "", 0, match, ForwardAction(()))
        for position, match in enumerate(matches)
    ]
    plan = RouteTable(routes).port(80)
    assert plan is not None
    return plan


def _request(plan: PortPlan, host: str, path: str) -> float:
    def look_up() -> object:
        return plan.match_request(CLIENT, host, path, b"GET", [], tls_version=None, terminated_tls=False)

    assert look_up() is not None
    return microseconds(look_up)


def _connection(plan: PortPlan, server_name: str) -> float:
    def look_up() -> object:
        return plan.match_connection(CLIENT, server_name, FirstBytes.TLS)

    assert look_up() is not None
    return microseconds(look_up)


def _match(domain: str | None = None, path: str | None = None) -> RouteMatch:
    return RouteMatch(ports=((80, 80),), domains=(domain,) if domain is not None else (), path=path)


def lookup_rows() -> list[tuple[str, list[float]]]:
    """A label, and the time at each of `SIZES`, for each way of telling routes apart."""
    rows: list[tuple[str, list[float]]] = []
    ways: list[tuple[str, Callable[[int], RouteMatch], Callable[[int], tuple[str, str]]]] = [
        (
            "exact domains",
            lambda n: _match(f"h{n}.example.com"),
            lambda n: (f"h{n}.example.com", "/v1/users/17"),
        ),
        (
            "wildcard domains",
            lambda n: _match(f"*.h{n}.example.com"),
            lambda n: (f"a.b.h{n}.example.com", "/v1"),
        ),
        ("exact paths", lambda n: _match("example.com", f"/v1/p{n}"), lambda n: ("example.com", f"/v1/p{n}")),
        ("prefixes", lambda n: _match("example.com", f"/p{n}/*"), lambda n: ("example.com", f"/p{n}/a/b/c")),
        (
            "parameters",
            lambda n: _match("example.com", f"/p{n}/:user/posts"),
            lambda n: ("example.com", f"/p{n}/17/posts"),
        ),
    ]
    for label, make_match, make_request in ways:
        times = []
        for size in SIZES:
            plan = _plan([make_match(number) for number in range(size)])
            times.append(_request(plan, *make_request(size // 2)))
        rows.append((f"request, {label}", times))
    plans = [_plan([_match(f"h{number}.example.com") for number in range(size)]) for size in SIZES]
    rows.append(("connection, exact domains", [_connection(plan, "h5.example.com") for plan in plans]))
    return rows


def step_rows() -> list[tuple[str, float]]:
    """A label and the time of each step beside the look-up itself."""
    numbers = [(number * 2654435761) & 0xFFFFFFFF for number in range(IP_RULES)]
    addresses = IpSet.compile(ip_text(IPV4_BASE + number) for number in numbers)
    inside, outside = IPV4_BASE + numbers[77], IPV4_BASE + numbers[77] + 1
    return [
        ("normalise_host, seen before", microseconds(lambda: normalise_host(b"app.example.com:443"))),
        ("normalise_host, new", microseconds(lambda: normalise_host.__wrapped__(b"app.example.com:443"))),
        ("normalise_path, plain", microseconds(lambda: normalise_path(b"/api/v1/users/12345?page=2"))),
        ("normalise_path, escapes", microseconds(lambda: normalise_path(b"/api/v1/us%20ers/../12345"))),
        ("ip_number, IPv4", microseconds(lambda: ip_number("198.51.100.7"))),
        ("ip_number, IPv6", microseconds(lambda: ip_number("2001:db8::17:1"))),
        (f"IpSet of {IP_RULES:,} rules, inside", microseconds(lambda: addresses.contains(inside))),
        (f"IpSet of {IP_RULES:,} rules, outside", microseconds(lambda: addresses.contains(outside))),
    ]


def main() -> None:
    """Print the table."""
    print(f"{'look-up, µs':<36}" + "".join(f"{f'{size:,} routes':>16}" for size in SIZES))
    for label, times in lookup_rows():
        print(f"{label:<36}" + "".join(f"{time:>16.2f}" for time in times))
    print()
    for label, time in step_rows():
        print(f"{label:<36}{time:>16.2f}")


if __name__ == "__main__":
    main()
