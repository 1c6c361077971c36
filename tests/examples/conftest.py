"""Makes the examples importable, as they are where they are run."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _beside_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in ("LLM_BASE_URL", "LLM_API_KEY", "LLM_MODELS"):
        monkeypatch.delenv(name, raising=False)
