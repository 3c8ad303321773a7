"""Authentication by hand: a context whose clocks and operations are the test's, and tokens to go with it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWS

from smartproxy.core.context import Context
from smartproxy.core.env import Env
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import CallFunction, CancelOperation, OperationFailed, Returned
from smartproxy.core.records import Record
from smartproxy.core.security.authentication.authentication import Authentication
from smartproxy.core.security.policies import BasicAuthPolicy, JwksSource, JwtPolicy
from smartproxy.core.security.verdict import Passed, Refusal, Waiting

NOW = 1_700_000_000.0
SECRET = b"a secret of thirty-two characters"

RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEYS = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "ES256K": ec.generate_private_key(ec.SECP256K1()),
}
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()
ED448_KEY = ed448.Ed448PrivateKey.generate()

PUBLIC_JWKS = "https://keys.example/set"


class ByHand:
    """One route's authentication, and everything it asks for."""

    def __init__(self, basic: BasicAuthPolicy | None = None, jwt: JwtPolicy | None = None) -> None:
        self.wall_clock = NOW
        self._entropy = 0
        self.context = Context(Env(entropy=self._draw, wall_clock=lambda: self.wall_clock))
        self.authentication = Authentication(self.context, basic, jwt)
        self.late: list[Passed | Refusal] = []

    def _draw(self, length: int) -> bytes:
        self._entropy += 1
        return self._entropy.to_bytes(length, "big")

    def check(self, *fields: tuple[bytes, bytes]) -> Passed | Refusal | Waiting:
        return self.authentication.check(list(fields), self.late.append)

    def passes(self, *fields: tuple[bytes, bytes]) -> Passed:
        verdict = self.check(*fields)
        assert isinstance(verdict, Passed), verdict
        return verdict

    def refuses(self, *fields: tuple[bytes, bytes]) -> Refusal:
        verdict = self.check(*fields)
        assert isinstance(verdict, Refusal), verdict
        return verdict

    def waits(self, *fields: tuple[bytes, bytes]) -> Waiting:
        verdict = self.check(*fields)
        assert isinstance(verdict, Waiting), verdict
        return verdict

    def calls(self) -> list[CallFunction]:
        """What has been asked for since the last time."""
        asked = self.context.operations[:]
        self.context.operations.clear()
        calls = [each for each in asked if isinstance(each, CallFunction)]
        assert all(each.in_thread for each in calls)
        return calls

    def cancelled(self) -> list[int]:
        asked = [each.id for each in self.context.operations if isinstance(each, CancelOperation)]
        self.context.operations[:] = [
            each for each in self.context.operations if not isinstance(each, CancelOperation)
        ]
        return asked

    def answer(self, call: CallFunction, value: object) -> None:
        self.context.pending_operations.pop(call.id)(Returned(value))

    def run(self, call: CallFunction) -> None:
        """Do what is asked for."""
        self.answer(call, call.function(*call.arguments))

    def fail(self, call: CallFunction, detail: str = "broken") -> None:
        self.context.pending_operations.pop(call.id)(OperationFailed(LostReason.ERROR, detail))

    def pass_time(self, seconds: float) -> None:
        self.context.now += seconds
        self.wall_clock += seconds
        self.context.timers.fire(self.context.now)

    def records(self, event: str) -> list[dict[str, object]]:
        return [
            each.fields
            for each in self.context.records
            if isinstance(each, Record) and each.area == "security" and each.event == event
        ]


def no_verifying(hash: str, password: bytes) -> bool:
    raise AssertionError("the core verifies nothing by itself")


def basic_policy(users: Mapping[str, str], **more: Any) -> BasicAuthPolicy:
    return BasicAuthPolicy(users, more.pop("verify_hash", no_verifying), **more)


def basic(credentials: str | bytes, scheme: bytes = b"Basic") -> tuple[bytes, bytes]:
    text = credentials.encode() if isinstance(credentials, str) else credentials
    return b"authorization", scheme + b" " + base64.b64encode(text)


def bearer(token: bytes, scheme: bytes = b"Bearer") -> tuple[bytes, bytes]:
    return b"authorization", scheme + b" " + token


def challenges(refusal: Refusal) -> list[str]:
    assert {name for name, _ in refusal.fields} <= {b"www-authenticate"}
    return [value.decode() for _, value in refusal.fields]


def base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(
    claims: object = None,
    key: Any = SECRET,
    algorithm: str = "HS256",
    *,
    payload: bytes | None = None,
    **header: Any,
) -> bytes:
    """A token that is rightly signed, whatever is in it. A header parameter of None is left out."""
    content = json.dumps({} if claims is None else claims).encode() if payload is None else payload
    parameters = {"alg": algorithm, "typ": "JWT", **header}
    text = json.dumps({name: value for name, value in parameters.items() if value is not None})
    return sign_raw(text.encode(), content, key, algorithm)


def sign_raw(header: bytes, payload: bytes, key: Any, algorithm: str) -> bytes:
    signing_input = base64url(header) + b"." + base64url(payload)
    return signing_input + b"." + base64url(PyJWS().get_algorithm_by_name(algorithm).sign(signing_input, key))


def public_pem(private_key: Any) -> bytes:
    pem: bytes = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def jwk(private_key: Any, algorithm: str, **members: Any) -> dict[str, Any]:
    """The public half; a member of None is left out."""
    public = PyJWS().get_algorithm_by_name(algorithm).to_jwk(private_key.public_key(), as_dict=True)
    public = {name: value for name, value in public.items() if name != "key_ops"} | members
    return {name: value for name, value in public.items() if value is not None}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def hmac_policy(**more: Any) -> JwtPolicy:
    return JwtPolicy(("HS256",), secret=SECRET, **more)


def jwks_policy(
    *algorithms: str, refresh_s: float = 3600.0, least_interval_s: float = 30.0, **more: Any
) -> JwtPolicy:
    def fetch() -> bytes:
        raise AssertionError("the core fetches nothing by itself")

    source = JwksSource(PUBLIC_JWKS, fetch, refresh_s, least_interval_s)
    return JwtPolicy(algorithms or ("RS256",), jwks=source, **more)
