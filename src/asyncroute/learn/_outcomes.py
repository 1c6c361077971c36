"""What is learned from: outcomes one by one, and the same as a table."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from asyncroute._protocols import Agree

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Grid", "Outcome", "checked")


class Outcome(NamedTuple):
    """How one model did on one query; a plain tuple in this order will do as well.

    Attributes:
        query: The text a router would see.
        model: Who answered.
        score: From 0 (wrong) to 1 (right); None when not measured.
        cost: What the answer cost, USD; None when not known.
        answer: What was answered; None when there is no answer, which agrees with nothing. Cascades
            are learned where answers are given.
    """

    query: str
    model: str
    score: float | None
    cost: float | None = None
    answer: Hashable = None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Outcomes as a table: a row per query, a column per model, nan where nothing is known.

    Equal numbers in a row of `answers` are answers that say the same.
    """

    queries: Sequence[str]
    models: tuple[str, ...]
    score: Floats
    cost: Floats
    answers: Floats

    @classmethod
    def of(
        cls,
        outcomes: Iterable[Outcome | tuple[str, str, float | None, float | None]],
        models: Iterable[str] = (),
        agree: Agree | None = None,
    ) -> Grid:
        """Gather outcomes; of several for one query and model the last counts.

        Args:
            outcomes: In any order.
            models: Models to have first, in this order, also when no outcome names them.
            agree: Whether two answers say the same; None for equality.

        Raises:
            ValueError: For a score outside [0, 1] or a cost below 0 or not finite.
        """
        rows: dict[str, int] = {}
        columns = {name: index for index, name in enumerate(models)}
        given: list[list[Hashable]] = []
        cells: dict[tuple[int, int], tuple[float, float, float]] = {}
        for outcome in outcomes:
            query, model, score, cost, answer = checked(_outcome_of(outcome))
            row = rows.setdefault(query, len(rows))
            column = columns.setdefault(model, len(columns))
            if row == len(given):
                given.append([])
            label = nan if answer is None else _label(given[row], answer, agree)
            cells[row, column] = (
                nan if score is None else score,
                nan if cost is None else cost,
                label,
            )
        table = np.full((3, len(rows), len(columns)), nan)
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


def _label(given: list[Hashable], answer: Hashable, agree: Agree | None) -> int:
    """Return the number of the first answer that says the same; `given` holds one of each."""
    for number, other in enumerate(given):
        if answer == other or (agree is not None and agree(str(other), str(answer))):
            return number
    given.append(answer)
    return len(given) - 1


def _outcome_of(given: object) -> Outcome:
    if isinstance(given, Outcome):
        return given
    if isinstance(given, (tuple, list)):
        fields = cast("Sequence[Any]", given)
        if 3 <= len(fields) <= len(Outcome._fields):
            return Outcome(*fields)
    raise ValueError(f"an outcome must be (query, model, score, cost), got {given!r}")


def checked(outcome: Outcome) -> Outcome:
    """Return an outcome whose fields are what they should be.

    Raises:
        ValueError: One is not.
    """
    for name in ("query", "model"):
        if not isinstance(text := getattr(outcome, name), str):
            raise ValueError(f"{name} of an outcome must be a text, got {text!r}")
    if outcome.score is not None and not 0.0 <= outcome.score <= 1.0:
        raise ValueError(
            f"score must be from 0 to 1, got {outcome.score!r} for model {outcome.model!r}"
        )
    if outcome.cost is not None and not 0.0 <= outcome.cost < inf:
        raise ValueError(
            f"cost must be finite and at least 0, got {outcome.cost!r} for {outcome.model!r}"
        )
    return outcome
