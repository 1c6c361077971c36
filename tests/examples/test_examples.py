"""Every example runs as it is: without a key, and against a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llmock.pytest_plugin import LLMock

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = sorted(
    path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)


# Frameworks take seconds to import where the machine is busy.
pytestmark = pytest.mark.timeout(60)


def run(name: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", name],
        cwd=EXAMPLES,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout


def test_there_are_examples() -> None:
    assert len(RUN) >= 3


@pytest.mark.parametrize("name", RUN)
def test_an_example_runs_without_a_key(name: str) -> None:
    assert "simulated: an answer to" in run(name)


@pytest.mark.parametrize("name", RUN)
def test_an_example_runs_against_a_server(name: str, llmock: LLMock) -> None:
    llmock.reply("Rome, by far.")
    said = run(name, LLM_BASE_URL=llmock.base_url(), LLM_MODELS="gpt-test", LLM_API_KEY="sk-test")
    assert "Rome, by far." in said
    assert llmock.last_request.body["model"] == "gpt-test"


def test_each_example_is_run_or_served() -> None:
    others = {"fastapi_app.py", "from_environment.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*RUN, *others}
