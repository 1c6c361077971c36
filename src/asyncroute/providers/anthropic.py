"""Anthropic by its own SDK: the Messages API. The SDK sends; its answers are read here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast, final

from asyncroute._errors import (
    AttemptTimeoutError,
    AuthenticationError,
    ConfigurationError,
    ProtocolError,
    ProviderError,
    UnavailableError,
)
from asyncroute.providers._clients import new_client, timeouts
from asyncroute.providers._credentials import (
    credentials_in,
    key_of,
    missing_sdk,
    shown,
    unless_given,
)
from asyncroute.providers._http_errors import error_from_payload, redactor
from asyncroute.providers._messages import StreamedMessage, messages_body, read_message
from asyncroute.providers._reading import media_type, streamed
from asyncroute.providers._wire import Kinds, Wire, refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import anthropic
    import httpx2

    from asyncroute._protocols import Call
    from asyncroute._values import Chunk, Completion

__all__ = ("AnthropicProvider",)


@final
class AnthropicProvider:
    """Calls Anthropic through the official SDK, whole or streamed.

    Args:
        api_key: The key; by default whatever the SDK finds, first of all `ANTHROPIC_API_KEY`.
        api_key_env: Another environment variable that holds the key, read now.
        base_url: Where the API is; by default the SDK's.
        max_tokens: The longest answer where neither the request nor the model's
            `max_output_tokens` has a limit: this API insists on one.
        client: An `AsyncAnthropic` of yours (or one for Bedrock, Vertex, …): it stays open, its
            retries and timeouts do not count. By default the provider has one of its own, which
            `aclose` or leaving `async with` closes.

    Raises:
        ConfigurationError: The SDK is not installed, there is no key, or a value is impossible.

    Messages are those of the chat API: system messages are lifted out, wherever they stand; tools,
    tool choice, tool calls and their results, images, files, `stop`, `user` and a `json_schema`
    are translated. Other `params` pass through, so that `thinking` and `cache_control` can be used
    and what the API does not have (`seed`, `n`, a `json_object`) it refuses. Cached input is what
    was read from the cache. Nothing is retried. Entering is optional, but a provider belongs to
    the first event loop that uses it. Making one imports the SDK, which takes a while: make it
    before the loop runs.
    """

    __slots__ = ("_create", "_default_limit", "_wire")

    cancels_promptly: ClassVar[bool] = True

    def __init__(
        self,
        api_key: str | None = None,
        *,
        api_key_env: str | None = None,
        base_url: str | None = None,
        max_tokens: int = 4096,
        client: anthropic.AsyncAnthropic | None = None,
    ) -> None:
        sdk = _sdk()
        unless_given(client, api_key=api_key, api_key_env=api_key_env, base_url=base_url)
        if max_tokens < 1:
            raise ConfigurationError(f"max_tokens: must be at least 1; got {max_tokens}")
        own = None
        if client is None:
            key = key_of(api_key, api_key_env)
            own = new_client(base_url)
            try:
                client = sdk.AsyncAnthropic(api_key=key, base_url=base_url, http_client=own)
            except (sdk.AnthropicError, ValueError) as error:
                raise ConfigurationError(f"api_key: {error}") from None
            if not (client.api_key or client.auth_token or client.credentials):
                raise ConfigurationError("api_key: none is given, and ANTHROPIC_API_KEY is not set")
        used = client.with_options(max_retries=0, timeout=timeouts())
        # Looked up now: the SDK imports what sends when it is first asked for.
        self._create: Callable[..., Awaitable[Any]] = used.messages.with_raw_response.create
        self._default_limit = max_tokens
        secrets = [used.api_key or "", used.auth_token or "", *credentials_in(used.default_headers)]
        self._wire = Wire(
            type(self).__name__,
            shown(str(used.base_url)),
            redactor(secrets),
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
        response = await self._send(call)
        try:
            return read_message(call, media_type(response), response.content, self._wire.redact)
        except ProviderError as error:
            error.model_id = call.model.model_id
            raise

    def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        """Answer the call in chunks. Closing the generator, or cancelling, closes its connection.

        The finish reason and the usage come with the last chunk, once the stream's end is certain;
        `call.usage` knows the input from the first event on, and estimates the output meanwhile.

        Raises:
            ProviderError: What went wrong, by kind; a `StreamInterruptedError`, with the text so
                far, where a stream has begun and does not reach its end.
            RouterStateError: The provider is closed, or belongs to another event loop.
        """
        answer = StreamedMessage(call, self._wire.redact)
        return streamed(self._wire, call, answer, lambda: self._send(call, streamed=True))

    async def _send(self, call: Call, *, streamed: bool = False) -> httpx2.Response:
        """Send a request and return its successful response; a streamed one is still unread."""
        self._wire.claim()
        try:
            body = messages_body(call, default_limit=self._default_limit, streamed=streamed)
            # What the SDK has no name for it would refuse: an extra body goes as it is.
            named = {name: body.pop(name) for name in _NAMED if name in body}
            answer = await self._create(**named, extra_body=body)
        except Exception as error:
            raise self._wire.failure(error, call) from self._wire.cause(error)
        return cast("httpx2.Response", answer.http_response)

    def _explain(self, error: Exception) -> ProviderError | None:
        sdk = _sdk()
        if isinstance(error, ProviderError):
            return error
        if isinstance(error, sdk.APIStatusError):
            return refused(error.response, self._wire.redact)
        if isinstance(error, sdk.APIError) and error.body is not None:
            return error_from_payload(error.body, redact=self._wire.redact)
        return None

    def __repr__(self) -> str:
        return repr(self._wire)


# What the SDK itself looks at.
_NAMED = ("model", "max_tokens", "messages", "stream")


def _sdk():
    try:
        import anthropic
    except ModuleNotFoundError as error:
        raise missing_sdk("AnthropicProvider", "anthropic", error) from error
    return anthropic


@cache
def _kinds() -> Kinds:
    sdk = _sdk()
    return (
        (sdk.APIResponseValidationError, ProtocolError),
        (sdk.APIWebhookValidationError, ProtocolError),
        (sdk.APITimeoutError, AttemptTimeoutError),
        (sdk.APIConnectionError, UnavailableError),
        (sdk.CredentialsError, AuthenticationError),
        (sdk.AnthropicError, UnavailableError),
    )
