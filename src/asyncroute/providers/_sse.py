"""Server-sent events: from bytes to events. Pure.

After https://html.spec.whatwg.org/multipage/server-sent-events.html, but an event that the end of
the body cuts off before its blank line is given out too: many servers end so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("Event", "EventParser")


class Event(NamedTuple):
    """A server-sent event."""

    name: str
    data: str


@final
class EventParser:
    """Reads server-sent events from bytes, however they are cut."""

    __slots__ = ("_data", "_line", "_name", "_skips_newline")

    def __init__(self) -> None:
        self._line = bytearray()
        self._skips_newline = False
        self._name = ""
        self._data: list[str] = []

    def feed(self, block: bytes) -> Iterator[Event]:
        """Give the events that `block` completes."""
        # A line may end with CR, and its LF be in the next block.
        if self._skips_newline and block:
            self._skips_newline = False
            block = block.removeprefix(b"\n")
        for line in block.splitlines(keepends=True):
            self._line += line
            if line.endswith((b"\n", b"\r")):
                yield from self._end_line()
        self._skips_newline = block.endswith(b"\r")

    def flush(self) -> Iterator[Event]:
        """Give the event that the end of the body completes, if any."""
        yield from self._end_line()
        yield from self._dispatch()

    def _end_line(self) -> Iterator[Event]:
        line = self._line.decode(errors="replace").rstrip("\r\n")
        self._line.clear()
        if not line:
            yield from self._dispatch()
            return
        field, _, value = line.lstrip("\ufeff").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value

    def _dispatch(self) -> Iterator[Event]:
        name, data = self._name, "\n".join(self._data)
        self._name = ""
        self._data.clear()
        if data:
            yield Event(name, data)
