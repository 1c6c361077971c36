from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from asyncroute.learn import read_dataset, same_number


def write(path: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n", "utf-8")
    return path


def test_a_log_has_one_outcome_a_line_in_any_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        {"prompt": "p", "model": "b", "score": 1, "cost_usd": 0.5, "task": "t", "key": "k"},
        {"prompt": "q", "model": "a", "score": None},
        "",
        {"prompt": "p", "model": "a", "score": 0.25},
    )
    data = read_dataset(path)
    assert (data.name, data.grid.queries, data.grid.models) == ("log.jsonl", ["p", "q"], ("b", "a"))
    assert np.array_equal(data.grid.score, [[1, 0.25], [np.nan, np.nan]], equal_nan=True)
    assert np.array_equal(data.grid.cost, [[0.5, np.nan], [np.nan, np.nan]], equal_nan=True)
    assert (data.task.tolist(), data.key.tolist()) == (["t", ""], ["k", "q"])


def test_answers_of_a_log_agree_as_the_function_says(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        {"prompt": "p", "model": "a", "score": 1, "answer": "It is 7"},
        {"prompt": "p", "model": "b", "score": 1, "answer": "7.0"},
        {"prompt": "p", "model": "c", "score": 0, "answer": "8"},
    )
    assert read_dataset(path, agree=same_number).grid.answers.tolist() == [[0, 0, 1]]
    assert read_dataset(path).grid.answers.tolist() == [[0, 1, 2]]


def test_a_log_may_be_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p", "model": "a", "score": 1}\n'))
    assert read_dataset(path).grid.models == ("a",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "p"', "line 2: Expecting"),
        ("[]", "line 2: must be a JSON object"),
        ({"model": "a", "score": 1}, "line 2: lacks 'prompt'"),
        ({"prompt": "p", "score": 1}, "line 2: lacks 'model'"),
        ({"prompt": "p", "model": "a"}, "line 2: lacks 'score'"),
        ({"prompt": 5, "model": "a", "score": 1}, "line 2: prompt must be a text, got 5"),
        ({"prompt": "p", "model": "a", "score": "1"}, "line 2: score must be a number or null"),
        ({"prompt": "p", "model": "a", "score": 3}, "score must be from 0 to 1, got 3"),
        ({"prompt": "p", "model": "a", "score": 1, "cost_usd": -1}, "cost must be finite and at"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "log.jsonl", {"prompt": "p", "model": "a", "score": 1}, line)
    with pytest.raises(ValueError, match=message):
        read_dataset(path)


def test_an_empty_file_and_a_missing_one_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log\.jsonl: has no lines"):
        read_dataset(write(tmp_path / "log.jsonl"))
    with pytest.raises(FileNotFoundError):
        read_dataset(tmp_path)


def test_a_score_out_of_range_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [f'{{"prompt": "x", "model": "a", "score": {score}}}' for score in (1, 2)]
    path.write_text("\n".join(lines), "utf-8")
    with pytest.raises(ValueError, match=r"log.jsonl line 2: score must be from 0 to 1, got 2"):
        read_dataset(path)
