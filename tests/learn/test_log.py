from __future__ import annotations

import json
from pathlib import Path

import anyio.to_thread
import pytest

from asyncroute import Call, Completion, LLMRouter, ModelConfig, RouterStateError
from asyncroute.learn import OutcomeLog, read_dataset

pytestmark = pytest.mark.real_time  # its thread writes; a test waits for it where it leaves the log

MODELS = [
    ModelConfig(model_id=name, provider="p", cost_per_1k_tokens=cost)
    for name, cost in (("a", 0.001), ("b", 0.002))
]


class Adds:
    cancels_promptly = True

    async def complete(self, call: Call, /) -> Completion:
        call.cost = 0.5 if call.model.model_id == "b" else 0.25
        return Completion("7" if call.model.model_id == "b" else "8")


def router_of(log: OutcomeLog, **fields) -> LLMRouter:
    return LLMRouter(MODELS, {"p": Adds()}, observers=[log], **fields)


async def test_rated_answers_are_written_and_read_as_a_data_set(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    async with OutcomeLog(path) as log, router_of(log) as router:
        for question in ("3 + 4?", "4 + 3?"):
            for result in await router.execute_all(question, metadata={"task": "sums"}):
                assert await router.feedback(result, float(result.response == "7"))
        await router.execute("never rated")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[0] == {
        "prompt": "3 + 4?",
        "model": lines[0]["model"],
        "score": lines[0]["score"],
        "cost_usd": lines[0]["cost_usd"],
        "task": "sums",
        "answer": lines[0]["answer"],
    }
    data = await anyio.to_thread.run_sync(read_dataset, path)
    assert data.name == "outcomes.jsonl"
    assert data.task.tolist() == ["sums", "sums"]
    assert data.grid.queries == ["3 + 4?", "4 + 3?"]
    right = data.grid.models.index("b")
    assert data.grid.score[:, right].tolist() == [1.0, 1.0]
    assert data.grid.cost[:, right].tolist() == [0.5, 0.5]
    assert data.grid.score[:, 1 - right].tolist() == [0.0, 0.0]
    assert data.grid.answers[0, 0] != data.grid.answers[0, 1]


async def test_it_continues_a_file_and_leaves_answers_out_where_told_to(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    for with_answers in (True, False):
        log = OutcomeLog(path, with_answers=with_answers)
        async with log, router_of(log, cache=True) as router:
            result = await router.execute("3 + 4?")
            again = await router.execute("3 + 4?")
            await router.feedback(result, 0.5)
            await router.feedback(again, 0.5)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert ["answer" in line for line in lines] == [True, True, False, False]
    assert [line["cost_usd"] is None for line in lines] == [False, True, False, True]
    assert {line["task"] for line in lines} == {"general"}


async def test_a_file_that_cannot_be_opened_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with OutcomeLog(tmp_path / "nowhere" / "outcomes.jsonl"):
            pytest.fail("entered")


async def test_a_log_is_entered_once(tmp_path: Path) -> None:
    log = OutcomeLog(tmp_path / "outcomes.jsonl")
    async with log:
        with pytest.raises(RouterStateError, match="entered once"):
            async with log:
                pytest.fail("entered twice")
    assert repr(log) == f"<OutcomeLog {tmp_path / 'outcomes.jsonl'}>"


async def test_what_could_not_be_written_is_told_on_leaving(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    log = OutcomeLog(folder / "outcomes.jsonl")
    with pytest.raises(OSError, match="outcomes"):
        async with log, router_of(log) as router:
            (folder / "outcomes.jsonl").unlink()
            folder.rmdir()
            result = await router.execute("3 + 4?")
            assert await router.feedback(result, 1.0)


async def test_half_a_character_is_replaced_and_what_follows_is_written_too(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    async with OutcomeLog(path) as log, router_of(log) as router:
        for question in ("a\ud800b", "世界"):
            await router.feedback(await router.execute(question), 1.0)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line["prompt"] for line in lines] == ["a?b", "世界"]


async def test_a_rating_that_nobody_would_write_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outcomes.jsonl"
    log = OutcomeLog(path)
    async with router_of(log) as router:
        await router.feedback(await router.execute("never entered"), 1.0)
        assert "use the outcome log inside of its `async with`" in caplog.text
        async with log:
            pass
        caplog.clear()
        await router.feedback(await router.execute("left"), 1.0)
        assert "use the outcome log inside of its `async with`" in caplog.text
    assert path.read_text("utf-8") == ""
