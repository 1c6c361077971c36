"""The manager for scripts, notebooks and threads: the same methods, which block instead of await.

::

    from asyncroute.blocking import LLMRoutingManager

    manager = LLMRoutingManager()
    result = manager.execute_query("Why is the sky blue?")

An event loop runs in a thread of its own, from the first call to `close()`, the end of the `with`
block or of the program. Any number of threads may call at once; everything happens in that loop.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
from contextlib import suppress
from functools import partial
from threading import Lock, RLock, Thread, current_thread
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, cast, final
from weakref import finalize

import anyio

from asyncroute import manager as _manager
from asyncroute._errors import RouterStateError

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from asyncroute._assembly import Providers
    from asyncroute._function import ExecutionFn
    from asyncroute._inputs import Message, ModelConfig, QueryRequest, RequestFields
    from asyncroute._modes import Mode
    from asyncroute._protocols import Accept, ModelSelector
    from asyncroute._results import ExecutionResult, RoutingDecision
    from asyncroute._router import LLMRouter as AsyncRouter
    from asyncroute.config import RouterConfig
    from asyncroute.manager import ExecutionFields, RoutingFields

    Exit = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]

__all__ = ("LLMRouter", "LLMRoutingManager")

_S = TypeVar("_S")
_T = TypeVar("_T")

_log = logging.getLogger("asyncroute")


@final
class LLMRoutingManager:
    """`asyncroute.LLMRoutingManager` for code that does not await; thread-safe.

    It opens on the first call, and closes with `close()` or at the end of a `with` block: both let
    calls in flight finish. One that is dropped, or left to the end of the program, closes by
    itself. A `KeyboardInterrupt` cancels the call that waits; what it cost is booked.

    What you pass in (providers, `accept`, selectors) runs in the manager's own event loop, and must
    not block there; a plain `execution_fn` runs in a worker thread.

    Args:
        config: As for `asyncroute.LLMRoutingManager`.
        providers: As for `asyncroute.LLMRoutingManager`.
        seed: As for `asyncroute.LLMRoutingManager`.

    Raises:
        ConfigurationError: The configuration is wrong; names key and value.

    Every method raises `RouterStateError` inside of a running event loop, which it would block
    (cells of a notebook are let through), and after the manager was closed. Else methods raise what
    those of `asyncroute.LLMRoutingManager` raise; that an environment variable is missing is found
    on entering or on the first execution.
    """

    __slots__ = ("__weakref__", "_bridge")

    def __init__(
        self,
        config: Mapping[str, Any] | RouterConfig | None = None,
        *,
        providers: Providers | None = None,
        seed: int | None = None,
    ) -> None:
        self._bridge = _Bridge(_manager.LLMRoutingManager(config, providers=providers, seed=seed))

    def __enter__(self) -> Self:
        self._bridge.run(_nothing, opens=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bridge.close((kind, error, traceback))

    def close(self) -> None:
        """Let calls in flight finish, 10 s at most, and close everything. Again: does nothing."""
        self._bridge.close((None, None, None))

    @property
    def router(self) -> LLMRouter:
        """The router for what is not simulated."""
        return LLMRouter(self._bridge)

    @property
    def config(self) -> RouterConfig:
        """The configuration with the models as they are now, references unresolved."""
        manager = self._bridge.manager
        return self._bridge.run_plain(lambda: manager.config)

    def route_query(
        self,
        query: str | Sequence[Message],
        capability: str = "general",
        strategy: str | ModelSelector = "balanced",
        **fields: Unpack[RoutingFields],
    ) -> dict[str, Any]:
        """Choose a model for a query. See `asyncroute.LLMRoutingManager.route_query`."""
        route = self._bridge.manager.route_query
        return self._bridge.run(partial(route, query, capability, strategy, **fields))

    def execute_query(
        self,
        query: str | Sequence[Message],
        capability: str = "general",
        strategy: str | ModelSelector | None = None,
        mock_execution: bool | None = None,
        **fields: Unpack[ExecutionFields],
    ) -> dict[str, Any]:
        """Answer a query. See `asyncroute.LLMRoutingManager.execute_query`."""
        execute = self._bridge.manager.execute_query
        work = partial(execute, query, capability, strategy, mock_execution, **fields)
        return self._bridge.run(work, opens=True)

    def get_statistics(self, *, mock_execution: bool | None = None) -> dict[str, Any]:
        """Return all figures. See `asyncroute.LLMRoutingManager.get_statistics`."""
        get_statistics = self._bridge.manager.get_statistics
        return self._bridge.run(partial(get_statistics, mock_execution=mock_execution))

    def benchmark_strategies(
        self, test_queries: Iterable[Mapping[str, Any] | str], iterations: int = 100
    ) -> dict[str, dict[str, Any]]:
        """Compare strategies. See `asyncroute.LLMRoutingManager.benchmark_strategies`."""
        benchmark = self._bridge.manager.benchmark_strategies
        return self._bridge.run(partial(benchmark, test_queries, iterations))

    def export_config(self, filepath: str | os.PathLike[str]) -> dict[str, str]:
        """Write the configuration. See `asyncroute.LLMRoutingManager.export_config`."""
        return self._bridge.run(partial(self._bridge.manager.export_config, filepath))

    def import_config(self, filepath: str | os.PathLike[str]) -> tuple[str, ...]:
        """Take over a configuration. See `asyncroute.LLMRoutingManager.import_config`."""
        return self._bridge.run(partial(self._bridge.manager.import_config, filepath))

    def __repr__(self) -> str:
        return f"<blocking {repr(self._bridge.manager)[1:]}"


@final
class LLMRouter:
    """`asyncroute.LLMRouter` for code that does not await: `router` of a blocking manager.

    All of it may be called from any thread. There are no streams here.
    """

    __slots__ = ("_bridge",)

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    @property
    def _router(self) -> AsyncRouter:
        # Importing a configuration may replace it.
        return self._bridge.manager.router

    def route(
        self,
        query: QueryRequest | str | Sequence[Message],
        *,
        strategy: str | ModelSelector | None = None,
        **fields: Unpack[RequestFields],
    ) -> RoutingDecision:
        """Choose a model without calling it. See `asyncroute.LLMRouter.route`."""
        return self._bridge.run(partial(self._router.route, query, strategy=strategy, **fields))

    def execute(
        self,
        query: QueryRequest | str | Sequence[Message],
        *,
        strategy: str | ModelSelector | None = None,
        mode: Mode | None = None,
        width: int | None = None,
        hedge_after: float | None = None,
        accept: Accept | None = None,
        **fields: Unpack[RequestFields],
    ) -> ExecutionResult:
        """Answer a query by the best model. See `asyncroute.LLMRouter.execute`."""
        work = partial(
            self._router.execute,
            query,
            strategy=strategy,
            mode=mode,
            width=width,
            hedge_after=hedge_after,
            accept=accept,
            **fields,
        )
        return self._bridge.run(work, opens=True)

    def execute_all(
        self,
        query: QueryRequest | str | Sequence[Message],
        *,
        width: int = 3,
        strategy: str | ModelSelector | None = None,
        **fields: Unpack[RequestFields],
    ) -> list[ExecutionResult]:
        """Ask several models and wait for all. See `asyncroute.LLMRouter.execute_all`."""
        work = partial(self._router.execute_all, query, width=width, strategy=strategy, **fields)
        return self._bridge.run(work, opens=True)

    def execute_with_fallback(
        self,
        request: QueryRequest,
        execution_fn: ExecutionFn,
        *,
        mode: Mode | None = None,
        width: int | None = None,
        hedge_after: float | None = None,
        accept: Accept | None = None,
    ) -> ExecutionResult:
        """Execute by your own call of a model. See `asyncroute.LLMRouter.execute_with_fallback`.

        A plain `execution_fn` runs in a worker thread: several of them may run at once.
        """
        work = partial(
            self._router.execute_with_fallback,
            request,
            execution_fn,
            mode=mode,
            width=width,
            hedge_after=hedge_after,
            accept=accept,
        )
        return self._bridge.run(work, opens=True)

    def feedback(self, result: ExecutionResult | str, score: float) -> bool:
        """Rate an answer. See `asyncroute.LLMRouter.feedback`."""
        return self._bridge.run(partial(self._router.feedback, result, score), opens=True)

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names of the strategies known here."""
        return self._bridge.run_plain(lambda: self._router.strategies)

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """The models as configured now."""
        return self._bridge.run_plain(lambda: self._router.models)

    def register_selector(self, name: str, selector: ModelSelector) -> None:
        """Make a selector known. See `asyncroute.LLMRouter.register_selector`."""
        self._bridge.run_plain(lambda: self._router.register_selector(name, selector))

    def add_model(self, model: ModelConfig | Mapping[str, Any]) -> None:
        """Add a model, live. See `asyncroute.LLMRouter.add_model`."""
        self._bridge.run_plain(lambda: self._router.add_model(model))

    def update_model(self, model_id: str, **changes: Any) -> None:
        """Change fields of a model, live. See `asyncroute.LLMRouter.update_model`."""
        self._bridge.run_plain(lambda: self._router.update_model(model_id, **changes))

    def update_model_availability(self, model_id: str, is_available: bool) -> None:
        """Switch a model on or off. See `asyncroute.LLMRouter.update_model_availability`."""
        self.update_model(model_id, is_available=is_available)

    def remove_model(self, model_id: str) -> None:
        """Remove a model, live. See `asyncroute.LLMRouter.remove_model`."""
        self._bridge.run_plain(lambda: self._router.remove_model(model_id))

    def get_statistics(self) -> dict[str, Any]:
        """Return what requests and models came to. See `asyncroute.LLMRouter.get_statistics`."""
        return self._bridge.run_plain(lambda: self._router.get_statistics())

    def __repr__(self) -> str:
        return f"<blocking {repr(self._router)[1:]}"


@final
class _Bridge:
    """Takes calls from all threads to the loop in which the manager lives.

    The faces hold it, and the loop's thread does not: when the last face has gone, the loop ends.

    A Ctrl-C may strike a caller between any two instructions of Python. Locks that are written in
    Python (`Condition`, and with it `Event`, `Future` and anyio's portal) are then left locked for
    good, here by one thread for all. So callers meet the loop over plain locks only.
    """

    __slots__ = ("__weakref__", "_gate", "_is_closed", "_life", "manager")

    def __init__(self, manager: _manager.LLMRoutingManager) -> None:
        self.manager = manager
        self._life = _Life(manager)
        self._gate = RLock()  # a signal's handler may call, too
        self._is_closed = False
        # Not at exit: that is for the one that waits until all is closed.
        finalize(self, self._life.let_go).atexit = False

    def run(self, work: Callable[[], Awaitable[_T]], *, opens: bool = False) -> _T:
        """Run a coroutine function in the loop and wait for what it returns.

        Args:
            work: The function.
            opens: Whether it needs the manager to be open.

        Raises:
            RouterStateError: The calling thread runs an event loop, or the manager was closed.
            KeyboardInterrupt: It came while waiting; the call has been cancelled.
        """
        self._refuse_in_loop()
        call = _Call(partial(self._life.opened, work) if opens else work)
        try:
            # What is sent before the loop is told to end is served before it ends.
            with self._gate:
                if self._is_closed:
                    raise RouterStateError("the manager is closed")
                self._life.send(call)
            return call.wait()
        except BaseException:
            self._life.give_up(call)
            raise

    def run_plain(self, work: Callable[[], _T]) -> _T:
        """Run a plain function in the loop; see `run`."""

        async def run() -> _T:
            return work()

        return self.run(run)

    def close(self, why: Exit) -> None:
        """Leave the manager and end the loop; wait until both are done."""
        self._refuse_in_loop()
        with self._gate:
            self._is_closed = True
        self._life.end(why)

    def _refuse_in_loop(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._life.is_in(running) or not _is_in_notebook():
            raise RouterStateError(
                "asyncroute.blocking would block the event loop that runs here:"
                " use asyncroute.LLMRoutingManager and await its methods"
            )


@final
class _Call(Generic[_T]):
    """One call: what it is to do, and what it came to."""

    __slots__ = ("_error", "_has_ended", "_result", "_work", "task")

    def __init__(self, work: Callable[[], Awaitable[_T]]) -> None:
        self._work = work
        self.task: asyncio.Task[None] | None = None
        self._result: _T | None = None
        self._error: BaseException | None = None
        self._has_ended = Lock()
        self._has_ended.acquire()

    def wait(self) -> _T:
        """Wait for its end, in the thread that calls; return or raise what it came to."""
        self._has_ended.acquire()
        if self._error is not None:
            raise self._error
        return cast("_T", self._result)

    async def run(self) -> None:
        """Do the work, in the loop. Raises only what ends the loop."""
        try:
            self._result = await self._work()
        except asyncio.CancelledError:
            self.refuse()
        except BaseException as error:
            self._error = error
            self._has_ended.release()
            if not isinstance(error, Exception):
                raise
        else:
            self._has_ended.release()

    def refuse(self) -> None:
        """End it without an answer."""
        self._error = RouterStateError("the manager was closed while the call ran")
        self._has_ended.release()


@final
class _Life:
    """A manager's life in a thread of its own: entered when needed, left in the same task."""

    __slots__ = (
        "_asked",
        "_calls",
        "_ending",
        "_error",
        "_has_ended",
        "_loop",
        "_manager",
        "_opening",
        "_tasks",
        "_threads",
    )

    def __init__(self, manager: _manager.LLMRoutingManager) -> None:
        self._manager = manager
        # The first one is its thread; None, if it was ended before there was one. After a Ctrl-C
        # while one is started, another may be; it finds that it is not the first, and ends.
        self._threads: list[Thread | None] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_ended = False
        self._error: BaseException | None = None
        self._calls: set[_Call[Any]] = set()
        self._tasks: asyncio.TaskGroup
        self._asked: asyncio.Event
        self._ending: Exit | None = None
        self._opening: asyncio.Future[None] | None = None

    def is_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this is the loop it happens in."""
        return loop is self._loop

    # Called from outside

    def send(self, call: _Call[Any]) -> None:
        """Have a call run; start the thread for the first one.

        Raises:
            RouterStateError: The loop has ended.
        """
        self._calls.add(call)
        if not self._threads:
            # A daemon, and so are its worker threads: else the program would wait for them at its
            # end, before it tells us that it ends.
            Thread(target=self._run, name="asyncroute.blocking", daemon=True).start()
        self._tell(self._begin, call)
        if self._has_ended:
            raise RouterStateError("the manager's loop has ended") from self._error

    def give_up(self, call: _Call[Any]) -> None:
        """Cancel a call, if it has not ended."""
        self._calls.discard(call)
        self._tell(self._cancel, call)

    def end(self, why: Exit) -> None:
        """Leave the manager, and wait until the thread has ended."""
        self._threads.append(None)
        thread = self._threads[0]
        if thread is None:
            return
        self._leave(why)
        thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def end_with_program(self) -> None:
        """The same without waiting for calls: of those that could wait for them, none is left."""
        self.end((SystemExit, SystemExit(), None))

    def let_go(self) -> None:
        """Leave the manager some time soon. Called by the garbage collector: takes no lock."""
        self._leave((None, None, None))

    def _leave(self, why: Exit) -> None:
        if self._loop is None:
            self._ending = why
        self._tell(self._end, why)

    def _tell(self, what: Callable[[_S], None], about: _S) -> None:
        """Have something done in the loop; where there is none yet, it looks when it begins."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(what, about)

    # In the thread

    def _run(self) -> None:
        self._threads.append(current_thread())
        if self._threads[0] is not current_thread():
            return
        try:
            anyio.run(self._live)
        except BaseException as error:
            self._error = error
        finally:
            self._has_ended = True
            for call in tuple(self._calls):  # the loop ended before they could begin
                call.refuse()
            atexit.unregister(self.end_with_program)

    async def _live(self) -> None:
        self._asked = asyncio.Event()
        atexit.register(self.end_with_program)
        async with asyncio.TaskGroup() as self._tasks:
            self._loop = asyncio.get_running_loop()
            for call in tuple(self._calls):  # those that came before there was a loop
                self._begin(call)
            try:
                await self._serve()
            except Exception as error:
                _log.warning("closing the manager failed: %r", error)
                self._error = error  # for who closes it; it would leave the tasks in a group
            # Calls that are not the routers', such as benchmarks, are not waited for.
            for call in tuple(self._calls):
                self._cancel(call)

    def _begin(self, call: _Call[Any]) -> None:
        if call in self._calls and call.task is None:  # neither given up nor begun
            call.task = self._tasks.create_task(self._carry(call))

    async def _carry(self, call: _Call[Any]) -> None:
        try:
            await call.run()
        finally:
            self._calls.discard(call)

    def _cancel(self, call: _Call[Any]) -> None:
        if call.task is not None:
            call.task.cancel()

    async def opened(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do the work once the manager is entered."""
        await self._open()
        return await work()

    async def _open(self) -> None:
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_future()
            self._asked.set()
        opening = self._opening
        await asyncio.wait((opening,))  # awaited plainly, one caller's cancellation would be all's
        opening.result()

    async def _serve(self) -> None:
        while self._ending is None:
            await self._asked.wait()
            self._asked.clear()
            if self._opening is not None and not self._opening.done():
                await self._enter(self._opening)
        if self._opening is not None:
            await self._manager.__aexit__(*self._ending)

    async def _enter(self, opening: asyncio.Future[None]) -> None:
        try:
            await self._manager.__aenter__()
        except Exception as error:
            self._opening = None
            opening.set_exception(error)  # the next call tries again
            opening.exception()  # who asked may have gone
        else:
            opening.set_result(None)

    def _end(self, why: Exit) -> None:
        self._ending = self._ending or why
        self._asked.set()


async def _nothing() -> None:
    pass


def _is_in_notebook() -> bool:
    """Whether IPython runs: a cell's plain code may block, though the kernel's loop runs it."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and get_shell() is not None
