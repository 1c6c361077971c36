"""Decide: filter the models, let the selector rank what is left, and say why."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, final

from asyncroute._aside import Aside, why_away
from asyncroute._bounds import over_limits, why_over_limit
from asyncroute._cache import CacheManager
from asyncroute._course import Choice
from asyncroute._endpoint import Eligible, Endpoint, View
from asyncroute._errors import NoEligibleModelError
from asyncroute._estimate import forget_count, input_tokens
from asyncroute._inputs import Capability, Message, QueryRequest
from asyncroute._protocols import ModelSelector, Ranking
from asyncroute._reasons import Reasons
from asyncroute._registry import Registry

__all__ = ("RELAXED_IN_ORDER", "Decider")

RELAXED_IN_ORDER = ("max_latency_ms", "required_quality", "capability", "max_cost")
"""The soft constraints, in the order in which `on_no_candidates="relax"` drops them."""

_MOST_KEPT = 100_000
"""Endpoints in all sets that are kept, about: with what finds the best, half a KiB each."""

_LEAST_SETS, _MOST_SETS = 16, 1000


@final
class Decider:
    """Chooses models for requests.

    Args:
        registry: The models.
        is_strict: Whether a model must name a capability to have it; else `general` has any.
        on_no_candidates: Whether to fail, or to drop soft constraints one by one.
        rng: For slow start.

    Attributes:
        cache: The eligible sets of request kinds seen lately. Only what does not depend on load,
            latency or turn, so that a cached decision never herds a burst onto one model.
    """

    __slots__ = (
        "_is_strict",
        "_qualities",
        "_registry",
        "_relaxes",
        "_rng",
        "_version",
        "_windows",
        "cache",
    )

    def __init__(
        self,
        registry: Registry,
        *,
        is_strict: bool,
        on_no_candidates: Literal["fail", "relax"],
        rng: random.Random,
    ) -> None:
        self._registry = registry
        self._is_strict = is_strict
        self._relaxes = on_no_candidates == "relax"
        self._rng = rng
        self._version = -1
        self._windows: list[int] = []
        self._qualities: list[float] = []
        # A day: what would make a set wrong clears it, and a large one takes long to make.
        most = min(max(_MOST_KEPT // max(len(registry), 1), _LEAST_SETS), _MOST_SETS)
        self.cache: CacheManager[Eligible] = CacheManager(max_size=most, ttl=86400.0)

    async def decide(
        self, request: QueryRequest, strategy: str, selector: ModelSelector, now: float
    ) -> Choice:
        """Choose among the models.

        Returns:
            The choice to be carried out, of which the decision for the user can be made.

        Raises:
            NoEligibleModelError: No model may serve the request, not even later.
        """
        journal = self._registry.journal
        if journal.unlearned:
            journal.take_up(now)
        forget_count()  # its messages may have been changed in place since
        tokens_in = input_tokens(request)
        eligible, cached = self._eligible(request, tokens_in, now)
        rejected = over_limits(eligible, request, tokens_in)
        asked, relaxed = request, ()
        if len(rejected) == len(eligible.endpoints):
            reasons = Reasons(
                eligible.rejected, (rejected, partial(why_over_limit, request, tokens_in))
            )
            if not self._relaxes:
                raise _nothing_for(reasons)
            request, relaxed, eligible, rejected = self._relax(request, tokens_in, reasons, now)
        candidates: Sequence[Endpoint] = eligible
        later: Sequence[Endpoint] = ()
        reasons: Mapping[str, str] = eligible.rejected
        if rejected or journal.troubled:
            why_rejected = partial(why_over_limit, request, tokens_in)
            candidates, later, reasons = self._narrowed(eligible, rejected, why_rejected, now)
            if not getattr(selector, "never_suspends", False):
                candidates = [*candidates]  # a user's selector sees nobody but those
        try:
            ranking = await selector.select(request, candidates)
        except TypeError as error:
            raise _selecting_error(error, strategy)  # noqa: B904 - which has its cause
        captured = getattr(ranking, "captured", None)
        if captured is None:
            ranking, captured = _captured(strategy, ranking, candidates)
        # A selector ranks what it was given, and it was given endpoints.
        ranked: Sequence[Any] = ranking.candidates
        count = len(captured)
        if candidates is not eligible:  # of a large set all are captured, those left out too
            count = min(count, len(candidates)) + len(later)
        return Choice(
            asked,
            request,
            strategy,
            ranking,
            captured,
            ranked[ranking.best()],
            tokens_in,
            later,
            count,
            reasons,
            relaxed,
            cached,
        )

    # What depends on the kind of request only

    def _eligible(self, request: QueryRequest, tokens_in: int, now: float) -> tuple[Eligible, bool]:
        registry = self._registry
        if registry.version != self._version:
            self._version = registry.version
            self.cache.clear()
            self._windows = sorted({endpoint.config.max_tokens for endpoint in registry})
            self._qualities = sorted({endpoint.config.quality_score for endpoint in registry})
        fields = request.__dict__  # an attribute of a pydantic model takes three times as long
        needed = tokens_in + (fields["max_tokens"] or 1)
        needs = _NOTHING
        if fields["messages"] is not None or fields["params"]:
            needs = _features_needed(request)
        kind: Hashable = (
            fields["capability"],
            fields["models"],
            fields["exclude"],
            bisect_left(self._qualities, fields["required_quality"] or 0.0),
            needs,
            bisect_left(self._windows, needed),
        )
        eligible = self.cache.get(kind, now)
        if eligible is not None:
            return eligible, True
        rejected: dict[str, str] = {}
        endpoints: list[Endpoint] = []
        for endpoint in registry:
            reason = self._why_not(endpoint, request, needed, needs)
            if reason is None:
                endpoints.append(endpoint)
            else:
                rejected[endpoint.model_id] = reason
        if request.models or request.exclude:
            # Told, and no error: models are removed while callers still name them.
            known = {*registry.names()}
            for name in (*(request.models or ()), *request.exclude):
                if name not in known:
                    rejected[name] = "is no model and no group of this router"
        eligible = Eligible(endpoints, rejected, registry.journal)
        self.cache.put(kind, eligible)
        return eligible, False

    def _why_not(
        self, endpoint: Endpoint, request: QueryRequest, needed: int, needs: frozenset[str]
    ) -> str | None:
        config = endpoint.config
        names = {config.model_id, config.group}
        if not config.is_available:
            return "switched off (is_available is False)"
        if not config.weight:
            return "has weight 0"
        if request.models is not None and not names.intersection(request.models):
            return f"is not among the models asked for: {', '.join(request.models)}"
        if names.intersection(request.exclude):
            return "is excluded by the request"
        if not self._is_capable(endpoint, request.capability):
            return f"lacks capability {request.capability!r}; has {', '.join(config.capabilities)}"
        if config.max_tokens < needed:
            return f"has a window of {config.max_tokens} tokens, too small for the request"
        if config.supports is not None and not needs.issubset(config.supports):
            return f"does not support {', '.join(sorted(needs.difference(config.supports)))}"
        quality = request.required_quality
        if quality is not None and config.quality_score < quality:
            return f"has quality {config.quality_score:g}, below what is required"
        return None

    def _is_capable(self, endpoint: Endpoint, capability: str) -> bool:
        general = Capability.GENERAL.value
        has = endpoint.config.capabilities
        return (
            capability == general or capability in has or (not self._is_strict and general in has)
        )

    # What depends on this request, or on this moment

    def _narrowed(
        self,
        eligible: Eligible,
        rejected: Mapping[Endpoint, View],
        why_rejected: Callable[[View], str],
        now: float,
    ) -> tuple[Sequence[Endpoint], Sequence[Endpoint], Mapping[str, str]]:
        """Return who is left for the selector, who may come after them, and why the others not.

        Those that are rejected do not come later either. Models that have just recovered come
        first only as often as their weight says.
        """
        aside = eligible.aside
        if aside is None or not aside.holds(eligible.journal.trouble, now):
            aside = eligible.aside = Aside(eligible, now)
        held_back: dict[Endpoint, float] = {}
        for endpoint in aside.ramping:
            weight = endpoint.health.weight(now)
            if endpoint not in rejected and self._rng.random() >= weight:
                held_back[endpoint] = weight
        why_gone = partial(why_away, now)
        if not rejected and not held_back:
            reasons = Reasons(eligible.rejected, (aside.away, why_gone))
            return aside.left, aside.later, reasons
        away = {e: why for e, why in aside.away.items() if e not in rejected}
        later = (*held_back, *away)
        candidates = eligible.without(rejected, away, held_back)
        if not candidates and held_back:
            candidates, later, held_back = eligible.without(rejected, away), (*away,), {}
        elif not candidates:
            candidates, later = eligible.without(rejected), ()
        reasons = Reasons(
            eligible.rejected,
            (away, why_gone),
            (held_back, "comes back slowly, to {:.0%} so far".format),
            (rejected, why_rejected),
        )
        return candidates, later, reasons

    def _relax(
        self, request: QueryRequest, tokens_in: int, reasons: Mapping[str, str], now: float
    ) -> tuple[QueryRequest, tuple[str, ...], Eligible, Mapping[Endpoint, View]]:
        """Drop soft constraints in order until there is a candidate.

        Raises:
            NoEligibleModelError: There is none even so.
        """
        relaxed: list[str] = []
        for field in RELAXED_IN_ORDER:
            unset = Capability.GENERAL.value if field == "capability" else None
            if getattr(request, field) == unset:
                continue
            request = request.model_copy(update={field: unset})
            relaxed.append(field)
            eligible, _ = self._eligible(request, tokens_in, now)
            rejected = over_limits(eligible, request, tokens_in)
            if len(rejected) < len(eligible.endpoints):
                return request, tuple(relaxed), eligible, rejected
        raise _nothing_for(reasons)


def _features_needed(request: QueryRequest) -> frozenset[str]:
    """Name the features a model must support for this request: tools, json_schema, images."""
    needs: set[str] = set()
    if request.params.get("tools"):
        needs.add("tools")
    answer_format = request.params.get("response_format")
    if answer_format and _format_type(answer_format) not in ("text", "json_object"):
        needs.add("json_schema")
    if any(map(_has_image, request.messages or ())):
        needs.add("images")
    return frozenset(needs)


_NOTHING: frozenset[str] = frozenset()


def _format_type(answer_format: object) -> object:
    return answer_format.get("type") if isinstance(answer_format, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def _has_image(message: Message) -> bool:
    content = message.get("content")
    return isinstance(content, (list, tuple)) and any(
        isinstance(part, Mapping) and "image" in str(part.get("type"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        for part in content  # pyright: ignore[reportUnknownVariableType]
    )


def _selecting_error(error: TypeError, strategy: str) -> TypeError:
    """Say what to write, where a selector could not be called or awaited; else leave its error."""
    if error.__traceback__ is None or error.__traceback__.tb_next is not None:
        return error
    told = TypeError(f"{strategy} must have `async def select(self, request, candidates)`: {error}")
    told.__cause__ = error
    return told


def _captured(
    strategy: str, ranking: object, candidates: Sequence[Endpoint]
) -> tuple[Ranking, Sequence[tuple[View]]]:
    """Return what a selector of the user's ranked of what it was given, and keep how that looked.

    Whom it ranks beside those (it may remember them) is dropped: the request rules them out.
    """
    if not isinstance(ranking, Ranking):
        raise TypeError(f"{strategy} must select a Ranking, got {ranking!r}")
    given = candidates.places if isinstance(candidates, Eligible) else {*candidates}
    ranked: Sequence[Any] = ranking.candidates
    for candidate in ranked:
        if not hasattr(candidate, "view"):
            raise TypeError(f"{strategy} must rank the candidates it was given, got {candidate!r}")
    if not all(endpoint in given for endpoint in ranked):
        scored = zip(ranked, ranking.scores, strict=True)
        kept = [(endpoint, score) for endpoint, score in scored if endpoint in given]
        ranked = [endpoint for endpoint, _ in kept]
        scores = [score for _, score in kept]
        ranking = Ranking(ranked, scores, plan=ranking.plan, votes=ranking.votes)
    if not ranked:
        left_out = "was left out by the selector"
        raise _nothing_for({endpoint.model_id: left_out for endpoint in candidates})
    return ranking, [(endpoint.view,) for endpoint in ranked]


def _nothing_for(reasons: Mapping[str, str]) -> NoEligibleModelError:
    if not reasons:
        return NoEligibleModelError("the router has no models")
    listed = "; ".join(f"{model} {reason}" for model, reason in reasons.items())
    return NoEligibleModelError(f"no model may serve the request: {listed}", reasons=dict(reasons))
