"""The user's own call of a model, as a provider."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import final

from anyio import CapacityLimiter, to_thread

from asyncroute._errors import ProtocolError, UnavailableError
from asyncroute._estimate import input_tokens
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._protocols import Call
from asyncroute._results import ExecutionResult
from asyncroute._values import Completion, Usage

__all__ = ("Answer", "ExecutionFn", "FunctionProvider")

Answer = ExecutionResult | Completion | str
ExecutionFn = Callable[[ModelConfig, QueryRequest], Answer | Awaitable[Answer]]
"""Calls a model: a coroutine function, or a plain one, which runs in a worker thread."""


@final
class FunctionProvider:
    """Calls every model by one function.

    Args:
        execution_fn: The function.
        threads: Limits the worker threads for plain functions.
    """

    def __init__(self, execution_fn: ExecutionFn, threads: CapacityLimiter) -> None:
        self._execute = execution_fn
        self._threads = threads
        call = getattr(execution_fn, "__call__", None)  # noqa: B004 - an object may have an async one
        self._is_async = iscoroutinefunction(execution_fn) or iscoroutinefunction(call)

    async def complete(self, call: Call, /) -> Completion:
        """Call the function and take its answer in any of the three forms."""
        if self._is_async:
            answer = self._execute(call.model, call.request)
        else:
            answer = await _in_thread(
                partial(self._execute, call.model, call.request), self._threads
            )
        if isawaitable(answer):
            answer = await answer
        if isinstance(answer, Completion):
            return answer
        if isinstance(answer, str):
            return Completion(answer)
        if isinstance(answer, ExecutionResult):  # pyright: ignore[reportUnnecessaryIsInstance]
            return _completion_of(answer, call)
        raise ProtocolError(
            "execution_fn must return an ExecutionResult, a Completion or a str,"
            f" not {type(answer).__name__}"
        )


def _completion_of(result: ExecutionResult, call: Call) -> Completion:
    call.cost = result.actual_cost
    if not result.success:
        raise result.exception or UnavailableError(
            result.error or "execution_fn reported a failure"
        )
    usage = result.usage
    if usage is None:
        tokens_in = min(input_tokens(call.request), result.tokens_used)
        usage = Usage(tokens_in, result.tokens_used - tokens_in)
    return Completion(result.response or "", usage, result.finish_reason, result.tool_calls)


async def _in_thread(
    function: Callable[[], Answer | Awaitable[Answer]], threads: CapacityLimiter
) -> Answer | Awaitable[Answer]:
    """Run a plain function in a worker thread; a cancellation is held back until it has ended.

    A thread cannot be cancelled. Its attempt stays until it ends, so that its slot stays taken.
    """
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    ticket = [True]  # whoever pops it first decides whether the function still starts: atomic

    def work() -> Answer | Awaitable[Answer]:
        ticket.pop()
        try:
            return function()
        finally:
            with suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(_set_once, ended)

    try:
        return await to_thread.run_sync(work, limiter=threads)
    except asyncio.CancelledError:
        try:
            ticket.pop()
        except IndexError:
            await ended
        raise


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():  # nobody may be waiting any more
        future.set_result(None)
