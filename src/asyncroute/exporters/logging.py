"""Requests in the log: a line for each result, and one for each attempt that failed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast, final

from asyncroute._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncroute._inputs import Message, QueryRequest
    from asyncroute._results import ExecutionResult
    from asyncroute._values import Attempt

__all__ = ("LoggingObserver",)

_HIDDEN = "[prompt]"


@final
class LoggingObserver:
    """Logs every result, and as a warning every attempt that failed.

    A record has its figures as attributes, for structured logs: `llm_request_id`, `llm_strategy`,
    `llm_capability`, `llm_model_id`, `llm_success`, `llm_error_kind`, `llm_error`,
    `llm_latency_ms`, `llm_cost` (dollars), `llm_input_tokens`, `llm_output_tokens`, `llm_attempts`,
    `llm_cached` and `llm_simulated` for a result; `llm_model_id`, `llm_role`, `llm_outcome`,
    `llm_queued` and `llm_duration` (seconds), `llm_cost`, `llm_error_kind` and `llm_error` for an
    attempt. Attempts are told of when their request is decided. An attempt that lost, was cancelled
    with its caller or was not accepted has not failed.

    Neither `params` nor `metadata` is ever logged. It logs from the event loop: a handler that may
    block belongs behind a `logging.handlers.QueueHandler`.

    Args:
        logger: Where to; by default the logger `asyncroute.requests`.
        level: Of the lines for results.
        log_prompts: Whether a result's record has `llm_prompt` and `llm_response`, too. If not, the
            texts of the query are cut out of errors that quote them in full.
    """

    __slots__ = ("_level", "_logger", "_with_prompts")

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        level: int = logging.INFO,
        log_prompts: bool = False,
    ) -> None:
        if logger is not None and not hasattr(logger, "isEnabledFor"):
            raise ConfigurationError(f"logger must be a logging.Logger, got {logger!r}")
        if not isinstance(level, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"level must be a number, as logging.INFO, got {level!r}")
        self._logger = logger or logging.getLogger("asyncroute.requests")
        self._level = level
        self._with_prompts = log_prompts

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None:
        """Log an attempt that failed."""
        if attempt.error_kind is None or not self._logger.isEnabledFor(logging.WARNING):
            return
        error = self._error(request, attempt.error)
        self._logger.warning(
            "%s at %s %s after %.0f ms: %s",
            attempt.role,
            attempt.model_id,
            attempt.outcome.replace("_", " "),
            (attempt.queued + attempt.duration) * 1000,
            error or attempt.error_kind,
            extra={
                "llm_model_id": attempt.model_id,
                "llm_role": attempt.role,
                "llm_outcome": attempt.outcome,
                "llm_queued": attempt.queued,
                "llm_duration": attempt.duration,
                "llm_cost": attempt.cost,
                "llm_error_kind": attempt.error_kind,
                "llm_error": error,
            },
        )

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        """Log a result."""
        if not self._logger.isEnabledFor(self._level):
            return
        error = self._error(request, result.error)
        extra = self._figures(request, result, error)
        if result.success:
            self._logger.log(
                self._level,
                "%s by %s in %.0f ms for $%.6f: %d tokens, %d attempts",
                "answered from the cache" if result.cached else "answered",
                result.model_id,
                result.actual_latency_ms,
                result.actual_cost,
                result.tokens_used,
                len(result.attempts),
                extra=extra,
            )
        else:
            self._logger.log(
                self._level,
                "failed after %.0f ms for $%.6f, %d attempts: %s",
                result.actual_latency_ms,
                result.actual_cost,
                len(result.attempts),
                error or result.error_kind,
                extra=extra,
            )

    def _figures(
        self, request: QueryRequest, result: ExecutionResult, error: str | None
    ) -> dict[str, Any]:
        # Prefixed: where a record factory of the user's sets `request_id`, logging refuses ours.
        decision, usage = result.decision, result.usage
        figures: dict[str, Any] = {
            "llm_request_id": result.request_id,
            "llm_strategy": request.strategy if decision is None else decision.strategy,
            "llm_capability": request.capability,
            "llm_model_id": result.model_id,
            "llm_success": result.success,
            "llm_error_kind": result.error_kind,
            "llm_error": error,
            "llm_latency_ms": result.actual_latency_ms,
            "llm_cost": result.actual_cost,
            "llm_input_tokens": 0 if usage is None else usage.input_tokens,
            "llm_output_tokens": 0 if usage is None else usage.output_tokens,
            "llm_attempts": len(result.attempts),
            "llm_cached": result.cached,
            "llm_simulated": result.simulated,
        }
        if self._with_prompts:
            figures["llm_prompt"] = request.chat
            figures["llm_response"] = result.response
        return figures

    def _error(self, request: QueryRequest, error: str | None) -> str | None:
        """The error's text, without the query: providers and users' functions may quote it."""
        if error is None or self._with_prompts:
            return error
        for text in sorted(_texts(request.chat), key=len, reverse=True):
            error = error.replace(text, _HIDDEN)
        return error

    def __repr__(self) -> str:
        return f"<LoggingObserver to {self._logger.name!r}>"


def _texts(messages: tuple[Message, ...]) -> Iterator[str]:
    """The texts of a conversation, also those of messages in parts, but for trivial ones."""
    for message in messages:
        content: object = message.get("content")
        parts = cast("list[object]", content) if isinstance(content, list) else [{"text": content}]
        for part in parts:
            text = cast("Message", part).get("text") if isinstance(part, dict) else part
            if isinstance(text, str) and len(text) > 3:
                yield text
