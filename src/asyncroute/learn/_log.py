"""Rated answers in a file: what a fit and `asyncroute eval` read."""

from __future__ import annotations

import json
import os
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Self, final

import anyio.to_thread

from asyncroute._errors import RouterStateError
from asyncroute.learn._asked import text_of

if TYPE_CHECKING:
    from types import TracebackType

    from asyncroute._inputs import QueryRequest
    from asyncroute._results import ExecutionResult

__all__ = ("OutcomeLog",)


@final
class OutcomeLog:
    """An observer that writes every rated answer (`router.feedback`) to a file of JSON lines.

    ::

        async with OutcomeLog("outcomes.jsonl") as log, LLMRouter(..., observers=[log]) as router:
            for result in await router.execute_all("What is 6 * 7?", width=9):
                await router.feedback(result, 1.0 if result.response == "42" else 0.0)

    A line has `prompt`, `model`, `score` (0 to 1), `cost_usd` (of the answer alone; null where it
    came from a cache), `task` (the request's `metadata["task"]`, else its capability), and unless
    turned off `answer`. Lines are added to the file by a thread of its own: the event loop never
    waits for the disk. `read_dataset` reads the file; prompts are in it, so keep it as you keep
    them.

    Args:
        path: The file; it is created, or continued.
        with_answers: Whether to write what was answered, which cascades are learned from.

    Raises:
        OSError: On entering, when the file cannot be opened; on leaving, when it could not be
            written. Serving goes on meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], *, with_answers: bool = True) -> None:
        self._path = os.fspath(path)
        self._with_answers = with_answers
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._error: OSError | None = None
        self._is_open = False

    async def __aenter__(self) -> Self:
        if self._thread is not None:
            raise RouterStateError("an outcome log is entered once")
        await anyio.to_thread.run_sync(self._touch)
        self._thread = Thread(target=self._write, name="asyncroute outcome log", daemon=True)
        self._thread.start()
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until everything is written, also when cancelled."""
        assert self._thread is not None
        self._is_open = False
        self._lines.put(None)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join)
        if self._error is not None and error is None:
            raise self._error

    def on_feedback(self, request: QueryRequest, result: ExecutionResult, score: float, /) -> None:
        """Write the line of a rated answer.

        Raises:
            RouterStateError: Outside of `async with`, where nobody would write it.
        """
        if not self._is_open:
            raise RouterStateError("use the outcome log inside of its `async with`")
        cost = next((a.cost for a in result.attempts if a.outcome == "won"), None)
        line: dict[str, object] = {
            "prompt": text_of(request),
            "model": result.model_id,
            "score": score,
            "cost_usd": cost,
            "task": str(request.metadata.get("task", request.capability)),
        }
        if self._with_answers:
            line["answer"] = result.response
        self._lines.put(json.dumps(line, ensure_ascii=False) + "\n")

    def _touch(self) -> None:
        with open(self._path, "a", encoding="utf-8"):
            pass

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                # Opened anew for a line that comes alone: a file that was moved away is made anew.
                with open(self._path, "a", encoding="utf-8", errors="replace") as file:
                    file.write(line)
                    while not self._lines.empty():
                        following = self._lines.get()
                        if following is None:
                            return
                        file.write(following)
            except OSError as error:
                self._error = error

    def __repr__(self) -> str:
        return f"<OutcomeLog {self._path}>"
