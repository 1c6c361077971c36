from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncroute.providers._retry_after import parse_retry_after

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC).timestamp()


def date(after: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + after, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"Retry-After": " 3 "}, 3.0),
        ({"RETRY-AFTER": "0"}, 0.0),
        ({"retry-after": "0.4"}, 0.4),
        ({"retry-after": ".5"}, 0.5),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "20s"}, 20.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after-ms": "400"}, 0.4),
        ({"Retry-After-Ms": "12.5"}, 0.0125),
        ({"retry-after": date(30)}, 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:01:00 GMT"}, 60.0),
        ({"retry-after": "Monday, 23-Nov-26 12:01:00 GMT"}, 60.0),
        ({"retry-after": "Mon Nov 23 12:01:00 2026"}, 60.0),
        ({"retry-after": "Mon, 23 Nov 2026 12:01:00 -0000"}, 60.0),
        ({"retry-after": "Mon, 23 Nov 2026 13:01:00 +0100"}, 60.0),
    ],
)
def test_every_form_is_read(headers: dict[str, str], seconds: float) -> None:
    assert parse_retry_after(headers, now=NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "-0.5",
        "soon",
        "nan",
        "inf",
        "1e3",
        "1_000",
        "0x10",
        "9" * 400,
        "3, 3",
        "3 seconds",
        "²",
        "٣",
        date(-30),
        date(0),
        "Mon, 99 Nov 2026 12:01:00 GMT",
        "Mon, 23 Nov 99999 12:01:00 GMT",
        "2026-11-23T12:01:00Z",
    ],
)
def test_nonsense_negatives_and_the_past_are_ignored(value: str) -> None:
    assert parse_retry_after({"retry-after": value}, now=NOW) is None
    assert parse_retry_after({"retry-after-ms": value}, now=NOW) is None


def test_nothing_asked_is_none() -> None:
    assert parse_retry_after({}, now=NOW) is None


def test_milliseconds_are_more_precise_and_go_first() -> None:
    assert parse_retry_after({"retry-after": "1", "retry-after-ms": "400"}, now=NOW) == 0.4
    assert parse_retry_after({"retry-after": "1", "retry-after-ms": "-4"}, now=NOW) == 1.0


def test_a_date_counts_from_the_servers_own_clock() -> None:
    then, later = "Mon, 01 Jan 2001 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:07 GMT"
    assert parse_retry_after({"date": then, "retry-after": later}) == 7.0


def test_without_a_date_of_the_servers_it_counts_from_ours() -> None:
    in_an_hour = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 3600, UTC)
    waits = parse_retry_after({"retry-after": format_datetime(in_an_hour, usegmt=True)})
    assert waits == pytest.approx(3600, abs=5)


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("7.66s", 7.66),
        ("12", 12.0),
        (str(NOW + 9), 9.0),
        (str(int((NOW + 9) * 1000)), 9.0),
        (str(NOW - 9), None),
        ("later", None),
        ("", None),
    ],
)
def test_an_exhausted_limits_reset_is_read(reset: str, seconds: float | None) -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": reset}
    waits = parse_retry_after(headers, now=NOW, rate_limited=True)
    assert waits == (None if seconds is None else pytest.approx(seconds))


def test_a_limit_with_something_left_does_not_count() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-tokens": "100",
        "x-ratelimit-reset-tokens": "50s",
    }
    assert parse_retry_after(headers, now=NOW, rate_limited=True) == 2.0


def test_the_longest_of_the_exhausted_limits_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "50s",
    }
    assert parse_retry_after(headers, now=NOW, rate_limited=True) == 50.0


def test_a_reset_without_its_remaining_says_nothing() -> None:
    headers = {"x-ratelimit-reset-requests": "50s"}
    assert parse_retry_after(headers, now=NOW, rate_limited=True) is None


def test_resets_are_for_rate_limits_and_only_where_nothing_else_is_said() -> None:
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "50s"}
    assert parse_retry_after(headers, now=NOW) is None
    said = {**headers, "retry-after": "1"}
    assert parse_retry_after(said, now=NOW, rate_limited=True) == 1.0


def in_units(number: str, unit: str) -> str:
    return number + unit


digits = st.text("0123456789.-", max_size=40)
values = (
    st.text("0123456789.,-+eE:smh ²٣\0" + date(0), max_size=40)
    | st.builds(in_units, digits, st.sampled_from(["", "ms", "s", "m", "h"]))
    | st.datetimes().map(format_datetime)
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "Retry-After-Ms",
                "date",
                "x-ratelimit-remaining",
                "x-ratelimit-reset",
                "x-ratelimit-reset-tokens",
            ]
        ),
        values,
    )
)
def test_whatever_comes_it_is_a_time_to_wait_or_none(headers: dict[str, str]) -> None:
    waits = parse_retry_after(headers, rate_limited=True)
    assert waits is None or (math.isfinite(waits) and waits >= 0)
