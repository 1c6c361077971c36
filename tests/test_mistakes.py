"""What users get wrong, and what they are told: the field, the value, and what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from asyncroute import AllAttemptsFailedError, Call, FallbackStrategy, LLMRouter
from asyncroute.exporters import LoggingObserver
from support import models

ONCE = FallbackStrategy(max_retries=0)


class Gives:
    """A provider that returns what it was made with."""

    cancels_promptly = True

    def __init__(self, given: Any) -> None:
        self.given = given

    async def complete(self, call: Call, /) -> Any:
        return self.given


@pytest.mark.parametrize("observers", [[], [LoggingObserver()]], ids=["", "observed"])
async def test_a_provider_that_forgot_its_return_failed(observers: list[Any]) -> None:
    given = {"providers": {"*": Gives(None)}, "observers": observers}
    async with LLMRouter(models("ab"), fallback=ONCE, **given) as router:
        result = await router.execute("Hello?")
    assert [attempt.outcome for attempt in result.attempts] == ["failed", "failed"]
    assert result.error_kind == "all_attempts_failed"
    assert "the provider returned a NoneType, not a Completion" in str(result.error)
    assert {attempt.error_kind for attempt in result.attempts} == {"protocol"}


async def test_what_is_streamed_whole_must_be_a_completion_too() -> None:
    async with LLMRouter(models("a"), {"*": Gives(None)}, fallback=ONCE) as router:
        with pytest.raises(AllAttemptsFailedError, match="returned a NoneType, not a Completion"):
            async with router.stream("Hello?"):
                pytest.fail("nothing was answered")


@pytest.mark.parametrize("junk", [None, "text", {"text": "text"}])
async def test_a_provider_that_yields_no_chunks_broke_its_protocol(junk: Any) -> None:
    class Yields(Gives):
        async def stream(self, call: Call, /) -> Any:
            yield self.given

    async with LLMRouter(models("a"), {"*": Yields(junk)}, fallback=ONCE) as router:
        expected = f"the provider yielded a {type(junk).__name__}, not a Chunk"
        with pytest.raises(AllAttemptsFailedError, match=expected) as caught:
            async with router.stream("Hello?"):
                pytest.fail("nothing was answered")
    assert [attempt.error_kind for attempt in caught.value.attempts] == ["protocol"]
