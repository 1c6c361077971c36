"""Why models are not eligible: put into words when somebody reads it, which is hardly ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, final

if TYPE_CHECKING:
    from asyncroute._endpoint import Endpoint

__all__ = ("Reasons",)

Group: TypeAlias = tuple[Mapping["Endpoint", Any], Callable[[Any], str]]
"""What was seen of each of several endpoints, and what says it in words."""


@final
class Reasons(Mapping[str, str]):
    """The reasons, by model id.

    Args:
        lasting: Those of models that are not eligible for this kind of request.
        groups: What was seen of others, at this moment or for this request.
    """

    __slots__ = ("_groups", "_lasting", "_worded")

    def __init__(self, lasting: Mapping[str, str], *groups: Group) -> None:
        self._lasting = lasting
        self._groups = groups
        self._worded: dict[str, str] | None = None

    def _in_words(self) -> dict[str, str]:
        if self._worded is None:
            self._worded = {**self._lasting}
            for group, said in self._groups:
                for endpoint, seen in group.items():
                    self._worded[endpoint.model_id] = said(seen)
        return self._worded

    def __getitem__(self, model_id: str) -> str:
        return self._in_words()[model_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._in_words())

    def __len__(self) -> int:
        return len(self._in_words())
