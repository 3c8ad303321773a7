"""JSON Web Tokens and key sets of an attacker's making, through a whole engine: no backend hears of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from engine_http2_by_hand import http2_client
from gates_by_hand import ATTACKER_IP, Answer, Browser, GatesByHand, Make, engines, gates

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import OperationFailed, Returned
from smartproxy.core.security.policies import JwksSource, JwtPolicy, RequestPolicy

NOW_S = 1_800_001_000
CLAIMS: dict[str, Any] = {"sub": "alice", "exp": NOW_S + 3600, "role": "user"}
HEADERS = {"sub": b"x-user", "role": b"x-role", "org.name": b"x-org"}


@pytest.fixture
def make() -> Iterator[Make]:
    yield from engines()


@cache
def private_key(number: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(number: int = 0) -> bytes:
    return private_key(number).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed(claims: dict[str, Any] | None = None, number: int = 0, **header: Any) -> str:
    token = jwt.encode(CLAIMS if claims is None else claims, private_key(number), "RS256", headers=header)
    assert isinstance(token, str)
    return token


def encoded(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def compact(header: Any, claims: Any = None, signature: bytes = b"") -> str:
    """A token of these parts, whatever they are."""
    return b".".join(
        [encoded(header), encoded(CLAIMS if claims is None else claims), encoded(signature)]
    ).decode()


def with_hmac(key: bytes, header: Any, claims: Any = None) -> str:
    parts = encoded(header) + b"." + encoded(CLAIMS if claims is None else claims)
    return (parts + b"." + encoded(hmac.digest(key, parts, hashlib.sha256))).decode()


def policy(**options: Any) -> RequestPolicy:
    options = {"algorithms": ("RS256",), "public_key_pem": pem(), "claims_to_headers": HEADERS} | options
    return RequestPolicy(jwt_auth=JwtPolicy(**options))


def refused(hand: GatesByHand, *tokens: str, status: int = 401) -> Answer:
    before = len(hand.seen)
    lines = [f"Authorization: Bearer {token}" for token in tokens]
    answer = Browser(hand, ip=ATTACKER_IP).ask("/page", *lines)
    assert answer.status == status, answer
    assert len(hand.seen) == before
    return answer


def passes(hand: GatesByHand, token: str, *lines: str) -> bytes:
    """The head that the backend gets."""
    assert Browser(hand).ask("/page", f"Authorization: Bearer {token}", *lines).status == 200
    return hand.seen.pop()


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "none ", "", None, 0, True, [], ["RS256"], {}]
)
def test_a_token_without_signature(make: Make, alg: Any) -> None:
    hand = make(policy())
    for signature in (b"", b"\0", b"x" * 256):
        refused(hand, compact({"alg": alg, "typ": "JWT"}, None, signature))
    refused(hand, compact({"alg": alg}).rstrip("."))
    refused(hand, compact({"typ": "JWT"}))


def test_a_public_key_is_no_secret(make: Make) -> None:
    """RFC 8725 §2.1: HS256 with the text of the RSA key."""
    hand = make(policy())
    for key in (pem(), pem().rstrip(), pem().replace(b"\n", b"\r\n"), b"", private_der()):
        for alg in ("HS256", "hs256", "HS512", "RS256"):
            refused(hand, with_hmac(key, {"alg": alg}))
    passes(hand, signed())


def private_der() -> bytes:
    return private_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "../../../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"kid": "x\0y"},
        {"kid": "\u2028" * 100},
        {"kid": "k" * 10_000},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/keys"},
    ],
)
def test_what_a_header_says_of_its_key_is_not_believed(make: Make, header: dict[str, Any]) -> None:
    hand = make(policy())
    own = private_key(1).public_key()
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own))
    refused(hand, signed(number=1, **header))
    refused(hand, signed(number=1, jwk=jwk, **header))
    refused(hand, with_hmac(b"", {"alg": "HS256", **header}))
    assert not hand.calls()


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "\xff.\xff.\xff",
        "e30.e30.",
        "e30=.e30=.AA==",
        "A" * 16_000,
        "." * 16_000,
        "A." * 8000,
        "x" * 60_000,
        compact([]),
        compact("RS256"),
        compact(None),
        compact(b"\xff\xfe"),
        compact(b'{"alg":"RS256","alg":"none"}'),
        compact({"alg": "RS256", "crit": ["exp"]}),
        compact({"alg": "RS256", "b64": False}),
        compact({"alg": "RS256", "kid": ["x"]}),
        compact({"alg": "RS256", "kid": {"a": 1}}),
        compact(b'{"alg":' + b"[" * 5000),
        compact(b'{"a":' * 2000 + b"1" + b"}" * 2000),
        compact(b'{"alg":"RS256","n":' + b"9" * 8000 + b"}"),
        compact({"alg": "RS256"}, None, b"x" * 256),
        compact({"alg": "RS256"}, None, b"\0" * 256),
        compact({"alg": "RS256"}, None, b"\xff" * 256),
        compact({"alg": "RS256"}, None, b"x" * 9000),
    ],
)
def test_a_malformed_token(make: Make, token: str) -> None:
    hand = make(policy())
    answer = refused(hand, token)
    assert answer.field(b"www-authenticate").startswith(b"Bearer realm=")
    assert all(0x20 <= byte < 0x7F for byte in answer.field(b"www-authenticate"))


def raw_signed(payload: bytes) -> str:
    parts = encoded({"alg": "RS256"}) + b"." + encoded(payload)
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(parts, private_key())
    return (parts + b"." + encoded(signature)).decode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 10_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"exp":1,"exp":9999999999}',
        b'{"exp":"9999999999"}',
        b'{"exp":true}',
        b'{"exp":null}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"exp":-1}',
        b'{"exp":1e400}',
        b'{"exp":' + b"9" * 8000 + b"}",
        b'{"nbf":9999999999}',
        b'{"iat":9999999999}',
        b'{"nbf":[]}',
    ],
)
def test_a_payload_that_says_nothing_usable(make: Make, payload: bytes) -> None:
    """Even with a right signature."""
    refused(make(policy()), raw_signed(payload))


def test_a_changed_token(make: Make) -> None:
    hand = make(policy())
    token = signed()
    header, payload, signature = token.split(".")
    other = signed({**CLAIMS, "sub": "root"}, 1).split(".")
    passes(hand, token)
    for forged in (
        f"{header}.{other[1]}.{signature}",
        f"{header}.{payload}.{other[2]}",
        f"{header}.{payload}.{signature[:-1]}",
        f"{header}.{payload}.{signature}A",
        f"{header}.{payload}.{signature}==",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{payload}=.{signature}",
        f"{header}.{payload}.{signature.swapcase()}",
        f"{token} {token}",
        f"{token},{token}",
        f"{token}\t",
    ):
        if forged.strip() != token:
            refused(hand, forged)
    refused(hand, token, token)
    refused(hand, token, signed({**CLAIMS, "sub": "root"}, 1))


def test_a_token_expires_though_it_is_remembered(make: Make) -> None:
    hand = make(policy())
    token = signed({"sub": "alice", "exp": NOW_S + 10})
    for _ in range(3):
        passes(hand, token)
    hand.advance(9.0)
    passes(hand, token)
    hand.advance(1.0)
    refused(hand, token)


@pytest.mark.parametrize(
    "claim",
    ["x\r\nX-Role: admin", "x\nX-Role: admin", "x\0", "\x7f", " x", "x ", "\ud800", "x" * 5000, None, ""],
)
def test_no_claim_writes_another_field(make: Make, claim: Any) -> None:
    hand = make(policy())
    head = passes(hand, signed({**CLAIMS, "sub": claim}), "X-User: mallory", "X_Role: admin", "x.org: z")
    assert b"mallory" not in head
    assert b"admin" not in head
    assert head.count(b"\r\nx-role: ") == 1
    assert b"\r\nx-role: user\r\n" in head
    assert b"\r\nx-user: x" not in head


def test_claims_cannot_be_nominated_away(make: Make) -> None:
    hand = make(policy())
    head = passes(hand, signed(), "Connection: x-user, x-role", "X-User: mallory")
    assert b"\r\nx-user: alice\r\n" in head
    assert b"\r\nx-role: user\r\n" in head
    assert b"mallory" not in head


def test_a_huge_and_nested_claim_is_no_trouble(make: Make) -> None:
    hand = make(policy())
    org: Any = "deep"
    for _ in range(300):
        org = [org]
    head = passes(hand, signed({**CLAIMS, "org": {"name": org}, "org.name": {"a": org}}))
    assert b"\r\nx-user: alice\r\n" in head


# Key sets.


def jwk(number: int = 0, **members: Any) -> dict[str, Any]:
    found = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private_key(number).public_key()))
    assert isinstance(found, dict)
    return found | {"kid": f"key{number}"} | members


def fetching(**options: Any) -> RequestPolicy:
    source = JwksSource("https://keys.example/set", lambda: b"", **options)
    return policy(public_key_pem=None, jwks=source)


def asks(hand: GatesByHand, body: Any, token: str | None = None) -> int:
    """The status of a request that waits for this set."""
    end = Browser(hand).begin("/page", f"Authorization: Bearer {token or signed(kid='key0')}")
    [call] = hand.calls()
    assert call.in_thread
    if isinstance(body, OperationFailed):
        hand.answer(call, body)
    else:
        hand.answer(
            call, Returned(body if isinstance(body, bytes) or body is None else json.dumps(body).encode())
        )
    hand.serve()
    hand.seen.clear()
    return Answer(end.take()).status


OCT = {"kty": "oct", "kid": "key0", "k": encoded(b"secret").decode(), "alg": "HS256"}


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":null}',
        b"[" * 1_000_000,
        b'{"keys":' + b"[" * 100_000,
        b" " * 2_000_000,
        b'{"keys":[' + b"9" * 100_000 + b"]}",
        OperationFailed(LostReason.ERROR, "x" * 100_000),
    ],
)
def test_a_key_set_that_is_none(make: Make, body: Any) -> None:
    """Nobody can be judged by it, so nobody is let in; and it is soon asked for again."""
    hand = make(fetching())
    assert asks(hand, body) == 503
    hand.advance(1.0)
    assert asks(hand, {"keys": [jwk()]}) == 200


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [OCT],
        [OCT | {"alg": "RS256"}],
        [None, 1, "x", [], {}],
        [{"kty": "RSA", "kid": "key0", "n": "AQAB", "e": "AQAB"}],
        [{"kty": "RSA", "kid": "key0", "n": "A" * 100_000, "e": "AQAB"}],
        [{"kty": "RSA", "kid": "key0", "n": "", "e": ""}],
        [{"kty": "RSA", "kid": "key0", "n": 5, "e": []}],
        [{"kty": ["RSA"], "kid": "key0"}],
        [{"kty": "EC", "crv": "P-256", "kid": "key0", "x": "AA", "y": "AA"}],
        [{"kty": "OKP", "crv": "Ed25519", "kid": "key0", "x": "AA"}],
        [{"kty": "none", "kid": "key0"}],
        [{"kty": "RSA", "kid": "key0", "jku": "https://evil.example"}],
    ],
)
def test_a_key_set_without_a_usable_key(make: Make, keys: list[Any]) -> None:
    hand = make(fetching())
    assert asks(hand, {"keys": keys}) == 401
    for alg in ("HS256", "RS256", "none"):
        for key in (b"secret", b"", pem()):
            refused(hand, with_hmac(key, {"alg": alg, "kid": "key0"}))


@pytest.mark.parametrize(
    "members", [{"use": "enc"}, {"key_ops": ["sign"]}, {"alg": "RS512"}, {"alg": "HS256"}]
)
def test_a_key_for_something_else(make: Make, members: dict[str, Any]) -> None:
    assert asks(make(fetching()), {"keys": [jwk(**members)]}) == 401


def test_a_set_of_thousands_of_keys(make: Make) -> None:
    hand = make(fetching())
    keys = [jwk() | {"kid": f"other{number}"} for number in range(1500)]
    assert asks(hand, {"keys": [jwk(), *keys]}) == 200
    # Those beyond the bound are not there.
    refused(hand, signed(kid="other1400"))


def test_unknown_keys_do_not_make_the_proxy_fetch_and_fetch(make: Make) -> None:
    hand = make(fetching(least_interval_s=30.0))
    assert asks(hand, {"keys": [jwk()]}) == 200
    fetches = 0
    client = http2_client(hand, ip=ATTACKER_IP)
    for number in range(300):
        token = signed(number=1, kid=f"kid{number}")
        stream_id = client.request(b"GET", b"/page", (b"authorization", b"Bearer " + token.encode()))
        for call in hand.calls():
            fetches += 1
            hand.answer(call, Returned(json.dumps({"keys": [jwk()]}).encode()))
        assert client.stream(stream_id).status == 401
        hand.advance(0.2)
        if not client.is_open:
            client = http2_client(hand, ip=ATTACKER_IP)
    assert fetches <= 3


@pytest.mark.parametrize("ending", ["leaves", "hangs", "reload", "shutdown"])
def test_a_fetch_under_way(ending: str) -> None:
    hand = gates(fetching())
    ends = [Browser(hand).begin("/page", f"Authorization: Bearer {signed(kid='key0')}") for _ in range(20)]
    [call] = hand.calls()
    keys = Returned(json.dumps({"keys": [jwk()]}).encode())
    if ending == "leaves":
        for end in ends:
            end.reset()
        hand.answer(call, keys)
        assert not hand.pending
    elif ending == "hangs":
        hand.advance(16.0)
        assert hand.cancelled == [call]
        assert {Answer(end.take()).status for end in ends} == {503}
        hand.answer(call, keys)
        assert not hand.seen
    elif ending == "reload":
        hand.configure(gates(fetching()).engine.configuration)
        hand.answer(call, keys)
        hand.serve()
        assert {Answer(end.take()).status for end in ends} == {200}
        hand.check_innocent()
    else:
        hand.engine.handle_shutdown(hand.now)
        hand.drain()
        assert not any(end.is_open for end in ends)
        hand.answer(call, keys)
        assert not hand.seen
    hand.settle()


def test_an_elliptic_token_for_an_rsa_route(make: Make) -> None:
    hand = make(policy())
    key = ec.generate_private_key(ec.SECP256R1())
    refused(hand, jwt.encode(CLAIMS, key, "ES256"))
    refused(hand, jwt.encode(CLAIMS, private_key(), "PS256"))
    refused(hand, jwt.encode(CLAIMS, private_key(), "RS512"))
