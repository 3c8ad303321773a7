"""Domain names: their one spelling, request authorities, and patterns."""

from __future__ import annotations

import pytest

from smartproxy.core.routing.domains import (
    CACHED_HOSTS,
    DomainIndex,
    domain_matches,
    domain_specificity,
    normalise_domain,
    normalise_host,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("straße.de", "xn--strae-oqa.de"),
        ("日本。jp。", "xn--wgv71a.jp"),
        ("ｅxample.com", "example.com"),
        ("xn--i-7iq.ws", "xn--i-7iq.ws"),
        ("my_service.local", "my_service.local"),
        ("*.Example.com", "*.example.com"),
        ("*.bücher.example.", "*.xn--bcher-kva.example"),
        ("Example.*", "example.*"),
        ("*", "*"),
        ("*.", "*"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
    ],
)
def test_a_domain_has_one_spelling(text: str, normal: str) -> None:
    assert normalise_domain(text) == normal
    assert normalise_domain(normal) == normal


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a label is empty"),
        (".", "a label is empty"),
        ("a..b", "a label is empty"),
        ("a.b..", "a label is empty"),
        ("-a.com", "is not a label"),
        ("a b.com", "is not a label"),
        ("a/b", "is not a label"),
        ("a" * 64 + ".com", "is not a label"),
        (".".join(["a" * 60] * 5), "longer than 253"),
        ("*.*.com", "a star stands for whole labels"),
        ("a.*.com", "a star stands for whole labels"),
        ("w*.com", "a star stands for whole labels"),
        ("☃.net", "not allowed"),
        ("a\u200db.de", "not allowed"),
        ("example.com:443", "a port is not part of a domain"),
        ("[::1]:443", "a port is not part of a domain"),
        ("fe80::1%eth0", "a scope id is not part of a domain"),
    ],
)
def test_a_bad_domain_is_refused_with_its_name_and_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        normalise_domain(text)
    assert repr(text) in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        (b"Example.COM", "example.com", None),
        (b"example.com:8443", "example.com", 8443),
        (b"example.com.:080", "example.com", 80),
        (b"example.com:", "example.com", None),
        (b"r3---sn.example", "r3---sn.example", None),
        (b"my_service", "my_service", None),
        (b"192.0.2.1:80", "192.0.2.1", 80),
        (b"[2001:DB8:0::1]:443", "2001:db8::1", 443),
        (b"[::FFFF:192.0.2.1]", "192.0.2.1", None),
    ],
)
def test_an_authority_names_a_host_and_a_port(authority: bytes, host: str, port: int | None) -> None:
    assert normalise_host(authority) == (host, port)


@pytest.mark.parametrize(
    "authority",
    [
        *(
            b"",
            b".",
            b":80",
            b"a..b",
            b"a.b..",
            b".a",
            b"user@host",
            b"a%2eb",
            b"a b",
            b"a/b",
            b"a\nb",
            b"a\n",
        ),
        *("bücher.example".encode(), b"\xff", b"host:65536", b"host:-1", b"host:+1", b"host:8x", b"a:b:c"),
        *(b"[::1", b"::1", b"[::1%25eth0]", b"[v1.a]", b"[127.0.0.1]", b"[]", b"[1:2]", b"a" * 64),
        *(b".".join([b"a" * 60] * 5), b"a,b", b"host:0000080"),
    ],
)
def test_a_bad_authority_is_refused(authority: bytes) -> None:
    with pytest.raises(ValueError):
        normalise_host(authority)


def test_the_memory_of_hosts_is_bounded() -> None:
    normalise_host.cache_clear()
    for number in range(CACHED_HOSTS + 100):
        normalise_host(b"h%d.example" % number)
    assert normalise_host.cache_info().currsize == CACHED_HOSTS
    normalise_host.cache_clear()
    for number in range(10):
        with pytest.raises(ValueError):
            normalise_host(b"x" * 10_000 + b"%d" % number)
    assert normalise_host.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("example.com", ["example.com"], ["a.example.com", "example.com.a", "xexample.com"]),
        ("*.example.com", ["a.example.com", "a.b.example.com"], ["example.com", "xexample.com"]),
        ("example.*", ["example.com", "example.co.uk"], ["example", "a.example.com", "examplex.com"]),
        ("*", ["a", "a.b"], []),
    ],
)
def test_a_pattern_matches_what_it_names(pattern: str, matching: list[str], other: list[str]) -> None:
    index = DomainIndex({pattern: "found"})
    for host in matching:
        assert domain_matches(pattern, host)
        assert index.find(host) == ("found",)
    for host in other:
        assert not domain_matches(pattern, host)
        assert index.find(host) == ()
    assert index.find(None) == ()


def test_patterns_are_ordered_from_the_most_specific() -> None:
    patterns = ["a.example.com", "*.example.com", "*.com", "a.example.*", "a.*", "*", None]
    assert sorted(patterns, key=domain_specificity, reverse=True) == patterns
    index = DomainIndex({pattern: str(pattern) for pattern in patterns})
    assert set(index.find("a.example.com")) == set(map(str, patterns))
    assert set(index.find("b.example.com")) == {"*.example.com", "*.com", "*", "None"}
    assert index.find(None) == ("None",)


def test_a_name_of_many_labels_costs_no_more_look_ups_than_the_longest_pattern_has_labels() -> None:
    looked_up: list[str] = []

    class Recorder(dict[str, str]):
        def get(self, key: str, default: object = None) -> None:  # type: ignore[override]
            looked_up.append(key)

    index = DomainIndex({"*.example.com": "suffix", "www.*": "prefix"})
    index._suffixes = Recorder(index._suffixes)
    index._prefixes = Recorder(index._prefixes)
    index.find(".".join(["a"] * 120))
    assert looked_up == [".a", ".a.a", "a."]
