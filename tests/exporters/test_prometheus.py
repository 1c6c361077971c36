"""What a scrape finds: counters of requests and attempts, and the live state of routers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from asyncroute import Call, Chunk, ConfigurationError, LLMRouter, Usage, exporters
from asyncroute.exporters import PrometheusObserver
from support import Scripted, answers, fails, hangs, model, router_of


class Scraped:
    """A registry of its own, with one observer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.observer = PrometheusObserver(self.registry)

    def router(self, provider: Any, ids: Any = "abc", **settings: Any) -> LLMRouter:
        return router_of(provider, ids, observers=[self.observer], **settings)

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of this name, by the values of their labels in alphabetical order."""
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name
        }

    def health(self, router: str, model_id: str) -> set[str]:
        found = self.samples("asyncroute_health")
        return {
            status
            for (m, r, status), value in found.items()
            if (r, m) == (router, model_id) and value
        }


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


async def test_requests_are_counted_by_how_they_ended(scraped: Scraped) -> None:
    async with scraped.router(Scripted(), cache=True) as router:
        await router.execute("hello")
        await router.execute("hello")
        await router.execute("hi", strategy="cost_optimized")
        await router.execute("hello", required_quality=1.0)
    assert scraped.samples("asyncroute_requests_total") == {
        ("success", "balanced"): 1,
        ("cached", "balanced"): 1,
        ("success", "cost_optimized"): 1,
        ("no_eligible_model", "balanced"): 1,
    }
    seconds = scraped.samples("asyncroute_request_duration_seconds_sum")
    assert seconds["success", "balanced"] == pytest.approx(0.1)
    assert seconds["cached", "balanced"] == 0


async def test_attempts_are_counted_and_timed(scraped: Scraped) -> None:
    provider = Scripted({"a": fails("rate_limited", after=0.5), "b": answers(after=2)})
    async with scraped.router(provider) as router:
        await router.execute("hello")
    assert scraped.samples("asyncroute_attempts_total") == {
        ("rate_limited", "a", "failed", "first"): 1,
        ("", "b", "won", "fallback"): 1,
    }
    assert scraped.samples("asyncroute_attempt_duration_seconds_sum") == {
        ("a", "failed"): pytest.approx(0.5),
        ("b", "won"): pytest.approx(2),
    }
    assert scraped.samples("asyncroute_attempt_queued_seconds_count") == {("a",): 1, ("b",): 1}


async def test_calls_given_up_are_counted_but_not_timed(scraped: Scraped) -> None:
    provider = Scripted({"a": hangs(Usage(10, 0)), "b": answers(after=1)})
    async with scraped.router(provider) as router:
        await router.execute("hello", mode="race", width=2)
    assert scraped.samples("asyncroute_attempts_total") == {
        ("", "a", "superseded", "race"): 1,
        ("", "b", "won", "race"): 1,
    }
    assert scraped.samples("asyncroute_attempt_duration_seconds_count") == {("b", "won"): 1}


async def test_the_first_token_of_a_stream_is_timed_and_of_a_whole_answer_is_not(
    scraped: Scraped,
) -> None:
    class Streaming(Scripted):
        async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            await asyncio.sleep(0.5)
            yield Chunk("one")
            await asyncio.sleep(3)
            yield Chunk("two", finish_reason="stop")

    async with scraped.router(Streaming(), "a") as router:
        await router.execute("hello")
        assert scraped.samples("asyncroute_first_token_seconds_count") == {}
        async with router.stream("hello") as stream:
            assert [chunk.text async for chunk in stream] == ["one", "two"]
        async with router.stream("hello") as stream:
            await anext(stream)  # and leave
    assert scraped.samples("asyncroute_first_token_seconds_count") == {("a",): 2}
    assert scraped.samples("asyncroute_first_token_seconds_sum")["a",] == pytest.approx(1)


async def test_tokens_and_dollars_are_counted_by_model(scraped: Scraped) -> None:
    provider = Scripted({"a": answers(usage=Usage(1000, 500)), "b": answers("x" * 400, usage=None)})
    async with scraped.router(provider) as router:
        for _ in range(2):
            await router.execute("hello", models=["a"])
        estimated = await router.execute("hello", models=["b"])
    tokens = scraped.samples("asyncroute_tokens_total")
    assert (tokens["a", "input"], tokens["a", "output"]) == (2000, 1000)
    assert scraped.samples("asyncroute_cost_usd_total") == {
        ("false", "a"): pytest.approx(0.03),
        ("true", "b"): pytest.approx(estimated.actual_cost),
    }


async def test_time_in_the_queue_is_measured(scraped: Scraped) -> None:
    provider = Scripted(default=answers(after=3))
    async with scraped.router(provider, [model("a", max_concurrent_requests=1)]) as router:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(router.execute("hello"))
    assert scraped.samples("asyncroute_attempt_queued_seconds_sum") == {("a",): pytest.approx(3)}


async def test_the_live_state_is_read_when_scraped(scraped: Scraped) -> None:
    provider = Scripted({"a": hangs()})
    config = model("a", max_concurrent_requests=1)
    async with scraped.router(provider, [config, model("b", is_available=False)]) as router:
        scraped.observer.watch(router)
        waiting = [asyncio.ensure_future(router.execute("hello")) for _ in range(3)]
        await asyncio.sleep(1)
        assert scraped.samples("asyncroute_in_flight") == {
            ("a", "default"): 1,
            ("b", "default"): 0,
        }
        assert scraped.samples("asyncroute_queued")["a", "default"] == 2
        assert scraped.samples("asyncroute_load")["a", "default"] == 3
        assert scraped.samples("asyncroute_available") == {
            ("a", "default"): 1,
            ("b", "default"): 0,
        }
        assert scraped.samples("asyncroute_success_ratio")["a", "default"] == 1
        assert scraped.health("default", "a") == {"healthy"}
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        assert scraped.samples("asyncroute_in_flight")["a", "default"] == 0
        router.add_model({"model_id": "c"})
        assert ("c", "default") in scraped.samples("asyncroute_queued")


async def test_ill_health_is_seen(scraped: Scraped) -> None:
    provider = Scripted(
        {
            "a": fails("authentication"),
            "b": fails("rate_limited", retry_after=30),
            "d": fails("authentication"),
        }
    )
    async with scraped.router(provider, "abdc") as router:
        scraped.observer.watch(router, name="main")
        for model_id in "abcd":
            await router.execute("hello", models=[model_id, "c"])
        assert scraped.health("main", "a") == {"ejected"}
        assert scraped.health("main", "b") == {"blocked"}
        assert scraped.health("main", "c") == {"healthy"}
        provider.script["d"] = hangs()
        await asyncio.sleep(10)
        probing = asyncio.ensure_future(router.execute("hello", models=["d", "c"]))
        await asyncio.sleep(1)
        assert scraped.health("main", "d") == {"probing"}
        await probing


async def test_several_routers_are_told_apart(scraped: Scraped) -> None:
    first, second = scraped.router(Scripted(), "a"), scraped.router(Scripted(), "a")
    scraped.observer.watch(first, name="first")
    scraped.observer.watch(first, name="first")  # again: nothing
    scraped.observer.watch(second, name="second")
    with pytest.raises(ConfigurationError, match="'first' is another router's"):
        scraped.observer.watch(second, name="first")
    assert set(scraped.samples("asyncroute_queued")) == {("a", "first"), ("a", "second")}
    assert repr(scraped.observer) == "<PrometheusObserver watching 2 routers>"


async def test_a_router_that_has_gone_is_not_kept(scraped: Scraped) -> None:
    router = router_of(Scripted(), "a")
    scraped.observer.watch(router)
    del router
    gc.collect()
    assert scraped.samples("asyncroute_queued") == {}


@pytest.mark.real_time
async def test_another_thread_may_scrape_while_requests_run(scraped: Scraped) -> None:
    pages: list[bytes] = []
    is_done = False

    def scrape() -> None:
        while not is_done:
            pages.append(generate_latest(scraped.registry))

    async with scraped.router(Scripted(default=answers(after=0))) as router:
        scraped.observer.watch(router)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(scrape))
            try:
                for n in range(200):
                    router.add_model({"model_id": f"m{n}"})
                    await router.execute("hello")
                    router.remove_model(f"m{n}")
            finally:
                is_done = True
    text = generate_latest(scraped.registry).decode()
    assert 'asyncroute_requests_total{outcome="success",strategy="balanced"} 200.0' in text
    assert pages


async def test_no_label_holds_what_a_caller_writes(scraped: Scraped) -> None:
    async with scraped.router(Scripted(default=fails("bad_request"))) as router:
        scraped.observer.watch(router)
        await router.execute(
            "the launch code", capability="secret-cap", metadata={"tenant": "acme"}
        )
    text = generate_latest(scraped.registry).decode()
    for word in ("launch", "secret-cap", "acme", "a failed"):
        assert word not in text


def test_a_registry_takes_one_observer(scraped: Scraped) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusObserver(scraped.registry)


def test_exporters_are_found_by_name() -> None:
    assert set(exporters.__all__) <= set(dir(exporters))
    with pytest.raises(AttributeError, match="no attribute 'StatsdObserver'"):
        exporters.StatsdObserver  # noqa: B018
