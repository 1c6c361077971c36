from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from contextlib import aclosing
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncroute.providers
from asyncroute._errors import (
    ConfigurationError,
    ContentRefusedError,
    ContextTooLongError,
    ProviderError,
    RateLimitedError,
    StreamInterruptedError,
    UnavailableError,
)
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._protocols import Call
from asyncroute._values import Chunk, Completion, Usage
from asyncroute.providers import SimulatedProvider, Simulation
from asyncroute.testing import run_virtual
from contracts.provider import StreamingProviderContract, what_came

EXACT = Simulation(latency=10.0, sigma=0.0, first_token=0.2, output_tokens=80)


def now() -> float:
    return asyncio.get_running_loop().time()


def call_of(
    model_id: str = "m",
    query: str = "Why is the sky blue?",
    *,
    limit: int | None = None,
    **model: Any,
) -> Call:
    request = QueryRequest(query=query, max_tokens=limit, capability="analysis")
    return Call(ModelConfig(model_id=model_id, **model), request)


async def outcome_of(provider: SimulatedProvider, call: Call) -> tuple[float, Completion | str]:
    started = now()
    met: Completion | str
    try:
        met = await provider.complete(call)
    except ProviderError as error:
        met = error.kind
    return round(now() - started, 6), met


class SimulatedStage:
    secret = None
    silence = 30.0

    def __init__(self) -> None:
        self.provider = SimulatedProvider()
        self.recover()

    def meets(self, **changes: Any) -> None:
        self.provider._default = Simulation(**{"latency": 0.01, "sigma": 0.0, **changes})

    def fail(self) -> None:
        self.meets(failure_rate=1.0)

    def recover(self) -> None:
        self.meets()

    def hang(self) -> None:
        # With seed 0 the stall comes after some of the stream's pieces.
        self.meets(stall_rate=1.0, stall=(self.silence, self.silence))

    def interrupt(self) -> None:
        self.meets(interruption_rate=1.0)

    def open(self) -> int:
        return self.provider.in_flight


class TestContract(StreamingProviderContract):
    @pytest.fixture
    def stage(self) -> SimulatedStage:
        return SimulatedStage()


# ---------------------------------------------------------------- what it answers


async def test_the_answer_names_model_capability_and_query() -> None:
    provider = SimulatedProvider(default=EXACT)
    call = call_of(name="Model M")
    completion = await provider.complete(call)
    for part in ("Model M", "analysis", "Why is the sky blue?"):
        assert part in completion.text
    assert completion.model == "m"
    other = await provider.complete(call_of(query="Something else"))
    assert other.text != completion.text


async def test_messages_are_answered_by_the_last_text_in_them() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    request = QueryRequest(
        messages=(
            {"role": "user", "content": "first"},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
            {"role": "user", "content": [image]},
            {"role": "assistant", "content": None},
        )
    )
    completion = await SimulatedProvider().complete(Call(ModelConfig(model_id="m"), request))
    assert "What is this?" in completion.text
    assert "first" not in completion.text


async def test_a_reply_of_ones_own_makes_text_and_tokens() -> None:
    says = Simulation(reply=lambda call: f"{call.request.query}! " * 4, latency=0.0)
    completion = await SimulatedProvider(default=says).complete(call_of(query="Hear"))
    assert completion.text == "Hear! Hear! Hear! Hear! "
    assert completion.usage is not None
    assert completion.usage.output_tokens == 6


@pytest.mark.parametrize("limits", [{"limit": 5}, {"max_output_tokens": 5}])
async def test_the_calls_limit_cuts_the_answer(limits: dict[str, Any]) -> None:
    completion = await SimulatedProvider(default=EXACT).complete(call_of(**limits))
    assert completion.finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.output_tokens == 5
    assert len(completion.text) <= 20


async def test_the_windows_rest_cuts_the_answer() -> None:
    call = call_of(max_tokens=19)  # of which the prompt takes 9
    completion = await SimulatedProvider(default=EXACT).complete(call)
    assert (completion.usage, completion.finish_reason) == (Usage(9, 10), "length")


async def test_a_prompt_longer_than_the_window_is_refused_and_not_billed() -> None:
    provider = SimulatedProvider()
    with pytest.raises(ContextTooLongError):
        await provider.complete(call_of(max_tokens=9))
    assert provider.cost == 0


@pytest.mark.parametrize(
    ("content", "shown"),
    [(["Tell", {"text": "me"}, 3], "“Tell me”"), (None, "“”"), ("why " * 50, "why why…”")],
)
async def test_any_message_is_answered(content: Any, shown: str) -> None:
    request = QueryRequest(messages=({"role": "user", "content": content},))
    completion = await SimulatedProvider().complete(Call(ModelConfig(model_id="m"), request))
    assert shown in completion.text


# ---------------------------------------------------------------- how long it takes


async def test_without_spread_the_latency_is_exact() -> None:
    await SimulatedProvider(default=EXACT).complete(call_of())
    assert now() == 10.0


async def test_the_latency_is_the_models_own_where_none_is_given() -> None:
    await SimulatedProvider(default=Simulation(sigma=0.0)).complete(call_of(avg_latency_ms=1500))
    assert now() == 1.5


async def test_latencies_are_spread_around_their_median() -> None:
    provider = SimulatedProvider(default=Simulation(latency=2.0, sigma=0.5))
    taken: list[float] = []
    for _ in range(1000):
        started = now()
        await provider.complete(call_of())
        taken.append(now() - started)
    assert median(taken) == pytest.approx(2.0, rel=0.1)
    logarithms = [math.log(t / 2.0) for t in taken]
    assert math.sqrt(sum(x * x for x in logarithms) / 1000) == pytest.approx(0.5, rel=0.1)


async def test_a_stall_comes_on_top() -> None:
    stalls = Simulation(latency=1.0, sigma=0.0, stall_rate=1.0, stall=(20.0, 30.0))
    await SimulatedProvider(default=stalls).complete(call_of())
    assert 21.0 <= now() <= 31.0


async def test_a_model_has_its_own_behaviour() -> None:
    provider = SimulatedProvider(models={"slow": EXACT}, default=Simulation(latency=1.0, sigma=0.0))
    await provider.complete(call_of("fast"))
    assert now() == 1.0
    await provider.complete(call_of("slow"))
    assert now() == 11.0


async def test_a_stream_begins_with_the_first_token_and_ends_with_the_latency() -> None:
    async with aclosing(SimulatedProvider(default=EXACT).stream(call_of())) as chunks:
        at = [now() async for _ in chunks]
    assert at[0] == 2.0
    assert at == sorted(set(at))
    assert at[-1] == 10.0


async def test_a_slow_reader_finds_what_was_generated_meanwhile() -> None:
    async with aclosing(SimulatedProvider(default=EXACT).stream(call_of())) as chunks:
        await anext(chunks)
        await asyncio.sleep(100)
        read = now()
        async for _ in chunks:
            assert now() == read


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("rate", "kind"),
    [
        ("failure_rate", UnavailableError),
        ("refusal_rate", ContentRefusedError),
        ("rate_limit_rate", RateLimitedError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_fault_comes_before_the_answer_would_and_costs_nothing(
    rate: str, kind: type[ProviderError], *, streamed: bool
) -> None:
    rates: dict[str, Any] = {rate: 1.0}
    faulty = Simulation(latency=10.0, sigma=0.0, retry_after=3.0, **rates)
    provider = SimulatedProvider(default=faulty)
    call = call_of(cost_per_1k_tokens=1.0)
    with pytest.raises(kind) as caught:
        await (anext(provider.stream(call)) if streamed else provider.complete(call))
    assert caught.value.model_id == "m"
    assert caught.value.retry_after == (3.0 if kind is RateLimitedError else None)
    assert 0 < now() < 10.0
    assert (provider.calls, provider.cost, call.usage) == (1, 0.0, Usage())


async def test_an_interruption_bills_what_was_generated() -> None:
    provider = SimulatedProvider(default=Simulation(interruption_rate=1.0, output_tokens=1000))
    call = call_of(cost_per_1k_tokens=1.0)
    with pytest.raises(UnavailableError):
        await provider.complete(call)
    assert call.usage is not None
    assert 0 < call.usage.output_tokens < 1000
    assert provider.cost == call.usage.cost(call.model) > 0


async def test_an_interrupted_stream_has_its_text_so_far_and_bills_it() -> None:
    provider = SimulatedProvider(default=Simulation(interruption_rate=1.0, output_tokens=1000))
    call = call_of(cost_per_1k_tokens=1.0)
    chunks, error = await what_came(provider, call)
    assert isinstance(error, StreamInterruptedError)
    assert error.text == "".join(chunk.text for chunk in chunks) != ""
    assert call.usage is not None
    assert 0 < call.usage.output_tokens < 1000
    assert provider.cost == call.usage.cost(call.model)


def test_faults_come_at_their_rates() -> None:
    mixed = Simulation(
        latency=0.0,
        failure_rate=0.2,
        refusal_rate=0.1,
        rate_limit_rate=0.3,
        interruption_rate=0.1,
    )

    async def scenario() -> list[str]:
        provider = SimulatedProvider(default=mixed, seed=3)
        found = [await outcome_of(provider, call_of()) for _ in range(2000)]
        return [what if isinstance(what, str) else "answer" for _, what in found]

    kinds = run_virtual(scenario)
    assert kinds.count("unavailable") == pytest.approx(600, abs=80)
    assert kinds.count("content_refused") == pytest.approx(200, abs=50)
    assert kinds.count("rate_limited") == pytest.approx(600, abs=80)
    assert kinds.count("answer") == pytest.approx(600, abs=80)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"latency": -1.0}, "latency"),
        ({"latency": math.nan}, "latency"),
        ({"latency": math.inf}, "latency"),
        ({"sigma": -0.1}, "sigma"),
        ({"first_token": 1.5}, "first_token"),
        ({"failure_rate": 1.1}, "failure_rate"),
        ({"refusal_rate": math.nan}, "refusal_rate"),
        ({"stall_rate": -0.1}, "stall_rate"),
        ({"stall": (3.0, 2.0)}, "stall"),
        ({"retry_after": -1.0}, "retry_after"),
        ({"output_tokens": -1}, "output_tokens"),
        ({"output_tokens": (5, 4)}, "output_tokens"),
        ({"failure_rate": 0.6, "refusal_rate": 0.6}, "failure_rate+refusal_rate"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name_and_value(
    values: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Simulation(**values)
    assert names in str(caught.value)
    assert "got" in str(caught.value)


# ---------------------------------------------------------------- by seed

MOODY = Simulation(
    latency=1.0,
    stall_rate=0.1,
    failure_rate=0.1,
    refusal_rate=0.05,
    rate_limit_rate=0.1,
    interruption_rate=0.05,
)


def run_of(seed: int, order: list[str], *, together: bool) -> dict[str, list[object]]:
    """What each model's calls meet, one after the other or all at once."""

    async def scenario() -> dict[str, list[object]]:
        provider = SimulatedProvider(seed=seed, default=MOODY)
        met: dict[str, list[object]] = {model_id: [] for model_id in order}

        async def one(model_id: str, met: list[object], i: int) -> None:
            met[i] = await outcome_of(provider, call_of(model_id))

        async with asyncio.TaskGroup() as group:
            for model_id in order:
                met[model_id].append(None)
                task = group.create_task(one(model_id, met[model_id], len(met[model_id]) - 1))
                if not together:
                    await task
        return met

    return run_virtual(scenario)


@given(order=st.permutations(["a"] * 5 + ["b"] * 5), seed=st.integers(0, 100))
def test_the_nth_call_to_a_model_meets_the_same_in_any_company(order: list[str], seed: int) -> None:
    alone = run_of(seed, ["a"] * 5 + ["b"] * 5, together=False)
    assert run_of(seed, order, together=True) == alone


def test_another_seed_is_another_run() -> None:
    assert run_of(1, ["a"] * 5, together=False) != run_of(2, ["a"] * 5, together=False)


# ---------------------------------------------------------------- the ledger


def test_it_says_that_it_is_simulated() -> None:
    assert SimulatedProvider.is_simulated is True
    assert SimulatedProvider.cancels_promptly is True


async def test_a_call_costs_its_input_at_once_and_its_output_as_it_goes() -> None:
    provider = SimulatedProvider(default=EXACT)
    call = call_of(input_cost_per_1k=1.0, output_cost_per_1k=2.0)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(provider.complete(call))
        await asyncio.sleep(1)
        assert call.usage == Usage(9, 0)
        assert provider.in_flight == 1
        await asyncio.sleep(5)
        task.cancel()
    assert call.usage == Usage(9, 40)  # half of the eight seconds after the first token
    assert provider.cost == pytest.approx(0.009 + 0.080)
    assert provider.in_flight == 0


async def test_a_stream_left_early_costs_what_came() -> None:
    provider = SimulatedProvider(default=EXACT)
    call = call_of(cost_per_1k_tokens=1.0)
    async with aclosing(provider.stream(call)) as chunks:
        await anext(chunks)
        await anext(chunks)
    assert call.usage is not None
    assert 0 < call.usage.output_tokens < 80
    assert provider.cost == call.usage.cost(call.model)
    assert provider.in_flight == 0


async def test_the_ledger_is_the_exact_sum_of_what_the_calls_say() -> None:
    provider = SimulatedProvider(default=MOODY)
    calls = [
        call_of("ab"[i % 2], input_cost_per_1k=0.1, output_cost_per_1k=0.7 + i / 3)
        for i in range(200)
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome_of(provider, call)) for call in calls]
        await asyncio.sleep(1.0)
        for task in tasks[::7]:
            task.cancel()
    said = [call.usage.cost(call.model) for call in calls if call.usage]
    assert provider.calls == len(said) == 200
    assert provider.cost == math.fsum(said)
    assert sum(billed.calls for billed in provider.ledger.values()) == 200
    of_a = [call.usage for call in calls if call.model.model_id == "a" and call.usage]
    assert provider.ledger["a"].input_tokens == sum(usage.input_tokens for usage in of_a)
    assert provider.ledger["a"].output_tokens == sum(usage.output_tokens for usage in of_a)


async def test_streams_are_in_the_ledger_too() -> None:
    provider = SimulatedProvider(default=EXACT)
    call = call_of(cost_per_1k_tokens=1.0)
    chunks: list[Chunk] = [chunk async for chunk in provider.stream(call)]
    assert chunks[-1].usage == call.usage == Usage(9, 80)
    assert provider.ledger["m"].cost == provider.cost == Usage(9, 80).cost(call.model)


async def test_its_repr_says_how_it_stands() -> None:
    provider = SimulatedProvider(seed=5)
    await provider.complete(call_of())
    assert repr(provider) == "<SimulatedProvider seed=5 calls=1 in_flight=0>"


# ---------------------------------------------------------------- the package


def run_script(script: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_importing_the_package_imports_no_sdk() -> None:
    script = (
        "import sys, asyncroute.providers as p; p.SimulatedProvider; dir(p)\n"
        "print([m for m in ('httpx', 'httpx2', 'httpcore2', 'openai', 'anthropic')"
        " if m in sys.modules])"
    )
    assert run_script(script) == (0, "[]\n", "")


def test_every_public_name_is_there() -> None:
    names = asyncroute.providers.__all__
    assert list(names) == sorted(names)
    assert set(names) <= set(dir(asyncroute.providers))
    for name in names:
        assert getattr(asyncroute.providers, name).__name__ == name
    with pytest.raises(AttributeError, match="Nothing"):
        _ = asyncroute.providers.Nothing


def test_a_missing_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['httpx2'] = None\n"
        "from asyncroute.providers import OpenAICompatibleProvider"
    )
    status, _, errors = run_script(script)
    assert status == 1
    assert "pip install 'asyncroute[http]'" in errors
