"""What comes next after a failure: which model, or the same again, and after what pause."""

from __future__ import annotations

import random
from itertools import pairwise
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncroute import (
    AllAttemptsFailedError,
    Call,
    Completion,
    ConfigurationError,
    FallbackStrategy,
    LLMRouter,
    UnavailableError,
)
from asyncroute._errors import ProviderError
from support import KINDS, Scripted, answers, fails, hangs, in_turn, model, models, roles, router_of

RETRIED = ("rate_limited", "provider_overloaded", "unavailable", "attempt_timeout", "protocol")
FINAL = (
    "authentication",
    "bad_request",
    "context_too_long",
    "content_refused",
    "quota_exhausted",
)


def error(kind: str, **said: Any) -> ProviderError:
    return KINDS[kind]("failed", **said)


async def calls_after(
    *steps: Any, ids: Any = "ab", fallback: FallbackStrategy | None = None, **fields: Any
) -> str:
    """Play one step a model, and return which were called."""
    provider = Scripted(dict(zip("abcd", steps, strict=False)))
    async with router_of(provider, ids, fallback=fallback) as router:
        await router.execute("hello", **fields)
    return "".join(provider.calls)


# Which model


@pytest.mark.parametrize("kind", [*RETRIED, "stream_interrupted"])
async def test_a_transient_failure_goes_to_the_next_model_at_once(kind: str) -> None:
    provider = Scripted({"a": fails(kind)})
    async with router_of(provider, "ab") as router:
        result = await router.execute("hello")
    assert roles(result) == [
        ("a", "first", "failed" if kind != "attempt_timeout" else "timed_out"),
        ("b", "fallback", "won"),
    ]
    assert provider.called_at == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["bad_request", "content_refused"])
async def test_what_would_fail_anywhere_is_tried_nowhere_else(kind: str) -> None:
    assert await calls_after(fails(kind)) == "a"


async def test_refused_content_goes_elsewhere_only_where_asked_for() -> None:
    asked = FallbackStrategy(refused_elsewhere=True)
    assert await calls_after(fails("content_refused"), fallback=asked) == "ab"


async def test_a_prompt_too_long_goes_to_a_larger_window_only() -> None:
    ids = [
        model("a", max_tokens=8_000),
        model("b", max_tokens=8_000),
        model("c", max_tokens=32_000),
    ]
    assert await calls_after(fails("context_too_long"), ids=ids) == "ac"


async def test_a_wrong_key_leads_to_no_model_of_that_provider() -> None:
    provider = Scripted({"a": fails("authentication")})
    ids = [model("a"), model("b"), model("c", provider="other")]
    async with router_of(provider, ids) as router:
        await router.execute("hello")
    assert provider.calls == ["a", "c"]


@pytest.mark.parametrize("kind", ["rate_limited", "quota_exhausted"])
async def test_an_exhausted_account_leads_to_another_quota_group(kind: str) -> None:
    ids = [model("a", quota_group="one"), model("b", quota_group="one"), model("c")]
    assert await calls_after(fails(kind), ids=ids) == "ac"
    assert await calls_after(fails(kind), ids="abc") == "ab"


async def test_no_more_models_are_asked_than_max_models() -> None:
    provider = Scripted(default=fails("authentication"))
    configs = [model(i, provider=i) for i in "abcde"]
    async with router_of(provider, configs) as router:
        await router.execute("hello")
    assert len(provider.calls) == len(set(provider.calls)) == 3


async def test_a_failure_that_ended_all_ends_retries_of_the_others_too() -> None:
    assert await calls_after(fails(), fails("bad_request")) == "ab"
    assert await calls_after(fails(), fails("content_refused")) == "ab"


async def test_each_model_is_asked_with_its_own_parameters() -> None:
    seen: list[dict[str, Any]] = []

    async def step(call: Call) -> Completion:
        seen.append(call.params)
        raise UnavailableError("down")

    ids = [model("a", params={"top_k": 1}), model("b", params={"top_k": 2, "temperature": 0})]
    fallback = FallbackStrategy(max_retries=0)
    async with router_of(Scripted(default=step), ids, fallback=fallback) as router:
        await router.execute("hello", params={"temperature": 1})
    assert seen == [{"top_k": 1, "temperature": 1}, {"top_k": 2, "temperature": 1}]


@pytest.mark.parametrize(("failing", "count"), [("", 1), ("a", 2), ("ab", 3), ("abc", 3)])
async def test_the_attempts_of_a_result_are_those_that_were_made(failing: str, count: int) -> None:
    provider = Scripted({name: fails("authentication") for name in failing})
    async with router_of(provider, [model(i, provider=i) for i in "abcd"]) as router:
        result = await router.execute("hello")
        assert len(result.attempts) == len(provider.calls) == count
        assert (await router.execute("hello", models=["x"])).attempts == ()


# The same model again


@pytest.mark.parametrize("kind", RETRIED)
async def test_the_last_model_is_asked_again_twice(kind: str) -> None:
    assert await calls_after(fails(kind), ids="a") == "aaa"


@pytest.mark.parametrize("kind", FINAL)
async def test_what_a_pause_does_not_help_is_not_asked_again(kind: str) -> None:
    assert await calls_after(fails(kind), ids="a") == "a"


async def test_a_retry_that_succeeds_is_one() -> None:
    provider = Scripted({"a": in_turn(fails(), answers())})
    async with router_of(provider, "a") as router:
        result = await router.execute("hello")
    assert roles(result) == [("a", "first", "failed"), ("a", "retry", "won")]
    assert 0 <= result.attempts[1].started_after <= 0.5


async def test_retries_come_only_after_all_other_models() -> None:
    assert (await calls_after(fails(), fails(), fails(), ids="abc"))[:3] == "abc"
    assert await calls_after(fails(), answers(), ids="ab") == "ab"


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_the_number_of_retries_is_exact(count: int) -> None:
    fallback = FallbackStrategy(max_retries=count)
    assert await calls_after(fails(), ids="a", fallback=fallback) == "a" * (1 + count)


async def test_retries_by_kind_override_what_the_error_allows() -> None:
    fallback = FallbackStrategy(retries={"content_refused": 3, "unavailable": 0})
    assert await calls_after(fails("content_refused"), ids="a", fallback=fallback) == "aaaa"
    assert await calls_after(fails(), ids="a", fallback=fallback) == "a"


async def test_retries_draw_on_one_budget_of_the_router() -> None:
    provider = Scripted(default=fails())
    async with router_of(provider, "a") as router:
        for _ in range(20):
            await router.execute("hello")
    assert len(provider.calls) <= 20 + 10 + 2 + 1


async def test_fallbacks_draw_on_no_budget() -> None:
    provider = Scripted({"a": fails("context_too_long")})
    ids = [model("a", max_tokens=8_000), model("b", max_tokens=32_000)]
    async with router_of(provider, ids) as router:
        results = [await router.execute("hello") for _ in range(50)]
    assert all(result.success for result in results)


async def test_a_shed_of_our_own_is_not_retried_blindly() -> None:
    provider = Scripted({"a": hangs()})
    async with router_of(provider, [model("a", max_concurrent_requests=0)], queue_size=1) as router:
        result = await router.execute("hello", timeout=0.5)
    assert provider.calls == []
    assert not result.success


# Pauses


@given(st.integers(0, 12), st.integers(0, 1000))
def test_pauses_are_full_jitter_under_a_doubling_roof(retry: int, seed: int) -> None:
    strategy = FallbackStrategy(base_delay=0.5, max_delay=8.0)
    pause = strategy.pause_before(retry, error("unavailable"), random.Random(seed))
    assert 0 <= pause <= min(8.0, 0.5 * 2**retry)


def test_jitter_uses_the_whole_span() -> None:
    rng = random.Random(1)
    pauses = [FallbackStrategy().pause_before(2, error("unavailable"), rng) for _ in range(500)]
    assert min(pauses) < 0.1
    assert max(pauses) > 1.9


def test_a_retry_after_is_waited_for() -> None:
    pause = FallbackStrategy().pause_before(
        0, error("rate_limited", retry_after=3.0), random.Random()
    )
    assert pause == 3.0


@pytest.mark.parametrize("seconds", [0.4, 7.5])
async def test_a_retry_comes_no_earlier_than_the_provider_asked(seconds: float) -> None:
    provider = Scripted({"a": in_turn(fails("rate_limited", retry_after=seconds), answers())})
    async with router_of(provider, "a") as router:
        result = await router.execute("hello")
    assert result.success
    assert provider.called_at == [0.0, pytest.approx(seconds, abs=0.5)]
    assert provider.called_at[1] >= seconds


async def test_an_absurd_retry_after_is_capped() -> None:
    provider = Scripted({"a": in_turn(fails("rate_limited", retry_after=5000.0), answers())})
    async with router_of(provider, "a") as router:
        await router.execute("hello", timeout=inf)
    assert 60 <= provider.called_at[1] <= 61


async def test_a_retry_after_beyond_the_deadline_goes_to_the_next_model_or_ends_at_once() -> None:
    busy = fails("rate_limited", retry_after=30.0)
    provider = Scripted({"a": busy, "b": busy})
    async with router_of(provider, "ab") as router:
        result = await router.execute("hello", timeout=5)
    assert provider.calls == ["a", "b"]
    assert result.actual_latency_ms == 0
    assert isinstance(result.exception, AllAttemptsFailedError)
    assert result.exception.retry_after == 30.0


async def test_a_quota_group_heeds_one_retry_after_together() -> None:
    provider = Scripted({"a": in_turn(fails("rate_limited", retry_after=1.0), answers())})
    ids = [model("a", quota_group="g"), model("b", quota_group="g")]
    async with router_of(provider, ids) as router:
        result = await router.execute("hello")
        assert result.success
    first, *later = provider.called_at
    assert first == 0.0
    assert min(later) >= 1.0


# Chains


async def test_a_chain_takes_the_place_of_the_ranking() -> None:
    chained = FallbackStrategy(chains={"a": ["c"]})
    assert await calls_after(fails("authentication"), ids="abc", fallback=chained) == "a"
    chained = FallbackStrategy(chains={"a": ["c", "b"]}, max_retries=0)
    provider = await calls_after(fails(), answers(), fails(), ids="abc", fallback=chained)
    assert provider == "acb"


async def test_a_fallback_that_fails_goes_on_to_its_own_chain() -> None:
    chained = FallbackStrategy(chains={"a": ["c"], "c": ["d"]}, max_retries=0)
    assert await calls_after(fails(), answers(), fails(), ids="abcd", fallback=chained) == "acd"


async def test_the_default_chain_is_for_models_without_one_of_their_own() -> None:
    chained = FallbackStrategy(chains={"*": ["c"], "b": ["d"]}, max_retries=0)
    assert await calls_after(fails(), ids="abcd", fallback=chained) == "ac"
    assert await calls_after(None, fails(), ids="bacd", fallback=chained) == "bd"


async def test_constraints_hold_for_chains_too() -> None:
    chained = FallbackStrategy(chains={"a": ["b", "c"]}, max_retries=0)
    ids = [model("a"), model("b", quality_score=0.1), model("c")]
    assert await calls_after(fails(), ids=ids, fallback=chained, required_quality=0.5) == "ac"


async def test_constraints_of_windows_hold_for_chains_too() -> None:
    chained = FallbackStrategy(chains={"a": ["b", "c"]}, max_retries=0)
    ids = [
        model("a", max_tokens=32_000),
        model("b", max_tokens=8_000),
        model("c", max_tokens=32_000),
    ]
    provider = Scripted({"a": fails()})
    async with router_of(provider, ids, fallback=chained) as router:
        await router.execute("x" * 40_000)
    assert provider.calls == ["a", "c"]


@pytest.mark.parametrize(
    ("chains", "loop"),
    [
        ({"a": ["b"], "b": ["a"]}, "a -> b -> a"),
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["x", "c"], "c": ["b"]}, "b -> c -> b"),
    ],
)
def test_chains_that_lead_in_a_circle_are_refused(chains: Any, loop: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lead in a circle: {loop}"):
        FallbackStrategy(chains=chains)


def test_a_default_chain_and_a_models_own_do_not_loop() -> None:
    strategy = FallbackStrategy(chains={"*": ["a", "b"], "a": ["b"]})
    assert strategy.chain_after("a") == ("b",)
    assert strategy.chain_after("x") == ("a", "b")
    assert strategy.chain_after("b") == ("a",)
    assert FallbackStrategy(chains={"a": ["b"]}).chain_after("x") is None


def test_a_chain_of_unknown_models_is_refused_when_the_router_is_made() -> None:
    with pytest.raises(ConfigurationError, match="unknown models: x, y"):
        LLMRouter(models("a"), fallback=FallbackStrategy(chains={"a": ["y"], "x": ["a"]}))


# All fail


async def test_when_all_fail_one_error_tells_all_attempts_and_the_first_cause() -> None:
    provider = Scripted({"a": fails("authentication"), "b": fails("quota_exhausted")})
    configs = [model("a", provider="one"), model("b", provider="two")]
    async with router_of(provider, configs) as router:
        result = await router.execute("hello")
    assert (result.success, result.error_kind) == (False, "all_attempts_failed")
    failure = result.exception
    assert isinstance(failure, AllAttemptsFailedError)
    assert [attempt.error_kind for attempt in failure.attempts] == [
        "authentication",
        "quota_exhausted",
    ]
    assert isinstance(failure.__cause__, KINDS["authentication"])
    assert failure.attempts == result.attempts
    assert "a (first): a failed; b (fallback): b failed" in str(failure)


async def test_hung_models_end_at_the_deadline() -> None:
    provider = Scripted(default=hangs())
    async with router_of(provider, "ab", attempt_timeout=1.0) as router:
        result = await router.execute("hello", timeout=2)
        assert result.error_kind == "deadline_exceeded"
        assert result.actual_latency_ms == pytest.approx(2000, abs=100)
    assert provider.calls == ["a", "b"]
    assert [attempt.outcome for attempt in result.attempts] == ["timed_out", "timed_out"]


# Values


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_models": 0}, "max_models must be 1 or more, got 0"),
        ({"max_retries": -1}, "retries of max_retries must be 0 or more, got -1"),
        ({"retries": {"unavailable": -2}}, "retries of unavailable must be 0 or more, got -2"),
        ({"base_delay": nan}, "base_delay must be 0 or more seconds, got nan"),
        ({"max_delay": inf}, "max_delay must be 0 or more seconds, got inf"),
    ],
)
def test_bad_values_are_refused_by_field_and_value(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        FallbackStrategy(**given)


def test_growing_pauses_are_capped() -> None:
    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    strategy = FallbackStrategy(base_delay=1, max_delay=5)
    pauses = [strategy.pause_before(n, error("unavailable"), Highest()) for n in range(6)]
    assert pauses == [1, 2, 4, 5, 5, 5]
    assert all(x <= y for x, y in pairwise(pauses))
