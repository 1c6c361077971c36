"""The blocking face: from many threads, from scripts and notebooks, and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import itertools
import json
import linecache
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from inspect import Parameter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pydantic import ValidationError

import asyncroute
from asyncroute import (
    BadRequestError,
    Call,
    Completion,
    ConfigurationError,
    ExecutionResult,
    ModelConfig,
    NoEligibleModelError,
    QueryRequest,
    RouterStateError,
    Usage,
    blocking,
)
from asyncroute._inputs import RequestFields
from asyncroute.blocking import LLMRoutingManager
from asyncroute.catalogue import DEFAULT_MODELS

pytestmark = pytest.mark.real_time

MODELS = {"models": [{"model_id": each, "avg_latency_ms": 5} for each in "ab"]}


class Slow:
    """Answers after some seconds; notes who was cancelled and where it was entered and left."""

    cancels_promptly = True

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.in_flight = self.calls = 0
        self.tasks: list[object] = []

    async def complete(self, call: Call, /) -> Completion:
        self.calls += 1
        self.in_flight += 1
        self.started.set()
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.in_flight -= 1
        return Completion(f"{call.model.model_id} heard {call.request.query}", Usage(10, 5))

    async def __aenter__(self) -> Slow:
        self.tasks.append(asyncio.current_task())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.tasks.append(asyncio.current_task())


def manager_of(provider: Any, **config: Any) -> LLMRoutingManager:
    settings = {**MODELS, "enable_caching": False, **config}
    return LLMRoutingManager(settings, providers={"default": provider})


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "asyncroute.blocking"]


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 5
    while not holds() and time.monotonic() < until:
        time.sleep(0.002)
    return holds()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert eventually(lambda: not threads())


@contextmanager
def interrupted_when(event: threading.Event) -> Iterator[None]:
    """Send this thread a Ctrl-C once the event is set and it waits for an answer."""
    main = threading.main_thread().ident or 0

    def waits() -> bool:
        return is_within(sys._current_frames()[main], blocking._Call.wait)

    def send() -> None:
        assert event.wait(5)
        assert eventually(waits)
        signal.pthread_kill(main, signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        sender.join()


def in_time(work: Callable[[], object]) -> object:
    """Do the work in a thread that nobody waits for if it does not end."""
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(5)
    assert done, "it hangs"
    return done[0]


def is_within(frame: FrameType | None, function: Any) -> bool:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def interrupt_at(step: int, work: Callable[[], object]) -> bool:
    """Run the work; raise a KeyboardInterrupt at a step of it, if it has as many.

    Steps are lines and returns in our file and in `threading`. Not at a `with`: to enter or leave
    that of a lock in C is one instruction, while tracing stops within. Nor in `Thread.start`, which
    a Ctrl-C may leave with another error, and a thread that never runs.
    """
    left = step

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if is_within(frame, threading.Thread.start):
            return None
        file = frame.f_code.co_filename
        if file in (blocking.__file__, threading.__file__) and event in ("line", "return"):
            line = linecache.getline(file, frame.f_lineno)
            left -= not (event == "line" and line.lstrip().startswith("with "))
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def signature_of(method: Callable[..., Any]) -> inspect.Signature:
    """A method's signature with the fields of a request written out."""
    signature = inspect.signature(method)
    shown = list(signature.parameters.values())
    if shown[-1].annotation == "Unpack[RequestFields]":
        shown[-1:] = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind.__forward_arg__)
            for name, kind in RequestFields.__annotations__.items()
        ]
    return signature.replace(parameters=shown)


class TestCalls:
    def test_the_face_offers_all_that_the_manager_does(self) -> None:
        for face, wrapped in (
            (LLMRoutingManager, asyncroute.LLMRoutingManager),
            (blocking.LLMRouter, asyncroute.LLMRouter),
        ):
            for name, method in vars(wrapped).items():
                if name.startswith("_") or name == "stream":
                    continue
                own = inspect.getattr_static(face, name)
                if callable(method):
                    assert signature_of(own) == signature_of(method), name
                    assert not inspect.iscoroutinefunction(own)
                else:
                    assert isinstance(own, property)

    def test_answers_come_as_from_the_manager(self) -> None:
        with manager_of(Slow()) as manager:
            result = manager.execute_query("hello", models=["a"], metadata={"tenant": "x"})
            routed = manager.router.execute("hello", models=["b"], strategy="cost_optimized")
            everything = manager.router.execute_all("hello", width=2)
            hedged = manager.router.execute("hi", mode="race", width=2)
        assert result["response"] == "a heard hello"
        assert routed.unwrap() == "b heard hello"
        assert {each.model_id for each in everything} == {"a", "b"}
        assert hedged.success

    def test_errors_pass_through_plain(self) -> None:
        with LLMRoutingManager(MODELS) as manager:
            with pytest.raises(ConfigurationError, match="unknown strategy 'no'") as unknown:
                manager.execute_query("hello", strategy="no")
            with pytest.raises(NoEligibleModelError) as nobody:
                manager.route_query("hello", required_quality=1.0)
            with pytest.raises(ValidationError):
                manager.router.add_model({"model_id": "c", "quality_score": 7})
            with pytest.raises(ConfigurationError, match="no model 'z'"):
                manager.router.remove_model("z")
            with pytest.raises(FileNotFoundError):
                manager.import_config("/nowhere/config.json")
        assert type(unknown.value) is ConfigurationError
        assert set(nobody.value.reasons) == {"a", "b"}

    def test_failures_of_the_world_are_results(self) -> None:
        class Down:
            async def complete(self, call: Call, /) -> Completion:
                raise BadRequestError("not like this")

        with manager_of(Down()) as manager:
            result = manager.execute_query("hello")
        assert (result["success"], result["error_kind"]) == (False, "all_attempts_failed")

    def test_a_plain_function_executes_with_fallback(self) -> None:
        asked: list[tuple[str, str]] = []

        def execute(model: ModelConfig, request: QueryRequest) -> ExecutionResult:
            asked.append((model.model_id, threading.current_thread().name))
            if len(asked) == 1:
                raise ConnectionError("the first model is down")
            time.sleep(0.01)
            return ExecutionResult(True, model.model_id, 10.0, 0.5, 42, "done")

        with LLMRoutingManager(MODELS) as manager:
            result = manager.router.execute_with_fallback(QueryRequest(query="hello"), execute)
        assert result.unwrap() == "done"
        assert [each.outcome for each in result.attempts] == ["failed", "won"]
        assert {name for _, name in asked} == {"AnyIO worker thread"}

    def test_an_execution_may_call_the_manager_again(self) -> None:
        with LLMRoutingManager(MODELS) as manager:

            def execute(model: ModelConfig, request: QueryRequest) -> str:
                return manager.execute_query("inner")["model_id"]

            result = manager.router.execute_with_fallback(QueryRequest(query="outer"), execute)
        assert result.response in {"a", "b"}

    def test_the_callers_context_goes_along(self) -> None:
        said = contextvars.ContextVar[str]("said")
        said.set("by the caller")

        async def execute(model: ModelConfig, request: QueryRequest) -> str:
            return said.get()

        with LLMRoutingManager(MODELS) as manager:
            result = manager.router.execute_with_fallback(QueryRequest(query="hello"), execute)
        assert result.response == "by the caller"

    def test_models_are_changed_live(self) -> None:
        manager = LLMRoutingManager(MODELS)
        router = manager.router
        router.add_model({"model_id": "c"})
        router.update_model("c", quality_score=0.9)
        router.update_model_availability("a", is_available=False)
        router.remove_model("b")
        assert [(each.model_id, each.is_available) for each in router.models] == [
            ("a", False),
            ("c", True),
        ]
        assert [each.model_id for each in manager.config.models] == ["a", "c"]
        assert router.route("hello").selected_model.model_id == "c"
        router.register_selector("mine", asyncroute.RoundRobinSelector())
        assert "mine" in router.strategies
        assert router.route("hello", strategy="mine").strategy == "mine"
        manager.close()

    def test_what_is_imported_before_the_first_execution_takes_effect_whole(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "config.json"
        path.write_text(
            json.dumps(
                {"models": [{"model_id": "mine", "avg_latency_ms": 5}], "enable_ensemble": True}
            )
        )
        manager = LLMRoutingManager()
        router = manager.router
        assert manager.route_query("hello")["selected_model"]["model_id"] != "mine"
        assert manager.import_config(path) == ()
        assert manager.execute_query("hello", strategy="ensemble")["model_id"] == "mine"
        assert [each.model_id for each in router.models] == ["mine"]
        assert manager.export_config(tmp_path / "out.json") == {}
        manager.close()

    def test_a_missing_variable_is_told_to_every_call_that_needs_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("BLOCKING_TEST", raising=False)
        params = {"user": "${BLOCKING_TEST}"}
        manager = LLMRoutingManager(
            {"models": [{"model_id": "a", "avg_latency_ms": 5, "params": params}]}
        )
        assert manager.route_query("hello")["selected_model"]["model_id"] == "a"
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="BLOCKING_TEST"):
                manager.execute_query("hello")
        monkeypatch.setenv("BLOCKING_TEST", "me")
        assert manager.execute_query("hello")["success"]
        manager.close()


class TestThreads:
    def test_many_threads_call_at_once(self) -> None:
        class Together(Slow):
            """Answers nobody before all forty have come."""

            all_here = asyncio.Event()

            async def complete(self, call: Call, /) -> Completion:
                self.calls += 1
                if self.calls == 40:
                    self.all_here.set()
                await self.all_here.wait()
                return Completion(f"a heard {call.request.query}", Usage(10, 5))

        provider = Together()
        config = {"models": [{"model_id": "a", "max_concurrent_requests": 100}]}
        with (
            manager_of(provider, **config) as manager,
            ThreadPoolExecutor(40) as pool,
        ):
            results = list(pool.map(lambda n: manager.execute_query(f"{n}"), range(40)))
            stats = manager.get_statistics()
        assert [each["response"] for each in results] == [f"a heard {n}" for n in range(40)]
        assert stats["total_requests"] == stats["successful_requests"] == 40

    def test_the_first_calls_of_many_threads_open_it_once(self) -> None:
        provider = Slow()
        opened: list[int] = []

        @contextmanager
        def _count() -> Iterator[None]:
            opened.append(1)
            yield

        class Counting(Slow):
            async def __aenter__(self) -> Slow:
                with _count():
                    await asyncio.sleep(0.02)
                return provider

        manager = manager_of(Counting)
        barrier = threading.Barrier(16)

        def ask(n: int) -> bool:
            barrier.wait()
            return manager.execute_query(f"{n}")["success"]

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(ask, range(16)))
        assert (len(opened), provider.calls, len(threads())) == (1, 16, 1)
        manager.close()

    def test_models_change_while_other_threads_ask(self) -> None:
        with manager_of(Slow(0.001)) as manager, ThreadPoolExecutor(8) as pool:

            def change(n: int) -> bool:
                manager.router.add_model({"model_id": f"m{n}"})
                success = manager.execute_query("hello")["success"]
                manager.router.remove_model(f"m{n}")
                return success

            assert all(pool.map(change, range(60)))
            assert [each.model_id for each in manager.router.models] == ["a", "b"]

    def test_providers_are_entered_and_left_in_one_task(self) -> None:
        provider = Slow()
        manager = manager_of(lambda: provider)
        manager.execute_query("hello")
        manager.close()
        entered_in, left_in = provider.tasks
        assert entered_in is left_in


class TestInterrupting:
    def test_ctrl_c_cancels_the_call_that_waits(self) -> None:
        provider = Slow(60)
        with manager_of(provider) as manager:
            with interrupted_when(provider.started), pytest.raises(KeyboardInterrupt):
                manager.execute_query("hello")
            assert provider.cancelled.wait(5)
            assert eventually(lambda: provider.in_flight == 0)
            provider.seconds = 0
            assert manager.execute_query("hello again")["success"]
        assert provider.calls == 2  # no fallback was paid for somebody who has gone

    def test_ctrl_c_cancels_nobody_elses_call(self) -> None:
        provider = Slow(0.2)
        with manager_of(provider) as manager, ThreadPoolExecutor(1) as pool:
            other = pool.submit(manager.execute_query, "other")
            assert provider.started.wait(5)
            with interrupted_when(provider.started), pytest.raises(KeyboardInterrupt):
                manager.execute_query("hello")
            assert other.result()["success"]

    def test_ctrl_c_inside_of_the_block_does_not_wait_for_others(self) -> None:
        provider = Slow(60)
        with ThreadPoolExecutor(1) as pool:
            manager = manager_of(provider)
            other = pool.submit(manager.execute_query, "other")
            with pytest.raises(KeyboardInterrupt), manager:
                assert provider.started.wait(5)
                raise KeyboardInterrupt
            with pytest.raises(RouterStateError):
                other.result(5)
        assert provider.cancelled.is_set()

    def test_ctrl_c_while_it_opens_leaves_others_waiting_for_it(self) -> None:
        opening, go_on = threading.Event(), asyncio.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        class Opening(Slow):
            async def __aenter__(self) -> Slow:
                loops.append(asyncio.get_running_loop())
                opening.set()
                await go_on.wait()
                return self

        manager = manager_of(Opening)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(manager.execute_query, "other")
            try:
                with interrupted_when(opening), pytest.raises(KeyboardInterrupt):
                    manager.execute_query("hello")
            finally:  # or the pool would wait for ever
                loops[0].call_soon_threadsafe(go_on.set)
            assert other.result(5)["success"]
        assert manager.get_statistics()["total_requests"] == 1
        manager.close()

    def test_ctrl_c_at_any_instruction_locks_nobody_out(self) -> None:
        def interrupted_at(step: int) -> bool:
            manager = manager_of(Slow())
            ask = partial(manager.execute_query, "hello")
            was_interrupted = interrupt_at(step, ask)
            # In a thread of its own: whoever holds a lock may take it again.
            succeeded = in_time(lambda: ask()["success"])
            in_time(manager.close)
            assert succeeded, f"after an interrupt at step {step}"
            return was_interrupted

        steps = next(step for step in itertools.count(1) if not interrupted_at(step))
        assert steps > 50


class TestEnding:
    @pytest.mark.parametrize("enable_caching", [False, True])
    def test_closing_lets_calls_finish_and_refuses_new_ones(self, enable_caching: bool) -> None:
        provider = Slow(0.1)
        manager = manager_of(provider, enable_caching=enable_caching)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(manager.execute_query, "hello")
            assert provider.started.wait(5)
            manager.close()
            assert provider.in_flight == 0
            assert running.result(5)["success"]
            assert not provider.cancelled.is_set()
        assert not threads()
        for refused in (manager.get_statistics, manager.__enter__, lambda: manager.config):
            with pytest.raises(RouterStateError, match="closed"):
                refused()
        manager.close()  # again: nothing

    def test_closing_without_any_call_starts_nothing(self) -> None:
        before = threading.active_count()
        LLMRoutingManager(MODELS).close()
        with pytest.raises(RouterStateError, match="closed"), LLMRoutingManager(MODELS) as manager:
            manager.close()
            manager.route_query("hello")
        assert threading.active_count() == before

    def test_many_threads_call_and_close_and_none_hangs(self) -> None:
        for _ in range(10):
            manager = manager_of(Slow())
            outcomes: list[str] = []

            def ask(manager: LLMRoutingManager = manager, outcomes: list[str] = outcomes) -> None:
                try:
                    while True:
                        manager.execute_query("hello")
                except RouterStateError:
                    outcomes.append("refused")

            askers = [threading.Thread(target=ask) for _ in range(8)]
            for each in askers:
                each.start()
            closers = [threading.Thread(target=manager.close) for _ in range(2)]
            for each in closers:
                each.start()
            for each in askers + closers:
                each.join(5)
            assert outcomes == ["refused"] * 8

    def test_a_benchmark_is_not_waited_for(self) -> None:
        manager = LLMRoutingManager(MODELS)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(manager.benchmark_strategies, ["hello"], 1_000_000)
            time.sleep(0.05)
            manager.close()
            with pytest.raises(RouterStateError, match="closed while"):
                running.result(5)

    def test_a_providers_error_on_closing_reaches_who_closes(self) -> None:
        class Sticky(Slow):
            async def __aexit__(self, *_: object) -> None:
                raise OSError("the connection does not close")

        manager = manager_of(Sticky)
        manager.execute_query("hello")
        with pytest.raises(OSError, match="does not close"):
            manager.close()
        assert not threads()

    def test_when_a_function_exits_the_program_no_thread_hangs(self) -> None:
        def leave(model: ModelConfig, request: QueryRequest) -> str:
            sys.exit(3)

        manager = LLMRoutingManager(MODELS)
        with pytest.raises(RouterStateError):
            manager.router.execute_with_fallback(QueryRequest(query="hello"), leave)
        assert eventually(lambda: not threads())
        with pytest.raises(RouterStateError, match="loop has ended"):
            manager.execute_query("hello")
        with pytest.raises(SystemExit):
            manager.close()

    def test_reprs_say_what_it_is(self) -> None:
        with LLMRoutingManager(MODELS) as manager:
            assert repr(manager) == "<blocking LLMRoutingManager open, simulating, 2 models>"
            assert repr(manager.router) == "<blocking LLMRouter open: 2 models>"
        assert repr(manager) == "<blocking LLMRoutingManager closed, simulating, 2 models>"

    def test_one_that_is_dropped_ends_by_itself(self) -> None:
        provider = Slow()
        manager = manager_of(lambda: provider)
        router = manager.router
        manager.execute_query("hello")
        del manager
        gc.collect()
        assert router.execute("hello").success  # its router keeps it
        del router
        gc.collect()
        assert eventually(lambda: len(provider.tasks) == 2)
        assert eventually(lambda: not threads())


LEFT_OPEN = """
import asyncio, sys, threading, time
from asyncroute import Completion, QueryRequest
from asyncroute.blocking import LLMRoutingManager

class Provider:
    cancels_promptly = True
    async def complete(self, call):
        return Completion("answer")
    async def __aenter__(self):
        return self
    async def __aexit__(self, *_):
        await asyncio.sleep(0.01)
        print("left", flush=True)

manager = LLMRoutingManager({"models": [{"model_id": "a"}]}, providers={"default": Provider})
request = QueryRequest(query="hello")
print(manager.router.execute_with_fallback(request, lambda model, request: "plain").response)

def late():
    time.sleep(0.1)
    print(manager.execute_query("hello")["response"], flush=True)

threading.Thread(target=late).start()
"""

IN_A_CELL = """
import asyncio, sys, types

ipython = types.ModuleType("IPython")
ipython.get_ipython = lambda: object()
sys.modules["IPython"] = ipython

from asyncroute import QueryRequest, RouterStateError
from asyncroute.blocking import LLMRoutingManager

async def execute(model, request):
    try:
        manager.execute_query("inner")
    except RouterStateError as error:
        return str(error)
    return "not refused"

async def cell():
    with manager:
        print(manager.execute_query("hello")["success"])
        print(manager.router.execute_with_fallback(QueryRequest(query="q"), execute).response)

manager = LLMRoutingManager({"models": [{"model_id": "a", "avg_latency_ms": 5}]})
asyncio.run(cell())
"""


def run_script(script: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=15,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    return ran.stdout.splitlines()


class TestPrograms:
    @pytest.mark.smoke
    def test_one_left_open_closes_when_the_last_thread_of_the_program_has_ended(self) -> None:
        assert run_script(LEFT_OPEN) == ["plain", "answer", "left"]

    async def test_a_running_loop_is_not_blocked(self) -> None:
        manager = LLMRoutingManager(MODELS)
        for refused in (
            lambda: manager.execute_query("hello"),
            lambda: manager.router.models,
            manager.__enter__,
            manager.close,
        ):
            with pytest.raises(RouterStateError, match=r"await its methods"):
                refused()
        assert not threads()

    def test_cells_of_notebooks_may_block_but_not_the_managers_own_loop(self) -> None:
        succeeded, inner = run_script(IN_A_CELL)
        assert succeeded == "True"
        assert inner.startswith("asyncroute.blocking would block the event loop")


class TestSpecification:
    """Its examples, with only the import line changed; the SDK ones are in today's API."""

    @pytest.fixture(autouse=True)
    def _simulated_models_are_fast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fast = [
            model.model_copy(update={"avg_latency_ms": model.avg_latency_ms / 100})
            for model in DEFAULT_MODELS
        ]
        monkeypatch.setattr("asyncroute.manager.DEFAULT_MODELS", fast)

    def test_quick_start(self) -> None:
        # Initialize with default configuration
        manager = LLMRoutingManager()

        # Route a simple query
        decision = manager.route_query(
            query="What is the capital of France?",
            capability="simple_qa",
            strategy="cost_optimized",
        )

        print(f"Selected Model: {decision['selected_model']['name']}")
        print(f"Expected Cost: ${decision['expected_cost']:.4f}")
        print(f"Expected Latency: {decision['expected_latency_ms']:.0f}ms")

        # Execute query with automatic fallback
        result = manager.execute_query(
            query="Write a Python function to sort a list",
            capability="code_generation",
            strategy="balanced",
            mock_execution=True,  # Set False for real execution
        )

        print(f"Success: {result['success']}")
        print(f"Model Used: {result['model_used']}")
        assert result["success"]

    def test_model_configuration(self) -> None:
        config = {
            "enable_caching": True,
            "enable_ensemble": True,
            "cache_ttl": 300,  # seconds
            "max_workers": 10,
            "models": [
                {
                    "model_id": "gpt-4",
                    "name": "GPT-4",
                    "provider": "openai",
                    "cost_per_1k_tokens": 0.03,
                    "max_tokens": 8192,
                    "avg_latency_ms": 20,  # instead of 2000: it is simulated in real time
                    "capabilities": ["complex_reasoning", "code_generation", "analysis"],
                    "quality_score": 0.95,
                    "max_concurrent_requests": 50,
                },
                # Add more models...
            ],
        }

        manager = LLMRoutingManager(config=config)
        assert manager.execute_query("hello", strategy="ensemble")["model_used"] == "gpt-4"

    def test_examples_1_to_3(self) -> None:
        manager = LLMRoutingManager()

        # Cost-optimized routing for simple query
        decision = manager.route_query(
            query="What is 2+2?", capability="simple_qa", strategy="cost_optimized"
        )
        assert decision["selected_model"]

        # Route with cost and latency constraints
        decision = manager.route_query(
            query="Analyze this data...",
            capability="analysis",
            strategy="balanced",
            max_cost=0.01,
            max_latency_ms=1000,
            required_quality=0.85,
        )
        assert decision["selected_model"]["quality_score"] >= 0.85

        # Execute with automatic fallback on failure
        result = manager.execute_query(
            query="Generate code for...",
            capability="code_generation",
            strategy="quality_optimized",
        )

        if result["success"]:
            print(f"Response: {result['response']}")
        else:
            print(f"Error: {result['error']}")
        assert result["success"]

    def test_example_4_performance_monitoring(self) -> None:
        manager = LLMRoutingManager()
        manager.execute_query("hello")

        # Get statistics after running queries
        stats = manager.get_statistics()

        for model_id, model_stats in stats["model_stats"].items():
            print(f"{model_id}:")
            print(f"  Avg Latency: {model_stats['avg_latency_ms']:.0f}ms")
            print(f"  Avg Cost: ${model_stats['avg_cost']:.4f}")
            print(f"  Success Rate: {model_stats['success_rate']:.1%}")
        assert stats["total_requests"] == 1

    def test_example_5_strategy_benchmarking(self) -> None:
        manager = LLMRoutingManager()

        # Compare different strategies
        test_queries = [
            {"query": "Simple question", "capability": "simple_qa"},
            {"query": "Complex analysis", "capability": "complex_reasoning"},
            {"query": "Code task", "capability": "code_generation"},
        ]

        benchmark = manager.benchmark_strategies(test_queries, iterations=10)

        for strategy, metrics in benchmark.items():
            print(f"{strategy}:")
            print(f"  Avg Cost: ${metrics['avg_cost']:.4f}")
            print(f"  Avg Latency: {metrics['avg_latency']:.0f}ms")
            print(f"  Success Rate: {metrics['success_rate']:.1%}")
        assert len(benchmark) == 6

    def test_example_6_custom_configuration(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        # Load custom configuration
        custom_config: dict[str, Any] = {
            "enable_caching": True,
            "enable_ensemble": True,
            "cache_ttl": 600,
            "models": [
                {"model_id": "mine"}  # Your custom model configurations
            ],
        }

        manager = LLMRoutingManager(config=custom_config)
        manager.export_config("config.json")

        # Or import from file
        manager.import_config("config.json")
        assert [each.model_id for each in manager.router.models] == ["mine"]

    def test_integration_with_an_sdk(self) -> None:
        class Anthropic:
            """Has `messages.create`, as the blocking client has."""

            messages: Any

            def create(self, *, model: str, max_tokens: int, messages: list[Any]) -> Any:
                return {"text": f"{model}: {messages[0]['content']}", "tokens": max_tokens}

        Anthropic.messages = Anthropic()
        manager = LLMRoutingManager()

        def anthropic_execution_fn(model: ModelConfig, req: QueryRequest) -> ExecutionResult:
            client = Anthropic()
            message = client.messages.create(
                model=model.model_id,
                max_tokens=req.max_tokens,
                messages=[{"role": "user", "content": req.query}],
            )

            return ExecutionResult(
                success=True,
                model_id=model.model_id,
                actual_latency_ms=0.0,  # measured by the router
                actual_cost=0.002,
                tokens_used=message["tokens"],
                response=message["text"],
            )

        request = QueryRequest(query="Sort a list", strategy="quality_optimized", max_tokens=100)
        result = manager.router.execute_with_fallback(request, anthropic_execution_fn)
        assert result.unwrap() == f"{result.model_id}: Sort a list"
        assert (result.tokens_used, result.actual_cost) == (100, 0.002)
