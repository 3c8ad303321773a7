"""Strategies that cut a byte stream as a network may: into any pieces, none of them empty."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st


def cut(data: bytes, positions: list[int]) -> list[bytes]:
    """`data` cut at `positions`, in any order and with repetitions."""
    borders = [0, *sorted(set(positions)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(borders)]
    return [piece for piece in pieces if piece]


def segmentations(data: bytes, max_cuts: int = 12) -> st.SearchStrategy[list[bytes]]:
    """`data` as a list of segments: whole, cut in up to `max_cuts` places, or byte by byte."""
    at_some_places = st.lists(st.integers(0, len(data)), max_size=max_cuts).map(
        lambda positions: cut(data, positions)
    )
    if len(data) > 4096:
        return at_some_places
    return st.one_of(at_some_places, st.just(cut(data, list(range(len(data))))))
