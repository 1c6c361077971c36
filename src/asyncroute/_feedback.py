"""Ratings of answers: which request a rating belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from asyncroute._inputs import QueryRequest
    from asyncroute._observers import Observers
    from asyncroute._results import ExecutionResult

__all__ = ("Feedback",)


@final
class Feedback:
    """Remembers the last answers, as an observer, until they are rated.

    Args:
        observers: Who is told of ratings.
        most: How many answers are remembered.
    """

    __slots__ = ("_answers", "_most", "_observers")

    def __init__(self, observers: Observers, most: int = 4096) -> None:
        self._observers = observers
        self._most = most
        self._answers: dict[str, tuple[QueryRequest, ExecutionResult]] = {}

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        """Remember an answer, and forget the oldest."""
        if not result.success:
            return
        answers = self._answers
        answers[result.request_id] = (request, result)
        if len(answers) > self._most:
            del answers[next(iter(answers))]

    def rate(self, request_id: str, score: float) -> bool:
        """Tell everybody who learns how good an answer was, once.

        Returns:
            Whether the answer was remembered.

        Raises:
            ValueError: The score is not a number from 0 to 1.
        """
        if not isinstance(score, (int, float)) or not 0.0 <= score <= 1.0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"score must be a number from 0 to 1, got {score!r}")
        rated = self._answers.pop(request_id, None)
        if rated is None:
            return False
        self._observers.rated(*rated, score)
        return True

    def __repr__(self) -> str:
        return f"<Feedback: {len(self._answers)} answers to be rated>"
