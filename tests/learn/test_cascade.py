from __future__ import annotations

import itertools

import numpy as np
import pytest

from asyncroute.learn._cascade import (
    expected,
    hull,
    propose,
    replay,
    same_json,
    same_number,
    same_text,
    vote,
)

NAN = float("nan")


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


def test_a_vote_is_won_by_weight_not_by_heads() -> None:
    assert vote(["a", "b", "B "], [0.9, 0.3, 0.3]) == (0, pytest.approx(0.6))
    assert vote(["a", "b", "B "], [0.5, 0.3, 0.3])[0] == 1


def test_a_vote_without_weight_has_no_support() -> None:
    assert vote(["a"], [0.0]) == (0, 0.0)


def test_a_vote_needs_one_weight_per_answer() -> None:
    with pytest.raises(ValueError, match="got 1 answers, 2 weights"):
        vote(["a"], [1.0, 2.0])
    with pytest.raises(ValueError, match="got 0 answers"):
        vote([], [])


def test_two_that_agree_are_believed_and_the_third_is_not_paid() -> None:
    score = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.5]])
    cost = np.array([[1.0, 2.0, 10.0]] * 3)
    answers = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [NAN, NAN, 0.0]])
    gained, spent = replay((0, 1, 2), score, cost, answers)
    assert gained.tolist() == [1.0, 1.0, 0.5]
    assert spent.tolist() == [3.0, 13.0, 13.0]


def test_a_model_that_was_not_needed_may_be_unmeasured() -> None:
    score, cost = np.array([[1.0, 1.0, NAN]] * 2), np.array([[1.0, 1.0, NAN]] * 2)
    answers = np.array([[3.0, 3.0, NAN], [3.0, 4.0, NAN]])
    gained, spent = replay((0, 1, 2), score, cost, answers)
    assert gained[0] == 1.0
    assert spent[0] == 2.0
    assert np.isnan([gained[1], spent[1]]).all()


def test_expectation_equals_enumeration() -> None:
    quality, cost = np.array([0.7, 0.6, 0.9, 0.8]), np.array([1.0, 2.0, 5.0, 9.0])
    won = spent = 0.0
    for right in itertools.product((0, 1), repeat=4):
        chance = float(np.prod([q if r else 1 - q for q, r in zip(quality, right, strict=True)]))
        asked = next((n for n in (2, 3) if sum(right[:n]) >= 2), 4)  # wrong ones never agree
        accepted = 1 if sum(right[:asked]) >= 2 else right[3]
        won += chance * accepted
        spent += chance * cost[:asked].sum()
    got = expected((0, 1, 2, 3), quality, cost, collusion=0.0)
    assert got == (pytest.approx(won), pytest.approx(spent))


def test_wrong_answers_that_collude_end_a_cascade_early_and_wrong() -> None:
    quality, cost = np.array([0.5, 0.5, 1.0]), np.array([1.0, 1.0, 10.0])
    free, full = expected((0, 1, 2), quality, cost, 0.0), expected((0, 1, 2), quality, cost, 1.0)
    assert free == (pytest.approx(1.0), pytest.approx(9.5))
    assert full == (pytest.approx(0.75), pytest.approx(7.0))


def test_one_model_alone_is_a_cascade() -> None:
    assert expected((1,), np.array([0.1, 0.6]), np.array([1.0, 3.0])) == (0.6, 3.0)


def test_the_hull_is_concave_and_rising() -> None:
    cost, quality = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0.1, 0.2, 0.9, 0.5, 1.0])
    assert hull(cost, quality).tolist() == [0, 2, 4]


def test_cascades_that_beat_the_front_are_proposed() -> None:
    rng = np.random.default_rng(0)
    score = (rng.random((2000, 3)) < [0.8, 0.8, 0.85]).astype(float)
    cost = np.broadcast_to([1.0, 1.1, 20.0], score.shape)
    answers = np.where(score == 1, 0.0, 1 + rng.random(score.shape))
    found = propose(score, cost, answers, 5)
    assert (0, 1, 2) in found
    assert all(len(cascade) > 1 for cascade in found)


def test_nothing_is_proposed_without_answers_or_when_not_wanted() -> None:
    score, cost = np.ones((100, 3)), np.ones((100, 3))
    assert propose(score, cost, np.full_like(score, NAN), 5) == []
    assert propose(score, cost, np.zeros_like(score), 0) == []
