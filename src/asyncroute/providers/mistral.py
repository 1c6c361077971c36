"""Mistral by its own SDK: chat completions. The SDK sends; its streams are read here."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

from asyncroute._errors import (
    ConfigurationError,
    ProtocolError,
    ProviderError,
    UnavailableError,
)
from asyncroute.providers._chat_completions import StreamedChat, body_of, completion_in
from asyncroute.providers._clients import new_client, unused_client
from asyncroute.providers._credentials import key_of, missing_sdk, shown, unless_given
from asyncroute.providers._http_errors import error_from_payload, redactor
from asyncroute.providers._json import decoded, object_of
from asyncroute.providers._reading import streamed
from asyncroute.providers._wire import Kinds, Wire, refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    import httpx2
    from mistralai.client import Mistral

    from asyncroute._protocols import Call
    from asyncroute._values import Chunk, Completion

__all__ = ("MistralProvider",)

# The SDK's own would be five minutes, and none means that; the router says when it is enough.
_NO_TIMEOUT_MS = 2**31 - 1


@final
class MistralProvider:
    """Calls Mistral through the official SDK, whole or streamed.

    Args:
        api_key: The key; by default `MISTRAL_API_KEY`.
        api_key_env: Another environment variable that holds the key, read now.
        base_url: Where the API is, without `/v1`; by default the SDK's.
        client: A `Mistral` of yours: it stays open, its retries and timeouts do not count. By
            default the provider has one of its own, which `aclose` or leaving `async with` closes.

    Raises:
        ConfigurationError: The SDK is not installed, there is no key, or a value is impossible.

    Messages are those of the chat API; `params` are those of the SDK's `chat.complete`, which
    refuses others, and `seed` and `max_completion_tokens` by their names there. Nothing is
    retried. Entering is optional, but a provider belongs to the first event loop that uses it.
    Making one imports the SDK, which takes a while: make it before the loop runs.
    """

    __slots__ = ("_chat", "_wire")

    cancels_promptly: ClassVar[bool] = True

    def __init__(
        self,
        api_key: str | None = None,
        *,
        api_key_env: str | None = None,
        base_url: str | None = None,
        client: Mistral | None = None,
    ) -> None:
        sdk = _sdk()
        unless_given(client, api_key=api_key, api_key_env=api_key_env, base_url=base_url)
        own = None
        key = key_of(api_key, api_key_env) or os.environ.get("MISTRAL_API_KEY", "")
        if client is None:
            if not key:
                raise ConfigurationError("api_key: none is given, and MISTRAL_API_KEY is not set")
            own = _remembering(new_client(base_url))
            client = sdk.Mistral(
                api_key=key, server_url=base_url, async_client=own, client=unused_client()
            )
        self._chat = client.chat
        server, *_ = client.sdk_configuration.get_server_details()
        self._wire = Wire(
            type(self).__name__,
            shown(server),
            redactor([key]),
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
            answer = await self._chat.complete_async(**_arguments(call))
            return completion_in(call, answer.model_dump(mode="json"), self._wire.redact)
        except Exception as error:
            raise self._wire.failure(error, call) from self._wire.cause(error)

    def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        """Answer the call in chunks. Closing the generator, or cancelling, closes its connection.

        The finish reason and the usage come with the last chunk, once the stream's end is certain.

        Raises:
            ProviderError: What went wrong, by kind; a `StreamInterruptedError`, with the text so
                far, where a stream has begun and does not reach its end.
            RouterStateError: The provider is closed, or belongs to another event loop.
        """
        answer = StreamedChat(call, self._wire.redact)
        return streamed(self._wire, call, answer, lambda: self._open_stream(call))

    async def _open_stream(self, call: Call) -> httpx2.Response:
        """Send a request and return its successful response, unread."""
        self._wire.claim()
        with _noting_responses() as responses:
            try:
                return (await self._chat.stream_async(**_arguments(call))).response
            except BaseException as error:
                # Between the response and its caller the SDK waits for threads: who leaves
                # meanwhile would leave it open.
                for response in responses:
                    await response.aclose()
                if isinstance(error, Exception):
                    raise self._wire.failure(error, call) from self._wire.cause(error)
                raise

    def _explain(self, error: Exception) -> ProviderError | None:
        if isinstance(error, ProviderError):
            return error
        if not isinstance(error, _errors().MistralError):
            return None
        redact, body = self._wire.redact, error.body
        if error.status_code >= 300:
            return refused(error.raw_response, redact, body.encode())
        payload = object_of(decoded(body))
        if payload.get("error"):
            return error_from_payload(payload, redact=redact)
        return ProtocolError(f"answered with what is no chat completion ({len(body)} characters)")

    def __repr__(self) -> str:
        return repr(self._wire)


_received: ContextVar[list[httpx2.Response] | None] = ContextVar("_received", default=None)


def _remembering(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Let a client of ours tell `_noting_responses` of what it receives."""
    client.event_hooks = {"response": [_remember]}
    return client


async def _remember(response: httpx2.Response) -> None:
    if (received := _received.get()) is not None:
        received.append(response)


@contextmanager
def _noting_responses() -> Generator[list[httpx2.Response]]:
    """Give the responses that come within the block: an SDK may lose one and leave it open."""
    responses: list[httpx2.Response] = []
    token = _received.set(responses)
    try:
        yield responses
    finally:
        _received.reset(token)


def _arguments(call: Call) -> dict[str, Any]:
    """Write the arguments of a call of the SDK."""
    body = body_of(call)
    for name, here in (("seed", "random_seed"), ("max_completion_tokens", "max_tokens")):
        if name in body:
            body[here] = body.pop(name)
    return {**body, "retries": None, "timeout_ms": _NO_TIMEOUT_MS}


def _sdk():
    try:
        from mistralai import client
    except ModuleNotFoundError as error:
        raise missing_sdk("MistralProvider", "mistral", error) from error
    return client


def _errors():
    from mistralai.client import errors

    return errors


@cache
def _kinds() -> Kinds:
    errors = _errors()
    from mistralai.extra.exceptions import MistralClientException

    return (
        (errors.NoResponseError, UnavailableError),
        (errors.ResponseValidationError, ProtocolError),
        (errors.MistralError, UnavailableError),
        (MistralClientException, UnavailableError),
    )
