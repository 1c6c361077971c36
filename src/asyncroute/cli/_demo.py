"""The demonstration: what a router does, in six parts."""

from __future__ import annotations

import textwrap
from statistics import fmean
from typing import TYPE_CHECKING, Any, final

import anyio
from rich.text import Text

from asyncroute._benchmark import compare, progress_bar, strategies_of
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute.cli._stage import Endpoint, Stage, live_stage, simulated_stage
from asyncroute.cli._tables import (
    attempts_table,
    candidates_table,
    http_table,
    models_table,
    progress_table,
    strategies_table,
)
from asyncroute.testing import run_virtual

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from asyncroute.config import RouterConfig

__all__ = ("Endpoint", "demonstrate")

_QUERIES = (
    ("What is the capital of France?", "simple_qa", "cost_optimized"),
    ("Write a Python function that sorts a list.", "code_generation", "balanced"),
    ("Summarise: routing picks the best model for each query.", "summarization", "least_loaded"),
    ("Translate 'good morning' into Italian.", "translation", "latency_optimized"),
    ("Why do distributed clocks drift?", "complex_reasoning", "quality_optimized"),
    ("Analyse these figures: 3, 1, 4, 1, 5.", "analysis", "balanced"),
    ("A haiku about queues, please.", "creative_writing", "round_robin"),
)

_ITERATIONS = 30

_HEDGE_TRIES = 6
"""A real model may answer sooner than it did before: the next hedge starts earlier."""


def demonstrate(console: Console, *, seed: int, endpoint: Endpoint | None) -> None:
    """Play all six parts: simulated, or on a real endpoint.

    Raises:
        AsyncRouteError: The endpoint does not answer.
        ConfigurationError: The endpoint's URL is none, or the variable with its key is not set.
    """
    if endpoint is None:
        config = run_virtual(_play_simulated, console, seed)
    else:
        config = anyio.run(_play_live, console, endpoint, seed)
    _compare_strategies(console, config, seed)


async def _play_simulated(console: Console, seed: int) -> RouterConfig:
    async with simulated_stage(seed) as stage:
        return await _Play(console, stage).run()


async def _play_live(console: Console, endpoint: Endpoint, seed: int) -> RouterConfig:
    async with live_stage(endpoint, seed) as stage:
        return await _Play(console, stage).run()


@final
class _Play:
    """The first five parts."""

    __slots__ = ("_console", "_shown", "_stage")

    def __init__(self, console: Console, stage: Stage) -> None:
        self._console = console
        self._stage = stage
        self._shown = 0

    async def run(self) -> RouterConfig:
        """Play the parts; return the configuration with the latencies as observed."""
        self._say(f"asyncroute on {self._stage.title}", style="bold")
        self._show_http()
        await self._route_by_cost()
        await self._route_by_quality()
        await self._fall_back()
        await self._hedge()
        await self._build_metrics()
        return await self._report_statistics()

    async def _route_by_cost(self) -> None:
        self._head(1, "Cost-optimized routing")
        await self._route("What is the capital of France?", "simple_qa", "cost_optimized")

    async def _route_by_quality(self) -> None:
        self._head(2, "Quality-optimized routing, at least 0.85")
        query = "Which of these two proofs is wrong, and where?"
        await self._route(query, "complex_reasoning", "quality_optimized", 0.85)

    async def _route(
        self, query: str, capability: str, strategy: str, quality: float | None = None
    ) -> None:
        self._say(f"{capability}: “{query}”")
        manager = self._stage.manager
        limit = self._stage.max_tokens
        decision = await manager.route_query(
            query, capability, strategy, required_quality=quality, max_tokens=limit
        )
        self._console.print(candidates_table(decision))
        for model_id, reason in decision["rejected"].items():
            line = f"- {model_id}: {reason}"
            width = self._console.width
            self._say(textwrap.fill(line, width, subsequent_indent="    "), style="dim")

    async def _fall_back(self) -> None:
        stage = self._stage
        self._head(3, "Execution with fallback, and with a hedge")
        self._say(f"Fallback: {stage.broken} ranks first and fails; the next takes over.")
        result = await stage.failing.execute_query(
            "Write a Python function that sorts a list.",
            "general",
            "quality_optimized",
            max_tokens=stage.max_tokens,
        )
        self._show(result)

    async def _hedge(self) -> None:
        stage = self._stage
        self._console.print()
        others = [m.model_id for m in stage.stalling.router.models if m.model_id != stage.broken]
        if len(others) < 2:
            self._say("Hedge: takes two models; name a second one with --model.")
            return
        result: dict[str, Any] = {}
        delay = await self._hedge_delay()
        for _ in range(_HEDGE_TRIES):
            result = await stage.stalling.execute_query(
                "What is the capital of France?",
                "general",
                "latency_optimized",
                models=others,
                max_tokens=stage.max_tokens,
                mode="hedged",
                hedge_after=delay,
            )
            if any(attempt["role"] == "hedge" for attempt in result["attempts"]):
                self._say(
                    f"Hedge: no answer after {_span(delay)}, so a second model is asked, too."
                )
                break
            delay = min(delay, result["actual_latency_ms"] / 1000) / 4
        else:
            self._say("Hedge: every answer came before a second model was worth asking.")
        self._show(result)

    async def _hedge_delay(self) -> float:
        if self._stage.hedge_after is not None:
            return self._stage.hedge_after
        statistics = await self._stage.stalling.get_statistics()
        models = statistics["model_stats"].values()
        return min(model["avg_latency_ms"] or 1000.0 for model in models) / 4000

    async def _build_metrics(self) -> None:
        stage = self._stage
        self._head(4, "Performance metrics building")
        self._say(f"{stage.queries} queries of {len(_QUERIES)} kinds, a quarter of them at a time.")
        results: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []

        async def ask(number: int) -> None:
            number %= stage.queries * 3 // 4  # the last quarter has been asked before
            query, capability, strategy = _QUERIES[number % len(_QUERIES)]
            text = f"{query} ({number})"
            results.append(
                await stage.manager.execute_query(
                    text,
                    capability,
                    strategy,
                    mock_execution=stage.http is None,
                    max_tokens=stage.max_tokens,
                )
            )

        for start in range(0, stage.queries, stage.queries // 4):
            async with anyio.create_task_group() as queries:
                for number in range(start, start + stage.queries // 4):
                    queries.start_soon(ask, number)
            rows.append(_progress(results))
        self._console.print(progress_table(rows))
        self._show_http()

    async def _report_statistics(self) -> RouterConfig:
        self._head(5, "Statistics of the models")
        statistics = await self._stage.manager.get_statistics()
        self._console.print(models_table(statistics))
        config = self._stage.manager.config
        observed = statistics["model_stats"]
        models = tuple(_as_observed(model, observed[model.model_id]) for model in config.models)
        return config.model_copy(update={"models": models})

    def _head(self, number: int, title: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{number}  {title}[/]", align="left", style="cyan")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style))

    def _show(self, result: Mapping[str, Any]) -> None:
        self._console.print(attempts_table(result))
        answer = result["response"] if result["success"] else f"failed: {result['error']}"
        marked = "simulated, " if result["simulated"] else ""
        self._say(
            f"{result['model_used']} ({marked}{result['actual_latency_ms']:,.0f} ms,"
            f" ${result['actual_cost']:.6f}): {_shortened(answer or '')}"
        )
        self._show_http()

    def _show_http(self) -> None:
        calls = self._stage.http
        if calls is not None:
            self._console.print(http_table(calls[self._shown :]))
            self._shown = len(calls)


def _compare_strategies(console: Console, config: RouterConfig, seed: int) -> None:
    console.print()
    console.rule("[bold]6  Strategy benchmarking[/]", align="left", style="cyan")
    requests = [QueryRequest(query=query, capability=kind) for query, kind, _ in _QUERIES]
    total = len(requests) * _ITERATIONS * len(strategies_of(config))
    with progress_bar("Benchmarking strategies", total) as advance:

        def go_on() -> bool:
            advance()
            return True

        reports = compare(config, requests, _ITERATIONS, seed=seed, go_on=go_on)
    title = f"{len(requests)} queries x {_ITERATIONS}, simulated"
    console.print(strategies_table(reports, title))


def _progress(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "queries": len(results),
        "answered": sum(result["success"] for result in results),
        "cached": sum(result["cached"] for result in results),
        "avg_latency_ms": fmean(result["actual_latency_ms"] for result in results),
        "spent": sum(result["actual_cost"] for result in results),
    }


def _as_observed(model: ModelConfig, statistics: Mapping[str, Any]) -> ModelConfig:
    latency = statistics["avg_latency_ms"]
    return model.model_copy(update={"avg_latency_ms": latency}) if latency else model


def _span(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:119]}…"
