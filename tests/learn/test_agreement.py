from __future__ import annotations

import pytest

from asyncroute.learn import same_json, same_number, same_text


def test_text_agrees_up_to_case_space_width_and_closing_punctuation() -> None:
    assert same_text("  The  Answer. ", "the answer")
    assert same_text("ABC", "abc")
    assert not same_text("yes", "no")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("so 3 + 4 = 7", "The answer is 7.0", True),
        ("1,234.50", "1234.5", True),
        ("-2", "2", False),
        ("none", "none", False),
        ("7", "none", False),
        ("it is 7.", "7", True),
        ("0", "0.0", True),
    ],
)
def test_numbers_agree_by_the_last_one(one: str, other: str, same: bool) -> None:
    assert same_number(one, other) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ('```json\n{"a": 1}\n```', '{"a":1}', True),
        ("1", "true", False),
        ("not json", "not json", False),
        ("null", "null", True),
        ("[" * 100_000, "[" * 100_000, False),
    ],
)
def test_json_agrees_by_value(one: str, other: str, same: bool) -> None:
    assert same_json(one, other) is same
