"""Credentials of all sorts: nothing raises, nothing forged passes, and memory changes no verdict."""

from __future__ import annotations

import base64
import json
import string
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from smartproxy.core.context import Context
from smartproxy.core.env import Env
from smartproxy.core.ops import CallFunction, Returned
from smartproxy.core.security.authentication.authentication import Authentication
from smartproxy.core.security.authentication.claim_fields import claim_fields
from smartproxy.core.security.authentication.keys import parse_key_set
from smartproxy.core.security.policies import BasicAuthPolicy, JwksSource, JwtPolicy
from smartproxy.core.security.verdict import Passed, Refusal, Waiting

NOW = 1_700_000_000.0
SECRET = b"a secret of thirty-two characters"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()


class Checker:
    """One route's authentication, at a time of the test's."""

    def __init__(self, basic: BasicAuthPolicy | None = None, token: JwtPolicy | None = None) -> None:
        self.wall_clock = NOW
        self.context = Context(Env(entropy=bytes, wall_clock=lambda: self.wall_clock))
        self.authentication = Authentication(self.context, basic, token)
        self.late: list[Passed | Refusal] = []

    def check(self, *fields: tuple[bytes, bytes]) -> Passed | Refusal | Waiting:
        return self.authentication.check(list(fields), self.late.append)

    def passes(self, *fields: tuple[bytes, bytes]) -> bool:
        verdict = self.check(*fields)
        assert not isinstance(verdict, Waiting)
        return isinstance(verdict, Passed)

    def answer_all(self, value: object) -> None:
        calls = [each for each in self.context.operations if isinstance(each, CallFunction)]
        self.context.operations.clear()
        for call in calls:
            self.context.pending_operations.pop(call.id)(Returned(value))


def basic_policy(users: dict[str, str]) -> BasicAuthPolicy:
    return BasicAuthPolicy(users, verify_hash=lambda *_: False)


def hmac_policy(**more: Any) -> JwtPolicy:
    return JwtPolicy(("HS256",), secret=SECRET, **more)


def key_policy(algorithm: str, private_key: Any) -> JwtPolicy:
    pem = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return JwtPolicy((algorithm,), public_key_pem=pem)


def basic(credentials: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Basic " + base64.b64encode(credentials.encode())


def bearer(token: bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token


def base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(claims: Any, key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> bytes:
    """Rightly signed, whatever it says."""
    text = json.dumps({"alg": algorithm, **header}).encode()
    signing_input = base64url(text) + b"." + base64url(json.dumps(claims).encode())
    signature = jwt.PyJWS().get_algorithm_by_name(algorithm).sign(signing_input, key)
    return signing_input + b"." + base64url(signature)


def jwk(private_key: Any, algorithm: str) -> dict[str, Any]:
    public = private_key.public_key()
    members: dict[str, Any] = jwt.PyJWS().get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return members


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

SIGNERS: dict[str, tuple[Any, JwtPolicy]] = {
    "HS256": (SECRET, hmac_policy()),
    "RS256": (RSA_KEY, key_policy("RS256", RSA_KEY)),
    "PS256": (RSA_KEY, key_policy("PS256", RSA_KEY)),
    "ES256": (EC_KEY, key_policy("ES256", EC_KEY)),
    "EdDSA": (ED25519_KEY, key_policy("EdDSA", ED25519_KEY)),
}
TOKENS = {name: sign({"sub": "bob"}, key, name) for name, (key, _) in SIGNERS.items()}


def checkers() -> list[Checker]:
    plain, hashed = {"bob": "secret"}, {"bob": "$2b$12$bob"}
    return [
        Checker(basic_policy(plain)),
        Checker(basic_policy(hashed)),
        Checker(None, hmac_policy()),
        Checker(None, hmac_policy(header=b"x-token", cookie="token")),
        Checker(None, JwtPolicy(("RS256",), jwks=JwksSource("https://a.example", bytes))),
        Checker(basic_policy(plain), hmac_policy(cookie="token")),
    ]


values = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda scheme, rest: scheme + b" " + rest, st.sampled_from([b"Basic", b"bearer"]), st.binary()),
    st.builds(lambda text: b"Basic " + base64.b64encode(text), st.binary()),
    st.builds(
        lambda *parts: b"Bearer " + b".".join(map(base64url, parts)), st.binary(), st.binary(), st.binary()
    ),
    st.builds(
        lambda header, claims: b"Bearer " + sign(claims, extra=header),
        json_values,
        json_values,
    ),
)


@given(
    st.lists(st.tuples(st.sampled_from([b"authorization", b"cookie", b"x-token", b"x"]), values), max_size=4)
)
def test_no_fields_raise(fields: list[tuple[bytes, bytes]]) -> None:
    for proxy in checkers():
        verdict = proxy.check(*fields)
        assert isinstance(verdict, Passed | Refusal | Waiting)
        if isinstance(verdict, Refusal):
            assert verdict.status in (401, 503)
            for name, value in verdict.fields:
                assert name == b"www-authenticate"
                assert value.isascii()
                assert b"\n" not in value
        proxy.answer_all(b"")
        assert len(proxy.late) == isinstance(verdict, Waiting)


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_every_flipped_bit_of_a_token_is_noticed(algorithm: str) -> None:
    token = TOKENS[algorithm]
    proxy = Checker(None, SIGNERS[algorithm][1])
    assert proxy.passes(bearer(token))
    for position in range(len(token)):
        for bit in range(8):
            forged = bytearray(token)
            forged[position] ^= 1 << bit
            assert not proxy.passes(bearer(bytes(forged)))


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_signature_has_one_spelling(algorithm: str) -> None:
    """Where its length is no multiple of three, base64url's last character has bits that say nothing."""
    token = TOKENS[algorithm]
    proxy = Checker(None, SIGNERS[algorithm][1])
    alphabet = string.ascii_letters + string.digits + "-_="
    others = [token[:-1] + last.encode() for last in alphabet if last.encode() != token[-1:]]
    for other in [*others, *(token + last.encode() for last in alphabet)]:
        assert not proxy.passes(bearer(other))


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(string.ascii_letters + "0123456789+/"))
def test_another_spelling_of_basic_credentials_says_the_same(name: bytes, password: bytes, last: str) -> None:
    """There the bits are ignored, as RFC 4648 §3.5 lets: what is compared is what they say."""
    value = base64.b64encode(name + b":" + password)
    stripped = value.rstrip(b"=")
    respelled = stripped[:-1] + last.encode() + value[len(stripped) :]
    proxy = Checker(basic_policy({"bob": "secret"}))
    passes = base64.b64decode(respelled) == b"bob:secret"
    assert proxy.passes((b"authorization", b"Basic " + respelled)) is passes


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@given(
    st.dictionaries(texts.filter(lambda name: ":" not in name), texts, min_size=1, max_size=4), texts, texts
)
def test_exactly_the_configured_users_pass(users: dict[str, str], name: str, password: str) -> None:
    proxy = Checker(basic_policy({user: f"p{text}" for user, text in users.items()}))
    for user, text in users.items():
        assert proxy.passes(basic(f"{user}:p{text}"))
        assert not proxy.passes(basic(f"{user}:p{text}x"))
    user, _, rest = f"{name}:p{password}".partition(":")
    assert proxy.passes(basic(f"{user}:{rest}")) is (user in users and rest == f"p{users[user]}")


@given(json_values, st.sampled_from([None, "k", 7]), st.sampled_from(["HS256", "none", "HS384", None]))
@example({"exp": 1e400}, None, "HS256")
def test_what_passes_also_passes_the_library(claims: Any, key_id: Any, algorithm: str | None) -> None:
    token = sign(claims, alg=algorithm, kid=key_id)
    verdict = Checker(None, hmac_policy()).check(bearer(token))
    if isinstance(verdict, Passed):
        decoded = jwt.api_jws.decode_complete(token, SECRET, ["HS256"])
        assert isinstance(json.loads(decoded["payload"]), dict)


dates = st.integers(int(NOW) - 20, int(NOW) + 20)


@given(
    st.fixed_dictionaries({}, optional={"exp": dates, "nbf": dates, "iat": dates}),
    st.sampled_from([0.0, 0.5, 5.0]),
    st.lists(st.floats(NOW - 30, NOW + 30), min_size=1, max_size=8),
)
def test_a_remembered_token_is_as_good_as_a_new_one(
    claims: dict[str, int], leeway_s: float, times: list[float]
) -> None:
    token = sign(claims)
    remembering = Checker(None, hmac_policy(leeway_s=leeway_s))
    for time in times:
        fresh = Checker(None, hmac_policy(leeway_s=leeway_s))
        remembering.wall_clock = fresh.wall_clock = time
        assert remembering.check(bearer(token)) == fresh.check(bearer(token))


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.text(max_size=12))
def test_fields_made_of_claims_can_be_sent(claims: dict[str, Any], path: str) -> None:
    names = {path: b"x-path", **dict.fromkeys(claims, b"x-claim")}
    for name, value in claim_fields(claims, names):
        assert name in (b"x-path", b"x-claim")
        assert len(value) <= 4096
        assert value == value.strip()
        assert not any(byte < 0x20 or byte == 0x7F for byte in value)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), min_size=1))
def test_a_list_can_be_taken_apart_again(elements: list[str]) -> None:
    for _, value in claim_fields({"roles": elements}, {"roles": b"x-roles"}):
        parts = value.decode().split(",")
        assert [part.replace("%2C", ",").replace("%25", "%") for part in parts] == elements


members = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "alg", "use", "key_ops", "kid", "k", "d"])
MEMBERS = [jwk(RSA_KEY, "RS256"), jwk(EC_KEY, "ES256"), jwk(ED25519_KEY, "EdDSA")]
near_keys = st.builds(
    lambda key, changes: {**key, **changes},
    st.sampled_from(MEMBERS),
    st.dictionaries(
        members, json_values | st.text("AQAB-_", max_size=90) | st.sampled_from(["sig", "EC"]), max_size=3
    ),
)


@given(json_values | st.lists(near_keys | json_values, max_size=4).map(lambda keys: {"keys": keys}))
def test_any_json_is_a_key_set_or_is_not(document: Any) -> None:
    try:
        found, left_out = parse_key_set(json.dumps(document).encode(), ("RS256", "ES256", "EdDSA"))
    except ValueError:
        assert not (isinstance(document, dict) and isinstance(document.get("keys"), list))
    else:
        assert len(found) + left_out == len(document["keys"])


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda text: b'{"keys": [{}]}' + text))
def test_any_bytes_are_a_key_set_or_are_not(data: bytes) -> None:
    try:
        found, _ = parse_key_set(data, ("RS256",))
    except ValueError:
        return
    assert len(found) == 0
