"""Recorded outcomes on disk: `queries.jsonl` (or `.jsonl.gz`) beside a `models.json`.

Per line: `prompt`, `scores` and `cost_usd` (lists in the order of models.json, null where unknown),
and optionally `task`, `key` (equal for the same question) and `answer_group` (equal numbers where
models gave the same answer). Other fields are ignored. models.json is a list of objects with
`model`.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from asyncroute.learn._outcomes import Grid

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ("Dataset", "read_dataset")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Recorded outcomes.

    Attributes:
        name: Name of the folder.
        grid: The outcomes; unlike in a fitted grid the same text may come twice.
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


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read a data set.

    Args:
        path: Its folder, or its queries file.

    Raises:
        FileNotFoundError: When one of the two files is not there.
        ValueError: When a line does not fit; the message names line and field.

    """
    queries = Path(path)
    if queries.is_dir():
        found = [queries / name for name in ("queries.jsonl.gz", "queries.jsonl")]
        queries = next((file for file in found if file.exists()), found[0])
    folder = queries.parent
    listed: Any = json.loads((folder / "models.json").read_text("utf-8"))
    models = tuple(str(item["model"]) for item in listed)
    texts: list[str] = []
    tasks: list[str] = []
    keys: list[str] = []
    cells: list[list[list[float]]] = []
    opener = gzip.open if queries.suffix == ".gz" else open
    with opener(queries, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            item: Any = json.loads(line)
            try:
                rows = [_numbers(item, name, len(models)) for name in ("scores", "cost_usd")]
                texts.append(str(item["prompt"]))
            except (KeyError, TypeError, ValueError) as error:
                msg = f"{queries.name} line {number}: {error}"
                raise ValueError(msg) from error
            groups = "answer_group" if "answer_group" in item else None
            missing = [float("nan")] * len(models)
            rows.append(_numbers(item, groups, len(models)) if groups else missing)
            tasks.append(str(item.get("task", "")))
            keys.append(str(item.get("key", item["prompt"])))
            cells.append(rows)
    table = np.array(cells, dtype=np.float64).reshape(len(texts), 3, len(models))
    grid = Grid(texts, models, table[:, 0], table[:, 1], table[:, 2])
    return Dataset(folder.resolve().name, grid, np.array(tasks), np.array(keys))


def _numbers(item: dict[str, Any], name: str, count: int) -> list[float]:
    values = item[name]
    if len(values) != count:
        msg = f"{name} must have {count} values, got {len(values)}"
        raise ValueError(msg)
    return [float("nan") if value is None else float(value) for value in values]
