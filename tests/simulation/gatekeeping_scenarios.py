"""Crowds at a gate: who is over a limit, uncleared or unknown never passes, and nobody counts twice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from random import Random
from unittest.mock import patch

from chained_scenarios import front_config
from gatekeeping_checks import Asked, Cleared, Judge
from gatekeeping_outside import Outside, ScriptedProvider
from gatekeeping_policies import (
    COUNTED_ROUTE,
    CREDENTIALS,
    DIFFICULTY,
    GATE_IP,
    GOOD_PASSWORDS,
    GOOD_TOKENS,
    HTTP_PORT,
    KEY_FIELD,
    NEIGHBOURS,
    PEER_IPS,
    RAW_BACKEND_PORT,
    RAW_PORT,
    RAW_ROUTE,
    ROUTE_NAMES,
    SCRIPTED,
    USER_FIELD,
    WAIT_S,
    draw,
    draw_blocked,
)
from http_scenarios import PORT
from simulated_world import World

from smartproxy.challenges.proof_of_work import proves_work
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.drivers.simulation import (
    PROXY_IP,
    WEATHER_ERRORS,
    Connection,
    Faults,
    HttpClient,
    HttpRequest,
    HttpResponse,
    Simulation,
)
from smartproxy.drivers.simulation.faults import log_uniform

PATIENCE_S = 86_400.0
"""Whoever floods may wait for one deadline after the other; how long each wait is, is looked at by itself."""
MOST_CONFIGURATIONS = 5
BACKEND_IP = "10.0.0.1"
HOSTS = ("app.example.com", "www.example.com")
SIGNING_KEYS = ["the first signing key", "the second signing key"]
CALM = Faults(timer_lateness_s=(0.0, 0.05))
TAG_BYTES = 8

_VERIFY_PATH = re.compile(rb"/\.well-known/smartproxy-challenge/([A-Za-z0-9_-]{22})")
_NUMBER = re.compile(rb"number=(\d+)\.")
Fields = list[tuple[bytes, bytes]]


class Crowd:
    """Clients of one gate, the backends behind it, and the operator."""

    def __init__(
        self, sim: Simulation, world: World, judge: Judge, outside: Outside, *, is_calm: bool
    ) -> None:
        self.sim = sim
        self.world = world
        self.judge = judge
        self.outside = outside
        self.is_calm = is_calm
        self.cookie_jars: list[dict[bytes, bytes]] = []
        self.peer_ips = sim.random.sample(PEER_IPS, sim.random.randint(1, len(PEER_IPS)))
        if sim.random.random() < 0.25:
            self.peer_ips = list(NEIGHBOURS)
        self._tags = 0

    def new_tag(self) -> str:
        self._tags += 1
        return f"{self._tags:0{TAG_BYTES}}"

    # Backends.

    def start_backends(self) -> None:
        self.sim.resolver["app.internal"] = [BACKEND_IP]
        self.sim.http_backend(BACKEND_IP, 8080, self._respond)
        for number in range(MOST_CONFIGURATIONS):
            self._start_raw_backend(number)

    async def _respond(self, request: HttpRequest) -> HttpResponse:
        asked = self.judge.request_arrived(request)
        if self.sim.random.random() < 0.1:
            await self.sim.sleep(self.sim.random.random() * 3.0)
        return HttpResponse(200, body=asked.tag.encode())

    def _start_raw_backend(self, number: int) -> None:
        async def serve(connection: Connection) -> None:
            tag = (await connection.receive_exactly(TAG_BYTES)).decode()
            self.judge.raw_arrived(tag, number)
            await connection.send(tag.encode())
            await connection.receive_all()
            connection.close()

        self.sim.backend(BACKEND_IP, RAW_BACKEND_PORT + number, serve)

    # The operator.

    async def operate(self) -> None:
        """New configurations, block policies and keys; now and then the end."""
        random, proxy, judge = self.sim.random, self.world.proxy, self.judge
        for _ in range(random.randint(0, 6)):
            await self.sim.sleep(random.random() * 4.0)
            choice = random.random()
            if choice < 0.5 and len(judge.drawn) < MOST_CONFIGURATIONS:
                number = len(judge.drawn)
                keys = random.sample(SIGNING_KEYS, random.randint(1, 2))
                drawn = draw(random, number, judge.drawn[-1], keys)
                judge.configure(drawn)
                self.world.update(drawn.config)
            elif choice < 0.8:
                self._block(draw_blocked(random))
            else:
                self.outside.served_keys = random.choice((["first"], ["first", "second"], ["second"]))
        if random.random() < 0.25:
            await self.sim.sleep(random.random() * 4.0)
            if random.random() < 0.5:
                proxy.drain()
            else:
                proxy.shut_down()

    def _block(self, addresses: list[str]) -> None:
        proxy = self.world.proxy
        blocked = IpSet.compile(addresses)
        self.judge.blocked = addresses
        proxy.driver.apply(lambda now: proxy.engine.handle_blocked_addresses(blocked, now))
        self.judge.look_at_blocked()

    # Clients.

    async def run(self, *, has_front: bool) -> None:
        random = self.sim.random
        scripts = [
            Visitor(self, via_front=has_front and random.random() < 0.5).visit()
            for _ in range(random.randint(2, 10))
        ]
        scripts += [self._speak_raw() for _ in range(random.randint(0, 5))]
        if not self.is_calm:
            scripts.append(self.operate())
        await self.sim.gather(*(self.sim.wait_for(each, PATIENCE_S) for each in scripts))

    async def _speak_raw(self) -> None:
        random, ip = self.sim.random, self.sim.random.choice(self.peer_ips)
        for _ in range(random.randint(1, 4)):
            await self.sim.sleep(random.random() * 4.0)
            oldest = len(self.judge.drawn) - 1
            try:
                connection = await self.sim.connect(RAW_PORT, GATE_IP, peer_ip=ip)
            except WEATHER_ERRORS:
                continue
            asked = self.ask(ip, RAW_ROUTE, range(oldest, len(self.judge.drawn)))
            try:
                await connection.send(asked.tag.encode())
                echoed = await connection.receive_exactly(TAG_BYTES)
                assert echoed == asked.tag.encode()
                assert asked.tag in self.judge.arrived
                await self.sim.sleep(random.random() * 3.0)
                connection.close()
            except WEATHER_ERRORS:
                connection.reset()

    def ask(self, ip: str, route_name: str, configurations: range | None) -> Asked:
        """Note that something is about to be sent."""
        asked = Asked(
            tag=self.new_tag(),
            ip=ip,
            route_name=route_name,
            path="",
            host="",
            method="",
            credentials="none",
            api_key="",
            cookies=(),
            sent_at=self.sim.now,
            wall_clock=self.sim.clock.wall_clock(),
            configurations=configurations,
        )
        self.judge.asked[asked.tag] = asked
        return asked


class Visitor:
    """A browser, or something that says so."""

    def __init__(self, crowd: Crowd, *, via_front: bool) -> None:
        self.crowd = crowd
        self.sim = crowd.sim
        self.random: Random = crowd.sim.random
        self.judge = crowd.judge
        self.via_front = via_front
        self.peer_ip = self.random.choice(crowd.peer_ips)
        self.ip = PROXY_IP if via_front else self.peer_ip
        self.host = self.random.choice(HOSTS)
        self.is_browser = self.random.random() < 0.7
        kinds = (*GOOD_PASSWORDS, *GOOD_TOKENS) if self.random.random() < 0.7 else tuple(CREDENTIALS)
        self.credentials = self.random.choice(kinds)
        self.cookie_jar: dict[bytes, bytes] = {}
        crowd.cookie_jars.append(self.cookie_jar)
        self.api_keys: tuple[str, ...] = ("x", "y", "")
        self.configurations: range | None = None
        self.client: HttpClient

    async def visit(self) -> None:
        await self.sim.sleep(self.random.random() * 3.0)
        for _ in range(self.random.randint(1, 4)):
            try:
                await self._connect()
            except WEATHER_ERRORS:
                continue
            try:
                await self._browse()
                self.client.connection.close()
            except WEATHER_ERRORS:
                self.client.connection.reset()

    async def _connect(self) -> None:
        oldest = len(self.judge.drawn) - 1
        if self.via_front:
            connection = await self.sim.connect(PORT, peer_ip=self.peer_ip)
            self.configurations = None
        else:
            connection = await self.sim.connect(HTTP_PORT, GATE_IP, peer_ip=self.peer_ip)
            self.configurations = range(oldest, len(self.judge.drawn))
        self.client = HttpClient(connection, host=self.host.encode())

    async def _browse(self) -> None:
        random = self.random
        if random.random() < 0.15:
            await self._flood()
            return
        count = random.randint(1, 8)
        route_name = random.choice(ROUTE_NAMES)
        is_hasty = random.random() < 0.5
        for _ in range(count):
            if random.random() < 0.1:
                route_name = random.choice(ROUTE_NAMES)
            await self.open(route_name, f"/{route_name}/{random.choice('12')}")
            if not self.client.reusable:
                return
            if not is_hasty and random.random() < 0.5:
                await self.sim.sleep(log_uniform(random, 1, 20_000) / 1000)

    async def _flood(self) -> None:
        """Take all there is, and more as soon as there is more."""
        pace_s = log_uniform(self.random, 10, 200) / 1000
        self.api_keys = ("x",)
        for _ in range(self.random.randint(40, 160)):
            await self._request("GET", COUNTED_ROUTE, f"/{COUNTED_ROUTE}/1")
            if not self.client.reusable:
                return
            await self.sim.sleep(pace_s)

    async def open(self, route_name: str, path: str) -> None:
        """One page, and what has to be solved before it, where this is somebody who solves."""
        if self.random.random() < 0.05:
            self.sim.spawn(self._leave_early(), daemon=True)
        method = "GET" if self.random.random() < 0.9 else "POST"
        response = await self._request(method, route_name, path)
        found = _VERIFY_PATH.search(response.body)
        if response.status in (403, 429) and found and self.is_browser and self.client.reusable:
            await self._solve(route_name, path, found[1].decode(), response.body)

    async def _leave_early(self) -> None:
        await self.sim.sleep(self.random.random() * 0.5)
        self.client.connection.reset()

    async def _request(
        self,
        method: str,
        route_name: str,
        target: str,
        body: bytes = b"",
        more: Fields | None = None,
        cookies: Fields | None = None,
    ) -> HttpResponse:
        random = self.random
        asked = self.crowd.ask(self.ip, route_name, self.configurations)
        asked.method, asked.path, asked.host, asked.credentials = method, target, self.host, self.credentials
        fields: Fields = [(b"x-tag", asked.tag.encode())]
        if self.is_browser:
            fields.append((b"accept", b"text/html"))
        asked.api_key = random.choice(self.api_keys)
        if asked.api_key:
            fields.append((KEY_FIELD, asked.api_key.encode()))
        if CREDENTIALS[self.credentials]:
            fields.append((b"authorization", CREDENTIALS[self.credentials]))
        if random.random() < 0.1:
            fields.append((USER_FIELD, b"root"))
        if random.random() < 0.15:
            fields.append((b"x-mood", random.choice((b"pass", b"deny"))))
        if cookies is None:
            cookies = self._cookies()
        asked.cookies = tuple(value for _, value in cookies)
        if cookies:
            fields.append((b"cookie", b"; ".join(name + b"=" + value for name, value in cookies)))
        response = await self.client.request(
            method.encode(), target.encode(), fields=[*fields, *(more or ())], body=body
        )
        self._keep_cookies(response)
        is_challenge = _VERIFY_PATH.search(response.body) is not None
        self.judge.answered(asked, response, is_challenge=is_challenge)
        if self.crowd.is_calm and not target.startswith("/."):
            self.judge.check_calm_answer(asked, response.status, is_challenge=is_challenge)
        return response

    def _cookies(self) -> list[tuple[bytes, bytes]]:
        """The browser's; or somebody else's, or such as nobody was given."""
        mood = self.random.random()
        if mood < 0.05:
            return list(self.random.choice(self.crowd.cookie_jars).items())
        cookies = list(self.cookie_jar.items())
        if mood < 0.1:
            cookies = [(name, self._forge(value)) for name, value in cookies]
        return cookies

    def _forge(self, value: bytes) -> bytes:
        position = self.random.randrange(len(value))
        other = b"A" if value[position : position + 1] != b"A" else b"B"
        return value[:position] + other + value[position + 1 :]

    def _keep_cookies(self, response: HttpResponse) -> None:
        for field_name, field_value in response.fields:
            if field_name == b"set-cookie":
                name, _, rest = field_value.partition(b"=")
                value = rest.partition(b";")[0]
                if value:
                    self.cookie_jar[name] = value
                else:
                    self.cookie_jar.pop(name, None)
                if b"clearance" in name:
                    self.judge.clearances[value] = Cleared.read(value, self.ip)

    async def _solve(self, route_name: str, path: str, challenge_id: str, page: bytes) -> None:
        random = self.random
        number = _NUMBER.search(page)
        verify_path = f"/.well-known/smartproxy-challenge/{challenge_id}"
        if number is None and b"nonce" not in page:
            await self.sim.sleep(WAIT_S + random.random() - 0.2)
            if random.random() < 0.5:
                # Coming back is an answer too.
                await self._answer(challenge_id, "GET", route_name, path, list(self.cookie_jar.items()))
                return
            answer = {}
        elif number is None:
            nonce = next(n for n in range(100_000) if proves_work(challenge_id, str(n), DIFFICULTY))
            answer = {"nonce": str(nonce)}
        else:
            answer = {"number": str(int(number[1]) + (1 if random.random() < 0.9 else 2))}
        # Who answers again with the same cookies tries to be cleared twice for one answer.
        cookies = list(self.cookie_jar.items())
        for _ in range(2 if random.random() < 0.3 else 1):
            if not self.client.reusable:
                return
            text = "&".join(f"{name}={value}" for name, value in answer.items())
            if random.random() < 0.4:
                await self._answer(challenge_id, "GET", route_name, f"{verify_path}?{text}", cookies)
                continue
            is_json = random.random() < 0.5
            body = (json.dumps(answer) if is_json else text).encode()
            media_type = b"application/json" if is_json else b"application/x-www-form-urlencoded"
            more = [(b"content-type", media_type)]
            await self._answer(challenge_id, "POST", route_name, verify_path, cookies, body or b" ", more)
        if self.client.reusable:
            await self._request("GET", route_name, path)

    async def _answer(
        self,
        challenge_id: str,
        method: str,
        route_name: str,
        target: str,
        cookies: Fields,
        body: bytes = b"",
        more: Fields | None = None,
    ) -> None:
        response = await self._request(method, route_name, target, body, more, cookies)
        given = [value for name, value in response.fields if name == b"set-cookie"]
        if any(b"clearance" in each.partition(b"=")[0] for each in given):
            assert response.status == 303
            self.judge.solved_once(challenge_id)


async def gatekeeping(sim: Simulation) -> None:
    """Crowds before a gate of every kind, whose helpers fail and whose operator changes everything."""
    is_calm = sim.random.random() < 0.25
    faults = CALM if is_calm else Faults.rough()
    has_steady_clock = is_calm or sim.random.random() < 0.5
    if has_steady_clock:
        faults = replace(faults, clock_jump_probability=0.0)
    outside = Outside(sim, has_moods=not is_calm)
    with (
        patch("smartproxy.passwords.verify_hash", outside.verify_hash),
        patch("smartproxy.jwks.make_fetch", outside.make_fetch),
    ):
        first = draw(sim.random, 0, None, SIGNING_KEYS[:1])
        world = World(sim, first.config, faults)
        judge = Judge(sim, outside, world.proxy, first)
        judge.has_steady_clock = has_steady_clock
        world.proxy.driver.observers.append(judge.look)
        world.proxy.engine.register_challenge_provider(SCRIPTED, ScriptedProvider(sim, outside))
        crowd = Crowd(sim, world, judge, outside, is_calm=is_calm)
        crowd.start_backends()
        has_front = sim.random.random() < 0.3
        if has_front:
            sim.resolver["inner.internal"] = [GATE_IP]
            world.start(front_config("http2", with_tls=False))
        await crowd.run(has_front=has_front)
        await world.settle()
    judge.check_waits()
    judge.check_settled()
