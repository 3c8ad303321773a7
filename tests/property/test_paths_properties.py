"""Paths: one meaning for every spelling, and patterns that agree with their index."""

from __future__ import annotations

import re
from urllib.parse import quote

from hypothesis import example, given
from hypothesis import strategies as st

from smartproxy.core.routing.paths import PathIndex, PathPattern, normalise_path
from smartproxy.testing.strategies.routes import odd_targets, path_patterns, request_paths, spelt_targets


@given(st.data(), request_paths())
def test_every_spelling_of_a_path_is_that_path(data: st.DataObject, path: str) -> None:
    assert normalise_path(data.draw(spelt_targets(path))) == path


@given(odd_targets())
@example(b"*")
@example(b"")
def test_what_comes_out_has_one_meaning(target: bytes) -> None:
    path = normalise_path(target)
    if path is None or path in ("*", ""):
        assert path is None or path == target.decode()
        return
    assert path.startswith("/")
    segments = path.split("/")[1:]
    assert "" not in segments[:-1]
    assert not {".", ".."} & set(segments)
    assert not re.search(r"[\x00-\x1f\x7f\\]|%[0-9A-Fa-f]{2}", path)


@given(odd_targets())
def test_normalising_is_done_once_and_for_all(target: bytes) -> None:
    path = normalise_path(target)
    if path is not None and path.startswith("/"):
        assert normalise_path(quote(path).encode()) == path


@given(odd_targets(), st.binary(max_size=10))
def test_a_query_changes_nothing(target: bytes, query: bytes) -> None:
    before_query = target.partition(b"?")[0]
    if before_query not in (b"*", b""):
        assert normalise_path(before_query + b"?" + query) == normalise_path(before_query)


@given(st.text(alphabet="/ab.-_~!$&'()*+,=:@", max_size=15).map(lambda text: "/" + text))
def test_resolution_is_that_of_a_url_library_where_that_is_unambiguous(path: str) -> None:
    if "//" in path:
        return
    # RFC 3986 §5.2.4, read literally.
    output: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if not output:
                assert normalise_path(path.encode()) is None
                return
            output.pop()
        elif segment != ".":
            output.append(segment)
    if segments[-1] in (".", ".."):
        output.append("")
    assert normalise_path(path.encode()) == "/" + "/".join(output)


def expression_of(pattern: str) -> re.Pattern[str]:
    """The same pattern as a regular expression, made without the code under test."""
    expression = ""
    for segment in pattern.removesuffix("*")[1:].split("/"):
        expression += "/" + ("([^/]+)" if segment.startswith(":") else re.escape(segment))
    return re.compile(expression + (".*" if pattern.endswith("*") else ""), re.DOTALL)


@given(path_patterns(), request_paths())
def test_a_pattern_matches_as_its_regular_expression(text: str, path: str) -> None:
    pattern = PathPattern.compile(text)
    match = expression_of(text).fullmatch(path)
    params = pattern.match(path)
    assert (params is None) == (match is None)
    if params is not None and match is not None:
        assert list(params.values()) == list(match.groups())
        assert list(params) == re.findall(r"/:(\w+)", text)


@given(path_patterns())
def test_a_pattern_without_parameters_matches_what_it_spells(text: str) -> None:
    pattern = PathPattern.compile(text)
    path = re.sub(":[^/]+", "x", text.removesuffix("*"))
    assert pattern.match(path) is not None


@given(st.lists(path_patterns(), max_size=20), request_paths() | st.sampled_from(("*", "", "/")))
def test_the_index_finds_every_pattern_that_matches_once(texts: list[str], path: str) -> None:
    patterns = [PathPattern.compile(text) for text in texts]
    index: PathIndex[int] = PathIndex()
    for position, pattern in enumerate(patterns):
        index.add(pattern, position)
    found = index.find(path)
    positions = [position for items in found for position in items]
    assert sorted(positions) == [
        position for position, pattern in enumerate(patterns) if pattern.match(path) is not None
    ]
    assert all(items == sorted(items) for items in found)


@given(st.text(max_size=20) | st.text(alphabet="/:*a%2F.;?#", max_size=12))
def test_any_text_compiles_or_is_refused_by_name(text: str) -> None:
    refusal = repr(text)
    try:
        assert PathPattern.compile(text).match("/") in (None, {})
    except ValueError as error:
        refusal = str(error)
    assert repr(text) in refusal
