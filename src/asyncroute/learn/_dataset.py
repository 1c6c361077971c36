"""Recorded outcomes on disk, in one of two shapes of JSON lines (gzipped or not).

- A log, one outcome a line, as `OutcomeLog` writes it: `prompt`, `model`, `score` (0 to 1, null
  where not measured), and optionally `cost_usd`, `answer`, `task` and `key`.
- A table, one question a line: `prompt`, `scores` and `cost_usd` (lists in the order of
  models.json, null where not measured), and optionally `answer_group` (equal numbers where models
  gave the same answer), `task` and `key`. The file `models.json` beside it is a list of objects
  with `model`.

`task` is the kind of question, for figures by task; `key` is equal for what must not be parted by a
split. Other fields are ignored.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

import numpy as np
from numpy.typing import NDArray

from asyncroute.learn._agreement import same_text
from asyncroute.learn._outcomes import Grid, Outcome, checked

if TYPE_CHECKING:
    import os

    from asyncroute._protocols import Agree

__all__ = ("Dataset", "read_dataset")

_Read = TypeVar("_Read")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Recorded outcomes.

    Attributes:
        name: Name of the file or its folder.
        grid: The outcomes; of a table the same text may come twice.
        task: Per row, "" where not given.
        key: Per row, the text where not given. A split never parts equal keys.
    """

    name: str
    grid: Grid
    task: NDArray[np.str_]
    key: NDArray[np.str_]

    def splits(
        self, count: int = 5, share: float = 0.2, seed: int = 0
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield row indices to fit on and to measure on, `count` independent random splits."""
        keys, of_row = np.unique(self.key, return_inverse=True)
        for number in range(count):
            order = np.random.default_rng((seed, number)).permutation(len(keys))
            held = np.zeros(len(keys), bool)
            held[order[: round(share * len(keys))]] = True
            yield np.flatnonzero(~held[of_row]), np.flatnonzero(held[of_row])


def read_dataset(path: str | os.PathLike[str], *, agree: Agree = same_text) -> Dataset:
    """Read a log or a table of outcomes.

    Args:
        path: The file; or a folder with `queries.jsonl` or `queries.jsonl.gz`.
        agree: Whether two answers of a log say the same.

    Raises:
        OSError: When a file is missing or cannot be read.
        ValueError: When a line does not fit; the message names file, line and field.
    """
    file = Path(path)
    if file.is_dir():
        found = [file / name for name in ("queries.jsonl.gz", "queries.jsonl")]
        file = next((each for each in found if each.exists()), found[0])
    name = file.resolve().parent.name if file.name.startswith("queries.") else file.name
    first = next(_lines(file, dict), None)
    if first is None:
        raise ValueError(f"{file.name}: has no lines")
    if "scores" in first:
        return _table(file, name)
    return _log(file, name, agree)


def _lines(file: Path, read: Callable[[Mapping[str, Any]], _Read]) -> Iterator[_Read]:
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item: Any = json.loads(line)
                if not isinstance(item, dict):
                    raise TypeError("must be a JSON object")
                yield read(item)  # pyright: ignore[reportUnknownArgumentType]
            except KeyError as error:
                raise ValueError(f"{file.name} line {number}: lacks {error}") from None
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file.name} line {number}: {error}") from None


def _tags(item: Mapping[str, Any]) -> tuple[str, str]:
    return str(item.get("task", "")), str(item.get("key", item["prompt"]))


def _log(file: Path, name: str, agree: Agree) -> Dataset:
    tags: dict[str, tuple[str, str]] = {}

    def outcome(item: Mapping[str, Any]) -> Outcome:
        prompt = _text(item, "prompt")
        tags.setdefault(prompt, _tags(item))
        score = _number("score", item["score"])
        cost = _number("cost_usd", item.get("cost_usd"))
        return checked(Outcome(prompt, _text(item, "model"), score, cost, item.get("answer")))

    grid = Grid.of(_lines(file, outcome), agree=agree)
    tasks, keys = zip(*(tags[query] for query in grid.queries), strict=True)
    return Dataset(name, grid, np.array(tasks), np.array(keys))


def _table(file: Path, name: str) -> Dataset:
    listed: Any = json.loads((file.parent / "models.json").read_text("utf-8"))
    models = tuple(str(item["model"]) for item in listed)
    texts: list[str] = []
    tags: list[tuple[str, str]] = []

    def row(item: Mapping[str, Any]) -> list[list[float]]:
        texts.append(_text(item, "prompt"))
        tags.append(_tags(item))
        missing = [None] * len(models)
        return [
            _numbers("scores", item["scores"], len(models)),
            _numbers("cost_usd", item["cost_usd"], len(models)),
            _numbers("answer_group", item.get("answer_group") or missing, len(models)),
        ]

    table = np.array(list(_lines(file, row)), dtype=np.float64)
    grid = Grid(texts, models, table[:, 0], table[:, 1], table[:, 2])
    tasks, keys = zip(*tags, strict=True)
    return Dataset(name, grid, np.array(tasks), np.array(keys))


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}")
    return value


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number or null, got {value!r}")
    return float(value)


def _numbers(name: str, values: object, count: int) -> list[float]:
    if not isinstance(values, list):
        raise TypeError(f"{name} must be a list, got {values!r}")
    given = cast("list[object]", values)
    if len(given) != count:
        raise ValueError(f"{name} must have {count} values, got {len(given)}")
    numbers = [_number(name, value) for value in given]
    return [nan if number is None else number for number in numbers]
