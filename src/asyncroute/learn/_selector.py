"""The strategy that looks at the query: who will be right, at what cost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, final

from asyncroute.learn._cascade import same_text
from asyncroute.learn._forecast import price_of
from asyncroute._protocols import Candidate, Plan, Ranking

if TYPE_CHECKING:
    from asyncroute._inputs import QueryRequest
    from asyncroute._protocols import Agree
    from asyncroute.learn._forecast import Forecast
    from asyncroute.learn._predictor import QualityPredictor

__all__ = ("PredictiveSelector",)


@final
class PredictiveSelector:
    """Chooses by the quality and the cost that a fitted `QualityPredictor` expects for this query.

    A candidate's worth is `quality - price * cost / reference - load_weight * load`, and its score
    `1 / (2 - worth)`: 1 for a free model that is surely right. The reference is the cost of an
    average query on the model that is best on average. A model that the predictor does not know
    counts with its configured quality and its expected cost.

    Args:
        predictor: Fitted or loaded.
        knob: From 0 (cheapest) to 1 (best). None takes the price that the fit recommends: the
            cheapest that is hardly worse than the best static choice.
        load_weight: Quality that one would give up for an idle model instead of a full one.
        cascades: Whether the selector may plan to ask two models, and further ones while their
            answers disagree.
        agree: Whether two answers say the same; by default the same text but for case and space.
        rng: For Thompson sampling.
        explore: Whether to draw qualities instead of taking the expected ones, so that what is
            doubtful is tried now and then.

    Raises:
        ValueError: A knob outside of 0 to 1.
    """

    def __init__(  # noqa: PLR0913 - each a choice of the user with a safe default
        self,
        predictor: QualityPredictor,
        *,
        knob: float | None = None,
        load_weight: float = 0.02,
        cascades: bool = False,
        agree: Agree | None = None,
        explore: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.predictor = predictor
        self._price = predictor.recommended().price if knob is None else price_of(knob)
        self._load_weight = load_weight
        self._cascades = cascades
        self._agree = agree or same_text
        self._explore = explore
        self._rng = rng or random.Random()
        self._places = {model: i for i, model in enumerate(predictor.models)}

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by worth; plan a cascade where that is worth more than any single model."""
        forecast = self.predictor.forecast(_text_of(request))
        if self._explore:
            forecast = forecast.drawn(self._rng)
        worths = [self._worth(candidate, request, forecast) for candidate in candidates]
        members = self._best_cascade(candidates, forecast, max(worths))
        if members:
            rest = [c for c in candidates if c not in members]
            plan = Plan(stagger=0.0, width=len(members), quorum=2, agree=self._agree)
            return Ranking.in_order([*members, *rest], plan=plan)
        return Ranking(candidates, [1.0 / (2.0 - worth) for worth in worths])

    def _worth(self, candidate: Candidate, request: QueryRequest, forecast: Forecast) -> float:
        config = candidate.config
        place = self._places.get(config.model_id)
        if place is None:
            quality, cost = config.quality_score, candidate.expected_cost(request)
        else:
            quality, cost = float(forecast.quality[place]), float(forecast.cost[place])
        worth = quality - self._price * cost / self.predictor.reference
        return worth - self._load_weight * min(candidate.load, 1.0)

    def _best_cascade(
        self, candidates: Sequence[Candidate], forecast: Forecast, to_beat: float
    ) -> list[Candidate]:
        """Return the members of the best cascade, if it is worth more than every single model."""
        if not self._cascades:
            return []
        here = {
            self._places[candidate.config.model_id]: candidate
            for candidate in candidates
            if candidate.config.model_id in self._places
        }
        best: tuple[int, ...] = ()
        single = len(self.predictor.models)
        for i, members in enumerate(self.predictor.choices[single:], start=single):
            if here.keys() >= set(members):
                cost = float(forecast.cost[i]) / self.predictor.reference
                worth = float(forecast.quality[i]) - self._price * cost
                if worth > to_beat:
                    best, to_beat = members, worth
        return [here[member] for member in best]


def _text_of(request: QueryRequest) -> str:
    if request.query is not None:
        return request.query
    for message in reversed(request.messages or ()):
        if message.get("role") == "user" and isinstance(message.get("content"), str):
            return str(message["content"])
    return ""


_ = inf
