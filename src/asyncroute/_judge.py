"""Judges: what an attempt's end means for the request. One small class for each way to win."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from inspect import isawaitable
from typing import Protocol, final

from asyncroute._attempt import Try
from asyncroute._deadlines import Deadlines, RanOutError, within
from asyncroute._protocols import Accept, Agree

__all__ = ("Accepting", "Everything", "FirstAnswer", "Judge", "Quorum", "Verdict", "same_answer")


class Verdict(Enum):
    """What follows after an attempt has ended."""

    WIN = auto()
    """It answers the request."""
    NEXT = auto()
    """Another one is to be started."""
    WAIT = auto()
    """Those that run are waited for."""


class Judge(Protocol):
    """Decides after each end, in the caller's task.

    Its own time is nobody's latency and holds no slot.
    """

    @property
    def takes_first_answer(self) -> bool:
        """Whether any answer wins, so that one may stop the others before it is judged."""
        ...

    async def judge(self, attempt: Try, running: int) -> Verdict:
        """Say what follows after `attempt` has ended, with `running` others still out."""
        ...

    def best(self) -> Try | None:
        """Return what answers the request where nothing has won: an answer not accepted."""
        ...


@final
class FirstAnswer:
    """The first answer wins; a failure starts the next attempt."""

    takes_first_answer = True

    async def judge(self, attempt: Try, running: int) -> Verdict:
        """Win with any answer."""
        return Verdict.WIN if attempt.has_answer else Verdict.NEXT

    def best(self) -> Try | None:
        """Nothing: an answer would have won."""
        return None


@final
class Accepting:
    """A cascade: an answer wins if it is accepted, else the next model is asked.

    Args:
        accept: The user's predicate, plain or a coroutine function.
        deadlines: Timers.
        deadline: The instant at which a predicate that still ponders is given up.
    """

    takes_first_answer = False

    def __init__(self, accept: Accept, deadlines: Deadlines, deadline: float) -> None:
        self._accept = accept
        self._deadlines = deadlines
        self._deadline = deadline
        self._last: Try | None = None

    async def judge(self, attempt: Try, running: int) -> Verdict:
        """Ask the predicate. One that raises is the caller's mistake and raises through."""
        completion = attempt.completion
        if completion is None:
            return Verdict.NEXT
        self._last = attempt
        accepted = self._accept(completion)
        if isawaitable(accepted):
            try:
                accepted = await within(self._deadlines, self._deadline, accepted)
            except RanOutError:
                attempt.is_refused = True
                return Verdict.WAIT
        if accepted:
            return Verdict.WIN
        attempt.is_refused = True
        return Verdict.NEXT

    def best(self) -> Try | None:
        """The last answer."""
        return self._last


@final
class Quorum:
    """A vote: so many answers that agree win; where they cannot any more, one more is asked.

    Args:
        quorum: How many must agree: the weight that wins.
        agree: Whether two answers say the same; compares normalised text by default.
        weights: What a model's answer counts, by model id; others count 1.
    """

    takes_first_answer = False

    def __init__(
        self,
        quorum: int,
        agree: Agree | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._quorum = quorum
        self._agree = agree or same_answer
        self._weights = weights or {}
        self._camps: list[list[Try]] = []

    async def judge(self, attempt: Try, running: int) -> Verdict:
        """Count the vote."""
        if attempt.completion is not None:
            camp = self._camp_of(attempt.completion.text)
            camp.append(attempt)
            if self._weight(camp) >= self._quorum:
                return Verdict.WIN
        # Those that run are taken to count 1: a heavier one may make what was started too much.
        largest = max(map(self._weight, self._camps), default=0)
        return Verdict.WAIT if largest + running >= self._quorum else Verdict.NEXT

    def _camp_of(self, text: str) -> list[Try]:
        for camp in self._camps:
            first = camp[0].completion
            if first is not None and self._agree(first.text, text):
                return camp
        self._camps.append([])
        return self._camps[-1]

    def best(self) -> Try | None:
        """An answer of the largest camp."""
        return max(self._camps, key=self._weight)[0] if self._camps else None

    def _weight(self, camp: Sequence[Try]) -> float:
        weights = self._weights
        if not weights:
            return len(camp)
        return sum(weights.get(attempt.endpoint.config.model_id, 1.0) for attempt in camp)


@final
class Everything:
    """All answers are wanted: nothing wins, nothing follows."""

    takes_first_answer = False

    async def judge(self, attempt: Try, running: int) -> Verdict:
        """Wait for the others."""
        return Verdict.WAIT

    def best(self) -> Try | None:
        """Nothing in particular."""
        return None


def same_answer(one: str, other: str) -> bool:
    """Whether two answers say the same: equal JSON, else equal text but for case and space."""
    values: list[object] = []
    for text in (one, other):
        try:
            values.append(json.loads(text))
        except ValueError:
            return _normalised(one) == _normalised(other)
    return values[0] == values[1]


def _normalised(text: str) -> Sequence[str]:
    return text.casefold().strip().rstrip(".!").split()
