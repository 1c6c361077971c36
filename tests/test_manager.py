"""The manager: who simulates and when, configurations taken over live, benchmarks."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import rich.progress  # noqa: F401 - before the loop runs: it looks at the file system
from pydantic import ValidationError

from asyncroute import _benchmark
from asyncroute._errors import ConfigurationError, NoEligibleModelError, RouterStateError
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._protocols import Call, Candidate, Ranking
from asyncroute._values import Completion, Usage
from asyncroute.catalogue import DEFAULT_MODELS
from asyncroute.config import RouterConfig, load_config, save_config
from asyncroute.manager import LLMRoutingManager
from asyncroute.providers import SimulatedProvider, Simulation
from asyncroute.testing import run_virtual


class Answering:
    """A provider that answers at once, or when told to, and remembers what it was asked."""

    cancels_promptly = True

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.gate: asyncio.Event | None = None

    async def complete(self, call: Call, /) -> Completion:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        return Completion(f"real answer of {call.model.model_id}", Usage(10, 20))


def models(*ids: str, **fields: Any) -> dict[str, Any]:
    return {"models": [{"model_id": model_id, **fields} for model_id in ids]}


class TestSimulation:
    async def test_is_the_default_without_providers(self) -> None:
        async with LLMRoutingManager(models("a")) as manager:
            result = await manager.execute_query("hello")
        assert result["simulated"] is True

    async def test_never_happens_unasked_where_a_provider_was_given(self) -> None:
        provider = Answering()
        async with LLMRoutingManager(models("a"), providers={"default": provider}) as manager:
            result = await manager.execute_query("hello")
        assert result["simulated"] is False
        assert result["response"] == "real answer of a"

    async def test_can_be_asked_for_beside_a_provider(self) -> None:
        provider = Answering()
        async with LLMRoutingManager(models("a"), providers={"default": provider}) as manager:
            result = await manager.execute_query("hello", mock_execution=True)
            real = await manager.get_statistics()
            simulated = await manager.get_statistics(mock_execution=True)
        assert result["simulated"] is True
        assert provider.calls == []
        assert (real["total_requests"], real["simulated"]) == (0, False)
        assert (simulated["total_requests"], simulated["simulated"]) == (1, True)

    async def test_can_be_declined_where_it_is_the_default(self) -> None:
        async with LLMRoutingManager(models("a", provider="acme")) as manager:
            with pytest.raises(ConfigurationError, match="acme"):
                await manager.execute_query("hello", mock_execution=False)
            with pytest.raises(ConfigurationError, match="acme"):
                await manager.router.execute("hello")

    async def test_does_not_answer_real_queries_from_its_cache(self) -> None:
        provider = Answering()
        async with LLMRoutingManager(models("a"), providers={"default": provider}) as manager:
            await manager.execute_query("hello", mock_execution=True)
            again = await manager.execute_query("hello", mock_execution=True)
            real = await manager.execute_query("hello")
        assert again["cached"] is True
        assert (real["cached"], real["simulated"]) == (False, False)

    async def test_does_not_spend_real_budgets(self) -> None:
        config = models("a", cost_per_1k_tokens=1.0) | {"budgets": [{"limit": 0.3}]}
        provider = Answering()
        async with LLMRoutingManager(config, providers={"default": provider}) as manager:
            while (
                await manager.execute_query(
                    "hello",
                    max_tokens=200,
                    mock_execution=True,
                    metadata={"tenant": str(len(provider.calls))},
                    params={"n": anyio.current_time()},
                )
            )["success"]:
                pass
            real = await manager.execute_query("hello", max_tokens=200)
        assert real["success"] is True

    async def test_follows_the_models_of_the_router(self) -> None:
        async with LLMRoutingManager(models("a", "b")) as manager:
            manager.router.add_model(ModelConfig(model_id="c", provider="new", quality_score=1))
            manager.router.update_model_availability("a", False)
            manager.router.remove_model("b")
            result = await manager.execute_query("hello", strategy="quality_optimized")
            assert (result["success"], result["model_used"]) == (True, "c")
            decision = await manager.route_query("hello")
        assert [model["model_id"] for model in decision["candidates"]] == ["c"]

    def test_is_the_same_for_the_same_seed(self) -> None:
        async def run(seed: int) -> list[tuple[Any, ...]]:
            async with LLMRoutingManager(seed=seed) as manager:
                results = [await manager.execute_query(f"query {i}") for i in range(20)]
            return [(r["model_used"], r["actual_latency_ms"], r["actual_cost"]) for r in results]

        assert run_virtual(run, 1) == run_virtual(run, 1)
        assert run_virtual(run, 1) != run_virtual(run, 2)


class TestQueries:
    async def test_go_to_models_as_messages_too(self) -> None:
        provider = Answering()
        messages = [{"role": "user", "content": "hello"}]
        async with LLMRoutingManager(models("a"), providers={"default": provider}) as manager:
            result = await manager.execute_query(messages)
        assert result["success"]
        assert provider.calls[0].messages == tuple(messages)

    async def test_pass_every_field_on(self) -> None:
        provider = Answering()
        async with LLMRoutingManager(models("a", "b"), providers={"default": provider}) as manager:
            await manager.execute_query(
                "hello",
                "translation",
                "round_robin",
                max_tokens=7,
                max_cost=0.5,
                max_latency_ms=5000,
                required_quality=0.1,
                models=["a", "b"],
                exclude=["a"],
                timeout=3,
                priority=2,
                params={"temperature": 0},
                metadata={"tenant": "t"},
            )
        request = provider.calls[0].request
        assert provider.calls[0].model.model_id == "b"
        assert request.model_dump() | {"params": request.params} == {
            "query": "hello",
            "messages": None,
            "capability": "translation",
            "strategy": "round_robin",
            "max_tokens": 7,
            "max_cost": 0.5,
            "max_latency_ms": 5000,
            "required_quality": 0.1,
            "models": ("a", "b"),
            "exclude": ("a",),
            "timeout": 3,
            "priority": 2,
            "params": {"temperature": 0},
            "metadata": {"tenant": "t"},
        }

    async def test_take_a_selector_in_place_of_a_name(self) -> None:
        class LastFirst:
            async def select(self, _: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
                return Ranking.in_order(candidates[::-1])

        async with LLMRoutingManager(models("a", "b", "c")) as manager:
            decision = await manager.route_query("hello", strategy=LastFirst())
            result = await manager.execute_query("hello", strategy=LastFirst())
        assert decision["selected_model"]["model_id"] == "c"
        assert result["model_used"] == "c"

    async def test_can_be_hedged(self) -> None:
        slow = SimulatedProvider(models={"a": Simulation(latency=9.0), "b": Simulation(latency=1)})
        config = models("a", "b")
        config["models"][0]["quality_score"] = 1
        async with LLMRoutingManager(config, providers={"default": slow}) as manager:
            result = await manager.execute_query(
                "hello", strategy="quality_optimized", mode="hedged", hedge_after=2.0
            )
        assert [a["role"] for a in result["attempts"]] == ["first", "hedge"]
        assert result["model_used"] == "b"

    async def test_without_an_eligible_model_raise_when_routed_and_fail_when_executed(self) -> None:
        async with LLMRoutingManager(models("a", quality_score=0.5)) as manager:
            with pytest.raises(NoEligibleModelError):
                await manager.route_query("hello", required_quality=0.9)
            result = await manager.execute_query("hello", required_quality=0.9)
        assert (result["success"], result["error_kind"]) == (False, "no_eligible_model")

    async def test_with_bad_values_raise(self) -> None:
        async with LLMRoutingManager(models("a")) as manager:
            with pytest.raises(ValidationError, match="required_quality"):
                await manager.execute_query("hello", required_quality=2)
            with pytest.raises(ConfigurationError, match="fastest"):
                await manager.execute_query("hello", strategy="fastest")
            with pytest.raises(ConfigurationError, match="ensemble"):
                await manager.route_query("hello", strategy="ensemble")

    async def test_need_an_open_manager_to_be_executed(self) -> None:
        manager = LLMRoutingManager(models("a"))
        with pytest.raises(RouterStateError):
            await manager.execute_query("hello")
        async with manager:
            pass
        with pytest.raises(RouterStateError):
            await manager.execute_query("hello")

    async def test_give_json(self) -> None:
        async with LLMRoutingManager() as manager:
            result = await manager.execute_query("hello")
            decision = await manager.route_query("hello")
            statistics = await manager.get_statistics()
        for value in (result, decision, statistics):
            json.dumps(value)


class TestSettings:
    async def test_caching_is_on_unless_switched_off(self) -> None:
        for config, is_cached in (
            (models("a"), True),
            (models("a") | {"enable_caching": False}, False),
        ):
            async with LLMRoutingManager(config) as manager:
                await manager.execute_query("hello")
                assert (await manager.execute_query("hello"))["cached"] is is_cached

    async def test_cached_answers_live_for_cache_ttl(self) -> None:
        async with LLMRoutingManager(models("a") | {"cache_ttl": 50}) as manager:
            await manager.execute_query("hello")
            await anyio.sleep(49)
            assert (await manager.execute_query("hello"))["cached"] is True
            await anyio.sleep(2)
            assert (await manager.execute_query("hello"))["cached"] is False

    async def test_max_workers_bounds_all_models_together(self) -> None:
        provider = Answering()
        provider.gate = asyncio.Event()
        config = models("a", "b", "c") | {"max_workers": 2}
        async with (
            LLMRoutingManager(config, providers={"default": provider}) as manager,
            anyio.create_task_group() as callers,
        ):
            for i in range(9):
                callers.start_soon(manager.execute_query, f"query {i}")
            await anyio.sleep(1)
            assert len(provider.calls) == 2
            provider.gate.set()
        assert len(provider.calls) == 9

    def test_a_bad_one_is_refused_with_key_and_value(self) -> None:
        with pytest.raises(ConfigurationError, match=r"cache_ttl.*got -1"):
            LLMRoutingManager({"cache_ttl": -1})

    def test_the_default_models_are_eight_of_several_vendors(self) -> None:
        assert len(DEFAULT_MODELS) == 8
        assert len({model.provider for model in DEFAULT_MODELS}) >= 4
        for model in DEFAULT_MODELS:
            assert 0 < model.input_price < model.output_price
            assert model.cached_input_price < model.input_price

    def test_a_repr_tells_what_it_is(self) -> None:
        manager = LLMRoutingManager(models("a"))
        assert repr(manager) == "<LLMRoutingManager closed, simulating, 1 models>"


class TestReferences:
    CONFIG = models("a", params={"api_key": "${KEY}", "user": "me", "text": "$${KEY}"})

    async def test_are_looked_up_on_entering(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KEY", raising=False)
        provider = Answering()
        manager = LLMRoutingManager(self.CONFIG, providers={"default": provider})
        await manager.route_query("no key needed")
        monkeypatch.setenv("KEY", "hunter2")
        async with manager:
            result = await manager.execute_query("hello")
        assert provider.calls[0].params == {"api_key": "hunter2", "user": "me", "text": "${KEY}"}
        assert "hunter2" not in json.dumps(result)

    async def test_to_a_missing_variable_are_an_error_on_entering(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("KEY", raising=False)
        with pytest.raises(
            ConfigurationError, match=r"a\.params\.api_key .* KEY, which is not set"
        ):
            async with LLMRoutingManager(self.CONFIG):
                pass

    async def test_stay_references_in_the_configuration(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEY", "hunter2")
        async with LLMRoutingManager(self.CONFIG) as manager:
            assert manager.config == RouterConfig.from_mapping(self.CONFIG)
            manager.router.update_model("a", quality_score=0.9)
            manager.router.add_model(ModelConfig(model_id="b", params={"text": "${KEY}"}))
            live = manager.config.models
            assert live[0].params == self.CONFIG["models"][0]["params"]
            assert live[0].quality_score == 0.9
            assert live[1].params == {"text": "$${KEY}"}  # code means what it says
            manager.router.update_model("a", params={"api_key": "hunter2", "user": "you"})
            assert manager.config.models[0].params == {"api_key": "${KEY}", "user": "you"}


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path


@pytest.mark.real_time
class TestFiles:
    async def test_hold_what_was_exported_live(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("KEY", "hunter2")
        config = models("a", "b", params={"api_key": "${KEY}"}) | {"cache_ttl": 77}
        async with LLMRoutingManager(config) as manager:
            manager.router.update_model("a", weight=3)
            manager.router.remove_model("b")
            manager.router.add_model(ModelConfig(model_id="c", params={"token": "hunter3"}))
            variables = await manager.export_config(tmp_path / "out.yaml")
            exported = manager.config
        assert variables == {"ASYNCROUTE_C_TOKEN": "c.token"}
        assert "ASYNCROUTE_C_TOKEN (c.token)" in caplog.text
        text = (tmp_path / "out.yaml").read_text()
        assert "hunter" not in text + caplog.text
        loaded = await anyio.to_thread.run_sync(load_config, tmp_path / "out.yaml")
        assert [model.model_id for model in loaded.models] == ["a", "c"]
        assert loaded.models[0] == exported.models[0]
        assert loaded.models[0].weight == 3
        assert loaded.cache_ttl == 77

    async def test_route_alike_after_export_and_import(self, tmp_path: Path) -> None:
        first = LLMRoutingManager({"enable_ensemble": True}, seed=3)
        await first.export_config(tmp_path / "config.json")
        second = LLMRoutingManager(models("other"), seed=3)
        await second.import_config(tmp_path / "config.json")
        assert second.config == first.config
        for i in range(1000):
            strategy = ("ensemble", *_benchmark.STRATEGIES)[i % 7]
            fields: dict[str, Any] = {"max_tokens": 1 + i, "required_quality": i % 9 / 10}
            one = await first.route_query(f"query {i}", strategy=strategy, **fields)
            two = await second.route_query(f"query {i}", strategy=strategy, **fields)
            assert one == two

    async def test_change_a_running_manager_and_no_call_in_flight(self, tmp_path: Path) -> None:
        provider = Answering()
        provider.gate = asyncio.Event()
        path = write(
            tmp_path / "new.json",
            {
                "models": [
                    {"model_id": "kept", "quality_score": 0.9, "max_concurrent_requests": 1},
                    {"model_id": "new", "quality_score": 0.2},
                ]
            },
        )
        results: list[dict[str, Any]] = []

        async with LLMRoutingManager(
            models("gone", "kept", quality_score=0.5), providers={"default": provider}
        ) as manager:

            async def ask(model: str) -> None:
                results.append(await manager.execute_query(f"to {model}", models=[model]))

            async with anyio.create_task_group() as callers:
                for model in ("gone", "kept"):
                    callers.start_soon(ask, model)
                while len(provider.calls) < 2:
                    await anyio.lowlevel.checkpoint()
                assert await manager.import_config(path) == ()
                assert [m.model_id for m in manager.router.models] == ["kept", "new"]
                provider.gate.set()
            after = await manager.execute_query("afterwards", strategy="quality_optimized")
            with pytest.raises((ConfigurationError, NoEligibleModelError)):
                await manager.route_query("hello", models=["gone"])
            statistics = await manager.get_statistics()
        assert {result["model_used"] for result in results} == {"gone", "kept"}
        assert all(result["success"] for result in results)
        assert after["model_used"] == "kept"
        assert set(statistics["model_stats"]) >= {"kept", "new"}
        assert statistics["model_stats"]["kept"]["total_requests"] == 2  # its figures go on

    @pytest.mark.parametrize(
        "bad",
        [
            {"models": []},
            {"models": [{"model_id": "x"}, {"model_id": "x"}]},
            {"models": [{"model_id": "x"}, {"model_id": "y", "quality_score": 7}]},
            {"models": [{"model_id": "x", "params": {"api_key": "${ABSENT}"}}]},
            {
                "models": [
                    {"model_id": "x", "quota_group": "g", "requests_per_minute": 5},
                    {"model_id": "y", "quota_group": "g", "requests_per_minute": 6},
                ]
            },
        ],
    )
    async def test_that_are_bad_change_nothing(
        self, tmp_path: Path, bad: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ABSENT", raising=False)
        path = write(tmp_path / "bad.json", bad)
        async with LLMRoutingManager(models("a", "b")) as manager:
            before = manager.config
            with pytest.raises(ConfigurationError, match=r"bad\.json: "):
                await manager.import_config(path)
            assert manager.config == before
            assert manager.router.models == before.models

    @pytest.mark.parametrize(
        "after",
        [
            [("a", "g", 9), ("b", "g", 9), ("c", "g", 9)],
            [("c", "g", 9), ("b", "h", 9)],
            [("b", "g", 5), ("a", "h", 9)],
            [("a", "h", 7), ("b", None, 9)],
            [("a", None, None), ("b", None, None), ("c", "h", 1), ("d", "g", 2)],
        ],
    )
    async def test_that_regroup_quotas_are_taken_over_whole(
        self, tmp_path: Path, after: list[tuple[str, str | None, int | None]]
    ) -> None:
        def config(*grouped: tuple[str, str | None, int | None]) -> dict[str, Any]:
            return {
                "models": [
                    {"model_id": model, "quota_group": group, "requests_per_minute": limit}
                    for model, group, limit in grouped
                ]
            }

        path = write(tmp_path / "new.json", config(*after))
        async with LLMRoutingManager(config(("a", "g", 5), ("b", "h", 9))) as manager:
            await manager.import_config(path)
            live = {
                m.model_id: (m.quota_group, m.requests_per_minute) for m in manager.router.models
            }
        assert live == {model: (group, limit) for model, group, limit in after}

    async def test_that_fail_half_way_are_taken_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(tmp_path / "new.json", models("b", "c", "d", quality_score=0.9))
        async with LLMRoutingManager(models("a", "b")) as manager:
            before = manager.config
            add_model = manager.router.add_model

            def add_but_not_d(router: Any, model: ModelConfig) -> None:
                if model.model_id == "d":
                    raise ConfigurationError("no room")
                add_model(model)

            monkeypatch.setattr(type(manager.router), "add_model", add_but_not_d)
            with pytest.raises(ConfigurationError, match="no room"):
                await manager.import_config(path)
            live = sorted(manager.router.models, key=lambda model: model.model_id)
            assert live == list(before.models)

    async def test_with_other_settings_say_which_wait(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(tmp_path / "c.json", models("a") | {"cache_ttl": 9, "enable_ensemble": True})
        async with LLMRoutingManager(models("a")) as manager:
            assert set(await manager.import_config(path)) == {"cache_ttl", "enable_ensemble"}
            assert manager.config.cache_ttl == 9
        assert "cache_ttl" in caplog.text

    async def test_before_entering_set_everything(self, tmp_path: Path) -> None:
        path = write(tmp_path / "c.json", models("a") | {"enable_ensemble": True})
        manager = LLMRoutingManager(models("b"))
        assert await manager.import_config(path) == ()
        assert "ensemble" in manager.router.strategies
        assert [model.model_id for model in manager.router.models] == ["a"]

    async def test_that_are_missing_raise(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            await LLMRoutingManager(models("a")).import_config(tmp_path / "none.json")


@pytest.mark.real_time
class TestConfiguredProviders:
    async def test_are_opened_and_called(
        self, llmock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEY", "hunter2")
        config = models("gpt-4o", provider="mock") | {
            "providers": {"mock": {"base_url": llmock.base_url(), "api_key": "${KEY}"}}
        }
        async with LLMRoutingManager(config) as manager:
            result = await manager.execute_query("hello")
        assert result["success"], result["error"]
        assert result["simulated"] is False

    async def test_need_their_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ABSENT", raising=False)
        settings = {"base_url": "http://localhost:1", "api_key": "${ABSENT}"}
        with pytest.raises(ConfigurationError, match=r"providers\.p\.api_key .* ABSENT"):
            async with LLMRoutingManager(models("a") | {"providers": {"p": settings}}):
                pass


@pytest.mark.real_time
class TestBenchmark:
    QUERIES = ({"query": "hello", "capability": "simple_qa"}, "just a text")

    async def test_compares_all_strategies_on_the_live_models(self) -> None:
        async with LLMRoutingManager({"enable_ensemble": True}, seed=1) as manager:
            for model in DEFAULT_MODELS[2:]:
                manager.router.remove_model(model.model_id)
            reports = await manager.benchmark_strategies(self.QUERIES, iterations=20)
            statistics = await manager.get_statistics()
        assert set(reports) == {*_benchmark.STRATEGIES, "ensemble"}
        for report in reports.values():
            assert report["requests"] == 40
            assert set(report["models_used"]) <= {"gpt-6.1-sol", "gpt-6-luna"}
            assert 0 < report["success_rate"] <= 1
            assert 0 < report["avg_latency"] <= report["p95_latency"]
            assert report["total_cost"] == pytest.approx(40 * report["avg_cost"])
        assert reports["quality_optimized"]["total_cost"] > 0.01  # nothing comes from a cache
        assert reports["cost_optimized"]["avg_cost"] < reports["quality_optimized"]["avg_cost"]
        assert reports["quality_optimized"]["models_used"].keys() >= {"gpt-6.1-sol"}
        assert statistics["total_requests"] == 0

    async def test_is_the_same_for_the_same_seed(self) -> None:
        one = await LLMRoutingManager(seed=4).benchmark_strategies(self.QUERIES, 5)
        two = await LLMRoutingManager(seed=4).benchmark_strategies(self.QUERIES, 5)
        assert one == two
        assert one != await LLMRoutingManager(seed=5).benchmark_strategies(self.QUERIES, 5)

    async def test_shows_a_progress_bar_on_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        await LLMRoutingManager(seed=1).benchmark_strategies(self.QUERIES, 1)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        await LLMRoutingManager(seed=1).benchmark_strategies(self.QUERIES, 1)
        out, err = capsys.readouterr()
        assert out == ""
        assert "Benchmarking strategies" in err

    async def test_leaves_the_loop_free(self) -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            await LLMRoutingManager().benchmark_strategies(self.QUERIES, 20)
            tasks.cancel_scope.cancel()
        assert turns > 3

    async def test_ends_its_thread_soon_after_it_was_cancelled(self) -> None:
        before = threading.active_count()
        with anyio.move_on_after(0.05):
            await LLMRoutingManager().benchmark_strategies(self.QUERIES, 3_000)
            pytest.fail("not reached")
        for _ in range(150):
            if not _is_benchmarking():
                break
            await anyio.sleep(0.001)
        assert not _is_benchmarking()
        assert threading.active_count() <= before + 1  # anyio keeps idle workers

    @pytest.mark.parametrize(("queries", "iterations"), [([], 1), (["x"], 0)])
    async def test_of_nothing_is_refused(self, queries: list[str], iterations: int) -> None:
        with pytest.raises(ConfigurationError, match="at least one query and one iteration"):
            await LLMRoutingManager().benchmark_strategies(queries, iterations)

    async def test_of_a_bad_query_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="max_cost"):
            await LLMRoutingManager().benchmark_strategies([{"query": "x", "max_cost": -1}])


def _is_benchmarking() -> bool:
    def functions(frame: Any) -> set[str]:
        names: set[str] = set()
        while frame is not None:
            names.add(frame.f_code.co_name)
            frame = frame.f_back
        return names

    return any("compare" in functions(frame) for frame in sys._current_frames().values())


def test_saved_and_loaded_by_hand_is_what_the_manager_exports(tmp_path: Path) -> None:
    manager = LLMRoutingManager()
    save_config(manager.config, tmp_path / "c.json")
    assert load_config(tmp_path / "c.json") == manager.config
