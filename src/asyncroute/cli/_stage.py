"""Where the demonstration plays: on simulated models, or on those of a real endpoint."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, final

import anyio.to_thread

from asyncroute._errors import AsyncRouteError
from asyncroute._inputs import ModelConfig
from asyncroute.catalogue import DEFAULT_MODELS
from asyncroute.manager import LLMRoutingManager
from asyncroute.providers import SimulatedProvider, Simulation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import httpx2

    from asyncroute._protocols import Provider

__all__ = ("Endpoint", "HttpCall", "Stage", "live_stage", "simulated_stage")


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        base_url: Where it is, version included.
        models: The models to ask, the best first.
        api_key_env: The environment variable that holds its key.
    """

    base_url: str
    models: tuple[str, ...]
    api_key_env: str | None = None


@final
@dataclass(slots=True)
class HttpCall:
    """One HTTP request that was sent.

    Attributes:
        method: The method.
        path: The path.
        model: The model in its body.
        started_at: The loop's time.
        status: The response's; None where none came.
        took: Seconds until the response began; None where none came.
    """

    method: str
    path: str
    model: str
    started_at: float
    status: int | None = None
    took: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """What the parts of the demonstration play with.

    Attributes:
        title: Where it plays.
        manager: A manager whose models are well; open.
        failing: One whose best model always fails.
        broken: That model.
        stalling: One whose fastest model stalls, where that can be arranged.
        queries: How many queries the fourth part asks.
        max_tokens: How long answers may be.
        hedge_after: Seconds after which a hedge starts; None to measure first.
        http: What was sent over HTTP, as it is sent; None where nothing is.
    """

    title: str
    manager: LLMRoutingManager
    failing: LLMRoutingManager
    broken: str
    stalling: LLMRoutingManager
    queries: int
    max_tokens: int | None = None
    hedge_after: float | None = None
    http: list[HttpCall] | None = field(default=None)


@asynccontextmanager
async def simulated_stage(seed: int) -> AsyncGenerator[Stage]:
    """Open a stage of eight simulated models, which behave as the seed says."""
    best = max(DEFAULT_MODELS, key=lambda model: model.quality_score).model_id
    fastest = min(DEFAULT_MODELS, key=lambda model: model.avg_latency_ms).model_id
    vendors = {model.provider for model in DEFAULT_MODELS}
    fails = SimulatedProvider(seed=seed, models={best: Simulation(failure_rate=1.0)})
    stalls = SimulatedProvider(seed=seed, models={fastest: Simulation(latency=9.0, sigma=0.1)})
    async with (
        LLMRoutingManager({"enable_ensemble": True}, seed=seed) as manager,
        LLMRoutingManager(providers=dict.fromkeys(vendors, fails), seed=seed) as failing,
        LLMRoutingManager(providers=dict.fromkeys(vendors, stalls), seed=seed) as stalling,
    ):
        title = f"{len(DEFAULT_MODELS)} simulated models, virtual time, seed {seed}"
        yield Stage(title, manager, failing, best, stalling, queries=60, hedge_after=1.0)


@asynccontextmanager
async def live_stage(endpoint: Endpoint, seed: int) -> AsyncGenerator[Stage]:
    """Open a stage on an endpoint's models, and one on a path of it that does not exist.

    Raises:
        AsyncRouteError: The first model does not answer.
        ConfigurationError: The URL is none, or the variable with the key is not set.
        ImportError: The extra `http` is missing.
    """
    calls: list[HttpCall] = []
    # In a thread: importing an HTTP client and loading certificates block.
    client, providers = await anyio.to_thread.run_sync(_connect, endpoint, calls)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client)
        models = [_model(name, i) for i, name in enumerate(endpoint.models)]
        broken = ModelConfig(model_id="no-such-model", provider="wrong-path", quality_score=1)
        manager = LLMRoutingManager(
            {"models": models, "enable_ensemble": True}, providers=providers, seed=seed
        )
        failing = LLMRoutingManager({"models": [broken, *models]}, providers=providers, seed=seed)
        await stack.enter_async_context(manager)
        await stack.enter_async_context(failing)
        await _greet(endpoint, manager)
        yield Stage(
            f"{endpoint.base_url}: {', '.join(endpoint.models)}",
            manager,
            failing,
            broken.model_id,
            failing,
            queries=8,
            max_tokens=64,
            http=calls,
        )


async def _greet(endpoint: Endpoint, manager: LLMRoutingManager) -> None:
    """Ask the first model something small: is anybody there? It opens the connection, too."""
    first = endpoint.models[0]
    result = await manager.router.execute("Say hello.", models=[first], max_tokens=16, timeout=30)
    if not result.success:
        why = result.attempts[0].error if result.attempts else result.error
        raise AsyncRouteError(f"{first} at {endpoint.base_url} does not answer: {why}")


def _model(name: str, rank: int) -> ModelConfig:
    # What the models are like is not known: the order they were named in stands for quality.
    return ModelConfig(model_id=name, provider="endpoint", quality_score=0.9 / (1 + rank / 10))


def _connect(
    endpoint: Endpoint, calls: list[HttpCall]
) -> tuple[httpx2.AsyncClient, dict[str, Provider]]:
    """Make a client that notes its calls, and with it a provider that works and one that fails."""
    import httpx2

    from asyncroute.providers import OpenAICompatibleProvider

    client = httpx2.AsyncClient(event_hooks=_hooks(calls))
    provider = partial(OpenAICompatibleProvider, api_key_env=endpoint.api_key_env, client=client)
    return client, {
        "endpoint": provider(endpoint.base_url),
        "wrong-path": provider(f"{endpoint.base_url.rstrip('/')}/no-such-path"),
    }


def _hooks(calls: list[HttpCall]) -> dict[str, list[Callable[..., Any]]]:
    async def sent(request: httpx2.Request) -> None:
        model = str(json.loads(request.content).get("model", ""))
        now = asyncio.get_running_loop().time()
        call = HttpCall(request.method, request.url.path, model, now)
        request.extensions["call"] = call
        calls.append(call)

    async def answered(response: httpx2.Response) -> None:
        call = response.request.extensions["call"]
        call.status = response.status_code
        call.took = asyncio.get_running_loop().time() - call.started_at

    return {"request": [sent], "response": [answered]}
