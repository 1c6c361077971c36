"""Every Python block of the documents runs, and the reference is what the docstrings say.

The blocks of a file run in order in one namespace. Waiting costs nothing, unless the block talks to
a server: then `llmock` is that server, and time is real. `<!-- not run: why -->` on the line before
a block skips it, and needs a reason.
"""

from __future__ import annotations

import asyncio
import logging
import re
import runpy
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from asyncroute.testing import run_virtual

if TYPE_CHECKING:
    from llmock.pytest_plugin import LLMock

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVER = "http://localhost:11434/v1"
BLOCK = re.compile(r"(?:^<!-- not run:(.*?)-->\n+)?^```python\n(.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    line: int
    code: str
    skipped: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        yield Block(text.count("\n", 0, found.start(2)) + 1, found[2], found[1])


RUN = [page for page in PAGES if any(blocks(page))]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    if "agents" in sys.modules:
        sys.modules["agents"].set_tracing_disabled(False)


@pytest.mark.timeout(60)  # frameworks take seconds to import where the machine is busy
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.skipped is not None:
            continue
        # Empty lines first: a traceback then names the line of the page.
        code = "\n" * (block.line - 1) + block.code
        with monkeypatch.context() as patched:
            if SERVER in code:
                llmock: LLMock = request.getfixturevalue("llmock")
                patched.setenv("OPENAI_API_KEY", "sk-test")
                code = code.replace(SERVER, llmock.base_url())
            else:
                patched.setattr(asyncio, "run", virtually)
            exec(compile(code, str(page), "exec", dont_inherit=True), namespace)


def virtually(work: Coroutine[Any, Any, Any]) -> Any:
    async def run() -> Any:
        return await work

    return run_virtual(run)


def test_all_kinds_of_pages_have_blocks() -> None:
    names = {str(page.relative_to(ROOT)) for page in RUN}
    assert {"README.md", "CONTRIBUTING.md", "docs/tutorial.md"} <= names
    how_to = {str(page.relative_to(ROOT)) for page in PAGES if page.parent.name == "how-to"}
    assert how_to <= names


def test_every_page_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    unlinked = {page for page in pages if f"({page})" not in index}
    assert unlinked == {"index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_is_skipped_without_a_reason_and_links_lead_somewhere(page: Path) -> None:
    assert all(block.skipped is None or block.skipped.strip() for block in blocks(page))
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_reference_is_up_to_date() -> None:
    script: dict[str, Callable[[], str]] = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert script["reference"]() == written, "run uv run python docs/make_reference.py"


def test_every_test_that_a_page_names_is_there() -> None:
    written = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    there = set(re.findall(r"def (test_\w+)", written))
    page = (ROOT / "docs" / "resilience.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 80
    assert named <= there
