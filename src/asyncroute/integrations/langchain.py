"""A router as a LangChain chat model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, final

from asyncroute._errors import ConfigurationError, RouterStateError
from asyncroute._inputs import RequestFields
from asyncroute._modes import Mode
from asyncroute._router import LLMRouter

try:
    from langchain_core.exceptions import OutputParserException
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import (
        AIMessage,
        AIMessageChunk,
        BaseMessage,
        InvalidToolCall,
        ToolCall,
        convert_to_openai_messages,
    )
    from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
    from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
    from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from pydantic import Field
except ImportError as error:
    raise ConfigurationError(
        f"ChatAsyncRoute needs langchain-core ({error}): pip install 'asyncroute[langchain]'"
    ) from error

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    from asyncroute._inputs import Message
    from asyncroute._results import ExecutionResult
    from asyncroute._values import Chunk, Usage

__all__ = ("ChatAsyncRoute",)

_REQUEST_FIELDS = RequestFields.__annotations__.keys()


@final
class ChatAsyncRoute(BaseChatModel):
    """A router as a LangChain chat model: each call goes to the best of the router's models.

    ::

        async with LLMRouter(models, providers) as router:
            chat = ChatAsyncRoute(router=router, strategy="balanced", max_cost=0.01)
            print((await chat.ainvoke("Why is the sky blue?")).content)

    Use what awaits (`ainvoke`, `astream`, `abatch`): the router lives in an event loop, and the
    methods that block raise `RouterStateError`. Tools are bound by `bind_tools`; structured output
    works through them. Messages carry `usage_metadata` and, in `response_metadata`, the model that
    answered (`model_name`), the `finish_reason` and what the request cost, all attempts together.

    What a call is given beside the messages, by `bind` or as keywords, is taken for a field of
    `QueryRequest` if it is one (`max_cost`, `timeout`, …), else for a parameter of the provider's
    API (`temperature`, …).

    Errors are asyncroute's own. Cancelling the caller cancels the calls. Whoever leaves an
    `astream` early should close it, by `contextlib.aclosing`; else its stream ends when Python
    collects it.

    Attributes:
        router: The router, entered in the loop in which calls are awaited. It stays yours.
        strategy: A strategy's name, or a selector.
        mode: As for `LLMRouter.execute`, without cascades.
        capability: As in `QueryRequest`, and so are those that follow.
        max_tokens: The longest answer wanted, in tokens.
        max_cost: Dollars.
        max_latency_ms: Expected milliseconds at most.
        required_quality: Least quality score.
        models: Ids or groups to choose among.
        exclude: Ids or groups not to be used.
        timeout: Seconds for everything.
        priority: Higher goes first.
        params: Passed to the provider (`temperature`, `stop`, …); in no repr and no trace.
    """

    router: LLMRouter = Field(exclude=True, repr=False)
    strategy: Any = None
    mode: Mode | None = None
    capability: str | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_latency_ms: float | None = None
    required_quality: float | None = None
    models: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    timeout: float | None = None
    priority: int = 0
    params: dict[str, Any] = Field(default_factory=dict[str, Any], exclude=True, repr=False)

    @property
    def _llm_type(self) -> str:
        return "asyncroute"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What tells it from others, in traces and in LangChain's cache."""
        known: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("mode", *sorted(_REQUEST_FIELDS - {"metadata", "params"}))
            if getattr(self, name)
        }
        if self.strategy is not None:
            known["strategy"] = str(self.strategy)
        if self.params:  # may hold secrets
            written = json.dumps(self.params, sort_keys=True, default=str)
            known["params"] = hashlib.sha256(written.encode()).hexdigest()
        return {"models": [each.model_id for each in self.router.models], **known}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise RouterStateError(
            "ChatAsyncRoute awaits: use ainvoke, astream or abatch in place of invoke, stream or"
            " batch; for code that cannot await there is asyncroute.blocking"
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        result = await self.router.execute(
            _chat(messages),
            strategy=self.strategy,
            mode=self.mode,
            **self._fields_with(stop, kwargs),
        )
        return ChatResult(generations=[ChatGeneration(message=_message(result.unwrap(), result))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        stream = self.router.stream(
            _chat(messages),
            strategy=self.strategy,
            mode=self.mode,
            **self._fields_with(stop, kwargs),
        )
        calls = -1
        async with stream:
            async for chunk in stream:
                calls += _begins_call(chunk)
                yield ChatGenerationChunk(message=_message_chunk(chunk, calls))
        result = stream.result()
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=_usage(result.usage),
                response_metadata=_metadata(result),
                chunk_position="last",
            )
        )

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model.

        Args:
            tools: Functions, pydantic models, LangChain tools or descriptions of tools.
            tool_choice: `auto`, `none`, `any` (one of them has to be called) or a tool's name.
            **kwargs: Bound to each call, as by `bind`.
        """
        offered = [convert_to_openai_tool(tool) for tool in tools]
        if tool_choice:
            kwargs["tool_choice"] = _choice(tool_choice)
        return self.bind(tools=offered, **kwargs)

    def _fields_with(self, stop: list[str] | None, given: dict[str, Any]) -> RequestFields:
        params = dict(self.params)
        fields: dict[str, Any] = {
            name: value
            for name in _REQUEST_FIELDS - {"params"}
            if (value := getattr(self, name)) is not None
        }
        for name, value in given.items():
            if name == "params":
                params |= value
            elif name in _REQUEST_FIELDS:
                fields[name] = value
            elif name not in _FRAMEWORKS_OWN:
                params[name] = value
        if stop is not None:
            params["stop"] = stop
        return cast("RequestFields", {**fields, "params": params})


# What LangChain hands on to models for its own ends.
_FRAMEWORKS_OWN = frozenset({"stream", "ls_structured_output_format", "structured_output_format"})


def _chat(messages: list[BaseMessage]) -> list[Message]:
    return convert_to_openai_messages(messages)


def _choice(wanted: str | dict[str, Any] | bool) -> str | dict[str, Any]:
    if wanted is True or wanted == "any":
        return "required"
    if isinstance(wanted, dict) or wanted in ("auto", "none", "required"):
        return wanted
    return {"type": "function", "function": {"name": wanted}}


def _message(text: str, result: ExecutionResult) -> AIMessage:
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for raw in result.tool_calls:
        try:
            calls.append(cast("ToolCall", parse_tool_call(raw)))
        except OutputParserException as error:
            invalid.append(make_invalid_tool_call(raw, str(error)))
    return AIMessage(
        text,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=_usage(result.usage),
        response_metadata=_metadata(result),
    )


def _message_chunk(chunk: Chunk, calls: int) -> AIMessageChunk:
    thoughts = {"reasoning_content": chunk.reasoning} if chunk.reasoning else {}
    pieces = [] if chunk.tool_call is None else [_piece(chunk.tool_call, calls)]
    return AIMessageChunk(content=chunk.text, additional_kwargs=thoughts, tool_call_chunks=pieces)


def _begins_call(chunk: Chunk) -> bool:
    piece = chunk.tool_call
    return piece is not None and bool(piece.get("id") or piece.get("function", {}).get("name"))


def _piece(piece: Mapping[str, Any], calls: int) -> ToolCallChunk:
    function: Mapping[str, Any] = piece.get("function") or {}
    return tool_call_chunk(
        name=function.get("name"),
        args=function.get("arguments"),
        id=piece.get("id"),
        index=piece.get("index", calls),  # not every server numbers its calls
    )


def _usage(usage: Usage | None) -> UsageMetadata | None:
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


def _metadata(result: ExecutionResult) -> dict[str, Any]:
    return {
        "model_name": result.model_id,
        "finish_reason": result.finish_reason,
        "cost": result.actual_cost,
        "request_id": result.request_id,
    }
