"""Signed tokens and cookies: what was signed comes back, and nothing else is believed."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smartproxy.core.context import Context
from smartproxy.core.env import Env
from smartproxy.core.http.messages import Fields
from smartproxy.core.security.challenge.challenges import ChallengedRequest
from smartproxy.core.security.challenge.clearance import Clearance
from smartproxy.core.security.challenge.contents import FLAG, OBJECT, TEXT, TIME, decode_row, encode_row
from smartproxy.core.security.challenge.cookies import cookie_values
from smartproxy.core.security.challenge.issuer import Issuer
from smartproxy.core.security.challenge.pending import Pending
from smartproxy.core.security.challenge.return_path import return_path
from smartproxy.core.security.challenge.tokens import MAX_TOKEN_BYTES, KeyRing
from smartproxy.core.security.policies import ChallengePolicy, ChallengeSettings

KEY = b"k" * 32
RING = KeyRing((KEY,))
COOKIE_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")

keys = st.binary(min_size=1, max_size=64)
texts = st.text(max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
times = st.floats(0, 1e11)


def single_bit_forgeries(token: bytes) -> list[bytes]:
    forgeries = []
    for position in range(len(token)):
        for bit in range(8):
            forged = bytearray(token)
            forged[position] ^= 1 << bit
            forgeries.append(bytes(forged))
    return forgeries


@given(payload=st.binary(max_size=3000), purpose=st.binary(max_size=20))
def test_round_trip(payload: bytes, purpose: bytes) -> None:
    token = RING.sign(purpose, payload)
    assert COOKIE_SAFE.issuperset(token)
    assert RING.verify(purpose, token) == payload


def test_token_longer_than_any_cookie_is_refused() -> None:
    fits = (MAX_TOKEN_BYTES - len(RING.sign(b"p", b""))) // 4 * 3
    assert RING.verify(b"p", RING.sign(b"p", bytes(fits))) == bytes(fits)
    assert RING.verify(b"p", RING.sign(b"p", bytes(fits + 3))) is None


@settings(max_examples=20)
@given(payload=st.binary(max_size=60))
def test_every_single_bit_forgery_is_refused(payload: bytes) -> None:
    token = RING.sign(b"p", payload)
    for forged in single_bit_forgeries(token):
        assert RING.verify(b"p", forged) is None


@given(payload=st.binary(max_size=60), data=st.data())
def test_truncation_extension_and_other_spellings_are_refused(payload: bytes, data: st.DataObject) -> None:
    token = RING.sign(b"p", payload)
    assert RING.verify(b"p", token[: data.draw(st.integers(0, len(token) - 1))]) is None
    assert RING.verify(b"p", token[data.draw(st.integers(1, len(token))) :]) is None
    assert RING.verify(b"p", token + data.draw(st.binary(min_size=1, max_size=5))) is None
    assert RING.verify(b"p", data.draw(st.binary(min_size=1, max_size=5)) + token) is None
    position = data.draw(st.integers(0, len(token)))
    inserted = data.draw(st.sampled_from([b"=", b".", b" ", b"\n", b"+", b"/", b"\0", b"\xff"]))
    assert RING.verify(b"p", token[:position] + inserted + token[position:]) is None
    text, _, signature = token.partition(b".")
    assert RING.verify(b"p", signature + b"." + text) is None
    assert RING.verify(b"p", text + b"." + signature + b"=") is None
    if len(text) % 4:
        assert RING.verify(b"p", text + b"=" * (-len(text) % 4) + b"." + signature) is None
    assert RING.verify(b"p", token.replace(b"-", b"+").replace(b"_", b"/")) == (
        payload if b"-" not in token and b"_" not in token else None
    )


@settings(max_examples=30)
@given(payload=st.binary(max_size=30))
def test_last_characters_have_one_spelling(payload: bytes) -> None:
    # 32 bytes leave two bits of the last character unused, as do most payloads; both parts are text here.
    token = RING.sign(b"p", payload)
    text, _, signature = token.partition(b".")
    for character in sorted(COOKIE_SAFE):
        other = bytes((character,))
        if text and other != text[-1:]:
            assert RING.verify(b"p", text[:-1] + other + b"." + signature) is None
        if other != signature[-1:]:
            assert RING.verify(b"p", text + b"." + signature[:-1] + other) is None


@given(token=st.binary(max_size=200) | st.binary(min_size=4090, max_size=5000))
@example(b".")
@example(b"")
@example(b"." * 5000)
def test_anything_at_all_is_refused(token: bytes) -> None:
    assert RING.verify(b"p", token) is None


@given(payload=st.binary(max_size=60), one=st.binary(max_size=20), other=st.binary(max_size=20))
def test_token_of_another_purpose_is_refused(payload: bytes, one: bytes, other: bytes) -> None:
    token = RING.sign(one, payload)
    assert RING.verify(other, token) == (payload if one == other else None)


@given(
    payload=st.binary(max_size=60), ring=st.lists(keys, min_size=1, max_size=8, unique=True), data=st.data()
)
def test_key_rotation(payload: bytes, ring: list[bytes], data: st.DataObject) -> None:
    token = KeyRing(tuple(ring)).sign(b"p", payload)
    order = data.draw(st.permutations(ring))
    assert KeyRing(tuple(order)).verify(b"p", token) == payload
    assert KeyRing((ring[0],)).sign(b"p", payload) == token
    # HMAC pads keys with zeros: such a key is another's twin.
    strangers = tuple(key for key in ring[1:] if key.rstrip(b"\0") != ring[0].rstrip(b"\0"))
    if strangers:
        assert KeyRing(strangers).verify(b"p", token) is None


@pytest.mark.parametrize("ring", [(), (b"",), (b"a", b""), (b"a",) * 9])
def test_rings_that_cannot_be(ring: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="1 to 8 keys"):
        KeyRing(ring)


# Contents.

pendings = st.builds(
    Pending,
    challenge_id=texts,
    route_name=texts,
    host=texts,
    address=st.none() | texts,
    provider_id=texts,
    challenge_type=texts,
    policy_ref=texts,
    over_rate_limit=st.booleans(),
    issued_at=times,
    expires_at=times,
    return_path=st.binary(max_size=40).map(lambda path: return_path(b"/" + path)),
    state=st.dictionaries(texts, json_values, max_size=3),
)
clearances = st.builds(
    Clearance,
    provider_id=texts,
    challenge_type=texts,
    policy_ref=texts,
    over_rate_limit=st.booleans(),
    route_name=st.none() | texts,
    host=st.none() | texts,
    address=st.none() | texts,
    issued_at=times,
    expires_at=times,
)


@given(pending=pendings)
def test_pending_challenge_comes_back(pending: Pending) -> None:
    token = pending.seal(RING)
    if len(token) <= MAX_TOKEN_BYTES:
        assert Pending.unseal(RING, token) == pending
    assert Clearance.unseal(RING, token) is None
    assert Pending.unseal(KeyRing((b"other",)), token) is None


@given(clearance=clearances)
def test_clearance_comes_back(clearance: Clearance) -> None:
    token = clearance.seal(RING)
    assert Clearance.unseal(RING, token) == clearance
    assert Pending.unseal(RING, token) is None
    assert Clearance.unseal(KeyRing((b"other",)), token) is None


@given(row=st.lists(json_values, max_size=12), purpose=st.sampled_from([b"pending", b"clearance"]))
def test_signed_nonsense_is_refused(row: list[object], purpose: bytes) -> None:
    # By another version of this program, say, that has the same keys.
    token = RING.sign(purpose, encode_row(tuple(row)))
    assert Pending.unseal(RING, token) is None
    found = Clearance.unseal(RING, token)
    assert found is None or encode_row(tuple(row)) == encode_row(
        tuple(getattr(found, n) for n in found.__slots__)
    )


@given(text=st.binary(max_size=100))
def test_rows_are_read_without_raising(text: bytes) -> None:
    row = decode_row(text, (TEXT,))
    assert row is None or isinstance(row[0], str)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b'["a", true, 1, {}, 0]',
        b'["a", true, 1]',
        b"[1, true, 1, {}]",
        b'["a", 1, 1, {}]',
        b'["a", true, true, {}]',
        b'["a", true, NaN, {}]',
        b'["a", true, Infinity, {}]',
        b'["a", true, -1, {}]',
        b'["a", true, 1e400, {}]',
        b'["a", true, 1' + b"0" * 4000 + b", {}]",
        b'["a", true, 1, []]',
        b'["a", true, 1, null]',
        b'["\xff", true, 1, {}]',
        b"[" * 3000,
    ],
)
def test_rows_of_other_types_are_refused(text: bytes) -> None:
    assert decode_row(b'["a", true, 1.5, {}]', (TEXT, FLAG, TIME, OBJECT)) == ["a", True, 1.5, {}]
    assert decode_row(text, (TEXT, FLAG, TIME, OBJECT)) is None


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example/", "", "/a b", "/é"]
)
def test_signed_path_that_leaves_the_site_is_refused(path: str) -> None:
    pending = Pending("i", "r", "h", None, "p", "t", "", False, 0.0, 1.0, path, {})
    assert Pending.unseal(RING, pending.seal(RING)) is None


# Whole cookies, as a browser sends them.

POLICY = ChallengePolicy("p", "t")


def request_with(fields: Fields) -> ChallengedRequest:
    return ChallengedRequest(
        policy=POLICY,
        route_name="r",
        method=b"GET",
        host="h",
        path="/",
        target=b"/",
        fields=fields,
        client_ip="192.0.2.1",
        client_number=0xFFFF_C000_0201,
        is_tls=True,
        over_rate_limit=False,
    )


def test_every_single_bit_forgery_of_a_whole_cookie_is_refused() -> None:
    context = Context(Env(lambda n: b"e" * n, lambda: 1000.0))
    issuer = Issuer(context.env.entropy)
    issuer.configure(ChallengeSettings(signing_keys=(KEY,)))
    request = request_with([])
    issued = issuer.pending_cookie(request, issuer.new_pending(request, {"n": 1}, 1000.0), 1000.0)
    clearance = issuer.clearance_cookie(request, 1000.0)
    assert issued is not None
    assert clearance is not None
    pending_pair, clearance_pair = (cookie.partition(b";")[0] for cookie in (issued[1], clearance))
    assert issuer.find_pending(request_with([(b"cookie", pending_pair)]), 1000.0) == issued[0]
    assert issuer.cleared_until(request_with([(b"cookie", clearance_pair)]), 1000.0)
    for forged in single_bit_forgeries(pending_pair):
        assert issuer.find_pending(request_with([(b"cookie", forged)]), 1000.0) is None
    for forged in single_bit_forgeries(clearance_pair):
        assert not issuer.cleared_until(request_with([(b"cookie", forged)]), 1000.0)


@given(lines=st.lists(st.binary(max_size=60), max_size=4))
def test_cookies_are_read_without_raising(lines: list[bytes]) -> None:
    issuer = Issuer(lambda n: b"e" * n)
    fields = [(b"cookie", line) for line in lines]
    assert not issuer.cleared_until(request_with(fields), 0.0)
    assert issuer.find_pending(request_with(fields), 0.0) is None
    assert issuer.find_pending_by_id(fields, "x") is None
    assert issuer.own_cookie_names(fields) == ()


@given(payload=st.binary(max_size=100))
def test_token_survives_a_cookie(payload: bytes) -> None:
    token = RING.sign(b"p", payload)
    assert cookie_values([(b"cookie", b"a=b; n=" + token + b"; c=d")], b"n") == [token]
    assert urlsafe_b64encode(payload).rstrip(b"=") == token.partition(b".")[0]
