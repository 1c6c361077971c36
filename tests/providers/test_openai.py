"""OpenAI's SDK: both of its APIs keep the contract over real HTTP; what each sends and reads."""

from __future__ import annotations

import inspect
import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

import httpx2
import openai
import openai._exceptions
import pytest
from openai.types.chat import ChatCompletion
from over_http import (
    CONVERSATION,
    KEY,
    TOOL,
    Dialect,
    OverHttpContract,
    call_of,
    failure_of,
    mapped_kinds,
    stream_of,
    talk,
    text_of,
)
from served import SSE, Scripted, event, response

from asyncroute import Call, Chunk, ConfigurationError, ModelConfig, QueryRequest, Usage
from asyncroute.providers import OpenAIProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmock.pytest_plugin import LLMock

pytestmark = pytest.mark.real_time


class Chat(Dialect):
    llmock = "openai"
    extra = module = "openai"
    api: ClassVar[Any] = "chat"

    def provider(self, server: Scripted | LLMock, key: str | None = KEY) -> OpenAIProvider:
        url = server.url if isinstance(server, Scripted) else server.base_url()
        return OpenAIProvider(key, base_url=url, api=self.api)

    def client(self, server: Scripted) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=KEY, base_url=server.url, max_retries=3, timeout=0.5)

    def of(self, client: openai.AsyncOpenAI) -> OpenAIProvider:
        return OpenAIProvider(client=client, api=self.api)

    async def close(self, client: openai.AsyncOpenAI) -> None:
        await client.close()

    def whole(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {
            "model": "gpt-4o-2026",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7},
        }

    def pieces(self, *texts: str) -> bytes:
        return b"".join(
            event({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in texts
        )

    def ending(self) -> bytes:
        stop = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        return stop + event("[DONE]")


class Responses(Chat):
    api = "responses"

    def whole(self, text: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text}
        return {
            "model": "gpt-4o-2026",
            "status": "completed",
            "output": [{"type": "message", "content": [part]}],
            "usage": {"input_tokens": 5, "output_tokens": 7},
        }

    def pieces(self, *texts: str) -> bytes:
        created = event({"type": "response.created", "response": {"status": "in_progress"}})
        said = [event({"type": "response.output_text.delta", "delta": text}) for text in texts]
        return created + b"".join(said)

    def ending(self) -> bytes:
        done = event({"type": "response.output_text.done", "text": "?"})
        return done + event({"type": "response.completed", "response": self.whole("?")})


class TestChat(OverHttpContract):
    dialect = Chat()


class TestResponses(OverHttpContract):
    dialect = Responses()


@pytest.fixture
async def chat(told: Scripted) -> AsyncIterator[OpenAIProvider]:
    async with Chat().provider(told) as provider:
        yield provider


@pytest.fixture
async def responses(told: Scripted) -> AsyncIterator[OpenAIProvider]:
    async with Responses().provider(told) as provider:
        yield provider


# ---------------------------------------------------------------- the SDK's exceptions

KINDS = {
    "APIConnectionError": "unavailable",
    "APIError": "unavailable",
    "APIResponseValidationError": "protocol",
    "APIStatusError": "rate_limited",
    "APITimeoutError": "attempt_timeout",
    "AuthenticationError": "rate_limited",
    "BadRequestError": "rate_limited",
    "ConflictError": "rate_limited",
    "ContentFilterFinishReasonError": "content_refused",
    "InternalServerError": "rate_limited",
    "InvalidWebhookSignatureError": "protocol",
    "LengthFinishReasonError": "protocol",
    "NotFoundError": "rate_limited",
    "OAuthError": "rate_limited",
    "OpenAIError": "unavailable",
    "PermissionDeniedError": "rate_limited",
    "RateLimitError": "rate_limited",
    "SubjectTokenProviderError": "unavailable",
    "UnprocessableEntityError": "rate_limited",
    "WebSocketConnectionClosedError": "unavailable",
    "WebSocketQueueFullError": "unavailable",
}
"""With a status of 429 wherever there is a response: the status decides, not the class."""


def raised(kind: Any) -> Exception:
    request = httpx2.Request("POST", "http://host")
    answer = httpx2.Response(429, request=request, json={})
    if issubclass(kind, openai.APIResponseValidationError):
        return kind(answer, None)
    if issubclass(kind, openai.APIStatusError):
        return (
            kind(response=answer, body=None)
            if kind is openai.OAuthError
            else kind("no", response=answer, body=None)
        )
    if issubclass(kind, openai.APITimeoutError):
        return kind(request)
    if issubclass(kind, openai.APIConnectionError):
        return kind(request=request)
    if issubclass(kind, openai.APIError):
        return kind("no", request, body=None)
    if kind is openai.ContentFilterFinishReasonError:
        return kind()
    if kind is openai.LengthFinishReasonError:
        return kind(completion=ChatCompletion.model_construct(usage=None))
    if kind.__name__ == "WebSocketConnectionClosedError":
        return kind("no", unsent_messages=[])
    return kind("no")


def exceptions_of(module: Any) -> list[type[Exception]]:
    found = {it for it in vars(module).values() if inspect.isclass(it)}
    return [it for it in found if issubclass(it, Exception) and it.__module__ == module.__name__]


def test_every_exception_of_the_sdk_is_mapped() -> None:
    public = [vars(openai).get(name) for name in openai.__all__]
    every = {
        *exceptions_of(openai._exceptions),
        *(it for it in public if isinstance(it, type) and issubclass(it, Exception)),
    }
    provider = OpenAIProvider(KEY, base_url="http://host")
    assert mapped_kinds(provider, [raised(it) for it in every]) == KINDS


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (httpx2.ConnectTimeout("slow"), "unavailable"),
        (httpx2.ReadTimeout("slow"), "attempt_timeout"),
        (httpx2.ReadError("reset"), "unavailable"),
        (httpx2.DecodingError("bad"), "protocol"),
        (httpx2.LocalProtocolError(f"with {KEY}"), "protocol"),
    ],
)
def test_a_wrapped_cause_says_more_than_what_wraps_it(cause: Exception, kind: str) -> None:
    provider = OpenAIProvider(KEY, base_url="http://host")
    error = openai.APIConnectionError(request=httpx2.Request("POST", "http://host"))
    error.__cause__ = cause
    made = provider._wire.failure(error, call_of())
    assert made.kind == kind
    assert type(cause).__name__ in str(made)
    assert KEY not in str(made)


# ---------------------------------------------------------------- chat completions


async def test_messages_and_parameters_pass_through_untouched(
    told: Scripted, chat: OpenAIProvider
) -> None:
    told.says(response(Chat().whole("Hello")))
    params: dict[str, Any] = {
        "temperature": 0.0,
        "seed": 7,
        "stop": ["\n"],
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "extra_of_some_server": {"a": [1]},
    }
    model = ModelConfig(model_id="m", params={"seed": 1, "top_p": 0.5})
    request = QueryRequest(messages=CONVERSATION, params=params, max_tokens=9)
    completion = await chat.complete(Call(model, request))
    expected = {"model": "m", "top_p": 0.5, **params, "messages": list(CONVERSATION)}
    assert told.bodies == [{**expected, "max_completion_tokens": 9}]
    assert told.requests[0][0]["authorization"] == f"Bearer {KEY}"
    assert (completion.text, completion.usage) == ("Hello", Usage(5, 7))
    assert completion.model == "gpt-4o-2026"


async def test_a_limit_goes_where_the_parameters_have_one(
    told: Scripted, chat: OpenAIProvider
) -> None:
    told.says(response(Chat().whole("Hello")))
    await chat.complete(call_of(limit=9, max_tokens=20))
    assert told.bodies[0]["max_tokens"] == 9
    assert "max_completion_tokens" not in told.bodies[0]


async def test_tools_are_called_whole_and_in_pieces(llmock: LLMock) -> None:
    for dialect in (Chat(), Responses()):
        async with dialect.provider(llmock) as provider:
            for _ in range(2):
                llmock.call_tool("get_weather", {"city": "Paris, the capital of France"})
            call = call_of(tools=[TOOL], tool_choice="required")
            completion = await provider.complete(call)
            chunks, error = await stream_of(provider, call)
        [called] = completion.tool_calls
        assert called["function"]["name"] == "get_weather"
        assert json.loads(called["function"]["arguments"])["city"].startswith("Paris")
        assert (completion.text, completion.finish_reason) == ("", "tool_calls")
        assert error is None
        pieces = [chunk.tool_call for chunk in chunks if chunk.tool_call]
        assert len(pieces) > 2
        assert pieces[0]["function"]["name"] == "get_weather"
        assert {piece["index"] for piece in pieces} == {0}
        joined = "".join(piece["function"]["arguments"] for piece in pieces)
        assert json.loads(joined) == json.loads(called["function"]["arguments"])
        assert chunks[-1].finish_reason == "tool_calls"


async def test_a_stream_asks_for_usage(llmock: LLMock) -> None:
    async with Chat().provider(llmock) as provider:
        call = call_of()
        chunks, error = await stream_of(provider, call)
    assert error is None
    assert llmock.last_request.body["stream_options"] == {"include_usage": True}
    assert chunks[-1].usage == call.usage
    assert call.usage is not None


def test_an_api_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'completions'"):
        OpenAIProvider(KEY, api="completions")  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- responses


async def test_a_conversation_is_translated(told: Scripted, responses: OpenAIProvider) -> None:
    told.says(response(Responses().whole("Hello")))
    schema = {"type": "object"}
    await responses.complete(
        talk(
            *CONVERSATION,
            {"role": "assistant", "content": [{"type": "text", "text": "Grey."}]},
            {"role": "user", "content": "And now?"},
            max_tokens=9,
            temperature=0.5,
            tools=[TOOL, {"type": "web_search"}],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "sky", "schema": schema, "strict": True},
            },
            reasoning_effort="low",
            stream=True,
        )
    )
    assert told.paths == ["/v1/responses"]
    assert told.bodies == [
        {
            "model": "gpt-4o",
            "store": False,
            "input": [
                {"role": "system", "content": "Be brief ✓"},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is this?"},
                        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw=="},
                    ],
                },
                {
                    "type": "function_call",
                    "call_id": "call_7",
                    "name": "get_weather",
                    "arguments": '{"city": "Paris"}',
                },
                {
                    "type": "function_call_output",
                    "call_id": "call_7",
                    "output": '{"sky": "grey"}',
                },
                {"role": "assistant", "content": [{"type": "output_text", "text": "Grey."}]},
                {"role": "user", "content": "And now?"},
            ],
            "max_output_tokens": 9,
            "temperature": 0.5,
            "tools": [{"type": "function", **TOOL["function"]}, {"type": "web_search"}],
            "tool_choice": {"type": "function", "name": "get_weather"},
            "text": {
                "format": {"type": "json_schema", "name": "sky", "schema": schema, "strict": True}
            },
            "reasoning": {"effort": "low"},
        }
    ]


async def test_an_answer_of_many_items_is_read(told: Scripted, responses: OpenAIProvider) -> None:
    told.says(
        response(
            {
                "status": "completed",
                "error": None,
                "output": [
                    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text"}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "a"}]},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "message", "content": [{"type": "output_text", "text": "b"}]},
                ],
                "usage": {
                    "input_tokens": 5,
                    "input_tokens_details": {"cached_tokens": 4},
                    "output_tokens": 7,
                    "output_tokens_details": {"reasoning_tokens": 3},
                },
            }
        )
    )
    call = call_of()
    completion = await responses.complete(call)
    assert (completion.text, completion.finish_reason) == ("ab", "tool_calls")
    assert completion.tool_calls == (
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    )
    assert completion.usage == call.usage == Usage(5, 7, 4, 3)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"status": "failed", "error": {"code": "rate_limit_exceeded"}}, "rate_limited"),
        ({"status": "failed", "error": {"code": "server_error"}}, "unavailable"),
        ({"status": "failed", "error": {"code": "invalid_prompt"}}, "bad_request"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "content_refused",
        ),
        (
            {
                "status": "completed",
                "output": [{"content": [{"type": "refusal", "refusal": "I cannot."}]}],
            },
            "content_refused",
        ),
    ],
)
async def test_a_response_that_failed_is_an_error_whole_and_streamed(
    told: Scripted, responses: OpenAIProvider, body: dict[str, Any], kind: str
) -> None:
    told.says(response(body))
    assert (await failure_of(responses)).kind == kind
    status = body["status"]
    refusals = [event({"type": "response.refusal.delta", "delta": "I cannot."})]
    end = event({"type": f"response.{status}", "response": body})
    told.says(SSE, *(refusals if status == "completed" else []), end)
    chunks, error = await stream_of(responses)
    assert chunks == []
    assert error is not None
    assert (error.kind, error.model_id) == (kind, "gpt-4o")


async def test_an_answer_that_was_cut_says_so(told: Scripted, responses: OpenAIProvider) -> None:
    body = Responses().whole("So far")
    body |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    told.says(response(body))
    assert (await responses.complete(call_of())).finish_reason == "length"
    told.says(
        SSE, Responses().pieces("So far"), event({"type": "response.incomplete", "response": body})
    )
    chunks, error = await stream_of(responses)
    assert (text_of(chunks), chunks[-1].finish_reason, error) == ("So far", "length", None)


async def test_reasoning_and_several_tools_are_streamed(
    told: Scripted, responses: OpenAIProvider
) -> None:
    def added(place: int, name: str) -> bytes:
        item = {"type": "function_call", "call_id": f"c{place}", "name": name, "arguments": ""}
        return event({"type": "response.output_item.added", "output_index": place, "item": item})

    def arguments(place: int, delta: str) -> bytes:
        kind = "response.function_call_arguments.delta"
        return event({"type": kind, "output_index": place, "delta": delta})

    told.says(
        SSE,
        event({"type": "response.reasoning_summary_text.delta", "delta": "hm"}),
        added(3, "f"),
        added(5, "g"),
        arguments(5, "{1}"),
        arguments(3, "{2}"),
        event({"type": "response.completed", "response": Responses().whole("")}),
    )
    chunks, error = await stream_of(responses)
    assert error is None
    assert chunks[0] == Chunk(reasoning="hm")
    assert [chunk.tool_call for chunk in chunks if chunk.tool_call] == [
        {"index": 0, "id": "c3", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "c5", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{1}"}},
        {"index": 0, "function": {"arguments": "{2}"}},
    ]
    assert chunks[-1] == Chunk(finish_reason="tool_calls", usage=Usage(5, 7))


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow"}, "rate_limited"),
        ({"type": "error", "code": None, "message": "oops"}, "unavailable"),
        ({"error": {"type": "invalid_request_error", "message": "no"}}, "bad_request"),
    ],
)
async def test_an_error_within_a_stream_is_told_by_the_same_table(
    told: Scripted, responses: OpenAIProvider, said: dict[str, Any], kind: str
) -> None:
    told.says(SSE, Responses().pieces("a"), event(said))
    chunks, error = await stream_of(responses)
    assert text_of(chunks) == "a"
    assert error is not None
    assert (error.kind, error.model_id) == (kind, "gpt-4o")


# ---------------------------------------------------------------- for money


@pytest.mark.live
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_the_real_one_answers(api: Any) -> None:
    if not os.environ.get("OPENAI_API_KEY"):
        pytest.skip("OPENAI_API_KEY is not set")
    model = ModelConfig(model_id=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"))
    async with OpenAIProvider(api=api) as provider:
        request = QueryRequest(query="Say hello.", max_tokens=100)
        assert (await provider.complete(Call(model, request))).text
        chunks, error = await stream_of(provider, Call(model, request))
    assert error is None
    assert text_of(chunks)
    assert chunks[-1].usage is not None
