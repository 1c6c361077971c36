"""Every exception of the package, in one tree.

::

    AsyncRouteError
    ├── ConfigurationError (ValueError)       bad models, unknown strategy, missing provider
    ├── RouterStateError (RuntimeError)       used outside of `async with`, or from another loop
    ├── NoEligibleModelError                  a reason for every model
    ├── OverloadedError                       shed by us: queue full or hopeless; retry_after
    ├── BudgetExceededError                   money; renews_after
    ├── DeadlineExceededError (TimeoutError)  the request's own deadline passed
    ├── AllAttemptsFailedError                attempts in order; the first error is its cause
    └── ProviderError                         kind, model_id, status, retry_after
        ├── RateLimitedError                  429: try again later, or another quota group now
        ├── ProviderOverloadedError           503, 529: up, but refusing work
        ├── UnavailableError                  connection refused, 5xx, anything unknown
        ├── AttemptTimeoutError               no answer within the attempt's limit
        ├── AuthenticationError               401, 403: the key is wrong for this provider
        ├── BadRequestError                   400, 422: the same request is wrong anywhere
        ├── ContextTooLongError               the prompt does not fit this model's window
        ├── ContentRefusedError               the provider's policy refused the content
        ├── ModelNotFoundError                404, 410: this server has no such model
        ├── QuotaExhaustedError               the account is out of credit
        ├── ProtocolError                     an answer that cannot be understood
        └── StreamInterruptedError            a stream that ended before its end; the text so far

A kind of error is known by `kind`: the class in snake case without `_error`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, cast

if TYPE_CHECKING:
    from asyncroute._values import Attempt

__all__ = (
    "AllAttemptsFailedError",
    "AsyncRouteError",
    "AttemptTimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ConfigurationError",
    "ContentRefusedError",
    "ContextTooLongError",
    "DeadlineExceededError",
    "ModelNotFoundError",
    "NoEligibleModelError",
    "OverloadedError",
    "ProtocolError",
    "ProviderError",
    "ProviderOverloadedError",
    "QuotaExhaustedError",
    "RateLimitedError",
    "RouterStateError",
    "StreamInterruptedError",
    "UnavailableError",
    "as_provider_error",
)

HealthEffect = Literal["hard", "soft", "eject", "none"]


class AsyncRouteError(Exception):
    """The root of the tree.

    Attributes:
        kind: The class in snake case without `_error`, as `error_kind` and metrics give it.
    """

    kind: ClassVar[str] = "async_route"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name = cls.__name__.removesuffix("Error")
        cls.kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class ConfigurationError(AsyncRouteError, ValueError):
    """A mistake in what was configured; says which field and which value."""


class RouterStateError(AsyncRouteError, RuntimeError):
    """The router was used before or after its `async with`, or from another event loop."""


class NoEligibleModelError(AsyncRouteError):
    """No model may serve this request.

    Attributes:
        reasons: For every model of the router, by id, why it was rejected; also for every name in
            the request's `models` and `exclude` that no model has.
        retry_after: Seconds until the earliest model is expected back, where only time is missing.
    """

    def __init__(
        self,
        message: str,
        *,
        reasons: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reasons: Mapping[str, str] = reasons or {}
        self.retry_after = retry_after


class OverloadedError(AsyncRouteError):
    """Shed by this router before any provider was called: a queue is full or would take too long.

    Attributes:
        retry_after: Seconds after which a new try may succeed, if it can be told.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BudgetExceededError(AsyncRouteError):
    """A budget of money has no room for the expected cost of this request.

    Attributes:
        renews_after: Seconds until the budget has room again, if ever.
    """

    def __init__(self, message: str, *, renews_after: float | None = None) -> None:
        super().__init__(message)
        self.renews_after = renews_after


class DeadlineExceededError(AsyncRouteError, TimeoutError):
    """The request's deadline passed before any attempt succeeded.

    Attributes:
        attempts: What was tried until then, in the order of their starts.
    """

    def __init__(self, message: str, *, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class AllAttemptsFailedError(AsyncRouteError):
    """Every attempt that was made failed. `__cause__` is the first attempt's error.

    Attributes:
        attempts: What was tried, in the order of their starts.
        retry_after: The longest wait that the last errors asked for, in seconds, if any.
    """

    def __init__(
        self,
        message: str,
        *,
        attempts: Sequence[Attempt] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)
        self.retry_after = retry_after


class ProviderError(AsyncRouteError):
    """A provider's failure, normalised. Providers raise its subclasses; users may add their own.

    Args:
        message: What happened, without secrets.
        model_id: The model that was asked; filled in by the router where the provider left it out.
        status: The HTTP status, if there was one.
        retry_after: Seconds the provider asked us to wait, if it did.

    Attributes:
        retry_here: Whether the same model may be asked again, after a pause.
        retry_elsewhere: Whether another model may be asked.
        health: What the error says of the model: `hard` failure, `soft` (rate limit), `eject`
            (unusable until something is changed) or `none` (the caller's own fault).
    """

    retry_here: ClassVar[bool] = False
    retry_elsewhere: ClassVar[bool] = True
    health: ClassVar[HealthEffect] = "hard"

    def __init__(
        self,
        message: str = "",
        *,
        model_id: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.status = status
        self.retry_after = retry_after

    def __str__(self) -> str:
        message = super().__str__() or self.kind.replace("_", " ")
        return message if self.status is None else f"{message} (status {self.status})"


class RateLimitedError(ProviderError):
    """The provider limits our rate (429). Another quota group may answer at once."""

    retry_here = True
    health = "soft"


class ProviderOverloadedError(ProviderError):
    """The provider is up but sheds load (503, 529)."""

    retry_here = True


class UnavailableError(ProviderError):
    """The provider could not be reached, failed (5xx), or raised something unknown."""

    retry_here = True


class AttemptTimeoutError(ProviderError):
    """The attempt's own limit passed without an answer."""

    retry_here = True


class AuthenticationError(ProviderError):
    """The key is missing, wrong or not allowed (401, 403): this provider will not answer."""

    health = "eject"


class BadRequestError(ProviderError):
    """The request itself is wrong (400, 422): it would fail anywhere."""

    retry_elsewhere = False
    health = "none"


class ContextTooLongError(ProviderError):
    """The prompt does not fit this model's context window: only a larger one helps."""

    health = "none"


class ContentRefusedError(ProviderError):
    """The provider's policy refused the content. Not tried elsewhere unless asked for."""

    retry_elsewhere = False
    health = "none"


class ModelNotFoundError(ProviderError):
    """The server knows no such model, or no such path (404, 410).

    Another model may well serve the request; this one will not until something is changed.
    """

    health = "eject"


class QuotaExhaustedError(ProviderError):
    """The account has no credit left: waiting a little does not help, another account does."""

    health = "eject"


class ProtocolError(ProviderError):
    """The provider's answer cannot be understood: malformed, truncated, of the wrong type."""

    retry_here = True


class StreamInterruptedError(ProviderError):
    """A stream ended without its terminal event, or broke.

    Attributes:
        text: The text received until then.
    """

    retry_here = True

    def __init__(
        self,
        message: str = "",
        *,
        text: str = "",
        model_id: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, model_id=model_id, status=status, retry_after=retry_after)
        self.text = text


def as_provider_error(error: BaseException, model_id: str) -> ProviderError:
    """Find the `ProviderError` in an exception's chain of causes, or make one of it.

    Of a group the first error is looked into: the others came of its being cancelled by that one.
    A builtin `TimeoutError` becomes an `AttemptTimeoutError`; what is unknown is taken for a
    transient fault, an `UnavailableError`. A made one has `error` as its cause. A
    `retry_after` that is no number of seconds is dropped.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, ProviderError):
            if link.model_id is None:
                link.model_id = model_id
            if not _is_seconds(link.retry_after):
                link.retry_after = None
            return link
        seen.add(id(link))
        link = _behind(link)
    made_as = AttemptTimeoutError if isinstance(error, TimeoutError) else UnavailableError
    made = made_as(f"{type(error).__name__}: {error}".removesuffix(": "), model_id=model_id)
    made.__cause__ = error
    return made


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and value > 0  # NaN is not above 0 either


def _behind(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.exceptions[0]
    return error.__cause__ or error.__context__
