"""Writes docs/reference.md from the docstrings of what is public.

Run it from anywhere: `uv run python docs/make_reference.py`. It reads the sources and
imports nothing, so it needs no extra, and every Python writes the same.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
PACKAGES = (
    "asyncroute",
    "asyncroute.blocking",
    "asyncroute.providers",
    "asyncroute.exporters",
    "asyncroute.integrations",
    "asyncroute.learn",
    "asyncroute.testing",
)
HEAD = """\
# Reference

Made from the docstrings by `docs/make_reference.py`; do not edit. Seconds are floats; only names
that end in `_ms` are milliseconds.
"""
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")
WIDTH = 100


class Found(NamedTuple):
    """Where a name is defined: the statement and, for a constant, the text that follows it."""

    node: ast.stmt
    text: str


def reference() -> str:
    """Write the whole page."""
    pages = [HEAD, "\n".join(f"- [{name}](#{name.replace('.', '')})" for name in PACKAGES) + "\n"]
    for package in PACKAGES:
        module = parsed(package)
        pages.append(f"## {package}\n\n{described(ast.get_docstring(module) or '')}")
        pages += [entry(name, found(package, name)) for name in public(module)]
    return "\n".join(pages)


# ---------------------------------------------------------------- finding


def parsed(module: str) -> ast.Module:
    """Parse a module by its dotted name."""
    path = SOURCES.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def public(module: ast.Module) -> list[str]:
    """List the names in `__all__`."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    return []


def found(module: str, name: str) -> Found:
    """Find where a module's name is defined, through its imports."""
    tree = parsed(module)
    body = [
        *tree.body,
        *(inner for node in tree.body if isinstance(node, ast.If) for inner in node.body),
    ]
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ImportFrom) and any(each.name == name for each in node.names):
            return found(node.module or "", name)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name == name:
                return Found(node, ast.get_docstring(node) or "")
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return Found(node, inspect.cleandoc(str(after.value.value)))
            return Found(node, "")
    raise LookupError(f"{name} is not defined in {module}")


# ---------------------------------------------------------------- writing


def entry(name: str, what: Found) -> str:
    """Describe one public name, with its public methods."""
    node = what.node
    if isinstance(node, ast.ClassDef):
        parts = [f"### {name}\n\n{code(class_signature(node))}\n\n{described(what.text)}"]
        for member in members(node):
            parts.append(f"#### {name}.{member.name}\n\n{code(member_signature(member))}\n")
            parts[-1] += f"\n{described(ast.get_docstring(member) or '')}"
        return "\n".join(parts)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return f"### {name}\n\n{code(signature(node))}\n\n{described(what.text)}"
    return f"### {name}\n\n{code(ast.unparse(node))}\n\n{described(what.text)}"


def members(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give the public methods and properties."""
    for member in node.body:
        is_method = isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_method and not member.name.startswith("_") and ast.get_docstring(member):
            yield member


def class_signature(node: ast.ClassDef) -> str:
    """Write how a class is made: by its `__init__` or by its fields."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            if any(
                ast.unparse(each.annotation or each).startswith("_") for each in member.args.args
            ):
                return f"class {node.name}"  # made for users, not by them
            return "class " + signature(member, node.name)
    if any(ast.unparse(base) in ("Protocol", "StrEnum") for base in node.bases):
        return f"class {node.name}({ast.unparse(node.bases[0])})"
    fields = [
        ast.unparse(member)
        for member in node.body
        if isinstance(member, ast.AnnAssign)
        and not ast.unparse(member.target).startswith("_")
        and "ClassVar" not in ast.unparse(member.annotation)
    ]
    bases = "" if fields or not node.bases else f"({', '.join(map(ast.unparse, node.bases))})"
    return folded(f"class {node.name}", fields, "") if fields else f"class {node.name}{bases}"


def member_signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Write a method's signature, or a property's type."""
    decorators = [ast.unparse(each) for each in node.decorator_list]
    if "property" in decorators:
        return f"{node.name}: {ast.unparse(node.returns) if node.returns else 'Any'}"
    shown = [f"@{each}\n" for each in decorators if each in ("classmethod", "staticmethod")]
    return "".join(shown) + signature(node)


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str | None = None) -> str:
    """Write a signature without `self`, in several lines where it is long."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults))
    defaults += given.defaults
    shown = [argument(a, d) for a, d in zip(plain, defaults, strict=True)]
    if given.posonlyargs:
        shown.insert(len(given.posonlyargs), "/")
    if plain and plain[0].arg in ("self", "cls"):
        shown = shown[1:]
    if shown[:1] == ["/"]:
        shown = shown[1:]
    if given.vararg:
        shown.append("*" + argument(given.vararg, None))
    elif given.kwonlyargs:
        shown.append("*")
    shown += [argument(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        shown.append("**" + argument(given.kwarg, None))
    kind = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and name is None else ""
    return folded(kind + (name or node.name), shown, returns)


def argument(given: ast.arg, default: ast.expr | None) -> str:
    """Write one parameter."""
    annotation = f": {ast.unparse(given.annotation)}" if given.annotation else ""
    if default is None:
        return given.arg + annotation
    return f"{given.arg}{annotation}{' = ' if annotation else '='}{ast.unparse(default)}"


def folded(head: str, shown: list[str], tail: str) -> str:
    """Write in one line what fits, else a line for each."""
    line = f"{head}({', '.join(shown)}){tail}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{head}(", *(f"    {each}," for each in shown), f"){tail}"])


def code(text: str) -> str:
    """Fence; `py`, since tests run what is fenced as `python`."""
    return f"```py\n{text}\n```"


def described(text: str) -> str:
    """Turn a docstring into Markdown: sections into lists, what follows `::` into code."""
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        title = line.removesuffix(":")
        if line.endswith(":") and title in SECTIONS:
            section = title
            lines += [f"**{title}**", ""]
        elif line and not line.startswith(" "):
            section = ""
            lines.append(line.removesuffix("::") + ":" if line.endswith("::") else line)
        elif section and (item := re.match(r"    (\*{0,2}[\w.*` ]+?)(?: \([^)]*\))?: (.+)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section:
            starts = line.startswith("    ") and not line.startswith("     ")
            lines.append(line.strip() if starts else ("  " + line.strip()).rstrip())
        else:
            lines.append(line)
    shown = "\n".join("" if line == ":" else line for line in lines).strip()
    shown = re.sub(r"\n{3,}", "\n\n", shown)
    return shown + "\n" if shown else ""


if __name__ == "__main__":
    (ROOT / "docs" / "reference.md").write_text(reference(), encoding="utf-8")
