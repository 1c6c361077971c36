"""What is learned from: outcomes one by one, and the same as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Grid", "Outcome")


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """How one model did on one query.

    Attributes:
        query: The text a router would see.
        model: Who answered.
        score: From 0 (wrong) to 1 (right); None when not measured.
        cost: What the answer cost, USD; None when not known.
        answer: Anything that equals the answer of another model when the two agree; None when there
            is none, which agrees with nothing. Cascades are learned where answers are given.

    """

    query: str
    model: str
    score: float | None
    cost: float | None
    answer: Hashable = None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Outcomes as a table: a row per query, a column per model, nan where nothing is known."""

    queries: list[str]
    models: tuple[str, ...]
    score: Floats
    cost: Floats
    answers: Floats

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], models: Sequence[str] = ()) -> Grid:
        """Gather outcomes; of several for one query and model the last counts.

        Args:
            outcomes: In any order.
            models: Models to have first, in this order, also when no outcome names them.

        Raises:
            ValueError: For a score outside [0, 1] or a cost below 0 or not finite.

        """
        rows: dict[str, int] = {}
        columns = {name: index for index, name in enumerate(models)}
        labels: list[dict[Hashable, int]] = []
        cells: dict[tuple[int, int], tuple[float, float, float]] = {}
        for outcome in outcomes:
            _check(outcome)
            row = rows.setdefault(outcome.query, len(rows))
            column = columns.setdefault(outcome.model, len(columns))
            if row == len(labels):
                labels.append({})
            label = (
                float("nan")
                if outcome.answer is None
                else labels[row].setdefault(outcome.answer, len(labels[row]))
            )
            score = float("nan") if outcome.score is None else outcome.score
            cost = float("nan") if outcome.cost is None else outcome.cost
            cells[row, column] = (score, cost, label)
        table = np.full((3, len(rows), len(columns)), np.nan)
        if cells:
            where = np.array(list(cells), dtype=np.intp)
            table[:, where[:, 0], where[:, 1]] = np.array(list(cells.values())).T
        return cls(list(rows), tuple(columns), table[0], table[1], table[2])

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.queries)

    def take(self, rows: NDArray[np.intp]) -> Grid:
        """Return the grid of these rows, all models kept."""
        queries = [self.queries[int(row)] for row in rows]
        return Grid(queries, self.models, self.score[rows], self.cost[rows], self.answers[rows])


def _check(outcome: Outcome) -> None:
    if outcome.score is not None and not 0.0 <= outcome.score <= 1.0:
        msg = f"score must be from 0 to 1, got {outcome.score!r} for model {outcome.model!r}"
        raise ValueError(msg)
    if outcome.cost is not None and not 0.0 <= outcome.cost < float("inf"):
        msg = f"cost must be finite and at least 0, got {outcome.cost!r} for {outcome.model!r}"
        raise ValueError(msg)
