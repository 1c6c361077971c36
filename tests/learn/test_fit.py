"""The fit: what it learns about texts of one topic, and how far it believes itself."""

from __future__ import annotations

import random

import numpy as np
import pytest

from asyncroute.learn import Outcome, QualityPredictor
from asyncroute.learn._fit import _bend, _bends, _rarity, _trust


def test_a_shape_that_is_hard_in_one_topic_is_not_in_another() -> None:
    sums = "add {} apples to the basket and count the apples"
    painting = "who painted picture {} in the museum of modern art"
    rng = random.Random(0)
    rows: list[Outcome] = []
    for _ in range(400):
        number = rng.choice((rng.randrange(10, 100), rng.randrange(10_000, 100_000)))
        able = 0.2 if number > 100 else 0.9
        rows += [
            Outcome(sums.format(number), "small", float(rng.random() < able), 1e-4),
            Outcome(painting.format(number), "small", float(rng.random() < 0.6), 1e-4),
        ]
    predictor = QualityPredictor.fit(rows)

    def lost_to_length(text: str) -> float:
        short, long = (
            np.mean([predictor.predict(text.format(number))[0] for number in numbers])
            for numbers in ((27, 31, 58), (27411, 31411, 58411))
        )
        return float(short - long)

    assert lost_to_length(sums) > 0.5
    assert abs(lost_to_length(painting)) < 0.2


def half_and_half(count: int = 1000) -> np.ndarray:
    regions = np.zeros((count, 2), np.float32)
    regions[: count // 2, 0] = regions[count // 2 :, 1] = 1
    return regions


def test_a_region_where_predictions_say_nothing_trusts_them_less() -> None:
    rng = np.random.default_rng(0)
    truth, noise = rng.standard_normal((2, 1000, 1))
    predicted = np.where(np.arange(1000)[:, None] < 500, truth, noise)
    trust = _trust(half_and_half(), predicted * truth, predicted**2)
    assert trust[0, 0] == pytest.approx(1.0, abs=0.1)
    assert trust[1, 0] == pytest.approx(0.0, abs=0.15)


def test_regions_that_differ_by_chance_alone_trust_alike() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((1000, 20))
    predicted = 0.5 * truth + rng.standard_normal((1000, 20))
    trust = _trust(half_and_half(), predicted * truth, predicted**2)
    assert np.abs(trust[0] - trust[1]).mean() < 0.05
    assert trust.mean() == pytest.approx(0.4, abs=0.06)


def test_what_few_texts_have_says_more() -> None:
    counts = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]], np.float32)
    everywhere, once, never = _rarity(counts)
    assert 0 < everywhere < once < never


def test_what_two_factors_bend_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    bent = _bends(rng.standard_normal((2000, 4)))
    bent -= bent.mean(axis=0)
    noise = rng.standard_normal((2000, 5))
    curved = bent @ np.array([[0.5], [0.0], [-0.5]]) * np.arange(1, 6) / 5 + noise
    weight = np.ones(5, np.float32)
    found = _bend(bent, curved, weight)
    assert found[0] == pytest.approx(0.1 * np.arange(1, 6), abs=0.06)
    assert found[2] == pytest.approx(-0.1 * np.arange(1, 6), abs=0.06)
    assert np.abs(found[1]).max() < 0.03
    assert np.abs(_bend(bent, noise, weight)).max() < 0.02


def test_few_outcomes_are_trusted_less_than_many() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((1000, 1))
    predicted = truth + 0.5 * rng.standard_normal((1000, 1))
    everywhere = np.ones((1000, 1), np.float32)
    few, many = (
        float(_trust(everywhere[:n], (predicted * truth)[:n], predicted[:n] ** 2)[0, 0])
        for n in (4, 1000)
    )
    assert few < 0.25 < 0.7 < many
