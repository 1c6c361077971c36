"""Google's SDK: the contract over real HTTP; what of the chat API becomes what, and back."""

from __future__ import annotations

import inspect
import json
import os
import re
from typing import TYPE_CHECKING, Any

import google.auth.exceptions
import google.genai.errors
import pytest
from google import genai
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
from served import SSE, Abort, Scripted, event, response

from asyncroute import Call, Chunk, ModelConfig, QueryRequest, Usage
from asyncroute.providers import GoogleProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmock.pytest_plugin import LLMock

pytestmark = pytest.mark.real_time

COUNTS = {"promptTokenCount": 5, "candidatesTokenCount": 7}


def content(*parts: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], **more}


def camel(value: Any) -> Any:
    """The SDK writes some names in snake case; the API takes both."""
    if isinstance(value, list):
        return [camel(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {re.sub(r"_(.)", lambda it: it[1].upper(), k): camel(v) for k, v in value.items()}


class GenerateContent(Dialect):
    llmock = "gemini"
    extra = "google"
    module = "google.genai"
    has_end_marker = False

    def provider(self, server: Scripted | LLMock, key: str | None = KEY) -> GoogleProvider:
        url = server.root if isinstance(server, Scripted) else server.base_url("gemini")
        return GoogleProvider(key, base_url=url, api_version="v1beta")

    def client(self, server: Scripted) -> genai.Client:
        retries = genai.types.HttpRetryOptions(attempts=3, initial_delay=0.01)
        options = genai.types.HttpOptions(base_url=server.root, retry_options=retries)
        return genai.Client(api_key=KEY, http_options=options)

    def of(self, client: genai.Client) -> GoogleProvider:
        return GoogleProvider(client=client)

    async def close(self, client: genai.Client) -> None:
        await client.aio.aclose()
        client.close()

    def whole(self, text: str) -> dict[str, Any]:
        said = content({"text": text}, finish="STOP", usageMetadata=COUNTS)
        return {**said, "modelVersion": "gemini-2026"}

    def pieces(self, *texts: str) -> bytes:
        return b"".join(event(content({"text": text})) for text in texts)

    def ending(self) -> bytes:
        return event(content(finish="STOP", usageMetadata=COUNTS))


class TestContract(OverHttpContract):
    dialect = GenerateContent()


@pytest.fixture
async def provider(told: Scripted) -> AsyncIterator[GoogleProvider]:
    async with GenerateContent().provider(told) as provider:
        yield provider


# ---------------------------------------------------------------- the SDK's exceptions

KINDS = {
    "APIError": "rate_limited",
    "ClientError": "rate_limited",
    "ContinuationInterruptedError": "unavailable",
    "FunctionInvocationError": "bad_request",
    "ServerError": "rate_limited",
    "UnknownApiResponseError": "protocol",
    "UnknownFunctionCallArgumentError": "bad_request",
    "UnsupportedFunctionError": "bad_request",
}
"""With a status of 429 wherever there is one: the status decides, not the class."""


def test_every_exception_of_the_sdk_is_mapped() -> None:
    errors = google.genai.errors
    every = [
        it
        for it in vars(errors).values()
        if inspect.isclass(it) and issubclass(it, Exception) and it.__module__ == errors.__name__
    ]
    raised = [it(429, {}) if issubclass(it, errors.APIError) else it("no") for it in every]
    provider = GoogleProvider(KEY, base_url="http://host")
    assert mapped_kinds(provider, raised) == KINDS


def test_every_exception_of_googles_authentication_is_mapped() -> None:
    found = vars(google.auth.exceptions).values()
    every = [it for it in found if inspect.isclass(it) and issubclass(it, Exception)]
    kinds = mapped_kinds(GoogleProvider(KEY, base_url="http://host"), [it("no") for it in every])
    assert set(kinds.values()) <= {"authentication", "unavailable", "bad_request"}
    assert kinds["RefreshError"] == kinds["DefaultCredentialsError"] == "authentication"
    assert kinds["TransportError"] == "unavailable"


@pytest.mark.parametrize(
    ("status", "error", "kind", "wait"),
    [
        (
            429,
            {
                "status": "RESOURCE_EXHAUSTED",
                "details": [{"@type": "…RetryInfo", "retryDelay": "34.5s"}],
            },
            "rate_limited",
            34.5,
        ),
        (400, {"details": [{"reason": "API_KEY_INVALID"}]}, "authentication", None),
        (400, {"status": "INVALID_ARGUMENT", "message": "no"}, "bad_request", None),
        (
            400,
            {"message": "The input token count (9) exceeds the maximum number of tokens (8)"},
            "context_too_long",
            None,
        ),
        (404, {"status": "NOT_FOUND", "message": "models/x is not found"}, "model_not_found", None),
        (503, {"status": "UNAVAILABLE", "message": "overloaded"}, "provider_overloaded", None),
    ],
)
async def test_a_code_says_more_than_a_status(
    told: Scripted,
    provider: GoogleProvider,
    status: int,
    error: dict[str, Any],
    kind: str,
    wait: float | None,
) -> None:
    told.says(response({"error": {"code": status, **error}}, status=f"{status} No"))
    made = await failure_of(provider)
    assert (made.kind, made.retry_after) == (kind, wait)


def test_it_shows_where_it_calls_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_GEMINI_BASE_URL", raising=False)
    assert repr(GoogleProvider(KEY)) == "<GoogleProvider https://generativelanguage.googleapis.com>"
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://user:secret@host/gemini")
    assert repr(GoogleProvider(KEY)) == "<GoogleProvider http://host/gemini>"
    client = genai.Client(api_key=KEY)
    assert repr(GoogleProvider(client=client)) == "<GoogleProvider a client of yours>"


# ---------------------------------------------------------------- what is sent


async def test_a_conversation_is_translated(told: Scripted, provider: GoogleProvider) -> None:
    told.says(response(GenerateContent().whole("Hello")))
    schema = {"type": "object"}
    await provider.complete(
        talk(
            *CONVERSATION,
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": ""},
            {"role": "developer", "content": [{"type": "text", "text": "In French."}]},
            model="gemini",
            temperature=0.5,
            seed=7,
            stop="\n",
            n=1,
            tools=[TOOL, {"google_search": {}}],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            parallel_tool_calls=True,
            response_format={"type": "json_schema", "json_schema": {"schema": schema}},
            thinking_config={"thinking_budget": 5},
            max_completion_tokens=9,
            stream=True,
        )
    )
    assert told.paths == ["/v1beta/models/gemini:generateContent"]
    assert told.requests[0][0]["x-goog-api-key"] == KEY
    [body] = camel(told.bodies)
    assert [part["text"] for part in body["systemInstruction"]["parts"]] == [
        "Be brief ✓",
        "In French.",
    ]
    assert body["contents"] == [
        {
            "role": "user",
            "parts": [
                {"text": "What is this?"},
                {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}},
            ],
        },
        {
            "role": "model",
            "parts": [{"functionCall": {"name": "get_weather", "args": {"city": "Paris"}}}],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get_weather", "response": {"sky": "grey"}}},
                {"text": "And now?"},
            ],
        },
    ]
    [search, declared] = body["tools"]
    assert declared["functionDeclarations"] == [
        {
            "name": "get_weather",
            "description": "The weather in a city",
            "parametersJsonSchema": TOOL["function"]["parameters"],
        }
    ]
    assert search == {"googleSearch": {}}
    assert body["toolConfig"]["functionCallingConfig"] == {
        "mode": "ANY",
        "allowedFunctionNames": ["get_weather"],
    }
    config = body["generationConfig"]
    assert {**config, "thinkingConfig": None} == {
        "temperature": 0.5,
        "seed": 7,
        "stopSequences": ["\n"],
        "candidateCount": 1,
        "maxOutputTokens": 9,
        "responseMimeType": "application/json",
        "responseJsonSchema": schema,
        "thinkingConfig": None,
    }


@pytest.mark.parametrize(
    ("choice", "mode"), [("auto", "AUTO"), ("none", "NONE"), ("required", "ANY")]
)
async def test_a_choice_of_tools_is_translated(
    told: Scripted, provider: GoogleProvider, choice: str, mode: str
) -> None:
    told.says(response(GenerateContent().whole("Hello")))
    await provider.complete(call_of(tools=[TOOL], tool_choice=choice))
    assert told.bodies[0]["toolConfig"] == {"functionCallingConfig": {"mode": mode}}


async def test_media_may_be_addresses(told: Scripted, provider: GoogleProvider) -> None:
    told.says(response(GenerateContent().whole("Hello")))
    parts = [
        {"type": "image_url", "image_url": {"url": "https://host/a.png?b"}},
        {"type": "image_url", "image_url": "gs://host/b"},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE"}},
        {"type": "input_audio", "input_audio": {"data": "JVBE", "format": "wav"}},
        {"text": "in its own form"},
    ]
    await provider.complete(talk({"role": "user", "content": parts}))
    assert camel(told.bodies[0]["contents"][0]["parts"]) == [
        {"fileData": {"fileUri": "https://host/a.png?b", "mimeType": "image/png"}},
        {"fileData": {"fileUri": "gs://host/b", "mimeType": "image/jpeg"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "JVBE"}},
        {"text": "in its own form"},
    ]


@pytest.mark.parametrize(
    "params", [{"nonsense": 1}, {"temperature": "hot"}, {"response_format": {"type": "xml"}}]
)
async def test_what_the_api_does_not_have_is_a_bad_request(
    told: Scripted, provider: GoogleProvider, params: dict[str, Any]
) -> None:
    error = await failure_of(provider, call_of(**params))
    assert (error.kind, error.model_id) == ("bad_request", "gpt-4o")
    assert next(iter(params)) in str(error)
    assert told.requests == []


async def test_data_that_is_none_is_a_bad_request(told: Scripted, provider: GoogleProvider) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,nonsense!"}}
    call = talk({"role": "user", "content": [image]})
    assert (await failure_of(provider, call)).kind == "bad_request"
    asked = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[]"}}
    call = talk({"role": "assistant", "content": None, "tool_calls": [asked]})
    assert (await failure_of(provider, call)).kind == "bad_request"
    assert told.requests == []


# ---------------------------------------------------------------- what comes back


async def test_an_answer_of_many_parts_is_read(told: Scripted, provider: GoogleProvider) -> None:
    usage = {
        "promptTokenCount": 5,
        "toolUsePromptTokenCount": 2,
        "cachedContentTokenCount": 4,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 3,
    }
    call_part = {"functionCall": {"name": "f", "args": {"é": 1}}, "thoughtSignature": "-_8="}
    parts = [{"text": "hm", "thought": True}, {"text": "a"}, call_part, {"text": "b"}]
    told.says(response(content(*parts, finish="STOP", usageMetadata=usage)))
    told.says(response(GenerateContent().whole("Hello")))
    call = call_of()
    completion = await provider.complete(call)
    assert (completion.text, completion.finish_reason) == ("ab", "tool_calls")
    [called] = completion.tool_calls
    assert called["id"] == "call_0"
    assert called["function"] == {"name": "f", "arguments": '{"é": 1}'}
    assert completion.usage == call.usage == Usage(7, 10, 4, 3)
    # And back again, with the signature that the model wants to see.
    result = {"role": "tool", "tool_call_id": "call_0", "content": "fine"}
    turn = {"role": "assistant", "content": None, "tool_calls": [called]}
    await provider.complete(talk({"role": "user", "content": "q"}, turn, result))
    [sent] = told.bodies[1]["contents"][1]["parts"]
    assert sent["functionCall"] == {"name": "f", "args": {"é": 1}}
    assert sent["thoughtSignature"] in ("+/8=", "-_8=")
    assert told.bodies[1]["contents"][2]["parts"] == [
        {"functionResponse": {"name": "f", "response": {"result": "fine"}}}
    ]


@pytest.mark.parametrize(
    ("reason", "finish_reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTINUATION", "length"),
        ("SAFETY", "content_filter"),
        ("OTHER", "other"),
    ],
)
async def test_why_it_ended_is_said_in_the_chat_apis_words(
    told: Scripted, provider: GoogleProvider, reason: str, finish_reason: str
) -> None:
    told.says(response(content({"text": "a"}, finish=reason)))
    assert (await provider.complete(call_of())).finish_reason == finish_reason
    told.says(SSE, event(content({"text": "a"})), event(content(finish=reason)))
    chunks, error = await stream_of(provider)
    assert (chunks[-1].finish_reason, error) == (finish_reason, None)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "content_refused"),
        (content(finish="SAFETY"), "content_refused"),
        (content(finish="MALFORMED_FUNCTION_CALL"), "protocol"),
        (content({"text": "so far"}), "protocol"),
    ],
)
async def test_what_says_nothing_is_an_error(
    told: Scripted, provider: GoogleProvider, body: dict[str, Any], kind: str
) -> None:
    told.says(response({**body, "usageMetadata": COUNTS}))
    call = call_of()
    assert (await failure_of(provider, call)).kind == kind
    assert call.usage == Usage(5, 7)


async def test_a_stream_of_nothing_but_a_refusal_is_content_refused(
    told: Scripted, provider: GoogleProvider
) -> None:
    told.says(SSE, event({"promptFeedback": {"blockReason": "SAFETY"}}))
    told.says(SSE, event(content(finish="PROHIBITED_CONTENT")))
    for _ in range(2):
        chunks, error = await stream_of(provider)
        assert chunks == []
        assert error is not None
        assert (error.kind, error.model_id) == ("content_refused", "gpt-4o")


async def test_tools_are_called_whole_and_streamed(llmock: LLMock) -> None:
    for _ in range(2):
        llmock.call_tool("get_weather", {"city": "Paris"})
    async with GenerateContent().provider(llmock) as provider:
        call = call_of(tools=[TOOL])
        completion = await provider.complete(call)
        chunks, error = await stream_of(provider, call)
    [called] = completion.tool_calls
    assert json.loads(called["function"]["arguments"]) == {"city": "Paris"}
    assert error is None
    [piece] = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert piece == {"index": 0, **called}
    assert chunks[-1].finish_reason == completion.finish_reason == "tool_calls"


async def test_thoughts_and_usage_are_streamed(told: Scripted, provider: GoogleProvider) -> None:
    told.says(
        SSE,
        event(content({"text": "hm", "thought": True}, usageMetadata={"promptTokenCount": 5})),
        event(content({"text": "ah"})),
        event(content(finish="STOP", usageMetadata=COUNTS)),
    )
    call = call_of()
    stream = provider.stream(call)
    assert await anext(stream) == Chunk(reasoning="hm")
    assert call.usage == Usage(5, 0)
    assert [chunk async for chunk in stream] == [
        Chunk("ah"),
        Chunk(finish_reason="stop", usage=Usage(5, 7)),
    ]


async def test_an_error_within_a_stream_is_told_by_the_same_table(
    told: Scripted, provider: GoogleProvider
) -> None:
    told.says(
        SSE,
        GenerateContent().pieces("a"),
        event({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}),
    )
    chunks, error = await stream_of(provider)
    assert text_of(chunks) == "a"
    assert error is not None
    assert (error.kind, error.model_id) == ("provider_overloaded", "gpt-4o")


async def test_what_could_be_gone_on_with_is_not_asked_for_again(
    told: Scripted, provider: GoogleProvider
) -> None:
    def piece(text: str, finish: str | None) -> dict[str, Any]:
        said = content({"text": text}, finish=finish)
        said["candidates"][0]["continuationToken"] = "AAAA"
        return said

    told.says(response(piece("so far", "CONTINUATION")))
    assert (await provider.complete(call_of())).finish_reason == "length"
    told.says(SSE, event(piece("so far", "CONTINUATION")))
    chunks, error = await stream_of(provider)
    assert (text_of(chunks), chunks[-1].finish_reason, error) == ("so far", "length", None)
    told.says(SSE, event(piece("so far", None)), Abort)
    chunks, error = await stream_of(provider)
    assert error is not None
    assert (text_of(chunks), error.kind) == ("so far", "stream_interrupted")
    assert len(told.requests) == 3


# ---------------------------------------------------------------- for money


@pytest.mark.live
async def test_the_real_one_answers() -> None:
    if not (os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY")):
        pytest.skip("GOOGLE_API_KEY is not set")
    model = ModelConfig(model_id=os.environ.get("GOOGLE_MODEL", "gemini-flash-latest"))
    async with GoogleProvider() as provider:
        request = QueryRequest(query="Say hello.", max_tokens=1000)
        assert (await provider.complete(Call(model, request))).text
        chunks, error = await stream_of(provider, Call(model, request))
    assert error is None
    assert text_of(chunks)
    assert chunks[-1].usage is not None
