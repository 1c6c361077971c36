from __future__ import annotations

import numpy as np

from asyncroute.learn._cascade import propose, replay

NAN = float("nan")


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
