"""Several selectors vote."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from math import inf
from typing import final

from asyncroute._arguments import check_kind, check_several, is_number
from asyncroute._errors import ConfigurationError
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Candidate, ModelSelector, Ranking, is_selector
from asyncroute._selectors._scored import ranked

__all__ = ("RouterEnsemble",)


@final
class RouterEnsemble:
    """Weighted voting over selectors; is itself a `ModelSelector`.

    A candidate's score is the weighted mean of its voters' scores; a voter that leaves a candidate
    out gives it 0. Every voter's scores are in the decision (`decision.votes`).

    Args:
        voters: Selectors with their weights, which are normalised to sum 1.
        rng: Where ties are decided; of its own by default.

    Raises:
        ConfigurationError: No voters, or a weight that is negative or not finite, or all are 0.
    """

    def __init__(
        self, voters: Iterable[tuple[ModelSelector, float]], *, rng: random.Random | None = None
    ) -> None:
        check_several("voters", voters, "pairs of a selector and its weight")
        check_kind("rng", rng, random.Random)
        voters = tuple(voters)
        for voter in voters:
            if not (isinstance(voter, Sequence) and len(voter) == 2):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(
                    f"voters must be pairs of a selector and its weight, got {voter!r}"
                )
            selector, weight = voter
            if not is_selector(selector):
                raise ConfigurationError(f"voters must have select(), got {selector!r}")
            if not (is_number(weight) and 0 <= weight < inf):
                raise ConfigurationError(
                    f"weight of {type(selector).__name__} must be 0 or more, got {weight!r}"
                )
        total = sum(weight for _, weight in voters)
        if not total:
            raise ConfigurationError(f"voters need at least one weight above 0, got {voters!r}")
        self._voters = tuple(
            (name, selector, weight / total)
            for name, (selector, weight) in zip(_names(voters), voters, strict=True)
        )
        self._rng = rng or random.Random()

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by the weighted mean of all votes."""
        totals = dict.fromkeys(candidates, 0.0)
        votes: dict[str, dict[str, float]] = {}
        for name, selector, weight in self._voters:
            ranking = await selector.select(request, candidates)
            votes[name] = {}
            for candidate, score in ranking:
                totals[candidate] += weight * score
                votes[name][candidate.config.model_id] = score
        # Weights that sum to 1 but for rounding may sum to a little more.
        scores = [min(1.0, total) for total in totals.values()]
        ranking = ranked(tuple(totals), scores, self._rng)
        ranking.votes = votes
        return ranking


def _names(voters: Sequence[tuple[ModelSelector, float]]) -> list[str]:
    names = [type(selector).__name__.removesuffix("Selector") for selector, _ in voters]
    return [
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]
