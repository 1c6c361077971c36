"""The tree of errors: its kinds, what each says of health and fallbacks, and foreign errors."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

import asyncroute
from asyncroute import (
    AllAttemptsFailedError,
    AsyncRouteError,
    AttemptTimeoutError,
    ConfigurationError,
    ContentRefusedError,
    DeadlineExceededError,
    NoEligibleModelError,
    OverloadedError,
    ProviderError,
    RateLimitedError,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
    _errors,
)
from asyncroute._errors import as_provider_error

EVERY = [getattr(_errors, name) for name in _errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("error", EVERY)
def test_every_error_is_one_of_ours_exported_and_known_by_its_kind(
    error: type[AsyncRouteError],
) -> None:
    assert issubclass(error, AsyncRouteError)
    assert getattr(asyncroute, error.__name__) is error
    snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", error.__name__.removesuffix("Error")).lower()
    assert error.kind == snake


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(RouterStateError, RuntimeError)
    assert issubclass(DeadlineExceededError, TimeoutError)


def test_the_docstring_draws_the_whole_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+)", _errors.__doc__ or "")
    assert sorted([*drawn, "AsyncRouteError"]) == sorted(error.__name__ for error in EVERY)


@pytest.mark.parametrize(
    ("kind", "here", "elsewhere", "health"),
    [
        ("rate_limited", True, True, "soft"),
        ("provider_overloaded", True, True, "hard"),
        ("unavailable", True, True, "hard"),
        ("attempt_timeout", True, True, "hard"),
        ("authentication", False, True, "eject"),
        ("bad_request", False, False, "none"),
        ("context_too_long", False, True, "none"),
        ("content_refused", False, False, "none"),
        ("quota_exhausted", False, True, "eject"),
        ("protocol", True, True, "hard"),
        ("stream_interrupted", True, True, "hard"),
    ],
)
def test_what_each_kind_means(kind: str, here: bool, elsewhere: bool, health: str) -> None:
    (error,) = (error for error in EVERY if error.kind == kind)
    assert issubclass(error, ProviderError)
    assert (error.retry_here, error.retry_elsewhere, error.health) == (here, elsewhere, health)


def test_a_users_own_kind_is_named_after_its_class() -> None:
    class ModelNotFoundError(ProviderError):
        health = "none"

    assert ModelNotFoundError.kind == "model_not_found"
    assert str(ModelNotFoundError()) == "model not found"


def test_a_provider_error_tells_its_status() -> None:
    error = UnavailableError("bad gateway", model_id="a", status=502, retry_after=3.0)
    assert str(error) == "bad gateway (status 502)"
    assert (error.model_id, error.status, error.retry_after) == ("a", 502, 3.0)


def test_a_provider_error_passes_through_and_learns_its_model() -> None:
    error = RateLimitedError("slow down")
    assert as_provider_error(error, "a") is error
    assert error.model_id == "a"
    assert as_provider_error(error, "b").model_id == "a"


def test_a_provider_error_is_found_behind_others() -> None:
    with pytest.raises(ConnectionError) as caught:
        try:
            raise RateLimitedError("429")
        except RateLimitedError as error:
            raise ConnectionError("wrapped") from error
    assert as_provider_error(caught.value, "a").kind == "rate_limited"


def test_what_is_unknown_is_unavailable_and_keeps_its_cause() -> None:
    error = ZeroDivisionError("oops")
    made = as_provider_error(error, "a")
    assert (type(made), str(made)) == (UnavailableError, "ZeroDivisionError: oops")
    assert made.__cause__ is error


def test_a_timeout_of_anybodys_is_an_attempts_timeout() -> None:
    assert type(as_provider_error(TimeoutError(), "a")) is AttemptTimeoutError


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert as_provider_error(one, "a").kind == "unavailable"


@pytest.mark.parametrize(
    "error",
    [
        RateLimitedError("429", model_id="a", status=429, retry_after=2.0),
        StreamInterruptedError("cut", text="half", model_id="a"),
        ContentRefusedError("no"),
        NoEligibleModelError("none", reasons={"a": "is off"}, retry_after=1.0),
        OverloadedError("full", retry_after=0.5),
        AllAttemptsFailedError("all", attempts=(), retry_after=3.0),
        DeadlineExceededError("late"),
    ],
)
def test_errors_survive_copying_and_pickling(error: AsyncRouteError) -> None:
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)
