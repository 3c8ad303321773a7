"""Field rules and templates, for any values that a client can bring into them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.http.field_names import TOKEN, WELL_KNOWN_NAMES
from smartproxy.core.http.field_rules import FIELD_VARIABLES, REDIRECT_VARIABLES, FieldRules, Template
from smartproxy.core.http.messages import Fields

any_text = st.text(st.characters(exclude_categories=[]), max_size=30)
nasty_text = st.one_of(any_text, st.text("\r\n\0\t \x7f\x0b{}%éł\ud800/\\a:", max_size=20))
variables = st.sampled_from([v if not v.endswith(".") else f"{v}x-name" for v in FIELD_VARIABLES])
plain = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="{}"), max_size=10)
pieces = st.lists(st.one_of(plain, variables.map(lambda v: f"{{{v}}}"), st.sampled_from(["{{", "}}"])))
templates = pieces.map("".join)

names = st.text("abcxyzABCXYZ019-_.", min_size=1, max_size=14).map(str.encode)
messages = st.lists(
    st.tuples(st.one_of(names.map(bytes.lower), st.sampled_from(sorted(WELL_KNOWN_NAMES))), st.binary())
)
managed = {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "upgrade"}
rule_names = st.text("abcxyzABCXYZ019-_", min_size=1, max_size=10).filter(lambda n: n.lower() not in managed)
mappings = st.dictionaries(rule_names, st.one_of(st.none(), templates), max_size=5).filter(
    lambda mapping: len({name.lower() for name in mapping}) == len(mapping)
)


def as_backend_variable(name: bytes) -> bytes:
    return re.sub(rb"[^0-9a-z]", b"_", name.lower())


@given(templates, nasty_text)
def test_a_field_value_never_leaves_its_line(text: str, value: str) -> None:
    expanded = Template.compile(text, allowed=FIELD_VARIABLES).expand_field_value(lambda _: value)
    assert re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", expanded)
    assert expanded == expanded.strip(b" \t")


@given(pieces=st.lists(st.sampled_from([f"{{{v}}}" for v in REDIRECT_VARIABLES] + ["/", "x?", "#y", "é"])))
def test_a_url_is_ascii_without_blanks_whatever_the_values(pieces: list[str]) -> None:
    template = Template.compile("".join(pieces))
    for value in ("\r\nSet-Cookie: a=b", "\\\\evil", "é\ud800ł", '"<>^`{|}\x7f#'):
        url = template.expand(lambda _, value=value: value)  # type: ignore[misc]
        assert re.fullmatch(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]*", url)


@given(nasty_text)
def test_a_redirect_to_a_path_never_leads_off_the_site(path: str) -> None:
    for text in ("{path}", "/{path}", "{path}?from=x"):
        url = Template.compile(text).expand(lambda _: path)
        assert url.startswith("/")
        assert not url.startswith("//")
    url = Template.compile("https://app.example.com{path}").expand(lambda _: path)
    assert urlsplit(url).netloc == "app.example.com"


@given(st.binary(max_size=40))
def test_bytes_of_a_field_come_out_as_they_came(value: bytes) -> None:
    """Control characters aside, which a strict codec never lets in."""
    expanded = Template.compile("<{header.x}>", allowed=FIELD_VARIABLES).expand_field_value(
        lambda _: value.decode("latin-1")
    )
    escaped = re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", lambda m: b"%%%02X" % m[0][0], value)
    assert expanded == b"<" + escaped + b">"


@given(plain)
def test_a_text_without_variables_stands_for_itself(text: str) -> None:
    template = Template.compile(text.replace("{", "{{").replace("}", "}}"))
    assert template.is_constant
    assert template.expand_field_value(lambda _: "never").decode() == text.strip(" \t")


@given(st.text(max_size=30), st.lists(st.sampled_from(["{", "}", "{{", "}}", "path", "x"])))
def test_any_text_compiles_or_is_refused(text: str, parts: list[str]) -> None:
    for candidate in (text, "".join(parts)):
        try:
            template = Template.compile(candidate)
        except ValueError:
            assert set(candidate) & {"{", "}"} or any(c < " " or c == "\x7f" for c in candidate)
        else:
            assert template.expand(lambda _: "/v").isascii()


@given(mappings, messages, nasty_text)
def test_rules_leave_no_line_of_theirs_but_the_one_they_set(
    mapping: dict[str, str | None], fields: Fields, value: str
) -> None:
    rules = FieldRules.compile(mapping)
    before = list(fields)
    result = rules.apply(fields, lambda _: value)
    assert fields == before
    ruled = {as_backend_variable(name.encode()) for name in mapping}
    untouched = [line for line in fields if as_backend_variable(line[0]) not in ruled]
    assert result[: len(untouched)] == untouched
    added = result[len(untouched) :]
    added_names = [name for name, _ in added]
    assert len(set(added_names)) == len(added_names)
    assert set(added_names) <= {name.lower().encode() for name, text in mapping.items() if text is not None}
    for _, added_value in added:
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", added_value)


@given(mappings, messages)
def test_constant_rules_ask_for_no_value(mapping: dict[str, str | None], fields: Fields) -> None:
    rules = FieldRules.compile(mapping)
    asked: list[str] = []

    def value_of(variable: str) -> str:
        asked.append(variable)
        return "v"

    rules.apply(fields, value_of)
    assert bool(asked) == rules.needs_values


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.none(), st.text(max_size=12)), max_size=3))
def test_any_mapping_compiles_or_is_refused(mapping: dict[str, str | None]) -> None:
    names_are_good = all(TOKEN.fullmatch(name) for name in mapping)
    try:
        rules = FieldRules.compile(mapping)
    except ValueError:
        lower = {name.lower() for name in mapping}
        texts = "".join(text or "" for text in mapping.values())
        assert (
            not names_are_good
            or lower & managed
            or len(lower) < len(mapping)
            or not texts.isprintable()
            or set(texts) & {"{", "}"}
        )
    else:
        assert names_are_good
        assert len(rules.apply([])) <= len(mapping)
