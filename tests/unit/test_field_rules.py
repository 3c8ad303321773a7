"""Setting and removing fields by rule."""

from __future__ import annotations

import pytest

from smartproxy.core.http.field_rules import FIELD_VARIABLES, FieldRules, Template

VALUES = {
    "clientIp": "203.0.113.9",
    "clientPort": "5021",
    "domain": "app.example.com",
    "path": "/v1/users",
    "port": "443",
    "method": "GET",
    "scheme": "https",
    "routeName": "app",
    "uuid": "0b7e",
    "requestId": "r-1",
    "timestamp": "1700000000",
    "tlsVersion": "TLSv1.3",
    "param.id": "7",
    "header.x-tenant": "blue",
}


def value_of(variable: str) -> str:
    return VALUES.get(variable, "")


def test_a_rule_replaces_every_line_of_its_field() -> None:
    rules = FieldRules.compile({"X-Real-IP": "{clientIp}"})
    fields = [(b"x-real-ip", b"1.1.1.1"), (b"accept", b"*/*"), (b"x-real-ip", b"2.2.2.2")]
    assert rules.apply(fields, value_of) == [(b"accept", b"*/*"), (b"x-real-ip", b"203.0.113.9")]


@pytest.mark.parametrize("spelling", [b"x_real_ip", b"x-real_ip", b"x.real.ip", b"X-Real-Ip"])
def test_other_spellings_cannot_slip_past_a_rule(spelling: bytes) -> None:
    rules = FieldRules.compile({"X-Real-IP": "{clientIp}"})
    assert rules.apply([(spelling, b"1.1.1.1")], value_of) == [(b"x-real-ip", b"203.0.113.9")]


def test_null_removes() -> None:
    rules = FieldRules.compile({"Server": None, "X-Powered-By": None})
    assert rules.apply([(b"server", b"x"), (b"date", b"d"), (b"x-powered-by", b"p")]) == [(b"date", b"d")]
    assert not rules.needs_values


def test_constant_rules_need_no_values() -> None:
    rules = FieldRules.compile({"Strict-Transport-Security": " max-age=31536000 "})
    assert not rules.needs_values
    assert rules.apply([]) == [(b"strict-transport-security", b"max-age=31536000")]


@pytest.mark.parametrize("variable", sorted(VALUES))
def test_every_variable_is_known(variable: str) -> None:
    rules = FieldRules.compile({"X-Value": f"<{{{variable}}}>"})
    assert rules.needs_values
    assert rules.apply([], value_of) == [(b"x-value", f"<{VALUES[variable]}>".encode())]


def test_names_in_header_variables_do_not_differ_by_case() -> None:
    rules = FieldRules.compile({"X-Value": "{header.X-Tenant}"})
    assert rules.apply([], value_of) == [(b"x-value", b"blue")]


def test_braces_are_doubled() -> None:
    rules = FieldRules.compile({"NEL": '{{"group":"{routeName}"}}'})
    assert rules.apply([], value_of) == [(b"nel", b'{"group":"app"}')]


def test_a_template_that_comes_out_empty_leaves_its_field_absent() -> None:
    rules = FieldRules.compile({"X-Tenant": "{header.x-none}", "X-Empty": ""})
    assert rules.apply([(b"x-tenant", b"forged")], value_of) == [(b"x-empty", b"")]
    assert rules.apply([(b"x-tenant", b"forged")]) == [(b"x-empty", b"")]


def test_values_cannot_break_out_of_their_line() -> None:
    rules = FieldRules.compile({"X-Path": "{path}"})
    assert rules.apply([], lambda _: "/a\r\nSet-Cookie: b\0\x7f") == [
        (b"x-path", b"/a%0D%0ASet-Cookie: b%00%7F")
    ]


def test_values_beyond_latin_1_are_sent_as_utf_8() -> None:
    rules = FieldRules.compile({"X-City": "{param.city}", "X-Literal": "é"})
    assert rules.apply([], lambda _: "Łódź") == [(b"x-literal", "é".encode()), (b"x-city", "Łódź".encode())]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"X Foo": "a"}, "'X Foo' is not a field name"),
        ({"": "a"}, "'' is not a field name"),
        ({":path": "a"}, "':path' is not a field name"),
        ({"X-Ä": "a"}, "is not a field name"),
        ({"Host": "a"}, "preserve_host"),
        ({"Content-Length": None}, "the proxy writes it itself"),
        ({"transfer-encoding": "chunked"}, "the proxy writes it itself"),
        ({"Connection": "close"}, "the proxy writes it itself"),
        ({"TE": "gzip"}, "the proxy writes it itself"),
        ({"Upgrade": "h2c"}, "the proxy writes it itself"),
        ({"X-A": "a", "x-a": "b"}, "more than once"),
        ({"X-A": "{clientip}"}, "unknown variable {clientip}: known are {clientIp}"),
        ({"X-A": "{param.}"}, "unknown variable {param.}"),
        ({"X-A": "{header.a b}"}, "'a b' in {header.a b} is not a field name"),
        ({"X-A": "{clientIp"}, "lone '{' at position 0"),
        ({"X-A": "ab}"}, "lone '}' at position 2"),
        ({"X-A": "{}"}, "unknown variable {}"),
        ({"X-A": "a\r\nb"}, "control character"),
        ({"X-A": "a\0"}, "control character"),
    ],
)
def test_bad_rules_are_refused_with_their_reason(mapping: dict[str, str | None], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        FieldRules.compile(mapping)
    assert message in str(refused.value)


def test_the_error_names_the_field() -> None:
    with pytest.raises(ValueError, match=r"^X-A: unknown variable"):
        FieldRules.compile({"X-A": "{nothing}"})


def test_no_rules_change_nothing() -> None:
    rules = FieldRules.compile({})
    fields = [(b"x", b"1"), (b"cookie", b"c")]
    assert rules.apply(fields) == fields


def test_a_redirect_url() -> None:
    template = Template.compile("https://{domain}{path}")
    assert template.expand(value_of) == "https://app.example.com/v1/users"
    assert not template.is_constant


def test_a_redirect_url_takes_an_ipv6_host_and_keeps_escapes() -> None:
    values = {"domain": "[2001:db8::1]", "path": "/a%2Fb?c=d&e"}
    assert Template.compile("https://{domain}:8443{path}").expand(values.__getitem__) == (
        "https://[2001:db8::1]:8443/a%2Fb?c=d&e"
    )


def test_a_redirect_url_shows_other_characters_encoded() -> None:
    url = Template.compile("https://x.example/ü#top{path}").expand(lambda _: '/é\r\n"#\\ ')
    assert url == "https://x.example/%C3%BC#top/%C3%A9%0D%0A%22%23%5C%20"


def test_a_redirect_path_is_a_path_of_this_site() -> None:
    assert Template.compile("{path}").expand(lambda _: "//evil.example/x") == "/evil.example/x"
    assert Template.compile("/{path}").expand(lambda _: "/evil.example") == "/evil.example"
    assert Template.compile("https://{domain}{path}").expand(
        {"domain": "a.example", "path": "*"}.__getitem__
    ) == ("https://a.example/*")


def test_redirects_know_fewer_variables() -> None:
    with pytest.raises(ValueError, match=r"unknown variable \{uuid\}"):
        Template.compile("https://{domain}/{uuid}")
    assert "uuid" in FIELD_VARIABLES


def test_a_template_shows_its_text() -> None:
    assert repr(Template.compile("/{path}")) == "<Template '/{path}'>"
