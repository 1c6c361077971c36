"""What a call costs in dollars, from what each API reports: by hand, and through a whole router."""

from __future__ import annotations

from typing import Any

import pytest
from over_http import KEY, Dialect
from served import SSE, Scripted, event, response
from test_anthropic import Messages
from test_google import GenerateContent
from test_mistral import Chat as Mistral
from test_openai import Chat, Responses

from asyncroute import LLMRouter, ModelConfig
from asyncroute.providers import OpenAICompatibleProvider

pytestmark = pytest.mark.real_time

# Dollars for a token: all different, so that no two can be confused.
INPUT, CACHED, WRITTEN, AUDIO = 1e-6, 1e-7, 1.25e-6, 4e-5
OUTPUT, SPOKEN = 1e-5, 8e-5
MODEL = ModelConfig(
    model_id="m",
    provider="p",
    input_cost_per_1k=INPUT * 1000,
    cached_input_cost_per_1k=CACHED * 1000,
    cache_write_cost_per_1k=WRITTEN * 1000,
    audio_input_cost_per_1k=AUDIO * 1000,
    output_cost_per_1k=OUTPUT * 1000,
    audio_output_cost_per_1k=SPOKEN * 1000,
)

OPENAI = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20, "audio_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 8},
}
OPENAI_COST = 30 * INPUT + 40 * CACHED + 20 * WRITTEN + 10 * AUDIO + 22 * OUTPUT + 8 * SPOKEN

ANTHROPIC = {
    "input_tokens": 40,  # without the others
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 20,
    "output_tokens": 30,
    "output_tokens_details": {"thinking_tokens": 5},  # of the 30
}
ANTHROPIC_COST = 40 * INPUT + 40 * CACHED + 20 * WRITTEN + 30 * OUTPUT

RESPONSES = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 5},
}

GOOGLE = {
    "promptTokenCount": 100,
    "promptTokensDetails": [
        {"modality": "TEXT", "tokenCount": 60},
        {"modality": "AUDIO", "tokenCount": 40},
    ],
    "cachedContentTokenCount": 40,
    "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}],  # of the 40 of audio
    "candidatesTokenCount": 25,  # without the thoughts
    "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}],
    "thoughtsTokenCount": 5,
}
GOOGLE_COST = 50 * INPUT + 40 * CACHED + 10 * AUDIO + 22 * OUTPUT + 8 * SPOKEN

MISTRAL = {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
MISTRAL_COST = 100 * INPUT + 30 * OUTPUT


class Compatible(Chat):
    def provider(self, server: Any, key: str | None = KEY) -> Any:
        return OpenAICompatibleProvider(server.url, key)


APIS = [
    (Compatible(), "usage", OPENAI, OPENAI_COST),
    (Chat(), "usage", OPENAI, OPENAI_COST),
    (Responses(), "usage", RESPONSES, ANTHROPIC_COST),
    (Messages(), "usage", ANTHROPIC, ANTHROPIC_COST),
    (GenerateContent(), "usageMetadata", GOOGLE, GOOGLE_COST),
    (Mistral(), "usage", MISTRAL, MISTRAL_COST),
]


@pytest.fixture(autouse=True, scope="module")
def _sdks_are_imported_before_a_loop_runs() -> None:
    nowhere = Scripted()
    nowhere.url = "http://127.0.0.1:9/v1"
    for dialect, *_ in APIS:
        dialect.provider(nowhere)


@pytest.mark.parametrize(
    ("dialect", "field", "usage", "dollars"),
    APIS,
    ids=("compatible", "chat", "responses", "messages", "google", "mistral"),
)
async def test_a_call_costs_what_was_billed(
    told: Scripted, dialect: Dialect, field: str, usage: dict[str, Any], dollars: float
) -> None:
    told.says(response({**dialect.whole("Hello"), field: usage}))
    provider = dialect.provider(told)
    async with provider, LLMRouter(models=[MODEL], providers={"p": provider}) as router:
        result = await router.execute("hi")
    assert result.unwrap() == "Hello"
    assert result.actual_cost == pytest.approx(dollars, rel=1e-9)
    assert not result.attempts[0].cost_is_estimated
    spent = router.get_statistics()["total_cost"]
    assert spent == pytest.approx(dollars, abs=1e-12)  # it is summed in picodollars


@pytest.mark.parametrize(
    ("chunk", "dollars"),
    [
        ({"choices": [], "usage": OPENAI}, OPENAI_COST),
        ({"choices": [], "x_groq": {"usage": MISTRAL}}, MISTRAL_COST),
    ],
)
async def test_a_stream_costs_what_was_billed_at_its_end(
    told: Scripted, chunk: dict[str, Any], dollars: float
) -> None:
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    told.says(SSE, Compatible().pieces("Hello"), last, event(chunk), event("[DONE]"))
    provider = OpenAICompatibleProvider(told.url, KEY)
    async with provider, LLMRouter(models=[MODEL], providers={"p": provider}) as router:
        async with router.stream("hi") as stream:
            text = "".join([chunk.text async for chunk in stream])
        result = stream.result()
    assert text == "Hello"
    assert result.actual_cost == pytest.approx(dollars, rel=1e-9)
