"""What backends are told of the client, and what clients cannot make them believe."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.http.forwarding import ForwardingFields
from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.forwarded import parse_forwarded

ACCEPT = (b"accept", b"*/*")
HOST = b"app.example.com"


def client(*, trusted: bool = False, ip: str = "203.0.113.9", scheme: bytes = b"https") -> ForwardingFields:
    return ForwardingFields(ip, 50211, 443, scheme, trusted)


def values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for field_name, value in fields if field_name == name]


def test_the_fields_of_a_direct_client() -> None:
    assert client().apply([ACCEPT], HOST) == [
        ACCEPT,
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-port", b"443"),
        (b"x-forwarded-host", b"app.example.com"),
        (b"forwarded", b'for="203.0.113.9:50211";host=app.example.com;proto=https'),
    ]


def test_each_authority_is_told_as_it_is() -> None:
    forwarding = client()
    for authority in (b"a.example", b"b.example:8443", b"b.example:8443", b"[2001:db8::1]", b"a.example"):
        fields = forwarding.apply([], authority)
        assert values(fields, b"x-forwarded-host") == [authority]
        [element] = parse_forwarded(values(fields, b"forwarded")[0])
        assert element.host == authority.decode()


def test_a_request_without_authority_claims_no_host() -> None:
    fields = client().apply([], b"")
    assert not values(fields, b"x-forwarded-host")
    assert values(fields, b"forwarded") == [b'for="203.0.113.9:50211";proto=https']


@pytest.mark.parametrize(
    ("ip", "told", "node"),
    [
        ("2001:db8::1", b"2001:db8::1", b'for="[2001:db8::1]:50211"'),
        ("::ffff:192.0.2.1", b"192.0.2.1", b'for="192.0.2.1:50211"'),
        ("fe80::1%eth0", b"fe80::1", b'for="[fe80::1]:50211"'),
        ("::ffff:1", b"::ffff:1", b'for="[::ffff:1]:50211"'),
        ("/run/front.sock", b"unknown", b"for=unknown"),
        ("", b"unknown", b"for=unknown"),
    ],
)
def test_clients_of_every_kind(ip: str, told: bytes, node: bytes) -> None:
    fields = client(ip=ip).apply([], b"")
    assert values(fields, b"x-forwarded-for") == [told]
    assert values(fields, b"forwarded") == [node + b";proto=https"]


def test_a_port_that_is_none_is_not_told() -> None:
    fields = ForwardingFields("192.0.2.1", -1, 80, b"http", False).apply([], b"")
    assert values(fields, b"forwarded") == [b"for=192.0.2.1;proto=http"]


CLAIMS = [
    "Forwarded",
    "X-Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Proto",
    "X-Forwarded-Ssl",
    "X-Real-IP",
    "X-Client-IP",
    "True-Client-IP",
    "X-Original-URL",
    "Front-End-Https",
]
MARKS = "-_.~!"


@pytest.mark.parametrize("name", CLAIMS)
def test_no_spelling_of_a_claim_survives_an_untrusted_client(name: str) -> None:
    parts = name.lower().split("-")
    forwarding = client()
    ours = forwarding.apply([], HOST)
    for marks in itertools.product(MARKS, repeat=len(parts) - 1):
        spelling = "".join(a + b for a, b in zip(parts, (*marks, ""), strict=True))
        for spelled in (spelling, spelling.upper(), spelling.title()):
            assert forwarding.apply([(spelled.encode(), b"forged")], HOST) == ours


@given(
    st.lists(
        st.tuples(
            st.text("xforwdeghtpsal-_.", max_size=18).map(str.encode)
            | st.sampled_from(CLAIMS).map(str.encode),
            st.binary(max_size=8),
        )
    )
)
def test_what_a_backend_reads_is_only_ours_whatever_an_untrusted_client_sends(fields: Fields) -> None:
    result = client().apply(fields, HOST)
    ours = client().apply([], HOST)
    read_by_backend = {
        name.lower().replace(b"_", b"-").replace(b".", b"-") for name, _ in result[: -len(ours)]
    }
    assert result[-len(ours) :] == ours
    assert not any(name.startswith((b"x-forwarded", b"forwarded")) for name in read_by_backend)
    assert not read_by_backend & {name.lower().encode() for name in CLAIMS}


def test_other_fields_are_not_mistaken_for_claims() -> None:
    fields = [
        ACCEPT,
        (b"x-forward-for", b"1"),
        (b"x-real-ips", b"2"),
        (b"my-x-forwarded-for", b"3"),
        (b"x_custom", b"4"),
    ]
    assert client().apply(fields, HOST)[: len(fields)] == fields


def test_a_trusted_proxys_claims_are_kept_and_extended() -> None:
    fields = [
        (b"x-forwarded-for", b"198.51.100.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"public.example"),
        (b"forwarded", b"for=198.51.100.1;proto=https"),
        (b"x-real-ip", b"198.51.100.1"),
        (b"x-forwarded-client-cert", b"Hash=1"),
        (b"x-forwarded-for", b"192.0.2.7"),
    ]
    result = client(trusted=True, scheme=b"http").apply(fields, HOST)
    assert values(result, b"x-forwarded-for") == [b"198.51.100.1, 192.0.2.7, 203.0.113.9"]
    assert values(result, b"x-forwarded-proto") == [b"https"]
    assert values(result, b"x-forwarded-host") == [b"public.example"]
    assert values(result, b"x-forwarded-port") == [b"443"]
    assert values(result, b"forwarded") == [
        b'for=198.51.100.1;proto=https, for="203.0.113.9:50211";host=app.example.com;proto=http'
    ]
    assert values(result, b"x-real-ip") == [b"198.51.100.1"]
    assert values(result, b"x-forwarded-client-cert") == [b"Hash=1"]


def test_a_trusted_proxy_that_claims_nothing_is_the_client() -> None:
    assert client(trusted=True).apply([ACCEPT], HOST) == client().apply([ACCEPT], HOST)


@pytest.mark.parametrize("name", [b"x_forwarded_for", b"x_forwarded-proto", b"x.real.ip", b"X-Forwarded-For"])
def test_a_trusted_proxy_does_not_launder_other_spellings(name: bytes) -> None:
    assert client(trusted=True).apply([(name, b"forged")], HOST) == client().apply([], HOST)


def test_forwarded_is_completed_from_x_forwarded_for() -> None:
    fields = [
        (b"x-forwarded-for", b"198.51.100.1, [2001:db8::1]:80, garbage, ::ffff:192.0.2.3, ,192.0.2.7"),
        (b"x-forwarded-proto", b"https"),
    ]
    [value] = values(client(trusted=True, scheme=b"http").apply(fields, HOST), b"forwarded")
    elements = parse_forwarded(value)
    names = [element.for_.name if element.for_ else None for element in elements]
    assert names == ["198.51.100.1", "2001:db8::1", "unknown", "192.0.2.3", "192.0.2.7", "203.0.113.9"]
    assert [element.proto for element in elements] == ["https", None, None, None, None, "http"]


def test_x_forwarded_is_completed_from_forwarded() -> None:
    fields = [
        (b"forwarded", b'for="[2001:db8::5]:99";host=hearsay, for=_hidden;proto=https;host=public.example')
    ]
    result = client(trusted=True, scheme=b"http").apply(fields, HOST)
    assert values(result, b"x-forwarded-for") == [b"2001:db8::5, unknown, 203.0.113.9"]
    assert values(result, b"x-forwarded-proto") == [b"https"]
    assert values(result, b"x-forwarded-host") == [b"public.example"]


@pytest.mark.parametrize("value", [b"for=a b", b";;;=", b"for=1.2.3.4;for=5.6.7.8", b"\xff", b'for="'])
def test_a_malformed_forwarded_cannot_hide_the_element_after_it(value: bytes) -> None:
    assert client(trusted=True).apply([(b"forwarded", value)], HOST) == client().apply([], HOST)
    fields = [(b"forwarded", value), (b"x-forwarded-for", b"192.0.2.1")]
    [forwarded] = values(client(trusted=True).apply(fields, HOST), b"forwarded")
    assert [e.for_.name for e in parse_forwarded(forwarded) if e.for_] == ["192.0.2.1", "203.0.113.9"]


def test_an_endless_x_forwarded_for_is_not_converted() -> None:
    chain = b",".join([b"192.0.2.1"] * 5_000)
    result = client(trusted=True).apply([(b"x-forwarded-for", chain)], HOST)
    assert values(result, b"x-forwarded-for") == [chain + b", 203.0.113.9"]
    assert values(result, b"forwarded")[0].count(b"for=") == 1


@given(st.lists(st.tuples(st.sampled_from(CLAIMS).map(lambda n: n.lower().encode()), st.binary(max_size=30))))
def test_no_claim_of_a_trusted_proxy_raises(fields: Fields) -> None:
    printable = [
        (name, bytes(byte for byte in value if byte >= 32 and byte != 127)) for name, value in fields
    ]
    result = client(trusted=True).apply(printable, HOST)
    assert values(result, b"x-forwarded-for")[0].endswith(b"203.0.113.9")
    [forwarded] = values(result, b"forwarded")
    last = parse_forwarded(forwarded)[-1]
    assert last.for_ is not None
    assert last.for_.name == "203.0.113.9"


def test_the_list_given_is_left_alone() -> None:
    fields = [ACCEPT, (b"x-forwarded-for", b"1.1.1.1")]
    for trusted in (True, False):
        client(trusted=trusted).apply(fields, HOST)
        assert fields == [ACCEPT, (b"x-forwarded-for", b"1.1.1.1")]
