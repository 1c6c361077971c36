"""Google's Gemini by its own SDK, google-genai: the Developer API, or Vertex by your own client."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, cast, final

from asyncroute._errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ProtocolError,
    ProviderError,
    UnavailableError,
)
from asyncroute.providers._clients import new_client, unused_client
from asyncroute.providers._credentials import key_of, missing_sdk, shown, unless_given
from asyncroute.providers._generate_content import StreamedContent, read_content, request_of
from asyncroute.providers._generators import Generators
from asyncroute.providers._http_errors import error_from_payload, redactor
from asyncroute.providers._retry_after import parse_retry_after
from asyncroute.providers._wire import Kinds, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from google import genai
    from google.genai.types import GenerateContentResponse

    from asyncroute._protocols import Call
    from asyncroute._values import Chunk, Completion

__all__ = ("GoogleProvider",)

# Where the SDK looks: it does not tell what it found.
_KEYS = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
_ADDRESS = "GOOGLE_GEMINI_BASE_URL"
_GOOGLES = "https://generativelanguage.googleapis.com"


@final
class GoogleProvider:
    """Calls Gemini through the official SDK, whole or streamed.

    Args:
        api_key: The key; by default the SDK's `GOOGLE_API_KEY` or `GEMINI_API_KEY`.
        api_key_env: Another environment variable that holds the key, read now.
        base_url: Where the API is, without the version; by default the SDK's.
        api_version: The version of the API; by default the SDK's.
        client: A `genai.Client` of yours, for Vertex for example: it stays open, its retries do
            not count, its timeout does. By default the provider has one of its own, without a
            timeout, which `aclose` or leaving `async with` closes.

    Raises:
        ConfigurationError: The SDK is not installed, there is no key, or a value is impossible.

    Messages are those of the chat API: system messages, tools, tool choice, tool calls and their
    results, images, files, audio, `stop`, `seed`, `max_tokens` and response formats are
    translated; other `params` go into the `GenerateContentConfig`, which refuses what it does not
    have. A model's signatures of its thoughts come in a tool call's `extra_content`, and go back
    with it. Nothing is retried. Entering is optional, but a provider belongs to the first event
    loop that uses it. Making one imports the SDK, which takes a while: make it before the loop
    runs.
    """

    __slots__ = ("_models", "_options", "_types", "_wire")

    cancels_promptly: ClassVar[bool] = True

    def __init__(
        self,
        api_key: str | None = None,
        *,
        api_key_env: str | None = None,
        base_url: str | None = None,
        api_version: str | None = None,
        client: genai.Client | None = None,
    ) -> None:
        sdk = _sdk()
        self._types = sdk.types
        unless_given(
            client,
            api_key=api_key,
            api_key_env=api_key_env,
            base_url=base_url,
            api_version=api_version,
        )
        self._options = sdk.types.HttpOptions(retry_options=sdk.types.HttpRetryOptions(attempts=1))
        own = None
        key = key_of(api_key, api_key_env)
        if client is None:
            own = new_client(base_url)
            options = sdk.types.HttpOptions(
                base_url=base_url,
                api_version=api_version,
                httpx_async_client=own,
                httpx_client=unused_client(),
            )
            try:
                client = sdk.Client(api_key=key, http_options=options)
            except ValueError as error:
                raise ConfigurationError(f"api_key: {error}") from None
        self._models = cast("_Models", client.aio.models)
        secrets = [key or "", *(os.environ.get(name, "") for name in _KEYS)]
        self._wire = Wire(
            type(self).__name__,
            shown(base_url or os.environ.get(_ADDRESS) or _GOOGLES) if own else "a client of yours",
            redactor(secrets),
            own=own,
            is_closed=lambda: own is not None and own.is_closed,
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
        self._wire.claim()
        try:
            request = self._request(call)
            response = await self._models.generate_content(**request)
            return read_content(call, _plain(response), self._wire.redact)
        except Exception as error:
            raise self._wire.failure(error, call) from self._wire.cause(error)

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        """Answer the call in chunks. Closing the generator, or cancelling, closes its connection.

        The finish reason and the usage come with the last chunk, once the stream's end is certain.

        Raises:
            ProviderError: What went wrong, by kind; a `StreamInterruptedError`, with the text so
                far, where a stream has begun and does not reach its end.
            RouterStateError: The provider is closed, or belongs to another event loop.
        """
        self._wire.claim()
        answer = StreamedContent(call, self._wire.redact)
        generators = Generators()
        try:
            source = await self._open_stream(call, generators)
            piece = await self._next_piece(source, generators, call)  # the request is sent here
            while piece is not None:
                for chunk in answer.take(_plain(piece)):
                    yield chunk
                piece = await self._next_piece(source, generators, call, answer)
            yield answer.end()
        except ProviderError as error:
            error.model_id = call.model.model_id
            raise
        finally:
            await generators.aclose()

    async def _open_stream(
        self, call: Call, generators: Generators
    ) -> AsyncIterator[GenerateContentResponse]:
        try:
            request = self._request(call)
            return await generators.watching(
                lambda: self._models.generate_content_stream(**request)
            )
        except Exception as error:
            raise self._wire.failure(error, call) from self._wire.cause(error)

    async def _next_piece(
        self,
        source: AsyncIterator[GenerateContentResponse],
        generators: Generators,
        call: Call,
        answer: StreamedContent | None = None,
    ) -> GenerateContentResponse | None:
        try:
            return await generators.watching(lambda: anext(source))
        except StopAsyncIteration:
            return None
        except Exception as error:
            failure = self._wire.failure(error, call)
            if answer is not None and self._explain(error) is None:
                failure = answer.interrupted(str(failure))
            raise failure from self._wire.cause(error)

    def _request(self, call: Call) -> dict[str, Any]:
        """Write the request in the SDK's own types, which refuse what they do not have."""
        import pydantic

        types = self._types
        request = request_of(call)
        # One call is one request: functions are declared and never run here, and what broke off or
        # reached a limit is not gone on with.
        one = {"automatic_function_calling": {"disable": True}, "automatic_continuation": False}
        config = {**one, **request.config}
        try:
            return {
                "model": request.model,
                "contents": [types.Content.model_validate(it) for it in request.contents],
                "config": types.GenerateContentConfig.model_validate(
                    {**config, "http_options": self._options}
                ),
            }
        except pydantic.ValidationError as error:
            wrong = error.errors(include_url=False, include_context=False, include_input=False)
            says = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in wrong[:3])
            raise BadRequestError(f"the request cannot be written: {says}") from None

    def _explain(self, error: Exception) -> ProviderError | None:
        if isinstance(error, ProviderError):
            return error
        if not isinstance(error, _errors().APIError):
            return None
        details = cast("object", error.details)  # pyright: ignore[reportUnknownMemberType]
        status = error.code if isinstance(error.code, int) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        response = cast("object", error.response)  # pyright: ignore[reportUnknownMemberType]
        headers = cast("Mapping[str, str]", getattr(response, "headers", None) or {})
        return error_from_payload(
            details,
            redact=self._wire.redact,
            status=status,
            retry_after=parse_retry_after(headers, rate_limited=status == 429),
        )

    def __repr__(self) -> str:
        return repr(self._wire)


class _Models(Protocol):
    async def generate_content(self, **request: Any) -> GenerateContentResponse: ...

    async def generate_content_stream(
        self, **request: Any
    ) -> AsyncIterator[GenerateContentResponse]: ...


def _plain(response: GenerateContentResponse) -> dict[str, Any]:
    fields = {"candidates", "model_version", "prompt_feedback", "usage_metadata"}
    return response.model_dump(mode="json", exclude_none=True, include=fields)


def _sdk():
    try:
        from google import genai
    except ModuleNotFoundError as error:
        raise missing_sdk("GoogleProvider", "google", error) from error
    return genai


def _errors():
    from google.genai import errors

    return errors


@cache
def _kinds() -> Kinds:
    errors = _errors()
    import google.auth.exceptions
    import pydantic

    return (
        (errors.APIError, UnavailableError),
        (errors.UnknownApiResponseError, ProtocolError),
        (errors.ContinuationInterruptedError, UnavailableError),
        (google.auth.exceptions.TransportError, UnavailableError),
        (google.auth.exceptions.GoogleAuthError, AuthenticationError),
        (pydantic.ValidationError, ProtocolError),
    )
