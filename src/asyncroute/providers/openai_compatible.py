"""Any server that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, OpenRouter, OpenAI."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import httpx2

from asyncroute._arguments import check_mapping, shown
from asyncroute._errors import BadRequestError, ConfigurationError, ProviderError
from asyncroute.providers._chat_completions import StreamedChat, body_of, read_completion
from asyncroute.providers._clients import new_client, timeouts
from asyncroute.providers._credentials import check_header, credentials_in, key_of
from asyncroute.providers._http_errors import redactor
from asyncroute.providers._reading import explanation, media_type, read, streamed
from asyncroute.providers._wire import Wire, refused, transport_faults

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from asyncroute._protocols import Call
    from asyncroute._values import Chunk, Completion

__all__ = ("OpenAICompatibleProvider",)

# Else httpx2 imports it when it makes its first client, which may be while a loop runs.
import_module("httpcore2")


@final
class OpenAICompatibleProvider:
    """Calls `{base_url}/chat/completions`, whole or streamed.

    Args:
        base_url: Where the API is, version included: `http://localhost:8000/v1`.
        api_key: Sent as a bearer token; None sends none.
        api_key_env: The environment variable that holds the key, read now.
        headers: Further headers, for every request.
        client: A client of yours, with your proxies, certificates, authentication. It stays open,
            and its timeouts do not count: the router's deadlines do. By default the provider has a
            client of its own, which `aclose` or leaving `async with` closes.
        stream_usage: Ask for token counts at the end of streams. Where a model's server refuses the
            field, it is left out from then on.
        done_marker: Whether a stream must end with `[DONE]`. False for servers that never send it:
            then a finish reason and a clean end of the body are an end.

    Raises:
        ConfigurationError: `base_url` is none, the variable is not set, or a header impossible.

    Messages and `params` pass through as they are, `params["model"]` replaces the model id on the
    wire; a limit of tokens goes into `max_completion_tokens` where `params` has that, else into
    `max_tokens`. Nothing is retried. Entering is optional, but a provider belongs to the first
    event loop that uses it.
    """

    __slots__ = (
        "_client",
        "_done_marker",
        "_headers",
        "_stream_usage",
        "_url",
        "_usage_refused",
        "_wire",
    )

    cancels_promptly: ClassVar[bool] = True

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        api_key_env: str | None = None,
        headers: Mapping[str, str] | None = None,
        client: httpx2.AsyncClient | None = None,
        stream_usage: bool = True,
        done_marker: bool = True,
    ) -> None:
        if not isinstance(base_url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"base_url must be a text, got {shown(base_url)}")
        check_mapping("headers", headers, "values")
        address = _address(base_url)
        api_key = key_of(api_key, api_key_env)
        own_headers = {**_authorization(address, api_key), **(headers or {})}
        for name, value in own_headers.items():
            check_header(name, value)
        # Made here and not when first needed: loading certificates would block the loop for long.
        self._client = used = new_client(base_url.strip()) if client is None else client
        self._headers = {**own_headers, "Content-Type": "application/json"}
        self._url = _endpoint(address)
        self._wire = Wire(
            type(self).__name__,
            f"{address.scheme}://{address.netloc.decode()}{address.path}".rstrip("/"),
            redactor(_secrets(address, api_key, own_headers, client)),
            own=used if client is None else None,
            is_closed=lambda: used.is_closed,
        )
        self._stream_usage = stream_usage
        self._usage_refused: set[str] = set()
        self._done_marker = done_marker

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
        response = await self._send(call, body_of(call))
        try:
            data = await read(response)
        except transport_faults() as error:
            raise self._wire.failure(error, call) from self._wire.cause(error)
        try:
            return read_completion(call, media_type(response), data, self._wire.redact)
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
        answer = StreamedChat(call, self._wire.redact, done_marker=self._done_marker)
        return streamed(self._wire, call, answer, lambda: self._open_stream(call))

    async def _open_stream(self, call: Call) -> httpx2.Response:
        model_id = call.model.model_id
        asks = self._stream_usage and model_id not in self._usage_refused
        try:
            return await self._send(call, body_of(call, streamed=True, asks_usage=asks))
        except BadRequestError as error:
            if not (asks and "stream_options" in str(error)):
                raise
            # Refused before anything ran: this is no retry, but finding out what the server knows.
            self._usage_refused.add(model_id)
            return await self._send(call, body_of(call, streamed=True))

    async def _send(self, call: Call, body: dict[str, Any]) -> httpx2.Response:
        """Post a request and return its successful response, still to be read and closed."""
        self._wire.claim()
        try:
            content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            encoded = content.encode()
        except (TypeError, ValueError, RecursionError) as error:
            message = f"the request cannot be written as JSON: {error}"
            raise BadRequestError(message, model_id=call.model.model_id) from error
        request = self._client.build_request(
            "POST", self._url, content=encoded, headers=self._headers, timeout=timeouts()
        )
        try:
            response = await self._client.send(request, stream=True)
            if response.is_success:
                return response
            body_of_error = await explanation(response)
        except transport_faults() as error:
            raise self._wire.failure(error, call) from self._wire.cause(error)
        refusal = refused(response, self._wire.redact, body_of_error)
        refusal.model_id = call.model.model_id
        raise refusal

    def __repr__(self) -> str:
        return repr(self._wire)


# ---------------------------------------------------------------- configuration


def _address(base_url: str) -> httpx2.URL:
    hidden = re.sub(r"//[^/]*@", "//***@", base_url)
    try:
        address = httpx2.URL(base_url.strip())
    except httpx2.InvalidURL:
        raise ConfigurationError(f"base_url: {hidden!r} is no URL") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigurationError(f"base_url: {hidden!r} must be http:// or https:// with a host")
    return address


def _endpoint(address: httpx2.URL) -> httpx2.URL:
    """Append the path; leave the user's name and password out, since HTTP clients log URLs."""
    path = f"{address.path.rstrip('/')}/chat/completions"
    return address.copy_with(username=None, password=None, path=path, fragment=None)


def _authorization(address: httpx2.URL, api_key: str | None) -> dict[str, str]:
    if not address.userinfo:
        return {"Authorization": f"Bearer {api_key}"} if api_key else {}
    if api_key:
        raise ConfigurationError("base_url has a user and there is an api_key: a request takes one")
    user = f"{address.username}:{address.password}".encode()
    return {"Authorization": f"Basic {b64encode(user).decode()}"}


def _secrets(
    address: httpx2.URL,
    api_key: str | None,
    headers: dict[str, str],
    client: httpx2.AsyncClient | None,
) -> Iterator[str]:
    yield api_key or ""
    yield address.password
    yield from address.params.values()
    for value in headers.values():
        yield value
        yield value.rpartition(" ")[2]  # without the scheme: `Bearer`, `Basic`
    if client is not None:
        yield from credentials_in(client.headers)
