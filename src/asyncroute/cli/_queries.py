"""Queries from a file: a JSON list, JSON lines, or one text a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from asyncroute._errors import ConfigurationError
from asyncroute._files import parse_json, read_text
from asyncroute._inputs import QueryRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ("describe", "read_queries")


def read_queries(path: Path) -> list[QueryRequest]:
    """Read the queries of a file.

    A file that ends in `.json` is a list, one that ends in `.jsonl` or `.ndjson` has one query a
    line; in any other, what it begins with decides. A query is a text, or an object with the
    fields of a `QueryRequest`.

    Raises:
        ConfigurationError: A mistake, with its line or place in the list; or no query at all.
        OSError: The file cannot be read.
    """
    text = read_text(path)
    queries = [_request(query, place) for place, query in _entries(path, text)]
    if not queries:
        raise ConfigurationError(f"{path}: there is no query in it")
    return queries


def describe(error: ValidationError) -> str:
    """Say in one line which field has which bad value."""
    details = error.errors(include_url=False)[0]
    field = ".".join(map(str, details["loc"]))
    problem = details["msg"].removeprefix("Value error, ")
    if not field:
        return problem
    return f"{field}: {problem}; got {details['input']!r}"


def _entries(path: Path, text: str) -> Iterator[tuple[str, object]]:
    beginning = text.lstrip()[:1]
    if path.suffix == ".json" or (beginning == "[" and path.suffix not in (".jsonl", ".ndjson")):
        queries = parse_json(text, str(path))
        if not isinstance(queries, list):
            kind = type(queries).__name__
            raise ConfigurationError(f"{path}: must hold a list of queries, not a {kind}")
        for i, query in enumerate(cast("list[object]", queries)):
            yield f"{path}, query {i + 1}", query
        return
    is_json = path.suffix in (".jsonl", ".ndjson") or beginning == "{"
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            query = parse_json(line, str(path), first_line=number) if is_json else line.strip()
            yield f"{path}, line {number}", query


def _request(query: object, place: str) -> QueryRequest:
    if isinstance(query, str):
        fields: dict[str, Any] = {"query": query}
    elif isinstance(query, dict):
        fields = cast("dict[str, Any]", query)
    else:
        kind = type(query).__name__
        raise ConfigurationError(f"{place}: a query is a text or an object, not a {kind}")
    try:
        return QueryRequest(**fields)
    except ValidationError as error:
        problem = describe(error)
    except TypeError as error:
        problem = str(error)
    raise ConfigurationError(f"{place}: {problem}")
