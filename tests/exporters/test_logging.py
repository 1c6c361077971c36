"""What reaches the log: a line for each result, a warning for each failed attempt, no secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from asyncroute import ModelConfig, QueryRequest, Usage
from asyncroute.exporters import LoggingObserver
from support import Scripted, answers, fails, hangs, in_turn, model, raises, router_of

SECRET = "sk-abcdefghijklmnopqrstuvwx"


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Of the logger `asyncroute.requests`, all levels."""
    with kept("asyncroute.requests", logging.DEBUG) as found:
        yield found


class Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@contextmanager
def kept(name: str, level: int) -> Iterator[list[logging.LogRecord]]:
    handler, logger = Keeping(), logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(level)
    yield handler.kept
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def lines(records: list[logging.LogRecord]) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in records]


def figures(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key.startswith("llm_")}


async def test_a_result_is_one_line(records: list[logging.LogRecord]) -> None:
    async with router_of(Scripted(), observers=[LoggingObserver()]) as router:
        result = await router.execute("hello", capability="simple_qa", models=["a"])
    assert lines(records) == [
        ("INFO", "answered by a in 100 ms for $0.000150: 15 tokens, 1 attempts")
    ]
    assert figures(records[0]) == {
        "llm_request_id": result.request_id,
        "llm_strategy": "balanced",
        "llm_capability": "simple_qa",
        "llm_model_id": "a",
        "llm_success": True,
        "llm_error_kind": None,
        "llm_error": None,
        "llm_latency_ms": pytest.approx(100),
        "llm_cost": pytest.approx(0.00015),
        "llm_input_tokens": 10,
        "llm_output_tokens": 5,
        "llm_attempts": 1,
        "llm_cached": False,
        "llm_simulated": False,
    }


async def test_a_failed_attempt_is_a_warning(records: list[logging.LogRecord]) -> None:
    provider = Scripted({"a": fails("rate_limited", after=0.05)})
    async with router_of(provider, observers=[LoggingObserver()]) as router:
        await router.execute("hello")
    assert lines(records) == [
        ("WARNING", "first at a failed after 50 ms: a failed"),
        ("INFO", "answered by b in 150 ms for $0.000150: 15 tokens, 2 attempts"),
    ]
    warned = figures(records[0])
    assert (warned["llm_model_id"], warned["llm_role"]) == ("a", "first")
    assert (warned["llm_outcome"], warned["llm_error_kind"]) == ("failed", "rate_limited")
    assert warned["llm_duration"] == pytest.approx(0.05)


async def test_a_failure_says_why(records: list[logging.LogRecord]) -> None:
    provider = Scripted(default=fails("bad_request"))
    async with router_of(provider, observers=[LoggingObserver()]) as router:
        await router.execute("hello")
        await router.execute("hello", required_quality=1.0)
    assert [record.levelname for record in records] == ["WARNING", "INFO", "INFO"]
    assert records[1].getMessage() == (
        "failed after 0 ms for $0.000000, 1 attempts: all attempts failed: a (first): a failed"
    )
    assert figures(records[1])["llm_error_kind"] == "all_attempts_failed"
    assert figures(records[2])["llm_error_kind"] == "no_eligible_model"
    assert figures(records[2])["llm_model_id"] is None


async def test_losers_and_those_not_accepted_have_not_failed(
    records: list[logging.LogRecord],
) -> None:
    provider = Scripted({"a": hangs(), "c": answers("good")})
    async with router_of(provider, observers=[LoggingObserver()]) as router:
        await router.execute("hello", mode="race", width=2)
        await router.execute(
            "hello", mode="cascade", accept=lambda answer: answer.text == "good", exclude=["a"]
        )
    assert [record.levelname for record in records] == ["INFO", "INFO"]


async def test_a_time_out_is_a_warning(records: list[logging.LogRecord]) -> None:
    provider = Scripted({"a": hangs()})
    async with router_of(provider, observers=[LoggingObserver()], attempt_timeout=2) as router:
        await router.execute("hello")
    assert lines(records)[0][0] == "WARNING"
    assert figures(records[0])["llm_outcome"] == "timed_out"


async def test_a_cached_answer_says_so(records: list[logging.LogRecord]) -> None:
    async with router_of(Scripted(), observers=[LoggingObserver()], cache=True) as router:
        await router.execute("hello")
        await router.execute("hello")
    assert records[1].getMessage().startswith("answered from the cache by a in 0 ms for $0.000000")
    assert figures(records[1])["llm_cached"] is True


async def test_neither_prompts_nor_secrets_are_logged(records: list[logging.LogRecord]) -> None:
    prompt = "the launch code is 0000"

    def quoting(config: ModelConfig, request: QueryRequest) -> str:
        raise ValueError(f"cannot send {request.query!r}")

    async def quoting_parts(config: ModelConfig, request: QueryRequest) -> str:
        raise ValueError(f"cannot send {request.chat[1]['content'][0]['text']}, {prompt.upper()}")

    parts = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": prompt}, {"type": "image"}]},
        {"role": "assistant", "content": None},
    ]
    secret = model("a", params={"api_key": SECRET})
    async with router_of(Scripted(), [secret], observers=[LoggingObserver()]) as router:
        await router.execute(prompt, params={"extra": SECRET}, metadata={"tenant": SECRET})
        await router.execute_with_fallback(QueryRequest(messages=tuple(parts)), quoting_parts)
    said = repr([(record.getMessage(), vars(record)) for record in records])
    assert "cannot send [prompt], THE LAUNCH" in said
    assert "launch code" not in said
    assert SECRET not in said


async def test_prompts_are_logged_where_asked_for(records: list[logging.LogRecord]) -> None:
    provider = Scripted({"a": in_turn(raises(ValueError("cannot send hello")), answers("hi"))})
    observer = LoggingObserver(log_prompts=True)
    async with router_of(provider, "a", observers=[observer]) as router:
        await router.execute("hello")
    assert records[0].getMessage().endswith("ValueError: cannot send hello")
    assert figures(records[1])["llm_prompt"] == ({"role": "user", "content": "hello"},)
    assert figures(records[1])["llm_response"] == "hi"


async def test_logger_and_level_are_the_users(records: list[logging.LogRecord]) -> None:
    mine = logging.getLogger("mine")
    observers = [LoggingObserver(mine, level=logging.DEBUG), LoggingObserver(mine)]
    with kept("mine", logging.INFO) as handled:
        async with router_of(Scripted(), observers=observers) as router:
            await router.execute("hello")
    assert [record.levelname for record in handled] == ["INFO"]  # DEBUG is not wanted there
    assert records == []
    assert repr(observers[0]) == "<LoggingObserver to 'mine'>"


async def test_a_record_factory_with_a_request_id_is_no_trouble(
    records: list[logging.LogRecord],
) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.request_id = "of the web framework"
        return record

    logging.setLogRecordFactory(factory)
    try:
        async with router_of(Scripted(), observers=[LoggingObserver()]) as router:
            await router.execute("hello")
    finally:
        logging.setLogRecordFactory(before)
    assert len(records) == 1


async def test_attempts_of_callers_who_left_are_no_failures(
    records: list[logging.LogRecord],
) -> None:
    provider = Scripted({"a": hangs(Usage(1, 1))})
    async with router_of(provider, observers=[LoggingObserver()]) as router:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await router.execute("hello")
    assert records == []
