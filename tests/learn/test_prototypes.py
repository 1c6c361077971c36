from __future__ import annotations

import numpy as np
import pytest

from asyncroute.learn._prototypes import NEAREST, light, light_all


@pytest.mark.parametrize("prototypes", [1, 5, NEAREST, 40])
def test_one_text_lights_what_it_would_among_many(prototypes: int) -> None:
    cosines = np.random.default_rng(0).uniform(-1, 1, (6, prototypes)).astype(np.float32)
    together = light_all(cosines)
    for row, whole in zip(cosines, together, strict=True):
        alone = light(row)
        assert len(alone.rows) == min(prototypes, NEAREST)
        assert whole[alone.rows] == pytest.approx(alone.shares)
        assert whole.sum() == pytest.approx(1.0, abs=1e-5)
        assert np.count_nonzero(whole) <= NEAREST


def test_the_nearest_are_lit_most() -> None:
    cosines = np.linspace(-1, 1, 40, dtype=np.float32)
    lit = light(cosines)
    assert set(lit.rows.tolist()) == set(range(40 - NEAREST, 40))
    assert lit.rows[lit.shares.argmax()] == 39
