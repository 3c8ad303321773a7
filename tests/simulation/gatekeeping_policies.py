"""Configurations with gates, drawn at random, and who has the means to pass them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

GATE_IP = "10.0.1.1"
HTTP_PORT = 9000
RAW_PORT = 7000
RAW_BACKEND_PORT = 9100
"""Plus the number of the configuration: so a backend knows which one has let a raw connection in."""

PEER_IPS = (
    "198.51.100.7",
    "::ffff:198.51.100.7",
    "198.51.100.8",
    "2001:db8:5::1",
    "2001:db8:5::2",
    "2001:db8:5:1::1",
)
"""Counted under four addresses: a mapped one is the IPv4 address, and two share a /64."""
NEIGHBOURS = ("2001:db8:5::1", "2001:db8:5::2")
"""Two that share a /64."""
RULES = (
    "198.51.100.7",
    "198.51.100.0/29",
    "198.51.100.8",
    "2001:db8:5::/64",
    "2001:db8:5::2",
    "192.0.2.0/24",
)
ROUTE_NAMES = ("a", "b", "c")
COUNTED_ROUTE = "c"
"""Always has a rate limit, and rarely more."""
RAW_ROUTE = "raw"
USER_FIELD = b"x-user"
KEY_FIELD = b"x-api-key"
KEYS_URL = "https://keys.example.com/jwks"
SCRIPTED = "scripted"
WAIT_S = 2
DIFFICULTY = 5

ALICES = "in wonderland"
BOBS = "builder"
BOBS_HASH = "$2b$04$bNcJYTtjx.ln7IBoGfChn.mtet6BuQW5FhuZNhLyozMC6zYKKCt9S"


def _basic(name: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])


def _token(signed_with: str, key_id: str, expires_at: int) -> bytes:
    claims = {"sub": "tom", "exp": expires_at}
    return b"Bearer " + jwt.encode(claims, _key(signed_with), "EdDSA", headers={"kid": key_id}).encode()


_FAR, _PAST = 2_500_000_000, 1_600_000_000

GOOD_PASSWORDS = {"alice": _basic("alice", ALICES), "bob": _basic("bob", BOBS)}
GOOD_TOKENS = {"first key": _token("first", "first", _FAR), "second key": _token("second", "second", _FAR)}
BAD_CREDENTIALS = {
    "wrong password": _basic("alice", BOBS),
    "wrong password of a hash": _basic("bob", ALICES),
    "nobody": _basic("mallory", ALICES),
    "expired": _token("first", "first", _PAST),
    "forged": _token("mallory", "first", _FAR),
    "unsigned": b"Bearer " + jwt.encode({"sub": "tom"}, "", "none", headers={"kid": "first"}).encode(),
    "malformed": b"Basic !",
}
CREDENTIALS = {**GOOD_PASSWORDS, **GOOD_TOKENS, **BAD_CREDENTIALS, "none": b""}
USERS = {"alice": b"alice", "bob": b"bob", "first key": b"tom", "second key": b"tom"}


@cache
def key_set(*names: str) -> bytes:
    """A JSON Web Key Set of these keys."""
    keys = []
    for name in names:
        public = _key(name).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
        keys.append({"kty": "OKP", "crv": "Ed25519", "kid": name, "alg": "EdDSA", "x": x})
    return json.dumps({"keys": keys}).encode()


@dataclass(slots=True)
class Drawn:
    """One configuration, and what the checks go by."""

    number: int
    config: dict[str, Any]
    security: dict[str, dict[str, Any]]
    """Of each route, by its name."""
    limiters: dict[str, int] = field(default_factory=dict)
    """By route, the number of the configuration that its counts of requests began with."""


def draw(random: Random, number: int, before: Drawn | None, keys: list[str]) -> Drawn:
    """A configuration; now and then a route's part is the one of the configuration before."""
    security = {}
    for name in (*ROUTE_NAMES, RAW_ROUTE):
        if before is not None and random.random() < 0.5:
            security[name] = before.security[name]
        else:
            security[name] = _draw_access(random) if name == RAW_ROUTE else _draw_security(random)
        if name == COUNTED_ROUTE and "rate_limit" not in security[name]:
            security[name] = {"rate_limit": _draw_rate_limit(random)}
    drawn = Drawn(number, {}, security)
    for name, asked in security.items():
        counts_on = before is not None and before.security[name].get("rate_limit") == asked.get("rate_limit")
        drawn.limiters[name] = before.limiters[name] if before is not None and counts_on else number
    challenge: dict[str, Any] = {"relay_timeout": random.choice((0.5, 2, 5)), "cookie_signing_key": keys}
    drawn.config = {
        "listen": [GATE_IP],
        "routes": [_route(name, security[name], number) for name in (*ROUTE_NAMES, RAW_ROUTE)],
        "challenge": challenge,
        "max_connections_per_ip": random.choice((1, 2, 3, 100)),
        "connection_rate_limit_per_minute": random.choice((2, 5, 300, 300)),
        "security_policy": {"blocked_ips": draw_blocked(random)},
    }
    return drawn


def draw_blocked(random: Random) -> list[str]:
    """Addresses for the block policy; mostly none."""
    return random.sample(PEER_IPS, random.randint(1, 3)) if random.random() < 0.2 else []


def _route(name: str, security: dict[str, Any], number: int) -> dict[str, Any]:
    is_raw = name == RAW_ROUTE
    target = {"host": "app.internal", "port": RAW_BACKEND_PORT + number if is_raw else 8080}
    match: dict[str, Any] = {
        "ports": RAW_PORT if is_raw else HTTP_PORT,
        "protocol": "tcp" if is_raw else "http",
    }
    route = {
        "name": name,
        "match": match,
        "action": {"type": "forward", "targets": [target]},
        "security": security,
    }
    if not is_raw:
        match["path"] = f"/{name}/*"
        route["headers"] = {"request": {"X-Configuration": str(number)}}
    return route


def _draw_access(random: Random) -> dict[str, Any]:
    security: dict[str, Any] = {}
    if random.random() < 0.3:
        security["max_connections"] = random.randint(1, 4)
    if random.random() < 0.2:
        security["ip_allow_list"] = random.sample(RULES, random.randint(1, 4))
    if random.random() < 0.2:
        security["ip_block_list"] = random.sample(RULES, random.randint(1, 2))
    if random.random() < 0.5:
        security["rate_limit"] = {"max_requests": random.randint(1, 4), "window": random.choice((1, 10, 60))}
    return security


def _draw_security(random: Random) -> dict[str, Any]:
    security = _draw_access(random)
    if "rate_limit" in security:
        security["rate_limit"] = _draw_rate_limit(random)
    if random.random() < 0.4:
        security["challenge"] = _draw_challenge(random)
    if random.random() < 0.3:
        users = {"alice": ALICES, "bob": BOBS_HASH}
        security["basic_auth"] = {"users": users, "user_header": USER_FIELD.decode()}
        security["basic_auth"]["strip_credentials"] = random.random() < 0.5
    if random.random() < 0.25:
        claims = {"sub": USER_FIELD.decode()}
        security["jwt_auth"] = {"jwks_url": KEYS_URL, "algorithm": "EdDSA", "claims_to_headers": claims}
        security["jwt_auth"]["strip_token"] = random.random() < 0.5
    return security


def _draw_rate_limit(random: Random) -> dict[str, Any]:
    is_bucketed = random.random() < 0.3
    limit: dict[str, Any] = {
        # More than 32 are counted in buckets.
        "max_requests": random.randint(33, 40) if is_bucketed else random.randint(1, 10),
        "window": random.choice((2, 5, 60) if is_bucketed else (0.2, 2, 10, 60)),
        "key_by": random.choice(("ip", "path", "header")),
    }
    if limit["key_by"] == "header":
        limit["header_name"] = KEY_FIELD.decode()
    if random.random() < 0.4:
        effect = random.choice(("bypass-rate-limit", "none"))
        challenge = _draw_challenge(random)
        limit["on_exceeded"] = {"type": "challenge", "challenge": challenge, "clearance_effect": effect}
    return limit


def _draw_challenge(random: Random) -> dict[str, Any]:
    kind = random.choice(("sum", "sum", "wait", "proof-of-work"))
    challenge: dict[str, Any] = {"challenge_type": kind}
    if kind == "sum":
        challenge["provider_id"] = SCRIPTED
    elif kind == "wait":
        challenge["settings"] = {"wait_seconds": WAIT_S}
    else:
        challenge["settings"] = {"difficulty": DIFFICULTY}
    if random.random() < 0.3:
        challenge["apply_to"] = {"methods": "GET"}
    challenge["clearance"] = {
        "ttl": random.choice((3, 60, 1800)),
        "bind_to_host": random.random() < 0.7,
        "bind_to_route": random.random() < 0.7,
        "bind_to_ip": random.random() < 0.4,
    }
    return challenge
