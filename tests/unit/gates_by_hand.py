"""An engine driven by hand whose routes have gates: functions are called as by a driver, backends answer."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from challenges_by_hand import FakeProvider
from engine_by_hand import CLIENT_IP, End, EngineByHand, configuration, response, route, target

from smartproxy.core.configuration import Configuration, ForwardAction, Route
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import CallFunction, OpenStream, OperationFailed, Returned
from smartproxy.core.security.challenge.provider import Verification
from smartproxy.core.security.policies import BasicAuthPolicy, ChallengePolicy, RateLimitPolicy, RequestPolicy

HOST = "app.example.com"
ATTACKER_IP = "203.0.113.66"
INNOCENT_IP = "198.51.100.200"
WALL_AT_ZERO_S = 1_800_000_000.0
RESERVED = "/.well-known/smartproxy-challenge"
NAVIGATION = "Accept: text/html"
FORM = "Content-Type: application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
CHALLENGE = ChallengePolicy(provider_id="fake", challenge_type="plain")


class GatesByHand(EngineByHand):
    """The wall clock goes with `now`; the challenge provider `fake` does as it is told."""

    def __init__(self, first: Configuration) -> None:
        super().__init__(first)
        draw = random.Random(7).randbytes
        self.engine = Engine(first, Env(entropy=draw, wall_clock=lambda: self.wall_s))
        self.provider = FakeProvider()
        self.engine.register_challenge_provider("fake", self.provider)
        self.backends: list[End] = []
        self.seen: list[bytes] = []
        """What backends have received, read by read."""
        self._innocent: End | None = None

    @property
    def wall_s(self) -> float:
        return WALL_AT_ZERO_S + self.now

    # Calls.

    def calls(self) -> list[CallFunction]:
        """The functions that a driver would be calling now."""
        return [each for each in self.pending.values() if isinstance(each, CallFunction)]

    def run_call(self, call: CallFunction) -> None:
        try:
            value = call.function(*call.arguments)
        except Exception as error:
            self.answer(call, OperationFailed(LostReason.ERROR, repr(error)))
        else:
            self.answer(call, Returned(value))

    def run_calls(self) -> None:
        """Make all, and those that come of them."""
        while calls := self.calls():
            self.run_call(calls[0])

    # Backends.

    def serve(self) -> None:
        """Every backend is reached, and answers every request."""
        moved = True
        while moved:
            moved = False
            for operation in [each for each in self.pending.values() if isinstance(each, OpenStream)]:
                self.backends.append(self.open(operation))
            for backend in self.backends:
                data = backend.take()
                if data:
                    moved = True
                    self.seen.append(data)
                    if backend.is_open and b" HTTP/1.1\r\n" in data:
                        backend.send(response())

    def check_innocent(self) -> None:
        """Somebody else goes on being served, on the connection kept since the last time."""
        client = self._innocent
        if client is None or not client.is_open:
            client = self._innocent = self.connect(ip=INNOCENT_IP)
        client.send(b"GET /innocent HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
        before = len(self.seen)
        self.serve()
        assert client.take().startswith(b"HTTP/1.1 200 OK\r\n")
        assert any(each.startswith(b"GET /innocent ") for each in self.seen[before:])
        del self.seen[before:]


def guarded(policy: RequestPolicy, *, name: str = "guarded", **options: Any) -> Route:
    """A route for everything, behind this policy."""
    route_options = options.pop("route_options", {})
    action: ForwardAction = options.pop("action", None) or ForwardAction((target("10.0.0.1"),))
    options.setdefault("path", "/*")
    return route(name, action, route_options={"request_policy": policy, **route_options}, **options)


def innocent_route() -> Route:
    return route("innocent", target("10.0.0.2"), path="/innocent", priority=100)


def gates(*routes: Route | RequestPolicy, **options: Any) -> GatesByHand:
    """An engine with these routes, or one route behind each policy, and one for innocent clients."""
    built = [each if isinstance(each, Route) else guarded(each) for each in routes]
    return GatesByHand(configuration(*built, innocent_route(), **options))


Make = Callable[..., GatesByHand]


def engines() -> Iterator[Make]:
    """Makes engines as `gates` does, of one challenged route if none is given.

    At the end of each an innocent client is still served, and then nothing is left.
    """
    made: list[GatesByHand] = []

    def make(*routes: Route | RequestPolicy, **options: Any) -> GatesByHand:
        hand = gates(*(routes or (RequestPolicy(challenge=CHALLENGE),)), **options)
        hand.check_innocent()
        made.append(hand)
        return hand

    yield make
    for hand in made:
        hand.check_innocent()
        hand.settle()


class Answer:
    """One response as a client reads it."""

    def __init__(self, data: bytes, method: str = "GET") -> None:
        head, found, rest = data.partition(b"\r\n\r\n")
        assert found, data
        lines = head.split(b"\r\n")
        self.status = int(lines[0].split(b" ")[1])
        self.fields = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])
        ]
        length = 0 if method == "HEAD" or self.status < 200 else int(self.field(b"content-length") or b"0")
        assert len(rest) >= length, data
        self.body, self.rest = rest[:length], rest[length:]

    def field(self, name: bytes) -> bytes:
        return next((value for found, value in self.fields if found == name), b"")

    def all(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.fields if found == name]

    @property
    def problem(self) -> dict[str, Any]:
        """What an error of the proxy's own says."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.fields} {self.body[:200]!r}>"


class Browser:
    """A client that keeps the cookies it is set; a connection for as long as it is let."""

    def __init__(
        self,
        hand: GatesByHand,
        *,
        ip: str = CLIENT_IP,
        host: str = HOST,
        cookies: dict[bytes, bytes] | None = None,
    ) -> None:
        self.hand = hand
        self.ip = ip
        self.host = host
        self.jar: dict[bytes, bytes] = dict(cookies or {})
        self.end: End | None = None

    def head(self, target: str, *lines: str, method: str = "GET") -> bytes:
        fields = [f"Host: {self.host}", *lines]
        if self.jar:
            fields.append("Cookie: " + b"; ".join(b"%s=%s" % each for each in self.jar.items()).decode())
        return "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode("latin-1")

    def send(self, data: bytes) -> End:
        if self.end is None or not self.end.is_open:
            self.end = self.hand.connect(ip=self.ip)
        self.end.send(data)
        return self.end

    def begin(
        self, target: str = "/page", *lines: str, method: str = "GET", body: bytes | None = None
    ) -> End:
        """Send a request and let nothing come of it yet."""
        if body is not None:
            lines = (*lines, f"Content-Length: {len(body)}")
        return self.send(self.head(target, *lines, method=method) + (body or b""))

    def ask(
        self, target: str = "/page", *lines: str, method: str = "GET", body: bytes | None = None
    ) -> Answer:
        """One request and its answer, with all calls made and all backends reached."""
        end = self.begin(target, *lines, method=method, body=body)
        return self.answer(end, method)

    def answer(self, end: End, method: str = "GET") -> Answer:
        for _ in range(3):
            self.hand.run_calls()
            self.hand.serve()
        answer = Answer(end.take(), method)
        self.keep(answer.all(b"set-cookie"))
        return answer

    def keep(self, set_cookies: Iterable[bytes]) -> None:
        for cookie in set_cookies:
            pair, _, attributes = cookie.partition(b"; ")
            name, _, value = pair.partition(b"=")
            if b"Max-Age=0;" in attributes:
                self.jar.pop(name, None)
            else:
                self.jar[name] = value

    def leave(self) -> None:
        if self.end is not None and self.end.is_open:
            self.end.reset()

    @property
    def verify_path(self) -> str:
        """Where the page that the provider was last asked for may submit to."""
        return self.hand.provider.pendings[-1].verify_path


def solves(hand: GatesByHand) -> None:
    hand.provider.on_verify = lambda: Verification(True)


def challenged(hand: GatesByHand, **about: Any) -> Browser:
    """A browser that has been shown the challenge."""
    browser = Browser(hand, **about)
    answer = browser.ask("/page", NAVIGATION)
    assert answer.status == 403
    assert len(browser.jar) == 1
    return browser


def basic(users: dict[str, str] | None = None, **options: Any) -> BasicAuthPolicy:
    users = users or {"alice": "secret"}
    return BasicAuthPolicy(users, lambda text, password: text.endswith(password.decode()), **options)


def credentials(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    return "Authorization: Basic " + base64.b64encode(raw).decode()


AUTHENTICATED = RequestPolicy(basic_auth=basic())
ALICE = credentials("alice:secret")


def limited(max_requests: int = 3, **options: Any) -> RequestPolicy:
    return RequestPolicy(rate_limit=RateLimitPolicy(max_requests, 60.0, **options))


def refused(hand: GatesByHand, *lines: str, status: int = 401, path: str = "/page") -> Answer:
    """No backend hears of a request with these field lines. `status` may be 0, for any."""
    before = len(hand.seen)
    answer = Browser(hand, ip=ATTACKER_IP).ask(path, *lines)
    assert answer.status == status or not status, answer
    assert len(hand.seen) == before
    assert not [each for each in hand.pending.values() if isinstance(each, OpenStream)]
    return answer
