from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from test_predictor import COST, SKILL, TOPICS, text_of

from asyncroute.learn import evaluate, plot, read_dataset
from asyncroute.learn._figures import Line, aiq, apgr, cost_share, hull


def write(folder: Path, count: int, models: tuple[str, ...] = tuple(SKILL)) -> Path:
    rng = random.Random(0)
    (folder / "models.json").write_text(json.dumps([{"model": name} for name in models]))
    with gzip.open(folder / "queries.jsonl.gz", "wt") as out:
        for number in range(count):
            topic = rng.choice(list(TOPICS))
            right = [rng.random() < SKILL[name][topic] for name in models]
            line = {
                "task": f"set/{topic}",
                "key": f"k{number // 2}",
                "prompt": text_of(topic, rng),
                "scores": [None if number == 3 else int(r) for r in right],
                "cost_usd": [COST[name] for name in models],
                "answer_group": [0 if r else i + 1 for i, r in enumerate(right)],
            }
            out.write(json.dumps(line) + "\n")
    return folder


def test_a_data_set_is_read_with_its_gaps(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, 10))
    assert data.grid.models == tuple(SKILL)
    assert data.grid.score.shape == (10, 3)
    assert np.isnan(data.grid.score[3]).all()
    assert data.task[0].startswith("set/")


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / "queries.jsonl").write_text('{"prompt": "x", "scores": [1], "cost_usd": [1]}\n')
    with pytest.raises(ValueError, match="line 1: scores must have 3 values, got 1"):
        read_dataset(tmp_path / "queries.jsonl")


def test_splits_never_part_equal_keys_and_are_the_same_again(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, 100))
    seen = list(data.splits(3))
    for fit_on, held in seen:
        assert not set(data.key[fit_on]) & set(data.key[held])
        assert len(fit_on) + len(held) == 100
        assert len(held) == 20
    again = list(data.splits(3))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(seen, again, strict=True))
    assert not np.array_equal(seen[0][1], seen[1][1])


def test_where_routing_pays_the_figures_say_so(tmp_path: Path) -> None:
    report = evaluate(read_dataset(write(tmp_path, 500)), splits=2)
    assert report.figures["cost share"].mean < 0.6
    assert report.figures["gain"].mean > 0
    assert report.figures["chosen"].mean > -0.5
    assert {task.task for task in report.tasks} == {f"set/{topic}" for topic in TOPICS}
    lines = {line.name: line for line in report.replays[0].lines()}
    assert lines["cheapest"].cost[0] <= lines["best single"].cost[0]
    assert lines["oracle"].score[0] >= report.replays[0].curve().score.max()


def test_two_models_get_a_gap_recovered(tmp_path: Path) -> None:
    data = read_dataset(write(tmp_path, 500, ("cheap", "grand")))
    report = evaluate(data, splits=2)
    assert report.figures["APGR"].mean > 0.7
    assert report.figures["APGR set"].values == report.figures["APGR"].values


def test_a_plot_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = evaluate(read_dataset(write(tmp_path, 60)), splits=1)
    plot(report, tmp_path / "plot.svg")
    assert b"oracle" in (tmp_path / "plot.svg").read_bytes()


def test_the_average_gap_recovered_is_a_half_by_chance_and_one_by_foresight() -> None:
    weak, strong = np.array([0.0, 1.0] * 50), np.ones(100)
    assert apgr(np.zeros(100), weak, strong) == pytest.approx(0.5)
    assert apgr(strong - weak, weak, strong) == pytest.approx(0.75)
    assert apgr(weak - strong, weak, strong) == pytest.approx(0.25)
    assert math.isnan(apgr(np.zeros(3), np.ones(3), np.ones(3)))


def test_cost_share_is_the_cheapest_point_that_reaches_the_score() -> None:
    line = Line("x", np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.8, 0.9]))
    assert cost_share(line, 4.0, 0.8) == 0.5
    assert cost_share(line, 4.0, 0.95) == math.inf


def test_aiq_is_the_mean_height_of_the_hull() -> None:
    line = Line("x", np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.1, 1.0]))
    assert aiq(line, 0.0, 2.0) == pytest.approx(0.5)
    assert aiq(line, 0.0, 4.0) == pytest.approx(0.75, abs=1e-3)


def test_the_hull_is_concave_and_rising() -> None:
    cost, quality = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0.1, 0.2, 0.9, 0.5, 1.0])
    assert hull(cost, quality).tolist() == [0, 2, 4]
