"""Telling observers: each what it implements, and none of them is ever felt."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from inspect import iscoroutinefunction
from typing import final

from asyncroute._errors import ConfigurationError
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Call, Observer, OnAttempt, OnFeedback, OnResult, OnStart
from asyncroute._results import ExecutionResult
from asyncroute._values import Attempt

__all__ = ("Observers",)

_METHODS = ("on_start", "on_attempt", "on_result", "on_feedback")

_log = logging.getLogger("asyncroute")


@final
class Observers:
    """All observers of one router. Without any it is false, and need not be asked.

    Args:
        observers: Each implements at least one of `on_start`, `on_attempt`, `on_result`,
            `on_feedback`.

    Attributes:
        failures: How often an observer raised.

    Raises:
        ConfigurationError: One implements none of them.
    """

    __slots__ = ("_all", "_on_attempt", "_on_feedback", "_on_result", "_on_start", "failures")

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._all: list[Observer] = []
        self._on_start: list[OnStart] = []
        self._on_attempt: list[OnAttempt] = []
        self._on_result: list[OnResult] = []
        self._on_feedback: list[OnFeedback] = []
        self.failures = 0
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """Tell this one, too; once, though it be added twice.

        Raises:
            ConfigurationError: It implements none of the methods.
        """
        if not any(hasattr(observer, name) for name in _METHODS):
            raise ConfigurationError(f"observer {observer!r} has none of {', '.join(_METHODS)}")
        if isinstance(observer, type):
            raise ConfigurationError(f"observer {observer.__name__} is a class: give an object")
        for name in _METHODS:
            if iscoroutinefunction(getattr(observer, name, None)):
                raise ConfigurationError(
                    f"{name} of observer {observer!r} is async: it must be a plain function"
                )
        if any(known is observer for known in self._all):
            return
        self._all.append(observer)
        if isinstance(observer, OnStart):
            self._on_start.append(observer)
        if isinstance(observer, OnAttempt):
            self._on_attempt.append(observer)
        if isinstance(observer, OnResult):
            self._on_result.append(observer)
        if isinstance(observer, OnFeedback):
            self._on_feedback.append(observer)

    @property
    def learn(self) -> bool:
        """Whether anybody learns from ratings."""
        return bool(self._on_feedback)

    def __bool__(self) -> bool:
        return bool(self._all)

    def started(self, call: Call) -> Sequence[AbstractContextManager[object]]:
        """Tell that a provider is about to be called; return the contexts held meanwhile."""
        held: list[AbstractContextManager[object]] = []
        for observer in self._on_start:
            try:
                context = observer.on_start(call)
                if context is not None:
                    context.__enter__()
                    held.append(context)
            except Exception:
                self._failed(observer)
        return held

    def ended(
        self, held: Sequence[AbstractContextManager[object]], error: BaseException | None
    ) -> None:
        """Leave the contexts, in reverse order. What they return is ignored."""
        for context in reversed(held):
            try:
                if error is None:
                    context.__exit__(None, None, None)
                else:
                    context.__exit__(type(error), error, error.__traceback__)
            except Exception:
                self._failed(context)

    def attempted(self, request: QueryRequest, attempts: Sequence[Attempt]) -> None:
        """Tell of every attempt of a request that was decided."""
        for observer in self._on_attempt:
            for attempt in attempts:
                try:
                    observer.on_attempt(request, attempt)
                except Exception:
                    self._failed(observer)

    def resulted(self, request: QueryRequest, result: ExecutionResult) -> None:
        """Tell of a result."""
        for observer in self._on_result:
            try:
                observer.on_result(request, result)
            except Exception:
                self._failed(observer)

    def rated(self, request: QueryRequest, result: ExecutionResult, score: float) -> None:
        """Tell of a rating."""
        for observer in self._on_feedback:
            try:
                observer.on_feedback(request, result, score)
            except Exception:
                self._failed(observer)

    def _failed(self, observer: object) -> None:
        self.failures += 1
        _log.exception("observer %s raised", type(observer).__name__)
