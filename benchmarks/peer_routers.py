"""The same job on other libraries, each against the minimum in its own process. See `peers.py`.

    python benchmarks/peer_routers.py litellm

Run in an environment that has the library named, and nothing of ours: standard library only. Prints
one line of JSON. Every library chooses among eight models by its own means, and calls a mock that
returns at once; then its first model fails and another answers.
"""
# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import version

from floor import Minimum, MinimumWithFallback
from measure import PROMPT, Case, Times, calls_per_second, interleaved, ratio

MODELS = 8
CALLERS, CALLS = 100, 5
ROUNDS = 5
MESSAGES = [{"role": "user", "content": PROMPT}]
"""As chat APIs take it."""


def litellm() -> dict[str, Case]:
    """Router with custom handlers, five strategies; mocks are the library's own `CustomLLM`.

    Eight deployments of one model, with limits, without retries; for the fallback a group of one
    that is down, with the library's `fallbacks` and no cooldown.
    """
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no price list from the network
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False

    class Mock(litellm.CustomLLM):
        async def acompletion(self, *args: object, **given: object) -> object:
            model = given["model"]
            if model == "down":
                raise litellm.ServiceUnavailableError("down", "mock", model)
            message = {"role": "assistant", "content": "ok"}
            return litellm.ModelResponse(
                choices=[{"message": message, "finish_reason": "stop", "index": 0}],
                usage=litellm.Usage(prompt_tokens=20, completion_tokens=2, total_tokens=22),
                model=model,
            )

    litellm.custom_provider_map = [{"provider": "mock", "custom_handler": Mock()}]
    limits = {"rpm": 100_000_000, "tpm": 1_000_000_000, "timeout": 30}
    pool = [
        {"model_name": "pool", "litellm_params": {"model": f"mock/m{n}", **limits}}
        for n in range(MODELS)
    ]
    strategies = (
        "simple-shuffle",
        "least-busy",
        "latency-based-routing",
        "usage-based-routing-v2",
        "cost-based-routing",
    )
    cases: dict[str, Case] = {}
    for strategy in strategies:
        router = litellm.Router(model_list=pool, routing_strategy=strategy, num_retries=0)
        cases[strategy] = lambda router=router: router.acompletion("pool", MESSAGES)
    down = {"model_name": "first", "litellm_params": {"model": "mock/down", **limits}}
    failing = litellm.Router(
        model_list=[down, *pool],
        fallbacks=[{"first": ["pool"]}],
        num_retries=0,
        disable_cooldowns=True,
    )
    cases["fallback"] = lambda: failing.acompletion("first", MESSAGES)
    return cases


def pydantic_ai() -> dict[str, Case]:
    """FallbackModel over eight models, asked by itself: no agent around it."""
    from pydantic_ai.exceptions import ModelHTTPError
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        ModelResponse,
        TextPart,
        UserPromptPart,
    )
    from pydantic_ai.models import Model, ModelRequestParameters
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.usage import RequestUsage

    class Mock(Model):
        def __init__(self, name: str, *, is_down: bool) -> None:
            super().__init__()
            self._name = name
            self._is_down = is_down

        @property
        def model_name(self) -> str:
            return self._name

        @property
        def system(self) -> str:
            return "mock"

        async def request(self, *asked: object, **how: object) -> ModelResponse:
            if self._is_down:
                raise ModelHTTPError(503, self._name)
            usage = RequestUsage(input_tokens=20, output_tokens=2)
            return ModelResponse([TextPart("ok")], usage=usage, model_name=self._name)

    def chain(*, is_down: bool) -> FallbackModel:
        return FallbackModel(*[Mock(f"m{n}", is_down=is_down and not n) for n in range(MODELS)])

    sound, failing = chain(is_down=False), chain(is_down=True)
    messages: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(PROMPT)])]
    parameters = ModelRequestParameters()
    return {
        "execute": lambda: sound.request(messages, None, parameters),
        "fallback": lambda: failing.request(messages, None, parameters),
    }


def langchain() -> dict[str, Case]:
    """A chat model `with_fallbacks` to seven others, by `ainvoke`."""
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    class Mock(BaseChatModel):
        is_down: bool = False

        @property
        def _llm_type(self) -> str:
            return "mock"

        def _generate(self, *asked: object, **how: object) -> ChatResult:
            raise NotImplementedError

        async def _agenerate(self, *asked: object, **how: object) -> ChatResult:
            if self.is_down:
                raise ConnectionError("down")
            usage = {"input_tokens": 20, "output_tokens": 2, "total_tokens": 22}
            message = AIMessage("ok", usage_metadata=usage)
            return ChatResult(generations=[ChatGeneration(message=message)])

    others = [Mock() for _ in range(MODELS - 1)]
    sound, failing = Mock().with_fallbacks(others), Mock(is_down=True).with_fallbacks(others)
    return {
        "execute": lambda: sound.ainvoke(PROMPT),
        "fallback": lambda: failing.ainvoke(PROMPT),
    }


def azure_switchboard() -> dict[str, Case]:
    """Switchboard over eight resources; mocks take the place of the OpenAI client's `create`.

    For the fallback every request's first call fails, whichever resource it goes to, with an error
    that cools nothing down.
    """
    from azure_switchboard import Foundry, OpenAIDeployment, Switchboard
    from openai.types.chat import ChatCompletion

    completion = ChatCompletion.model_validate(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "ok"},
                }
            ],
            "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
        }
    )
    calls = 0

    async def answers(**asked: object) -> ChatCompletion:
        return completion

    async def fails_first(**asked: object) -> ChatCompletion:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ConnectionError("down")
        return completion

    def board(create: Callable[..., object]) -> Switchboard:
        deployments = [OpenAIDeployment("m", tpm=10**12, rpm=10**12) for _ in range(MODELS)]
        made = Switchboard(
            [Foundry(f"r{n}", api_key="none", models=[d]) for n, d in enumerate(deployments)]
        )
        for deployment in deployments:
            deployment.client.chat.completions.create = create
        return made

    sound, failing = board(answers), board(fails_first)
    return {
        "execute": lambda: sound.chat.completions.create(model="m", messages=MESSAGES),
        "fallback": lambda: failing.chat.completions.create(model="m", messages=MESSAGES),
    }


PEERS: dict[str, tuple[str, Callable[[], dict[str, Case]]]] = {
    "litellm": ("litellm", litellm),
    "pydantic-ai": ("pydantic-ai-slim", pydantic_ai),
    "langchain": ("langchain-core", langchain),
    "azure-switchboard": ("azure-switchboard", azure_switchboard),
}
"""The distribution that is installed, and what is measured, by the name it goes by."""


async def measure(make: Callable[[], dict[str, Case]]) -> tuple[Times, float, float]:
    """Times, and the calls per second of many callers: theirs and the minimum's."""

    async def answer(model: str, prompt: str) -> str:
        return "ok"

    calls = 0

    async def fails_first(model: str, prompt: str) -> str:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ConnectionError("down")
        return "ok"

    minimum, falling_back = Minimum(MODELS, answer), MinimumWithFallback(MODELS, fails_first)
    cases: dict[str, Case] = {
        "minimum": lambda: minimum.execute(PROMPT),
        "minimum, fallback": lambda: falling_back.execute(PROMPT),
    }
    theirs = make()
    times = await interleaved(cases | theirs, ROUNDS)
    first = next(iter(theirs.values()))
    rate = await calls_per_second(first, CALLERS, CALLS)
    return times, rate, await calls_per_second(cases["minimum"], CALLERS, 10 * CALLS)


def main() -> None:
    distribution, make = PEERS[sys.argv[1]]
    logging.disable(logging.WARNING)  # or the errors that are part of the job would be printed
    times, rate, least_rate = asyncio.run(measure(make))
    told = {
        "version": version(distribution),
        "python": sys.version.split()[0],
        "ratios": {name: ratio(times, name) for name in times},
        "share_of_rate": rate / least_rate,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
