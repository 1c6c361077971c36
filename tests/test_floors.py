"""Nothing imports upward: read from the source, so that lazy and typing-only imports count, too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import asyncroute

PACKAGE = Path(asyncroute.__file__).parent

# A folder stands for all modules in it. The façade is on top: nobody imports it from inside.
FLOORS = tuple(
    frozenset(rooms.split())
    for rooms in (
        "_arguments _errors _inputs _prices _requests _results _secrets _values",
        "_protocols",
        "_admission _budget _cache _caching _deadlines _estimate _feedback _function _grant "
        "_handover _health _lane _limits _metrics _observers _pieces _queue _sharing "
        "_served _single_flight _slots _supervisor",
        "_aside _bounds _endpoint _reasons _selectors",
        "_attempt _course _fallback _hedging _judge _modes _outcome _runtime _stagger _stream "
        "_stream_try",
        "_decide _executor _registry _router _statistics",
        "_files catalogue config exporters learn providers testing",
        "_assembly _benchmark integrations manager",
        "__main__ blocking cli",
        "__init__",
    )
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
CORE = 5  # up to here, nothing but these is imported
CORE_MAY_IMPORT = sys.stdlib_module_names | {
    *("aiolimiter", "anyio", "asyncroute", "pydantic"),
    "pydantic_core",  # half of pydantic, which pins it
}
ALSO = {"_prices": "genai_prices"}  # `ModelConfig` is asked, so it is low; an extra, read lazily


class Import(NamedTuple):
    module: str  # dotted, from the package's root on if it is one of ours
    line: int
    typing_only: bool


def modules() -> dict[str, Path]:
    """Our modules by dotted name below the package; a folder by its own name."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) in guarded)
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, path)
            for alias in node.names:
                below = f"{source}.{alias.name}"
                is_module = below.removeprefix("asyncroute.") in MODULES
                yield Import(below if is_module else source, node.lineno, id(node) in guarded)


def absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = ("asyncroute", *path.relative_to(PACKAGE).parts[:-1])
    kept = package[: len(package) - node.level + 1]
    return ".".join((*kept, node.module) if node.module else kept)


def ours(module: str) -> str | None:
    if module == "asyncroute":
        return "__init__"
    return module.removeprefix("asyncroute.") if module.startswith("asyncroute.") else None


def floor_of(module: str) -> int | None:
    return FLOOR_OF.get(module.partition(".")[0])


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_floor_and_imports_from_no_higher_one(module: str) -> None:
    floor = floor_of(module)
    assert floor is not None, f"{module} is on no floor: give it one in FLOORS"
    for found in imports(MODULES[module]):
        if (target := ours(found.module)) is not None:
            below = floor_of(target)
            assert below is not None, f"{module}:{found.line} imports {target}: no such room"
            assert below <= floor, f"{module}:{found.line} imports upward: {found.module}"


@pytest.mark.parametrize("module", [m for m in MODULES if (floor_of(m) or 0) <= CORE])
def test_the_core_imports_three_libraries_and_no_other(module: str) -> None:
    for found in imports(MODULES[module]):
        root = found.module.partition(".")[0]
        if found.typing_only and root == "typing_extensions":
            continue  # every type checker brings it; nothing is imported
        if root != ALSO.get(module):
            assert root in CORE_MAY_IMPORT, f"{module}:{found.line} imports {found.module}"


def test_no_modules_import_each_other() -> None:
    # Typing-only imports are left out here: the error that lists attempts and the attempt that
    # holds its error name each other, on one floor.
    graph = {
        module: {
            target
            for found in imports(path)
            if not found.typing_only and (target := ours(found.module)) in MODULES
        }
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]), pytrace=False)
