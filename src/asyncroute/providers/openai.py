"""OpenAI by its own SDK: chat completions or responses. The SDK sends; its answers are read here.

The SDK brings authentication, addresses and headers, Azure's too. What it parses it parses
trustingly, so the answer's bytes are read by the same code as those of any other server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, final

from asyncroute._errors import (
    AttemptTimeoutError,
    ConfigurationError,
    ContentRefusedError,
    ProtocolError,
    ProviderError,
    UnavailableError,
)
from asyncroute.providers._chat_completions import StreamedChat, body_of, read_completion
from asyncroute.providers._clients import new_client, timeouts
from asyncroute.providers._credentials import (
    credentials_in,
    key_of,
    missing_sdk,
    shown,
    unless_given,
)
from asyncroute.providers._http_errors import Redact, error_from_payload, redactor
from asyncroute.providers._reading import StreamedAnswer, media_type, streamed
from asyncroute.providers._responses import StreamedResponse, read_response, response_body
from asyncroute.providers._wire import Kinds, Wire, refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx2
    import openai

    from asyncroute._protocols import Call
    from asyncroute._values import Chunk, Completion

__all__ = ("OpenAIProvider",)


@final
class OpenAIProvider:
    """Calls OpenAI through the official SDK, whole or streamed.

    Args:
        api_key: The key; by default the SDK's `OPENAI_API_KEY`.
        api_key_env: Another environment variable that holds the key, read now.
        base_url: Where the API is; by default the SDK's.
        api: `chat` for chat completions; `responses` for the Responses API, into which messages,
            tools, tool choice, images and response format are translated. That one knows no seeds
            and stop sequences, and refuses them.
        client: An `AsyncOpenAI` of yours (or `AsyncAzureOpenAI`): it stays open, its retries and
            timeouts do not count. By default the provider has one of its own, which `aclose` or
            leaving `async with` closes.

    Raises:
        ConfigurationError: The SDK is not installed, there is no key, or a value is impossible.

    Messages are those of the chat API, and `params` pass through; a limit of tokens goes into
    `max_completion_tokens` unless `params` has `max_tokens`. Nothing is retried. Entering is
    optional, but a provider belongs to the first event loop that uses it. Making one imports the
    SDK, which takes a while: make it before the loop runs.
    """

    __slots__ = ("_body_of", "_create", "_read", "_streamed", "_wire")

    cancels_promptly: ClassVar[bool] = True

    def __init__(
        self,
        api_key: str | None = None,
        *,
        api_key_env: str | None = None,
        base_url: str | None = None,
        api: Literal["chat", "responses"] = "chat",
        client: openai.AsyncOpenAI | None = None,
    ) -> None:
        sdk = _sdk()
        unless_given(client, api_key=api_key, api_key_env=api_key_env, base_url=base_url)
        own = None
        if client is None:
            key = key_of(api_key, api_key_env)
            own = new_client(base_url)
            try:
                client = sdk.AsyncOpenAI(api_key=key, base_url=base_url, http_client=own)
            except sdk.OpenAIError as error:
                raise ConfigurationError(f"api_key: {error}") from None
        used = client.with_options(max_retries=0, timeout=timeouts())
        # What sends is looked up now: the SDK imports it when it is first asked for.
        if api == "chat":
            self._create: _Create = used.chat.completions.with_raw_response.create
            self._body_of: _BodyOf = _chat_body
            self._read: _Read = read_completion
            self._streamed: _Streamed = StreamedChat
        elif api == "responses":
            self._create = used.responses.with_raw_response.create
            self._body_of, self._read, self._streamed = (
                response_body,
                read_response,
                StreamedResponse,
            )
        else:
            raise ConfigurationError(f"api: must be 'chat' or 'responses'; got {api!r}")
        self._wire = Wire(
            type(self).__name__,
            shown(str(used.base_url)),
            redactor([used.api_key, *credentials_in(used.default_headers)]),
            own=own,
            is_closed=used.is_closed,
            kinds=_kinds(),
            explain=self._explain,
        )

    async def __aenter__(self) -> Self:
        self._wire.claim()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, also of streams that still run. A client of yours stays open.

        Raises:
            RouterStateError: Called in another event loop than the provider was used in.
        """
        await self._wire.aclose()

    async def complete(self, call: Call, /) -> Completion:
        """Answer the call. Cancelling closes its connection.

        Raises:
            ProviderError: What went wrong, by kind.
            RouterStateError: The provider is closed, or belongs to another event loop.
        """
        response = await self._send(call, self._body_of(call))
        try:
            return self._read(call, media_type(response), response.content, self._wire.redact)
        except ProviderError as error:
            error.model_id = call.model.model_id
            raise

    def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        """Answer the call in chunks. Closing the generator, or cancelling, closes its connection.

        The finish reason and the usage come with the last chunk, once the stream's end is certain.

        Raises:
            ProviderError: What went wrong, by kind; a `StreamInterruptedError`, with the text so
                far, where a stream has begun and does not reach its end.
            RouterStateError: The provider is closed, or belongs to another event loop.
        """
        body = self._body_of(call, streamed=True)
        answer = self._streamed(call, self._wire.redact)
        return streamed(self._wire, call, answer, lambda: self._send(call, body))

    async def _send(self, call: Call, body: dict[str, Any]) -> httpx2.Response:
        """Send a request and return its successful response; a streamed one is still unread."""
        self._wire.claim()
        # What the SDK has no name for it would refuse: an extra body goes as it is.
        named = {name: body.pop(name) for name in _NAMED if name in body}
        try:
            answer = await self._create(**named, extra_body=body)
        except Exception as error:
            raise self._wire.failure(error, call) from self._wire.cause(error)
        return answer.http_response

    def _explain(self, error: Exception) -> ProviderError | None:
        sdk = _sdk()
        redact = self._wire.redact
        if isinstance(error, sdk.APIStatusError):
            return refused(error.response, redact)
        if isinstance(error, sdk.APIError) and error.body is not None:
            return error_from_payload(error.body, redact=redact)
        return None

    def __repr__(self) -> str:
        return repr(self._wire)


# What the SDK itself looks at.
_NAMED = ("model", "messages", "input", "stream")

_Create = Callable[..., Awaitable[Any]]
_Read = Callable[["Call", str, bytes, Redact], "Completion"]
_Streamed = Callable[["Call", Redact], StreamedAnswer]


class _BodyOf(Protocol):
    def __call__(self, call: Call, *, streamed: bool = False) -> dict[str, Any]: ...


def _chat_body(call: Call, *, streamed: bool = False) -> dict[str, Any]:
    return body_of(
        call, limit_field="max_completion_tokens", streamed=streamed, asks_usage=streamed
    )


def _sdk():
    try:
        import openai
    except ModuleNotFoundError as error:
        raise missing_sdk("OpenAIProvider", "openai", error) from error
    return openai


@cache
def _kinds() -> Kinds:
    sdk = _sdk()
    return (
        (sdk.APIResponseValidationError, ProtocolError),
        (sdk.APITimeoutError, AttemptTimeoutError),
        (sdk.APIConnectionError, UnavailableError),
        (sdk.ContentFilterFinishReasonError, ContentRefusedError),
        (sdk.LengthFinishReasonError, ProtocolError),
        (sdk.InvalidWebhookSignatureError, ProtocolError),
        (sdk.OpenAIError, UnavailableError),
    )
