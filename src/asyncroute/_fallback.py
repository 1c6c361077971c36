"""What comes next after a failure: which model, or the same again, and when."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import cast, final

from asyncroute._arguments import check_mapping, is_number, is_whole
from asyncroute._errors import (
    AuthenticationError,
    ConfigurationError,
    ContentRefusedError,
    ContextTooLongError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
)
from asyncroute._inputs import ModelConfig

__all__ = ("FallbackStrategy",)

DEFAULT_CHAIN = "*"


@final
class FallbackStrategy:
    """Decides from the kind of error what comes next, and how often.

    A failed request goes on to the next model of its ranking at once. The same model is asked
    again only when no other candidate is left.

    Args:
        max_models: Different models that one request may try.
        max_retries: Further tries at models already tried, where the error allows them.
        retries: The same by kind of error (`{"rate_limited": 4, "content_refused": 1}`), instead
            of what the error allows by itself. Errors of your own must be defined before.
        chains: For a model's id, or `"*"` for every other model, the id or ids that follow when it
            fails, instead of the ranking. Chains follow each other: a fallback that fails goes on
            to its own. Constraints of the request hold for them too.
        refused_elsewhere: Whether a query that one provider's policy refused may go to another.
        base_delay: Seconds of pause before the first retry, at most: full jitter.
        max_delay: Seconds of pause before any retry, at most, unless the provider asks for more.

    Raises:
        ConfigurationError: A value cannot be meant, or chains lead back to where they began.
    """

    __slots__ = (
        "_chains",
        "base_delay",
        "has_chains",
        "max_delay",
        "max_models",
        "max_retries",
        "refused_elsewhere",
        "retries",
    )

    def __init__(
        self,
        *,
        max_models: int = 3,
        max_retries: int = 2,
        retries: Mapping[str, int] | None = None,
        chains: Mapping[str, Sequence[str]] | None = None,
        refused_elsewhere: bool = False,
        base_delay: float = 0.5,
        max_delay: float = 8.0,
    ) -> None:
        if not (is_whole(max_models) and max_models >= 1):
            raise ConfigurationError(f"max_models must be 1 or more, got {max_models!r}")
        check_mapping("retries", retries, "numbers", by="kind of error")
        self.retries = dict(retries or {})
        for name, count in {"max_retries": max_retries, **self.retries}.items():
            if not (is_whole(count) and count >= 0):
                raise ConfigurationError(f"retries of {name} must be 0 or more, got {count!r}")
        _refuse_unknown(self.retries)
        for name, delay in {"base_delay": base_delay, "max_delay": max_delay}.items():
            if not (is_number(delay) and 0 <= delay < inf):
                raise ConfigurationError(f"{name} must be 0 or more seconds, got {delay!r}")
        self.max_models = max_models
        self.max_retries = max_retries
        self.refused_elsewhere = refused_elsewhere
        self.base_delay = base_delay
        self.max_delay = max_delay
        check_mapping("chains", chains, "lists of model ids", by="model id")
        self._chains = {model: _chain(model, given) for model, given in (chains or {}).items()}
        self.has_chains = bool(self._chains)
        _refuse_cycles(self._chains)

    @property
    def named_models(self) -> frozenset[str]:
        """The models that chains speak of, for the router to check that they exist."""
        named = {model for chain in self._chains.values() for model in chain}
        return frozenset(named | self._chains.keys() - {DEFAULT_CHAIN})

    def chain_after(self, model_id: str) -> tuple[str, ...] | None:
        """Return the ids that follow a model, its fallbacks' own chains included, in order.

        None where no chain is configured for it: then the ranking decides.
        """
        if model_id not in self._chains and DEFAULT_CHAIN not in self._chains:
            return None
        following: dict[str, None] = {}
        self._follow(model_id, following)
        following.pop(model_id, None)
        return tuple(following)

    def _follow(self, model_id: str, following: dict[str, None]) -> None:
        chain = self._chains.get(model_id)
        if chain is None and not following:
            chain = self._chains.get(DEFAULT_CHAIN)
        for model in chain or ():
            if model not in following:
                following[model] = None
                self._follow(model, following)

    def allows(self, error: ProviderError, failed: ModelConfig, candidate: ModelConfig) -> bool:
        """Whether `candidate` may be asked after `failed` ended with `error`."""
        if self.rules_out_others(error):
            return False
        if isinstance(error, ContextTooLongError):
            return candidate.max_tokens > failed.max_tokens
        if isinstance(error, AuthenticationError):
            return candidate.provider != failed.provider
        if isinstance(error, (RateLimitedError, QuotaExhaustedError)):
            return failed.quota_group is None or candidate.quota_group != failed.quota_group
        return True

    def rules_out_others(self, error: ProviderError) -> bool:
        """Whether no other model may be asked after this kind of error, whoever had it."""
        if isinstance(error, ContentRefusedError):
            return not self.refused_elsewhere
        return not error.retry_elsewhere

    def retries_after(self, error: ProviderError) -> int:
        """How often the same model may be asked again after this kind of error."""
        return self.retries.get(error.kind, self.max_retries if error.retry_here else 0)

    def pause_before(
        self, retry: int, error: ProviderError, rng: random.Random, *, retry_after_cap: float = 60.0
    ) -> float:
        """Seconds to wait before a retry: full jitter over an exponentially growing span.

        Args:
            retry: 0 for the first retry.
            error: The error to be retried; its `retry_after` is waited for in any case.
            rng: Where the jitter comes from.
            retry_after_cap: Seconds of a `retry_after` that are heeded.

        Source: Brooker, Exponential Backoff and Jitter (AWS, 2015): `uniform(0, base * 2**n)`.
        """
        longest = min(self.max_delay, self.base_delay * 2**retry)
        return max(rng.uniform(0.0, longest), min(error.retry_after or 0.0, retry_after_cap))

    def __repr__(self) -> str:
        return f"<FallbackStrategy: {self.max_models} models, {self.max_retries} retries>"


def _refuse_unknown(kinds: Iterable[str]) -> None:
    known = sorted(_kinds_below(ProviderError))
    for kind in kinds:
        if kind not in known:
            raise ConfigurationError(
                f"retries: no error of a provider is of the kind {kind!r};"
                f" known are: {', '.join(known)}"
            )


def _kinds_below(error: type[ProviderError]) -> Iterator[str]:
    for each in error.__subclasses__():
        yield each.kind
        yield from _kinds_below(each)


def _chain(model: str, given: object) -> tuple[str, ...]:
    """The ids in a chain; one id is a chain, too."""
    chain = (given,) if isinstance(given, str) else given
    if not isinstance(chain, Iterable):
        raise ConfigurationError(f"chains[{model!r}] must be a list of model ids, got {given!r}")
    ids: list[str] = []
    for each in cast("Iterable[object]", chain):
        if not isinstance(each, str) or each == DEFAULT_CHAIN:
            raise ConfigurationError(
                f"chains[{model!r}] must name models by their ids, got {each!r}"
            )
        ids.append(each)
    return tuple(ids)


def _refuse_cycles(chains: Mapping[str, Iterable[str]]) -> None:
    finished: set[str] = set()

    def visit(model: str, path: tuple[str, ...]) -> None:
        if model in path:
            loop = " -> ".join((*path[path.index(model) :], model))
            raise ConfigurationError(f"fallback chains lead in a circle: {loop}")
        if model not in finished:
            for following in chains.get(model, ()):
                visit(following, (*path, model))
            finished.add(model)

    for model in chains:
        if model != DEFAULT_CHAIN:
            visit(model, ())
