"""Bearer tokens: which ones pass, and which forgeries do not."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
import trustme
from authentication_by_hand import (
    EC_KEYS,
    ED448_KEY,
    ED25519_KEY,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    SECRET,
    ByHand,
    base64url,
    bearer,
    challenges,
    hmac_policy,
    public_pem,
    sign,
    sign_raw,
)
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt import PyJWS

from smartproxy.core.failure import FailureCode, FailureSource
from smartproxy.core.security.authentication.token import MAX_TOKEN_BYTES
from smartproxy.core.security.policies import JwtPolicy
from smartproxy.core.security.verdict import Passed

KEYS: dict[str, Any] = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), SECRET),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA_KEY),
    **EC_KEYS,
    "EdDSA": ED25519_KEY,
}


def policy_for(algorithm: str, **more: Any) -> JwtPolicy:
    key = KEYS[algorithm]
    if isinstance(key, bytes):
        return JwtPolicy((algorithm,), secret=key, **more)
    return JwtPolicy((algorithm,), public_key_pem=public_pem(key), **more)


def reason(proxy: ByHand, token: bytes) -> str:
    refusal = proxy.refuses(bearer(token))
    assert refusal.status == 401
    assert refusal.failure.source is FailureSource.CLIENT
    assert refusal.failure.code is FailureCode.AUTHENTICATION_FAILED
    [challenge] = challenges(refusal)
    start = 'Bearer realm="Restricted", error="invalid_token", error_description="'
    assert challenge.startswith(start)
    assert challenge == f'{start}{refusal.failure.detail}"'
    return refusal.failure.detail


# Signatures.


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_passes(algorithm: str) -> None:
    proxy = ByHand(jwt=policy_for(algorithm))
    token = sign({"sub": "bob"}, KEYS[algorithm], algorithm)
    first = proxy.passes((b"accept", b"*/*"), bearer(token))
    assert proxy.passes(bearer(token)) is first
    assert first == Passed()


def test_ed448_passes_as_eddsa() -> None:
    proxy = ByHand(jwt=JwtPolicy(("EdDSA",), public_key_pem=public_pem(ED448_KEY)))
    proxy.passes(bearer(sign({}, ED448_KEY, "EdDSA")))
    assert reason(proxy, sign({}, ED25519_KEY, "EdDSA")) == "its signature is wrong"


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_the_key_of_another_is_refused(algorithm: str) -> None:
    assert reason(ByHand(jwt=policy_for(algorithm)), sign({}, OTHER_RSA_KEY, algorithm)) == (
        "its signature is wrong"
    )


def test_a_certificate_holds_a_public_key() -> None:
    issued = trustme.CA().issue_cert("issuer.example")
    certificate, private = issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()
    proxy = ByHand(jwt=JwtPolicy(("ES256",), public_key_pem=certificate))
    key = PyJWS().get_algorithm_by_name("ES256").prepare_key(private)
    proxy.passes(bearer(sign({}, key, "ES256")))


def test_several_algorithms_of_one_family() -> None:
    proxy = ByHand(jwt=JwtPolicy(("RS256", "PS512"), public_key_pem=public_pem(RSA_KEY)))
    proxy.passes(bearer(sign({}, RSA_KEY, "RS256")))
    proxy.passes(bearer(sign({}, RSA_KEY, "PS512")))
    assert reason(proxy, sign({}, RSA_KEY, "RS512")) == "its algorithm is not allowed"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 1, ["HS256"], {"HS256": 1}])
def test_a_token_without_a_signature_is_refused(algorithm: object) -> None:
    proxy = ByHand(jwt=hmac_policy())
    header, payload = base64url(json.dumps({"alg": algorithm}).encode()), base64url(b'{"sub": "bob"}')
    for signature in (b"", base64url(b"x" * 32)):
        assert reason(proxy, header + b"." + payload + b"." + signature)
    assert reason(proxy, header + b"." + payload)
    assert reason(proxy, sign({}, algorithm="HS256", alg=algorithm)) == "its algorithm is not allowed"


def test_the_public_key_is_no_secret() -> None:
    """RFC 8725 §2.1: key confusion."""
    pem = public_pem(RSA_KEY)
    proxy = ByHand(jwt=JwtPolicy(("RS256",), public_key_pem=pem))
    header, payload = base64url(b'{"alg":"HS256","typ":"JWT"}'), base64url(b'{"sub":"root"}')
    for secret in (pem, pem.strip(), pem.replace(b"\n", b"")):
        signature = hmac.digest(secret, header + b"." + payload, "sha256")
        forged = header + b"." + payload + b"." + base64url(signature)
        assert reason(proxy, forged) == "its algorithm is not allowed"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512", "RS256", "hs256", "HS256 "])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    assert reason(ByHand(jwt=hmac_policy()), sign({}, alg=algorithm)) == "its algorithm is not allowed"


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": PyJWS().get_algorithm_by_name("RS256").to_jwk(OTHER_RSA_KEY.public_key(), as_dict=True)},
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/certificate"},
        {"x5c": ["MIIB"]},
    ],
)
def test_keys_in_the_header_are_not_used(header: dict[str, Any]) -> None:
    proxy = ByHand(jwt=policy_for("RS256"))
    assert reason(proxy, sign({}, OTHER_RSA_KEY, "RS256", **header)) == "its signature is wrong"
    proxy.passes(bearer(sign({}, RSA_KEY, "RS256", **header)))
    assert proxy.calls() == []


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}, {"b64": 1}]
)
def test_critical_header_parameters_are_refused(header: dict[str, Any]) -> None:
    text = json.dumps({"alg": "HS256", **header}).encode()
    token = sign_raw(text, b"{}", SECRET, "HS256")
    assert "critical" in reason(ByHand(jwt=hmac_policy()), token)


def test_a_key_id_says_nothing_to_a_single_key() -> None:
    proxy = ByHand(jwt=hmac_policy())
    proxy.passes(bearer(sign({}, kid="another")))
    for key_id in (b"7", b"null", b'["a"]', b"{}"):
        token = sign_raw(b'{"alg":"HS256","kid":%b}' % key_id, b"{}", SECRET, "HS256")
        assert reason(proxy, token) == "it is malformed"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (JwtPolicy((), secret=SECRET), "no algorithm"),
        (JwtPolicy(("none",), secret=SECRET), "none cannot be verified with a secret"),
        (JwtPolicy(("RS256",), secret=SECRET), "RS256 cannot be verified with a secret"),
        (JwtPolicy(("HS256",), secret=b""), "must not be empty"),
        (JwtPolicy(("HS256",), secret=public_pem(RSA_KEY)), "asymmetric key"),
        (JwtPolicy(("HS256",), public_key_pem=public_pem(RSA_KEY)), "HS256 cannot be verified with a public"),
        (JwtPolicy(("ES256",), public_key_pem=public_pem(RSA_KEY)), "is not one for ES256"),
        (JwtPolicy(("ES256",), public_key_pem=public_pem(EC_KEYS["ES384"])), "is not one for ES256"),
        (JwtPolicy(("RS256",), public_key_pem=b"nonsense"), "not a public key"),
        (
            JwtPolicy(
                ("RS256",),
                public_key_pem=RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            ),
            "not a public key",
        ),
        (JwtPolicy(("RS256",), public_key_pem=public_pem(rsa.generate_private_key(65537, 1024))), "2048"),
        (JwtPolicy(("RS256",), public_key_pem=public_pem(dsa.generate_private_key(1024))), "kind"),
    ],
)
def test_keys_that_do_not_fit_are_refused_at_once(policy: JwtPolicy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ByHand(jwt=policy)


# Malformed tokens.


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"a.b",
        b"a.b.c.d",
        b"a.b.c.d.e",
        b"\xff.\xff.\xff",
        b"e30.e30.",
        b"e30=.e30.e30",
        b"e30.e30. e30",
        b"e30.e30.e30\n",
        b"e.e30.e30",
        b"e31.e30.e30",
        sign({}) + b"=",
        sign({}).replace(b".", b" ."),
        sign({}) + b", " + sign({}),
        base64url(b"[]") + b".e30.e30",
        base64url(b'"alg"') + b".e30.e30",
        base64url(b"nonsense") + b".e30.e30",
        base64url(b'{"alg":"HS256","alg":"HS256"}') + b".e30.e30",
        base64url(b'{"alg":"HS256"} x') + b".e30.e30",
        base64url(b"\xff\xfe") + b".e30.e30",
        base64url('{"alg":"HS256"}'.encode("utf-16")) + b".e30.e30",
        base64url(b'\xef\xbb\xbf{"alg":"HS256"}') + b".e30.e30",
        base64url(b"[" * 10_000) + b".e30.e30",
        base64url(b'{"a":' * 2000 + b"1" + b"}" * 2000) + b".e30.e30",
    ],
)
def test_malformed_tokens_are_refused(token: bytes) -> None:
    assert reason(ByHand(jwt=hmac_policy()), token) == "it is malformed"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'"sub"',
        b"null",
        b"1",
        b"nonsense",
        b'{"sub": "bob", "sub": "root"}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"exp": NaN}',
        b'{"exp": Infinity}',
        b'{"exp": -Infinity}',
        b'{"exp": 1' + b"0" * 5000 + b"}",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"a":' * 1900,
    ],
)
def test_claims_that_are_not_an_object_are_refused(payload: bytes) -> None:
    assert reason(ByHand(jwt=hmac_policy()), sign(payload=payload)) == "it is malformed"


def test_long_tokens_are_refused_unread() -> None:
    proxy = ByHand(jwt=hmac_policy())
    room = MAX_TOKEN_BYTES * 3 // 4 - 100
    fits = sign({"a": "x" * room})
    assert len(fits) <= MAX_TOKEN_BYTES
    proxy.passes(bearer(fits))
    for size in (room + 200, 1_000_000):
        assert reason(proxy, sign({"a": "x" * size})) == "it is too long"


# Claims.


@pytest.mark.parametrize(
    ("claims", "leeway_s", "why"),
    [
        ({"exp": NOW + 1}, 0, ""),
        ({"exp": NOW}, 0, "it has expired"),
        ({"exp": NOW - 1}, 0, "it has expired"),
        ({"exp": NOW - 9}, 10, ""),
        ({"exp": NOW - 10}, 10, "it has expired"),
        ({"exp": NOW + 0.5}, 0, ""),
        ({"exp": 0}, 0, "it has expired"),
        ({"exp": -1}, 0, "it has expired"),
        ({"nbf": NOW}, 0, ""),
        ({"nbf": NOW + 1}, 0, "it is not valid yet"),
        ({"nbf": NOW + 10}, 10, ""),
        ({"nbf": NOW + 11}, 10, "it is not valid yet"),
        ({"iat": NOW}, 0, ""),
        ({"iat": NOW + 1}, 0, "it is not valid yet"),
        ({"iat": NOW + 10}, 10, ""),
        ({"exp": str(NOW + 1)}, 0, "it has a date that is not a number"),
        ({"exp": True}, 0, "it has a date that is not a number"),
        ({"exp": None}, 0, "it has a date that is not a number"),
        ({"exp": [NOW + 1]}, 0, "it has a date that is not a number"),
        ({"exp": 10**300}, 0, "it has a date that is not a number"),
        ({"exp": 2**53 + 1}, 0, "it has a date that is not a number"),
        ({"nbf": "now"}, 0, "it has a date that is not a number"),
        ({"iat": False}, 0, "it has a date that is not a number"),
        ({"nbf": -(10**300)}, 0, "it has a date that is not a number"),
    ],
)
def test_dates(claims: dict[str, Any], leeway_s: float, why: str) -> None:
    proxy = ByHand(jwt=hmac_policy(leeway_s=leeway_s))
    if why:
        assert reason(proxy, sign(claims)) == why
    else:
        proxy.passes(bearer(sign(claims)))


def test_a_number_beyond_all_numbers_is_no_date() -> None:
    assert reason(ByHand(jwt=hmac_policy()), sign(payload=b'{"exp": 1e400}')) == (
        "it has a date that is not a number"
    )


def test_a_remembered_token_expires() -> None:
    proxy = ByHand(jwt=hmac_policy(leeway_s=2))
    token = sign({"exp": NOW + 10, "nbf": NOW - 10})
    proxy.passes(bearer(token))
    proxy.pass_time(11.5)
    proxy.passes(bearer(token))
    proxy.pass_time(0.5)
    assert reason(proxy, token) == "it has expired"
    # The calendar may be set back.
    proxy.wall_clock = NOW
    proxy.passes(bearer(token))
    proxy.wall_clock = NOW - 13
    assert reason(proxy, token) == "it is not valid yet"


@pytest.mark.parametrize(
    ("issuer", "passes"),
    [
        ("https://a.example", True),
        ("https://b.example", False),
        ("", False),
        (["https://a.example"], False),
        (None, False),
    ],
)
def test_the_issuer_must_be_the_expected_one(issuer: object, passes: bool) -> None:
    proxy = ByHand(jwt=hmac_policy(issuer="https://a.example"))
    if passes:
        proxy.passes(bearer(sign({"iss": issuer})))
    else:
        assert reason(proxy, sign({"iss": issuer})) == "its issuer is not accepted"
        assert reason(proxy, sign({})) == "its issuer is not accepted"


@pytest.mark.parametrize(
    ("audience", "passes"),
    [
        ("a", True),
        (["a"], True),
        (["x", "b", "y"], True),
        ("x", False),
        (["x"], False),
        ([], False),
        ("", False),
        (None, False),
        (1, False),
        ({"a": 1}, False),
        (["a", 1], False),
        ([["a"]], False),
        (["A"], False),
    ],
)
def test_the_audience_must_be_an_expected_one(audience: object, passes: bool) -> None:
    proxy = ByHand(jwt=hmac_policy(audiences=("a", "b")))
    if passes:
        proxy.passes(bearer(sign({"aud": audience})))
    else:
        assert reason(proxy, sign({"aud": audience})) == "it is not meant for this audience"
    # Who names no audience does not look at it.
    ByHand(jwt=hmac_policy()).passes(bearer(sign({"aud": audience})))


def test_a_token_needs_its_audience() -> None:
    assert reason(ByHand(jwt=hmac_policy(audiences=("a",))), sign({})) == "it is not meant for this audience"
