"""What became of a request: its result, and the names of its attempts' outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncroute._errors import (
    AllAttemptsFailedError,
    AsyncRouteError,
    DeadlineExceededError,
    NoEligibleModelError,
    ProviderError,
    StreamInterruptedError,
)
from asyncroute._results import ExecutionResult, decided
from asyncroute._values import Attempt, Outcome

if TYPE_CHECKING:
    from asyncroute._attempt import Try
    from asyncroute._course import Course
    from asyncroute._stream_try import StreamTry

__all__ = ("answered", "failed", "refused", "reported", "reports", "streamed", "why_failed")


def reports(course: Course, winner: Try | None, now: float) -> tuple[Attempt, ...]:
    """Describe all attempts as they stand when the request commits."""
    return tuple([attempt.report(_outcome_of(attempt, winner), now) for attempt in course.tries])


def _outcome_of(attempt: Try, winner: Try | None) -> Outcome:
    if attempt.is_refused:
        return "not_accepted"
    if attempt is winner:
        return "won"
    if attempt.stopped_by is not None:
        return attempt.stopped_by
    if attempt.completion is not None:
        return "superseded"
    error = attempt.error
    if attempt.was_shed:
        return "shed"
    if error is not None and error.kind == "attempt_timeout":
        return "timed_out"
    return "failed" if error is not None else "superseded"


def answered(course: Course, winner: Try, request_id: str, now: float) -> ExecutionResult:
    """The result of a request that has an answer."""
    completion, usage, cost = winner.completion, winner.usage, winner.cost
    assert completion is not None
    if len(course.tries) == 1 and not winner.is_refused:  # most of all
        attempts = (winner.report("won", now),)
    else:
        attempts = reports(course, winner, now)
        cost = sum([attempt.cost for attempt in course.tries])
    return ExecutionResult(
        True,
        winner.endpoint.model_id,
        (now - course.started_at) * 1000,
        cost,
        0 if usage is None else usage.input_tokens + usage.output_tokens,
        completion.text,
        None,
        None,
        usage,
        completion.finish_reason,
        completion.tool_calls,
        attempts,
        decided(course.choice),
        False,
        winner.served.is_simulated,
        request_id,
    )


def failed(course: Course, request_id: str, now: float) -> ExecutionResult:
    """The result of a request that was attempted in vain."""
    attempts = reports(course, None, now)
    error = why_failed(course, attempts, now)
    reached = [attempt for attempt in course.tries if attempt.sent_at is not None]
    last = reached[-1] if reached else None
    result = ExecutionResult(
        success=False,
        model_id=None if last is None else last.endpoint.model_id,
        actual_latency_ms=(now - course.started_at) * 1000,
        actual_cost=sum(attempt.cost for attempt in course.tries),
        tokens_used=0,
        response=None,
        error=str(error),
        error_kind=error.kind,
        attempts=attempts,
        decision=decided(course.choice),
        simulated=last is not None and last.served.is_simulated,
        request_id=request_id,
    )
    result.fail_with(error)
    return result


def refused(error: AsyncRouteError, request_id: str, latency: float) -> ExecutionResult:
    """The result of a request that never got as far as an attempt."""
    result = ExecutionResult(
        success=False,
        model_id=None,
        actual_latency_ms=latency * 1000,
        actual_cost=0.0,
        tokens_used=0,
        response=None,
        error=str(error),
        error_kind=error.kind,
        request_id=request_id,
    )
    result.fail_with(error)
    return result


def streamed(course: Course, attempt: StreamTry, request_id: str, now: float) -> ExecutionResult:
    """The result of a stream that committed: complete, or broken off with the text so far."""
    completion, usage, error = attempt.completion, attempt.usage, attempt.error
    if completion is None and error is None:
        error = StreamInterruptedError("the stream was left before its end", text=attempt.text)
    result = ExecutionResult(
        success=completion is not None,
        model_id=attempt.endpoint.model_id,
        actual_latency_ms=((attempt.ended_at or now) - course.started_at) * 1000,
        actual_cost=sum(each.cost for each in course.tries),
        tokens_used=0 if usage is None else usage.total_tokens,
        response=attempt.text,
        error=None if error is None else str(error),
        error_kind=None if error is None else error.kind,
        usage=usage,
        finish_reason=None if completion is None else completion.finish_reason,
        tool_calls=() if completion is None else completion.tool_calls,
        attempts=reports(course, attempt, now),
        decision=decided(course.choice),
        simulated=attempt.served.is_simulated,
        request_id=request_id,
    )
    if error is not None:
        result.fail_with(error)
    return result


def why_failed(course: Course, attempts: tuple[Attempt, ...], now: float) -> AsyncRouteError:
    """Name the one reason for which a request failed."""
    errors = [attempt.error for attempt in course.tries if attempt.error is not None]
    called = [error for error in errors if isinstance(error, ProviderError)]
    if now >= course.deadline:
        timeout = course.deadline - course.started_at
        return DeadlineExceededError(
            f"no answer within {timeout:.3g} s{_listed(attempts)}", attempts=attempts
        )
    if called:
        failure = AllAttemptsFailedError(
            f"all attempts failed{_listed(attempts)}",
            attempts=attempts,
            retry_after=max((error.retry_after or 0.0 for error in called), default=0.0) or None,
        )
        failure.__cause__ = called[0]
        return failure
    if errors:
        return errors[0]
    retry_after = course.earliest_return(now)
    when = "" if retry_after is None else f"; the first is back in {retry_after:.3g} s"
    return NoEligibleModelError(
        f"every model that may serve the request is set aside{when}", retry_after=retry_after
    )


def _listed(attempts: tuple[Attempt, ...]) -> str:
    said = [f"{each.model_id} ({each.role}): {each.error or each.outcome}" for each in attempts]
    return f": {'; '.join(said)}" if said else ""


def reported(course: Course, attempt: Try, request_id: str, now: float) -> ExecutionResult:
    """The result of one attempt among several whose answers are all wanted."""
    winner = None if attempt.completion is None else attempt
    report = attempt.report(_outcome_of(attempt, winner), now)
    completion, usage, error = attempt.completion, attempt.usage, attempt.error
    result = ExecutionResult(
        success=completion is not None,
        model_id=report.model_id,
        actual_latency_ms=((attempt.ended_at or now) - course.started_at) * 1000,
        actual_cost=attempt.cost,
        tokens_used=0 if completion is None or usage is None else usage.total_tokens,
        response=None if completion is None else completion.text,
        error=None if error is None else str(error),
        error_kind=None if error is None else error.kind,
        usage=usage,
        finish_reason=None if completion is None else completion.finish_reason,
        tool_calls=() if completion is None else completion.tool_calls,
        attempts=(report,),
        decision=decided(course.choice),
        simulated=attempt.served.is_simulated,
        request_id=request_id,
    )
    if error is not None:
        result.fail_with(error)
    return result
