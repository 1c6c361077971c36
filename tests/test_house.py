"""What `import asyncroute` does and shows, and what every module of the package has."""

from __future__ import annotations
import __future__

import ast
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncroute

PACKAGE = Path(asyncroute.__file__).parent
ROOT = Path(__file__).parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
PUBLIC: tuple[str, ...] = vars(asyncroute).get("__all__", ())

# Too dear or not always installed: who wants one of these imports the module that needs it.
# fmt: off
NOT_IMPORTED = (
    "anthropic", "fastapi", "genai_prices", "h11", "httpcore", "httpcore2", "httpx",
    "httpx2", "langchain_core", "litellm", "mistralai", "numpy", "openai",
    "opentelemetry", "prometheus_client", "pydantic_ai", "requests", "rich", "starlette",
    "typer", "uvloop", "yaml",
)
# fmt: on

IMPORT_WATCHED = """
import sys

events = []
sys.addaudithook(lambda event, _: events.append(event))
import asyncroute

for name in asyncroute.__all__:
    getattr(asyncroute, name)
loaded = {module.partition(".")[0] for module in sys.modules}
print(*sorted(loaded & set(sys.argv[1:])))
print(*sorted({e for e in events if e.startswith(("socket.", "urllib.", "subprocess."))}))
"""


@pytest.mark.smoke
def test_importing_loads_no_sdk_and_opens_no_socket() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_WATCHED, *NOT_IMPORTED],
        capture_output=True,
        text=True,
        check=False,
        timeout=15,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    sdks, events = ran.stdout.splitlines()
    assert sdks == ""
    assert events == ""


def test_all_is_sorted_and_names_what_is_public() -> None:
    public = {
        name
        for name in dir(asyncroute)
        if not name.startswith("_")
        and name != "TYPE_CHECKING"
        and not inspect.ismodule(value := getattr(asyncroute, name))
        and not isinstance(value, __future__._Feature)
    }
    assert PUBLIC
    names = [name for name in PUBLIC if not name.startswith("_")]
    assert names == sorted(names)
    assert public <= set(names)
    assert [name for name in names if not hasattr(asyncroute, name)] == []  # lazy ones, too


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(asyncroute, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return  # a type alias or the version
    documented = value.__doc__ if inspect.isroutine(value) else vars(value).get("__doc__")
    assert documented, "no docstring of its own"
    assert not documented.startswith(f"{name}("), "only the docstring dataclass writes"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_and_what_it_offers(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    names = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if path.name != "__main__.py":
        assert isinstance(names.get("__all__"), ast.Tuple)


def test_the_lock_file_is_not_tracked() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--", "uv.lock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=15,
    )
    assert tracked.stdout == ""
