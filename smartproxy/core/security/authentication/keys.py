"""Keys that tokens are verified with, and the algorithms that each is for (RFC 7517, RFC 7518, RFC 8037)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWS
from jwt.algorithms import Algorithm
from jwt.exceptions import PyJWTError

from smartproxy.core.security.authentication.token import Token
from smartproxy.core.security.policies import JwtPolicy

MAX_KEYS = 64
"""Of a key set; more are not looked at."""
MAX_TRIED_KEYS = 8
"""For a token that does not name its key."""

_HMAC = ("HS256", "HS384", "HS512")
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
#: By key type and curve.
_ALGORITHMS: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("EC", "secp256k1"): ("ES256K",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
SIGNATURE_ALGORITHMS = tuple(dict.fromkeys(name for names in _ALGORITHMS.values() for name in names))
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521", "secp256k1": "secp256k1"}
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_BASE64URL = re.compile("[A-Za-z0-9_-]{1,3000}")
# RFC 7518 §3.3; and what OpenSSL verifies with.
_LEAST_RSA_BITS = 2048
_MOST_RSA_BITS = 16384

_LIBRARY = PyJWS()


class VerificationKey:
    """A key, the id that tokens name it by, and the algorithms it is for."""

    __slots__ = ("_key", "algorithms", "key_id")

    def __init__(self, key: Any, key_id: str | None, algorithms: Sequence[str]) -> None:
        self._key = key
        self.key_id = key_id
        self.algorithms: dict[str, Algorithm] = {
            name: _LIBRARY.get_algorithm_by_name(name) for name in algorithms
        }

    def verifies(self, token: Token) -> bool:
        """Whether the token's signature is right. Its algorithm must be one of `algorithms`."""
        algorithm = self.algorithms[token.algorithm]
        try:
            return algorithm.verify(token.signing_input, self._key, token.signature)
        except (ValueError, UnsupportedAlgorithm):
            # A curve that this build of OpenSSL does without.
            return False


class KeySet:
    """The keys in use. With `one_key` it is the only one, whatever id a token names."""

    __slots__ = ("_by_id", "_keys", "_one_key")

    def __init__(self, keys: Sequence[VerificationKey], *, one_key: bool = False) -> None:
        self._keys = tuple(keys)
        self._one_key = one_key
        self._by_id: dict[str, list[VerificationKey]] = {}
        for key in keys:
            if key.key_id is not None:
                self._by_id.setdefault(key.key_id, []).append(key)

    def __len__(self) -> int:
        return len(self._keys)

    def candidates(self, token: Token) -> list[VerificationKey]:
        """The keys that the token may be signed with, at most `MAX_TRIED_KEYS`."""
        keys: Sequence[VerificationKey] = self._keys
        if token.key_id is not None and not self._one_key:
            keys = self._by_id.get(token.key_id, ())
        return [key for key in keys if token.algorithm in key.algorithms][:MAX_TRIED_KEYS]


def configured_key(policy: JwtPolicy) -> KeySet:
    """The secret or the public key of a policy, as a set of one.

    Raises ValueError where it cannot be used, or not with all of the policy's algorithms: a public key is
    never a secret (RFC 8725 §2.1).
    """
    if policy.secret is not None:
        check_algorithms(policy.algorithms, _HMAC, "a secret")
        return KeySet([VerificationKey(load_secret(policy.secret), None, policy.algorithms)], one_key=True)
    assert policy.public_key_pem is not None
    check_algorithms(policy.algorithms, SIGNATURE_ALGORITHMS, "a public key")
    key = load_public_key(policy.public_key_pem)
    fitting = [name for name in policy.algorithms if name in algorithms_of(key)]
    if not fitting:
        raise ValueError(f"the public key is not one for {', '.join(policy.algorithms)}")
    return KeySet([VerificationKey(key, None, fitting)], one_key=True)


def check_algorithms(names: Sequence[str], possible: Sequence[str], key: str) -> None:
    """Raise ValueError unless all of `names` are algorithms that go with such a key."""
    if not names:
        raise ValueError("there is no algorithm")
    wrong = [name for name in names if name not in possible]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} cannot be verified with {key}: {', '.join(possible)} can")


def load_secret(secret: bytes) -> bytes:
    """Raises ValueError for a secret that is empty, or that is really a key of another kind."""
    try:
        prepared = _LIBRARY.get_algorithm_by_name("HS256").prepare_key(secret)
    except PyJWTError as error:
        raise ValueError(str(error)) from error
    assert isinstance(prepared, bytes)
    return prepared


def load_public_key(pem: bytes) -> Any:
    """A public key, or that of a certificate, in PEM. Raises ValueError."""
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            key: object = x509.load_pem_x509_certificate(pem).public_key()
        else:
            key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is not a public key or a certificate in PEM") from error
    if not algorithms_of(key):
        raise ValueError(
            f"its kind is not usable: RSA of {_LEAST_RSA_BITS} to {_MOST_RSA_BITS} bits, "
            "EC on P-256, P-384, P-521 or secp256k1, Ed25519 and Ed448 are"
        )
    return key


def algorithms_of(key: object) -> tuple[str, ...]:
    """The algorithms that a public key can verify; none for one that must not be used."""
    if isinstance(key, RSAPublicKey):
        return _RSA if _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS else ()
    if isinstance(key, EllipticCurvePublicKey):
        return _ALGORITHMS.get(("EC", _CURVES.get(key.curve.name, "")), ())
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return _ALGORITHMS["OKP", "Ed25519"]
    return ()


def parse_key_set(data: bytes, algorithms: Sequence[str]) -> tuple[KeySet, int]:
    """The keys of a JWK Set (RFC 7517 §5) that are for one of `algorithms`, and how many keys are left out.

    Symmetric keys never are. Raises ValueError for what is not a JWK Set.
    """
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is not a JSON Web Key Set")
    keys = []
    for jwk in listed:
        key = _load_jwk(jwk, algorithms)
        if key is not None:
            keys.append(key)
            if len(keys) == MAX_KEYS:
                break
    return KeySet(keys), len(listed) - len(keys)


def _load_jwk(jwk: Any, algorithms: Sequence[str]) -> VerificationKey | None:
    """None for a key that is of another kind, for another use, or malformed (RFC 7517 §5: it is ignored)."""
    if not isinstance(jwk, dict):
        return None
    key_type, curve, key_id = jwk.get("kty"), jwk.get("crv", ""), jwk.get("kid")
    operations = jwk.get("key_ops", ["verify"])
    if not (
        isinstance(key_type, str)
        and isinstance(curve, str)
        and (key_id is None or isinstance(key_id, str))
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    ):
        return None
    own = jwk.get("alg")
    fitting = [
        name
        for name in _ALGORITHMS.get((key_type, curve if key_type != "RSA" else ""), ())
        if name in algorithms and own in (None, name)
    ]
    key = _load_public_members(jwk, key_type, fitting[0]) if fitting else None
    fitting = [name for name in fitting if name in algorithms_of(key)]
    return VerificationKey(key, key_id, fitting) if fitting else None


def _load_public_members(jwk: dict[str, Any], key_type: str, algorithm: str) -> Any:
    """The public key alone, also where a set gives its private half away."""
    public = {name: jwk.get(name) for name in _PUBLIC_MEMBERS[key_type]}
    if not all(isinstance(value, str) and _BASE64URL.fullmatch(value) for value in public.values()):
        return None
    try:
        return _LIBRARY.get_algorithm_by_name(algorithm).from_jwk({"kty": key_type, **public})
    except (PyJWTError, ValueError, UnsupportedAlgorithm):
        return None
