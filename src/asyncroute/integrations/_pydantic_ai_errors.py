"""Our errors in pydantic-ai's words, for `RoutedModel`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelTimeoutError,
)
from pydantic_ai.exceptions import ModelNotFoundError as UnknownModelError

from asyncroute._errors import (
    AllAttemptsFailedError,
    AsyncRouteError,
    AttemptTimeoutError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    ContextTooLongError,
    DeadlineExceededError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    ProviderOverloadedError,
    QuotaExhaustedError,
    RateLimitedError,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
)

__all__ = ("SYSTEM", "translated")

SYSTEM = "asyncroute"
"""Who answers, as pydantic-ai's users see it."""

_CATEGORIES: tuple[tuple[type[AsyncRouteError], type[ModelAPIError]], ...] = (
    (RateLimitedError, ModelRateLimitError),
    (ProviderOverloadedError, ModelOverloadedError),
    (OverloadedError, ModelOverloadedError),
    (QuotaExhaustedError, ModelQuotaExceededError),
    (BudgetExceededError, ModelQuotaExceededError),
    (AuthenticationError, ModelAuthenticationError),
    (ModelNotFoundError, UnknownModelError),
    (ContextTooLongError, ModelContextWindowExceededError),
    (BadRequestError, ModelRequestRejectedError),
    (AttemptTimeoutError, ModelTimeoutError),
    (DeadlineExceededError, ModelTimeoutError),
    (StreamInterruptedError, ModelConnectionError),
    (UnavailableError, ModelServerError),
)


@contextmanager
def translated(*, in_stream: bool = False) -> Generator[None]:
    """Raise our errors in pydantic-ai's words; a mistake in the configuration stays what it is."""
    try:
        yield
    except (ConfigurationError, RouterStateError):
        raise
    except AsyncRouteError as error:
        raise _told(error, in_stream=in_stream) from error


def _told(error: AsyncRouteError, *, in_stream: bool) -> ModelAPIError:
    # Of several attempts the first one says best what is wrong.
    about = error.__cause__ if isinstance(error, AllAttemptsFailedError) else error
    about = about if isinstance(about, AsyncRouteError) else error
    category = next((ours for kind, ours in _CATEGORIES if isinstance(about, kind)), ModelAPIError)
    model = about.model_id if isinstance(about, ProviderError) else None
    status = about.status if isinstance(about, ProviderError) else None
    retry_after: float | None = getattr(error, "retry_after", None)
    if status is None or status < 400:
        return category(model or SYSTEM, str(error), retry_after=retry_after, in_stream=in_stream)
    return ModelHTTPError.for_category(
        cast("Any", None if category is ModelAPIError else category),
        status_code=status,
        model_name=model or SYSTEM,
        body=str(error),
        retry_after=retry_after,
        in_stream=in_stream,
    )
