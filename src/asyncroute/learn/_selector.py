"""The strategy that looks at the query: who will be right, at what cost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, final

from asyncroute._errors import ConfigurationError
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Candidate, Ranking
from asyncroute._selectors._scored import ranked
from asyncroute.learn._asked import text_of
from asyncroute.learn._controller import Budget, Controller, Knob, TargetCost
from asyncroute.learn._exploration import ExplorationCap
from asyncroute.learn._forecast import Forecast
from asyncroute.learn._offers import Offers, Weighting
from asyncroute.learn._predictor import QualityPredictor

if TYPE_CHECKING:
    from asyncroute._protocols import Agree
    from asyncroute._results import ExecutionResult
    from asyncroute._values import Attempt
    from asyncroute.learn._predictor import Reading

__all__ = ("Expectation", "PredictiveSelector", "Scorer")

Scorer = Callable[[QueryRequest, Sequence[str]], Awaitable[Mapping[str, float]]]
"""Scores models for a request by a user's own means: ids in, expected qualities (0 to 1) out."""

_log = logging.getLogger("asyncroute")


@final
class PredictiveSelector:
    """Chooses by the quality and the cost that a `QualityPredictor` expects for this query.

    A candidate's worth is `quality * success_rate - price * cost / reference`, less a little for
    latency and load; its score `1 / (2 - worth)`: 1 for a free model that is surely right. The
    reference is the cost of an average query on the model that is best on average. The price is
    what the knob or the budget says. A model that was not fitted starts from its configured quality
    and the router's estimate of its cost. What was expected is in `decision.votes`.

    Registered at a router under a name, it learns while serving: from `router.feedback`, and from
    answers that were refused, broken or not accepted. State that is to outlive the process is the
    predictor's: `selector.predictor.save(path)`.

    Args:
        predictor: Fitted or loaded.
        knob: From 0 (cheapest) to 1 (best). By default what the fit recommends: the cheapest that
            keeps nearly all of what it would gain over the best single model.
        target_cost: Instead of a knob: dollars a query may cost on average.
        budget: Instead of a knob: dollars per `period`.
        period: Seconds.
        agree: Whether two answers say the same: `same_text`, `same_number`, `same_json` or your
            own. With it, two cheap models may be asked at once, and further ones while no two
            answers agree, where the predictor has learned that this pays. Such plans are for
            `execute`; streams and explicit modes only take their first model.
        explore: Share of the queries, 0 to 1, that may go to a model that may be the best one
            (Thompson sampling), though it does not seem so.
        explore_cost: What exploring may add to the expected spend, as a share of it.
        scorer: Scores models by your own embeddings or classifier. Models it leaves out, and all
            when it fails or is late, have their quality from the predictor.
        scorer_timeout: Seconds that it has, or half of the request's timeout if that is less.
        latency_weight: Quality that one would give up for an answer at once instead of a very slow
            one; two seconds take half of it.
        load_weight: Quality that one would give up for an idle model instead of a full one.
        rng: For exploration.

    Attributes:
        predictor: The predictor.
        scorer_failures: How often the scorer failed or was late.

    Raises:
        ConfigurationError: More than one of knob, target cost and budget, or a value out of range.
    """

    def __init__(  # noqa: PLR0913 - a user's choices, each with a default that is safe
        self,
        predictor: QualityPredictor,
        *,
        knob: float | None = None,
        target_cost: float | None = None,
        budget: float | None = None,
        period: float = 86_400.0,
        agree: Agree | None = None,
        explore: float = 0.0,
        explore_cost: float = 0.05,
        scorer: Scorer | None = None,
        scorer_timeout: float = 0.25,
        latency_weight: float = 0.02,
        load_weight: float = 0.02,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(predictor, QualityPredictor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"predictor must be a QualityPredictor (fit or load one), got {predictor!r}"
            )
        for name, function in (("agree", agree), ("scorer", scorer)):
            if function is not None and not callable(function):
                raise ConfigurationError(f"{name} must be a function or None, got {function!r}")
        self.predictor = predictor
        self.scorer_failures = 0
        self._agree = agree
        self._scorer = scorer
        self._rng = rng or random.Random()
        try:
            self._controller = self._controller_of(knob, target_cost, budget, period)
            self._cap = ExplorationCap(explore, explore_cost)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        for name, weight in (
            ("scorer_timeout", scorer_timeout),
            ("latency_weight", latency_weight),
            ("load_weight", load_weight),
        ):
            if not 0.0 <= weight < float("inf"):
                raise ConfigurationError(f"{name} must be 0 or more and finite, got {weight!r}")
        self._scorer_timeout = scorer_timeout
        self._weighting = Weighting(latency_weight, load_weight)

    def _controller_of(
        self, knob: float | None, target_cost: float | None, budget: float | None, period: float
    ) -> Controller:
        with_cascades = self._agree is not None
        predictor = self.predictor
        curve = predictor.curve_with_cascades if with_cascades else predictor.curve
        given = [
            name
            for name, value in (("knob", knob), ("target_cost", target_cost), ("budget", budget))
            if value is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} do not go together")
        if target_cost is not None:
            return TargetCost(curve, target_cost)
        if budget is not None:
            return Budget(curve, budget, period)
        if knob is not None:
            return Knob(knob)
        return Knob.at(predictor.recommended(with_cascades=with_cascades).price)

    # Choosing

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by worth; plan a cascade where that is worth more than any single model.

        Suspends only in the scorer.
        """
        columns = self._columns_of(candidates)
        reading = self.predictor.read(text_of(request))
        forecast, cascades = self.predictor.forecast(reading), self.predictor.cascades
        if self._scorer is not None:
            forecast = await self._scored(self._scorer, request, candidates, columns, forecast)
        offers = Offers(request, candidates, columns, forecast, self._weighting)
        price = self._controller.price(asyncio.get_running_loop().time())
        return self._decide(request, offers, reading, forecast, cascades, price)

    def _columns_of(self, candidates: Sequence[Candidate]) -> list[int]:
        """Return each candidate's place in forecasts; an unknown one is given its place."""
        columns = self.predictor.columns
        try:
            return [columns[candidate.config.model_id] for candidate in candidates]
        except KeyError:
            for candidate in candidates:
                config = candidate.config
                if config.model_id not in self.predictor.columns:
                    self.predictor.add(config.model_id, config.quality_score)
            return self._columns_of(candidates)

    async def _scored(
        self,
        scorer: Scorer,
        request: QueryRequest,
        candidates: Sequence[Candidate],
        columns: Sequence[int],
        forecast: Forecast,
    ) -> Forecast:
        """Return a forecast with the scorer's qualities, or as it was where there are none."""
        models = [candidate.config.model_id for candidate in candidates]
        seconds = self._scorer_timeout
        if request.timeout is not None:
            seconds = min(seconds, request.timeout / 2)
        try:
            async with asyncio.timeout(seconds):
                scores = await scorer(request, models)
            if not isinstance(scores, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"must return a mapping of scores by model id, got {scores!r}")
            quality = forecast.quality.copy()
            for model, column in zip(models, columns, strict=True):
                if model in scores:
                    quality[column] = _checked(model, scores[model])
        except Exception as error:
            self.scorer_failures += 1
            _log.warning("scorer failed, the predictor decides: %r", error)
            return forecast
        return Forecast(quality, forecast.cost)

    def _decide(
        self,
        request: QueryRequest,
        offers: Offers,
        reading: Reading,
        forecast: Forecast,
        cascades: Sequence[tuple[int, ...]],
        price: float,
    ) -> Ranking:
        unit = price / (self.predictor.reference or max(offers.cost) or 1.0)
        worths = offers.worths(unit)
        best = worths.index(max(worths))
        votes = Expectation(self, reading, price, offers)
        candidates = offers.candidates
        tried = self._tried(offers, reading, forecast, unit, best) if self._cap.share else best
        if self._agree is not None and tried == best:
            members = offers.best_cascade(request, cascades, forecast, unit, worths[best])
            if members:
                others = [place for place in range(len(worths)) if place not in members]
                others.sort(key=worths.__getitem__, reverse=True)
                ordered = [candidates[place] for place in (*members, *others)]
                plan = offers.cascade(members, self._agree)
                return Ranking.in_order(ordered, plan=plan, votes=votes)
        scores = [1.0 / (2.0 - worth) for worth in worths]
        if tried != best:
            scores[tried] = min(scores[best] + 1e-6, 1.0)
            return Ranking(candidates, scores, votes=votes)
        ranking = ranked(candidates, scores, self._rng)
        ranking.votes = votes
        return ranking

    def _tried(
        self, offers: Offers, reading: Reading, forecast: Forecast, unit: float, best: int
    ) -> int:
        """Return who is tried out: the best of a draw if the caps allow it, else the best."""
        drawn = self.predictor.drawn(reading, forecast, self._rng)
        worths = offers.revalued(drawn).worths(unit)
        tried = worths.index(max(worths))
        cost = offers.cost[best]
        if tried == best:
            self._cap.count(cost)
        elif self._cap.try_spend(cost, offers.cost[tried] - cost):
            return tried
        return best

    # Learning

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        """Take in what a choice of this selector cost, and which models had no answer."""
        expectation = None if result.decision is None else result.decision.votes
        if result.cached or not isinstance(expectation, Expectation) or expectation.by is not self:
            return
        now = asyncio.get_running_loop().time()
        self._controller.record(expectation.price, result.actual_cost, now)
        for attempt in result.attempts:
            answered = _is_answered(attempt)
            if answered is not None and attempt.model_id in self.predictor.columns:
                self.predictor.update_answered(expectation.reading, attempt.model_id, answered, now)

    def on_feedback(self, request: QueryRequest, result: ExecutionResult, score: float, /) -> None:
        """Learn from the rating of an answer, whoever chose its model."""
        model = result.model_id
        if model in self.predictor.columns:
            now = asyncio.get_running_loop().time()
            self.predictor.update(text_of(request), model, score, now)

    def __repr__(self) -> str:
        return f"<PredictiveSelector {self._controller!r} {self.predictor!r}>"


@final
class Expectation(Mapping[str, Mapping[str, float]]):
    """What a selector expected when it decided: shown among the decision's votes, as `quality`.

    Attributes:
        by: The selector.
        reading: What was made of the text.
        price: What saving was worth.
    """

    __slots__ = ("_offers", "by", "price", "reading")

    def __init__(
        self, by: PredictiveSelector, reading: Reading, price: float, offers: Offers
    ) -> None:
        self.by = by
        self.reading = reading
        self.price = price
        self._offers = offers

    def __getitem__(self, name: str) -> Mapping[str, float]:
        if name != "quality":
            raise KeyError(name)
        names = [candidate.config.model_id for candidate in self._offers.candidates]
        return dict(zip(names, self._offers.quality, strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(("quality",))

    def __len__(self) -> int:
        return 1


_NO_ANSWER = frozenset(
    ("content_refused", "context_too_long", "protocol", "stream_interrupted", "attempt_timeout")
)
"""Kinds of errors that say something about a model and a query; others are the health's matter."""


def _is_answered(attempt: Attempt) -> bool | None:
    """Tell whether an attempt had an answer worth having; None where it tells nothing."""
    if attempt.outcome == "won":
        return True
    if attempt.outcome == "not_accepted" or attempt.error_kind in _NO_ANSWER:
        return False
    return None


def _checked(model: str, score: float) -> float:
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"score of {model} must be from 0 to 1, got {score!r}")
    return score
