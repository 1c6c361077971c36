"""From what an HTTP API answered to a `ProviderError`: one table for all providers that speak HTTP.

Pure: statuses, headers and bodies go in, an error comes out. Nothing here knows an HTTP client.

The body's own code decides where the status is a 4xx (`insufficient_quota` comes as a 429, a
refused prompt as a 400), the status everywhere else. What servers say is redacted and shortened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

from asyncroute._errors import (
    AttemptTimeoutError,
    AuthenticationError,
    BadRequestError,
    ContentRefusedError,
    ContextTooLongError,
    ModelNotFoundError,
    ProtocolError,
    ProviderError,
    ProviderOverloadedError,
    QuotaExhaustedError,
    RateLimitedError,
    UnavailableError,
)
from asyncroute.providers._json import object_of, objects_of
from asyncroute.providers._retry_after import duration, parse_retry_after

__all__ = (
    "Redact",
    "error_from_payload",
    "error_from_response",
    "redactor",
    "shortened",
)

Redact = Callable[[str], str]
"""Takes the secrets out of a text."""


# ---------------------------------------------------------------- which error

_BY_STATUS: dict[int, type[ProviderError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: QuotaExhaustedError,
    403: AuthenticationError,
    404: ModelNotFoundError,
    408: AttemptTimeoutError,
    409: UnavailableError,
    410: ModelNotFoundError,
    413: ContextTooLongError,
    422: BadRequestError,
    425: UnavailableError,
    429: RateLimitedError,
    499: UnavailableError,
    503: ProviderOverloadedError,
    529: ProviderOverloadedError,
}

_BY_CODE: dict[str, type[ProviderError]] = {
    "api_key_invalid": AuthenticationError,  # Google says so with status 400
    "authentication_error": AuthenticationError,
    "billing_error": QuotaExhaustedError,
    "billing_hard_limit_reached": QuotaExhaustedError,
    "billing_not_active": QuotaExhaustedError,
    "content_filter": ContentRefusedError,
    "cmek_key_disabled": AuthenticationError,
    "cmek_key_network_blocked": AuthenticationError,
    "content_policy_violation": ContentRefusedError,
    "context_length_exceeded": ContextTooLongError,
    "contract_spend_limit_reached": QuotaExhaustedError,
    "deactivated_workspace": AuthenticationError,
    "enforced_spend_limit_reached": QuotaExhaustedError,
    "exceed_context_size_error": ContextTooLongError,
    "file_expired": BadRequestError,
    "insufficient_quota": QuotaExhaustedError,
    "invalid_api_key": AuthenticationError,
    "invalid_prompt": BadRequestError,
    "model_not_found": ModelNotFoundError,
    "moderation_blocked": ContentRefusedError,
    "not_found_error": ModelNotFoundError,
    "organization_on_hold": AuthenticationError,
    "overloaded_error": ProviderOverloadedError,
    "permission_error": AuthenticationError,
    "rate_limit_error": RateLimitedError,
    "rate_limit_exceeded": RateLimitedError,
    "responsibleaipolicyviolation": ContentRefusedError,
    "request_body_timeout": UnavailableError,
    "string_above_max_length": ContextTooLongError,
    "thread_not_found": BadRequestError,
    "timeout_error": AttemptTimeoutError,
}

# Servers that give no code: OpenAI, vLLM, llama.cpp, Ollama, LM Studio, Bedrock, Gemini, Anthropic.
_TOO_LONG = re.compile(
    r"maximum context length|context[ _]length|context window|available context size"
    r"|(?:prompt|input) is too long|exceeds? (?:the )?context limit"
    r"|exceeds the maximum number of tokens"
    r"|reduce the length of (?:the|your) (?:messages|prompt|input)",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"content (?:management )?polic|content[ _]filter|usage polic|safety (?:system|filter|polic)"
    r"|(?:was|were|been) flagged|flagged (?:as|by|for)|requires moderation",
    re.IGNORECASE,
)
_UNPAID = re.compile(r"credit balance is too low", re.IGNORECASE)
_BY_WORDS = (
    (_UNPAID, QuotaExhaustedError),
    (_TOO_LONG, ContextTooLongError),
    (_REFUSED, ContentRefusedError),
)
_SAYS_IN_WORDS = (None, 400, 403, 413, 422)


def error_from_response(
    status: int, headers: Mapping[str, str], body: bytes, *, redact: Redact
) -> ProviderError:
    """Make the error of an answer whose status is not a success.

    Args:
        status: The HTTP status.
        headers: The response's headers, in any case.
        body: The beginning of the body; it need not be JSON.
        redact: Takes secrets out of the server's message.

    Returns:
        The error, with `status` and `retry_after`; it has still to be given its `model_id`.
    """
    waits = parse_retry_after(headers, rate_limited=status == 429)
    return error_from_payload(_decoded(body), redact=redact, status=status, retry_after=waits)


def error_from_payload(
    payload: object,
    *,
    redact: Redact,
    status: int | None = None,
    retry_after: float | None = None,
) -> ProviderError:
    """Make the error of an error object: a body, or an event within a stream.

    Args:
        payload: `{"error": {...}}` or any of the shapes that servers use instead, decoded.
        redact: Takes secrets out of the server's message.
        status: The HTTP status; None where the error came inside a successful answer, which then
            may name one itself.
        retry_after: Seconds that the headers ask to wait; where they do not, Google's answers may.

    Returns:
        The error by the body's code, else by the status, else `UnavailableError`.
    """
    complaint = _complaint(payload)
    if status is None:
        status = complaint.status
    if status is None and "invalid_request_error" in complaint.codes:
        status = 400
    made = _class_of(status, complaint)
    if retry_after is None:
        retry_after = complaint.retry_after
    return made(shortened(redact(complaint.message)), status=status, retry_after=retry_after)


class _Complaint(NamedTuple):
    message: str
    codes: tuple[str, ...]
    status: int | None
    retry_after: float | None = None


def _class_of(status: int | None, complaint: _Complaint) -> type[ProviderError]:
    if status is None or 400 <= status < 500:
        found = next((_BY_CODE[code] for code in complaint.codes if code in _BY_CODE), None)
        if found is None and status in _SAYS_IN_WORDS:
            found = next(
                (kind for words, kind in _BY_WORDS if words.search(complaint.message)), None
            )
        if found is not None:
            return found
    if status is None or status >= 500:
        return _BY_STATUS.get(status or 500, UnavailableError)
    # Below 400 it is a redirect, that is, a wrong address: no answer to this request.
    return _BY_STATUS.get(status, BadRequestError if status >= 400 else ProtocolError)


def _decoded(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        text = body.decode(errors="replace").strip()
        return "an HTML page" if text[:1] == "<" else text


def _complaint(payload: object) -> _Complaint:
    if isinstance(payload, list):  # Gemini's compatible API wraps it in a list
        payload = next(iter(cast("list[object]", payload)), None)
    if not isinstance(payload, dict):
        return _Complaint("" if payload is None else str(payload), (), None)
    outer = cast("dict[str, Any]", payload)
    inner = outer.get("error") or outer
    if not isinstance(inner, dict):  # {"error": "text", "error_type": …}
        return _Complaint(str(inner), _codes(outer), None)
    error = cast("dict[str, Any]", inner)
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code")
    named = code if isinstance(code, int) and 400 <= code <= 599 else None
    text = message if isinstance(message, str) else json.dumps(message)
    return _Complaint(text, _codes(error), named, _retry_delay(error))


def _codes(error: dict[str, Any]) -> tuple[str, ...]:
    """Every word by which an error names its kind, the most precise first."""
    nested = _codes(deeper) if (deeper := object_of(error.get("innererror"))) else ()
    precise = object_of(error.get("details")).get("error_code")
    words = (precise, *(error.get(field) for field in ("code", "type", "error_type")))
    reasons = (detail.get("reason") for detail in objects_of(error.get("details")))
    return (*nested, *(word.lower() for word in (*words, *reasons) if isinstance(word, str)))


def _retry_delay(error: dict[str, Any]) -> float | None:
    """Read `google.rpc.RetryInfo`, which Gemini sends in place of a header."""
    delays = (detail.get("retryDelay") for detail in objects_of(error.get("details")))
    return next((duration(delay) for delay in delays if isinstance(delay, str)), None)


# ---------------------------------------------------------------- what it says

_MESSAGE_LIMIT = 300

# Keys that a server echoes in part or in other words than ours.
_KEY_LIKE = r"\bBearer\s+[^\s\"',]+|\bsk-[\w*.\-]{4,}|\bAIza[\w*.\-]{8,}"

_SHORTEST_SECRET = 4


def redactor(secrets: Iterable[str]) -> Redact:
    """Make a function that replaces `secrets`, and whatever looks like a key, by `***`.

    A secret of fewer than four characters is none, and taking it out would garble every message.
    """
    known = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
    longest_first = sorted(known, key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, longest_first), _KEY_LIKE]))
    return lambda text: pattern.sub("***", text)


def shortened(text: str) -> str:
    """Make one printable line of a text, of limited length."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    line = " ".join(words)
    return line if len(line) <= _MESSAGE_LIMIT else f"{line[: _MESSAGE_LIMIT - 1]}…"
