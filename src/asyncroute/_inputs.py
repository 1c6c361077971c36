"""What users write: the configuration of a model and the request to be routed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self, TypedDict, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, InitErrorDetails

__all__ = ("Capability", "Message", "ModelConfig", "QueryRequest", "RequestFields")

Message = dict[str, Any]
"""One chat message as the chat APIs take it: `role`, `content`, and what else the API knows."""


class Capability(StrEnum):
    """The capabilities known by name; any other string is allowed too."""

    SIMPLE_QA = "simple_qa"
    COMPLEX_REASONING = "complex_reasoning"
    CODE_GENERATION = "code_generation"
    CREATIVE_WRITING = "creative_writing"
    SUMMARIZATION = "summarization"
    TRANSLATION = "translation"
    ANALYSIS = "analysis"
    GENERAL = "general"


def _unique_strings(value: Any) -> Any:
    """Take one string or several, drop repetitions, keep the order; leave the rest to pydantic."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (Sequence, set, frozenset)):
        return value
    given = tuple(cast("Sequence[Any]", value))
    if not all(isinstance(item, str) for item in given):
        return given
    return tuple(dict.fromkeys(given if isinstance(value, Sequence) else sorted(given)))


def _without_secrets(error: ValidationError, model: type[BaseModel]) -> ValidationError:
    """Rebuild an error without the input of `params` and unknown fields: they may be secrets."""
    shown = model.model_fields.keys() - {"params"}
    lines = [_line(line, shown) for line in error.errors()]
    return ValidationError.from_exception_data(error.title, lines)


def _line(line: ErrorDetails, shown: Collection[str]) -> InitErrorDetails:
    # Where a field is missing, the input is all the others.
    is_shown = line["type"] != "missing" and bool(line["loc"]) and line["loc"][0] in shown
    kept: InitErrorDetails = {
        "type": line["type"],
        "loc": line["loc"],
        "input": line["input"] if is_shown else "(not shown)",
    }
    if "ctx" in line:
        kept["ctx"] = line["ctx"]
    return kept


def _one_text_error(
    model: type[BaseModel], query: str | None, messages: tuple[Message, ...] | None
) -> ValidationError:
    said = f"needs a query or messages; got query={query!r}, messages={messages!r}"
    if query is not None and messages is not None:
        said = "give either query or messages, not both"
    line: InitErrorDetails = {
        "type": "value_error",
        "loc": (),
        "input": "(not shown)",
        "ctx": {"error": ValueError(said)},
    }
    return ValidationError.from_exception_data(model.__name__, [line])


# A third of the time of `dict[str, Any]`, which every request would call twice.
_new_dict = cast("Callable[[], dict[str, Any]]", dict)

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_unique_strings)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ModelConfig(BaseModel):
    """One model that queries may be routed to.

    Attributes:
        model_id: The id, unique in a router; providers send it as the model's name.
        name: What people call it; the id where not given.
        provider: The key of `providers` that serves it.
        cost_per_1k_tokens: US dollars for 1,000 tokens, in and out alike.
        input_cost_per_1k: Dollars for 1,000 tokens of input; default `cost_per_1k_tokens`.
        output_cost_per_1k: Dollars for 1,000 tokens of output; default `cost_per_1k_tokens`.
        cached_input_cost_per_1k: Dollars for 1,000 input tokens read from the provider's prompt
            cache; default `input_cost_per_1k`.
        cache_write_cost_per_1k: Dollars for 1,000 input tokens that it writes to its prompt cache;
            default `input_cost_per_1k`.
        audio_input_cost_per_1k: Dollars for 1,000 input tokens of audio; default
            `input_cost_per_1k`.
        audio_output_cost_per_1k: Dollars for 1,000 output tokens of audio; default
            `output_cost_per_1k`.
        max_tokens: The context window: tokens of input and output together.
        max_output_tokens: The longest answer the model can give; None for no limit of its own.
        avg_latency_ms: What a usual answer takes in milliseconds, until it has been observed.
        capabilities: What it is good for. `general` serves any, unless the router is strict.
        supports: Features it has (`tools`, `images`, `json_schema`, …); None means all.
        quality_score: From 0 to 1.
        max_concurrent_requests: Slots: how many requests may be in flight at once.
        requests_per_minute: The account's limit in any 60 seconds; None for none.
        tokens_per_minute: The same for tokens, in and out.
        weight: Share in round robin and among equals; 0 never picks it.
        group: A name that several models serve together; requests may ask for it. No other
            model's id, unless that one is in the group.
        quota_group: Models of one quota group share one account: its limits and Retry-After.
        is_available: False takes it out of routing.
        params: Passed to the provider with every call. Left out of reprs and serialised results.
    """

    # Built when the first one is made: half of what importing this package takes.
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), defer_build=True
    )

    model_id: Name
    name: str = ""
    provider: Name = "default"
    cost_per_1k_tokens: Price = 0.0
    input_cost_per_1k: Price | None = None
    output_cost_per_1k: Price | None = None
    cached_input_cost_per_1k: Price | None = None
    cache_write_cost_per_1k: Price | None = None
    audio_input_cost_per_1k: Price | None = None
    audio_output_cost_per_1k: Price | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 8192
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    avg_latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0
    capabilities: Names = (Capability.GENERAL.value,)
    supports: Names | None = None
    quality_score: Share = 0.5
    max_concurrent_requests: Annotated[int, Field(ge=0)] = 10
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    group: Name | None = None
    quota_group: Name | None = None
    is_available: bool = True
    params: dict[str, Any] = Field(default_factory=_new_dict, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_id(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        given = cast("Mapping[str, Any]", data)
        return given if given.get("name") else {**given, "name": given.get("model_id", "")}

    @model_validator(mode="wrap")
    @classmethod
    def _tell_errors_without_secrets(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self]
    ) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            told = _without_secrets(error, cls)
        raise told

    @classmethod
    def from_catalog(cls, name: str, **overrides: Any) -> Self:
        """Configure a model with its prices and context window from the list of genai-prices.

        The list comes with that package (extra `prices`), and is as old as it: nothing is
        downloaded. Where long prompts cost more, the window ends where the higher price begins.

        Args:
            name: Provider and model, `openai:gpt-4o`: the provider as the list names it, the model
                as the provider does. The model alone where its name tells the provider.
            overrides: Fields of this class, which stand above what the list says.

        Raises:
            ConfigurationError: genai-prices is not installed, or the list does not know the model,
                its price, or its window (then give `max_tokens`). Says what comes near.
            pydantic.ValidationError: An override is wrong.
        """
        from asyncroute._prices import listed

        return cls(**{**listed(name, window="max_tokens" not in overrides), **overrides})

    @property
    def input_price(self) -> float:
        """Dollars for one token of input."""
        price = self.input_cost_per_1k
        return (self.cost_per_1k_tokens if price is None else price) / 1000

    @property
    def output_price(self) -> float:
        """Dollars for one token of output."""
        price = self.output_cost_per_1k
        return (self.cost_per_1k_tokens if price is None else price) / 1000

    @property
    def cached_input_price(self) -> float:
        """Dollars for one input token that the provider read from its prompt cache."""
        price = self.cached_input_cost_per_1k
        return self.input_price if price is None else price / 1000

    @property
    def cache_write_price(self) -> float:
        """Dollars for one input token that the provider wrote to its prompt cache."""
        price = self.cache_write_cost_per_1k
        return self.input_price if price is None else price / 1000

    @property
    def audio_input_price(self) -> float:
        """Dollars for one input token of audio."""
        price = self.audio_input_cost_per_1k
        return self.input_price if price is None else price / 1000

    @property
    def audio_output_price(self) -> float:
        """Dollars for one output token of audio."""
        price = self.audio_output_cost_per_1k
        return self.output_price if price is None else price / 1000


class RequestFields(TypedDict, total=False):
    """The fields of a `QueryRequest` beside its text, as keyword arguments; None says nothing."""

    capability: str | None
    max_tokens: int | None
    max_cost: float | None
    max_latency_ms: float | None
    required_quality: float | None
    models: Sequence[str] | None
    exclude: Sequence[str] | None
    timeout: float | None
    priority: int | None
    params: dict[str, Any] | None
    metadata: dict[str, Any] | None


class QueryRequest(BaseModel):
    """A query to be routed, and what the answer may cost and take.

    Attributes:
        query: The text. Either this or `messages`.
        messages: A conversation, as chat APIs take it. Either this or `query`.
        capability: What the model must be good for; `general` asks nothing.
        strategy: The name of the strategy that chooses.
        max_tokens: The longest answer wanted, in tokens.
        max_cost: Dollars that the whole request may be expected to cost, all attempts together.
        max_latency_ms: Expected milliseconds of the answer at most.
        required_quality: Least quality score, 0 to 1.
        models: Ids or groups to choose among; None for all. What no model is called is no error,
            since models come and go; a decision's `rejected` names it.
        exclude: Ids or groups not to be used; as for `models`.
        timeout: Seconds for everything: waiting, attempts, fallbacks. None for the router's
            default, `math.inf` for none.
        priority: Higher goes first where requests queue.
        params: Passed to the provider (`temperature`, `tools`, `stop`, …). Left out of reprs and
            serialised results.
        metadata: The caller's own; `tenant` in it keeps caches and budgets apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    query: str | None = None
    messages: tuple[Message, ...] | None = None
    capability: Name = Capability.GENERAL.value
    strategy: Name = "balanced"
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_cost: Price | None = None
    max_latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    required_quality: Share | None = None
    models: Names | None = None
    exclude: Names = ()
    timeout: Annotated[float, Field(gt=0)] | None = None  # NaN is not above 0 either
    priority: int = 0
    params: dict[str, Any] = Field(default_factory=_new_dict, exclude=True, repr=False)
    metadata: dict[str, Any] = Field(default_factory=_new_dict)

    @field_validator("models")
    @classmethod
    def _models_are_not_empty(cls, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if models == ():
            raise ValueError("must name at least one model or group, or be None for all; got []")
        return models

    @field_validator("messages")
    @classmethod
    def _messages_have_roles(
        cls, messages: tuple[Message, ...] | None
    ) -> tuple[Message, ...] | None:
        for i, message in enumerate(messages or ()):
            if not isinstance(message.get("role"), str):
                raise ValueError(f"message {i} has no role; it has {sorted(message)}")
        return messages

    @model_validator(mode="wrap")
    @classmethod
    def _has_exactly_one_text(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # One wrapping validator for everything: each that is called costs half a microsecond.
        try:
            request = handler(data)
        except ValidationError as error:
            told = _without_secrets(error, cls)
        else:
            query, messages = request.query, request.messages
            if messages is None and query is not None and query.strip():
                return request
            if messages and query is None:
                return request
            told = _one_text_error(cls, query, messages)
        raise told

    @field_serializer("timeout", when_used="json")
    def _timeout_in_json(self, timeout: float | None) -> float | str | None:
        return "inf" if timeout == math.inf else timeout  # JSON knows no infinity

    @property
    def chat(self) -> tuple[Message, ...]:
        """The conversation: `messages`, or the query as the user's only message."""
        if self.messages is not None:
            return self.messages
        return ({"role": "user", "content": self.query},)
