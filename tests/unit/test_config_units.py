"""Durations and sizes between what people write and seconds or bytes."""

from __future__ import annotations

import pytest

from smartproxy.config.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0),
        (1.5, 1.5),
        ("30", 30),
        ("250ms", 0.25),
        ("30s", 30),
        (" 5 m ", 300),
        ("1.5h", 5400),
        ("24h", 86400),
        ("1d", 86400),
        ("36500d", 36500 * 86400),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        "s",
        "5 parsecs",
        "-1s",
        "1h30m",
        "٣s",
        "1e3",
        "inf",
        "1.s",
        ".5s",
        True,
        None,
        [],
        -0.1,
        1e300,
        10**400,
        "36501d",
        float("nan"),
        float("inf"),
        "9" * 500,
    ],
)
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        (0, 0),
        ("17", 17),
        ("17B", 17),
        ("64KiB", 65536),
        ("64kib", 65536),
        ("1.5 MiB", 1572864),
        ("10MB", 10_000_000),
        ("2GiB", 2**31),
        ("1TB", 10**12),
        ("8388607TiB", 8388607 * 2**40),
    ],
)
def test_sizes(written: object, size_bytes: int) -> None:
    assert parse_size(written) == size_bytes


@pytest.mark.parametrize(
    "written",
    [
        "",
        "KiB",
        "64K",
        "64Ki",
        "1iB",
        "-1",
        -1,
        1.0,
        True,
        None,
        "1.5B",
        "0.3KB" * 9,
        "8388608TiB",
        2**63,
        "9" * 500,
    ],
)
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_size(written)


def test_the_shortest_form_is_written() -> None:
    assert [format_duration(s) for s in (0, 0.25, 30, 75, 300, 86400, 0.0001)] == [
        *("0s", "250ms", "30s", "75s", "5m", "1d"),
        "0.0001s",
    ]
    assert [format_size(size) for size in (0, 17, 1024, 65536, 10**7, 2**40, 3000)] == [
        *("0B", "17B", "1KiB", "64KiB", "10MB", "1TiB"),
        "3KB",
    ]
