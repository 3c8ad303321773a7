"""Which host of a target gets the next request or connection (SPEC: Load balancing)."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from math import ceil, inf, log

from smartproxy.core.configuration import BalancingAlgorithm, Target
from smartproxy.core.upstream.health import LAST_RESORT_S, TRIAL_INTERVAL_S, Host, HostChange

CONNECT_FAILURES_TO_EJECT = 3
"""In a row."""

SERVER_ERRORS_TO_EJECT = 5
"""In a row, within `SERVER_ERROR_WINDOW_S`."""

SERVER_ERROR_WINDOW_S = 30.0

_SERVER_ERRORS = frozenset({500, 502, 503, 504})
# 501, 505, 507… speak of the request, not of the host's health.

_FAVOURITES_KEPT = 4096

_MASK_64 = 0xFFFFFFFFFFFFFFFF


def _digest_64(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _mixed(key: int, seed: int) -> int:
    """64 bits that depend evenly on all bits of both (the finaliser of MurmurHash3)."""
    x = key ^ seed
    x = ((x ^ (x >> 33)) * 0xFF51AFD7ED558CCD) & _MASK_64
    x = ((x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53) & _MASK_64
    return x ^ (x >> 33)


class HostGroup:
    """The hosts of one target, what is known of their health, and whose turn it is.

    A host named twice counts as one with both weights. One of weight 0 is never
    chosen. A unix socket is a group of one, named by its path.

    Ejection (passive health): 3 connect failures in a row, or 5 server errors (500,
    502, 503, 504) in a row within 30 s, close a host for 5 s, doubling with each
    time it happens again, up to 300 s; a minute in good standing takes one doubling
    back. After that it is on trial: one request a second until it has answered one.

    Where it would leave nobody to serve, less is done. Server errors never eject
    the last host that can serve, nor more than half of the group, so that a request
    which makes any host fail cannot empty it. Unreachable hosts, once all others
    are closed too, are tried again after 1 s whatever their ejection, so that the
    end of an outage is noticed; meanwhile `choose` has nobody.
    """

    __slots__ = (
        "_algorithm",
        "_favourites",
        "_next",
        "_only",
        "_rotates",
        "_serving",
        "_weighted",
        "hosts",
        "target",
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self._algorithm = target.balancing.algorithm
        names = target.hosts if target.unix_path is None else (target.unix_path,)
        weights: dict[str, int] = {}
        for position, name in enumerate(names):
            weight = target.weights[position] if position < len(target.weights) else 1
            weights[name] = weights.get(name, 0) + max(0, weight)
        self.hosts: list[Host] = []
        self._arrange(
            [
                Host(name, weight, _digest_64(name.encode("utf-8", "surrogatepass")))
                for name, weight in weights.items()
            ]
        )

    def _arrange(self, hosts: list[Host]) -> None:
        self.hosts = hosts
        serving = self._serving = [host for host in hosts if host.weight > 0]
        self._only = serving[0] if len(serving) == 1 else None
        self._weighted = len({host.weight for host in serving}) > 1
        self._rotates = self._algorithm is BalancingAlgorithm.ROUND_ROBIN and not self._weighted
        self._next = 0
        #: What consistent hashing prefers for the keys seen last, were all hosts open.
        self._favourites: dict[bytes, Host] = {}

    def adopt(self, old: HostGroup) -> None:
        """Go on with `old`'s hosts of the same names: with their health and what they have in flight."""
        known = {host.name: host for host in old.hosts if host.weight > 0}
        hosts = []
        for host in self.hosts:
            kept = known.get(host.name) if host.weight > 0 else None
            if kept is None:
                hosts.append(host)
                continue
            kept.weight = host.weight
            if self.target.balancing.health_check is None:
                kept.note_probes(passed=True)
            hosts.append(kept)
        self._arrange(hosts)

    # Choosing.

    def choose(self, client_key: bytes, now: float, exclude: Collection[Host] = ()) -> Host | None:
        """The host for a client, but none of `exclude`; None when there is none to be had.

        `client_key` is what consistent hashing goes by, the same for all that one
        client sends.
        """
        host = self._only
        if host is not None:
            if host.closed_until <= now and not exclude:
                return host
            return self._choose_last_resort(client_key, now, exclude)
        if self._rotates:
            host = self._rotate(now, exclude)
        else:
            host = self._choose_open(client_key, now, exclude)
        if host is None:
            return self._choose_last_resort(client_key, now, exclude)
        if host.on_trial:
            host.closed_until = now + TRIAL_INTERVAL_S
        return host

    def _rotate(self, now: float, exclude: Collection[Host]) -> Host | None:
        """Round-robin among equals: smooth weighted round-robin, without the arithmetic."""
        hosts = self._serving
        position = self._next
        for _ in hosts:
            host = hosts[position]
            position += 1
            if position == len(hosts):
                position = 0
            if host.closed_until <= now and host not in exclude:
                self._next = position
                return host
        return None

    def _choose_open(self, client_key: bytes, now: float, exclude: Collection[Host]) -> Host | None:
        if self._algorithm is BalancingAlgorithm.IP_HASH:
            favourite = self._favourite(client_key)
            if favourite is None or (favourite.closed_until <= now and favourite not in exclude):
                return favourite
        hosts = [host for host in self._serving if host.closed_until <= now and host not in exclude]
        return self._pick(client_key, hosts) if hosts else None

    def _favourite(self, client_key: bytes) -> Host | None:
        favourites = self._favourites
        favourite = favourites.get(client_key)
        if favourite is None and self._serving:
            # Clients choose the keys, so there is a bound. Starting afresh now and then is cheaper than
            # keeping an order of use all the time.
            if len(favourites) >= _FAVOURITES_KEPT:
                favourites.clear()
            favourite = favourites[client_key] = self._highest_score(client_key, self._serving)
        return favourite

    def _pick(self, client_key: bytes, hosts: list[Host]) -> Host:
        """The algorithm's choice among `hosts`, never empty."""
        if len(hosts) == 1:
            return hosts[0]
        if self._algorithm is BalancingAlgorithm.IP_HASH:
            return self._highest_score(client_key, hosts)
        if self._algorithm is BalancingAlgorithm.LEAST_CONNECTIONS:
            least = min([host.in_flight / host.weight for host in hosts])
            hosts = [host for host in hosts if host.in_flight / host.weight == least]
        return self._whose_turn(hosts)

    def _whose_turn(self, hosts: list[Host]) -> Host:
        """Smooth weighted round-robin: everyone earns their weight, who has most pays for all."""
        total = 0
        best = hosts[0]
        most = -inf
        for host in hosts:
            weight = host.weight
            total += weight
            current = host.current_weight = host.current_weight + weight
            if current > most:
                most = current
                best = host
        best.current_weight -= total
        return best

    def _highest_score(self, client_key: bytes, hosts: list[Host]) -> Host:
        """Rendezvous hashing: no host's score depends on the others, so a new one takes only its share."""
        key = _digest_64(client_key)
        if not self._weighted:
            return max(hosts, key=lambda host: _mixed(key, host.seed))
        # -weight / ln(u) for u uniform in (0, 1) is highest for each host in proportion to its weight.
        return max(
            hosts, key=lambda host: -host.weight / log(((_mixed(key, host.seed) >> 12) + 0.5) * 2.0**-52)
        )

    def _choose_last_resort(self, client_key: bytes, now: float, exclude: Collection[Host]) -> Host | None:
        usable = [host for host in self._serving if host.passes_probes and not host.is_ejected(now)]
        if not usable:
            for host in self._serving:
                if host.passes_probes and (host.ejected_for_errors or host.ejected_at + LAST_RESORT_S <= now):
                    host.end_ejection(now)
                    usable.append(host)
        hosts = [host for host in usable if host not in exclude]
        return self._pick(client_key, hosts) if hosts else None

    def retry_after_s(self, now: float) -> int:
        """In how many seconds a client may best come back when `choose` has nobody; at least 1."""
        check = self.target.balancing.health_check
        soonest_s = inf
        for host in self._serving:
            if host.passes_probes:
                soonest_s = min(soonest_s, host.ejected_until - now, host.ejected_at + LAST_RESORT_S - now)
            elif check is not None:
                soonest_s = min(soonest_s, check.interval_s * check.healthy_threshold)
        return max(1, ceil(soonest_s)) if -inf < soonest_s < inf else 1

    # What requests show.

    def report_connect_failure(self, host: Host, now: float) -> HostChange | None:
        """`host` could not be reached."""
        # News from before the ejection are no news.
        if host.is_ejected(now):
            return None
        host.connect_failures += 1
        if host.on_trial or host.connect_failures >= CONNECT_FAILURES_TO_EJECT:
            host.eject(now, for_errors=False)
            return "host_ejected"
        return None

    def report_success(self, host: Host, now: float) -> HostChange | None:
        """`host` took a connection; enough where nothing is known of its responses."""
        host.connect_failures = 0
        if host.on_trial and not host.ejected_for_errors and not host.is_ejected(now):
            host.pass_trial(now)
            return "host_returned"
        return None

    def report_response(self, host: Host, status: int, now: float) -> HostChange | None:
        """`host` answered with `status`; 502 for a response that broke off, 504 for one that never came."""
        if status in _SERVER_ERRORS:
            return self._report_server_error(host, now)
        host.connect_failures = 0
        host.server_errors = 0
        if host.on_trial and not host.is_ejected(now):
            host.pass_trial(now)
            return "host_returned"
        return None

    def _report_server_error(self, host: Host, now: float) -> HostChange | None:
        if host.is_ejected(now):
            return None
        returned = self.report_success(host, now)
        if not host.server_errors or now - host.server_errors_since > SERVER_ERROR_WINDOW_S:
            host.server_errors = 0
            host.server_errors_since = now
        host.server_errors += 1
        if (host.on_trial or host.server_errors >= SERVER_ERRORS_TO_EJECT) and self._can_spare(host, now):
            host.eject(now, for_errors=True)
            return "host_ejected"
        return returned

    def _can_spare(self, host: Host, now: float) -> bool:
        """Whether the group can do without `host` for its server errors."""
        if self._only is not None:
            return False
        others = [other for other in self._serving if other is not host]
        ejected_for_errors = sum(other.ejected_for_errors and other.is_ejected(now) for other in others)
        can_serve = any(other.passes_probes and not other.is_ejected(now) for other in others)
        return can_serve and ejected_for_errors < len(self._serving) // 2
