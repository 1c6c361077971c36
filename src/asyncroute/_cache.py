"""A cache of limited size and age whose misses share one run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, final

from asyncroute._arguments import is_count, is_number
from asyncroute._errors import ConfigurationError
from asyncroute._single_flight import Flight, SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from asyncroute._single_flight import Spawn, Start

__all__ = ("CacheManager", "CacheStatistics")

V = TypeVar("V")


@final
@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """A cache's figures at one moment."""

    size: int
    """Entries held; some may have expired unnoticed."""
    max_size: int
    ttl: float
    """Seconds an entry lives."""
    hits: int
    misses: int
    evictions: int
    """Live entries put out to make room."""
    expirations: int
    """Entries put out because their time was up."""
    running: int
    """Runs in flight that a new caller would join."""

    @property
    def hit_rate(self) -> float:
        """Share of hits among all `get`; 0.0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    def to_dict(self) -> dict[str, object]:
        """Return the fields, and `hit_rate`, as a dictionary of plain values."""
        return {**asdict(self), "hit_rate": self.hit_rate}


def _keep_all(_: object) -> bool:
    return True


@final
class _Entry(Generic[V]):
    """A value under its key. Equal to itself only, so that it is found at once in the order."""

    __slots__ = ("key", "stored_at", "value")

    def __init__(self, key: Hashable, value: V, stored_at: float) -> None:
        self.key = key
        self.value = value
        self.stored_at = stored_at


@final
class CacheManager(Generic[V]):
    """Keeps values for a while, the most recently used ones, and lets misses share one run.

    Everything but `run` is a plain function. A cache belongs to one event loop at a time; there is
    no lock. Values are never None: that is what a miss gives.

    Args:
        max_size: Entries held at most, at least 1. The one used longest ago makes room.
        ttl: Seconds an entry lives from when it was put, above 0; `math.inf` for ever.
        clock: Returns the time in seconds; by default the running loop's, and without a running
            loop a RuntimeError. A router hands its own in with `bind`.

    Raises:
        ConfigurationError: If *max_size* or *ttl* is out of its range.
    """

    __slots__ = (
        "_clock",
        "_entries",
        "_evictions",
        "_expirations",
        "_flights",
        "_hits",
        "_max_size",
        "_misses",
        "_order",
        "_ttl",
    )

    def __init__(
        self,
        max_size: int = 1000,
        ttl: float = 300.0,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not is_count(max_size, 1):
            raise ConfigurationError(
                f"max_size must be a whole number, at least 1, got {max_size!r}"
            )
        if not (is_number(ttl) and ttl > 0):
            raise ConfigurationError(f"ttl must be above 0 seconds, got {ttl!r}")
        self._max_size = max_size
        self._ttl = ttl
        self._clock: Callable[[], float] = _loop_time if clock is None else clock
        self._entries: dict[Hashable, _Entry[V]] = {}
        # The one used longest ago first. Apart from the keys, which take long to hash and compare:
        # a use looks one up once.
        self._order: OrderedDict[_Entry[V], None] = OrderedDict()
        self._flights: SingleFlight[V] = SingleFlight()
        self._hits = self._misses = self._evictions = self._expirations = 0

    def bind(self, clock: Callable[[], float]) -> None:
        """Read the time from *clock* from now on. Entries keep the age they have.

        Raises:
            RuntimeError: If there are entries, no clock was given before, and no loop is running.
        """
        if self._entries:
            ahead = clock() - self._clock()
            for entry in self._order:
                entry.stored_at += ahead
        self._clock = clock

    def get(self, key: Hashable, now: float | None = None) -> V | None:
        """Return the live value of *key*, which is now the one used last, or None.

        Args:
            key: The key.
            now: The time on this cache's clock, where the caller has it at hand.
        """
        entry = self._entries.get(key)
        if entry is not None:
            # An entry from the future is one whose clock was set back: its age is unknown.
            if 0.0 <= (self._clock() if now is None else now) - entry.stored_at < self._ttl:
                self._order.move_to_end(entry)
                self._hits += 1
                return entry.value
            self._drop(entry)
            self._expirations += 1
        self._misses += 1
        return None

    def put(self, key: Hashable, value: V) -> None:
        """Store *value* under *key* for the time to live, from now on."""
        now = self._clock()
        before = self._entries.get(key)
        if before is not None:
            self._drop(before)
        elif len(self._entries) >= self._max_size:
            oldest = next(iter(self._order))
            self._drop(oldest)
            if self._is_live(oldest, now):
                self._evictions += 1
            else:
                self._expirations += 1
        entry = self._entries[key] = _Entry(key, value, now)
        self._order[entry] = None

    def _drop(self, entry: _Entry[V]) -> None:
        del self._entries[entry.key]
        del self._order[entry]

    def discard(self, key: Hashable) -> None:
        """Forget *key*. What a run in flight brings goes to its waiters and is not stored."""
        entry = self._entries.get(key)
        if entry is not None:
            self._drop(entry)
        self._flights.detach(key)

    def clear(self) -> None:
        """Forget everything, as `discard` does for each key. The counters go on."""
        self._entries.clear()
        self._order.clear()
        self._flights.detach_all()

    async def run(
        self,
        key: Hashable,
        start: Start[V],
        *,
        deadline: float,
        spawn: Spawn,
        should_keep: Callable[[V], bool] = _keep_all,
    ) -> V:
        """Join the run that fetches *key*, or start one: for after a `get` that missed.

        All who ask while it goes on get its value, or each a copy of its error. Errors are never
        stored. Nor is the value of a run that has been abandoned or discarded meanwhile.

        Cancelling a caller hurts no other; the run is cancelled when the last of them has left.

        Args:
            key: As for `get`.
            start: Called with the `Flight`, whose `deadline` is its waiters' latest so far.
            deadline: The instant on the running loop's clock until which this caller waits.
            spawn: Starts a task for the run; see `SingleFlight.run`.
            should_keep: Whether a value is stored. The waiters get it either way. The first
                caller's counts.

        Raises:
            TimeoutError: At *deadline*.
            RuntimeError: If the run was cancelled from outside, twice.
            Exception: What the run, or *spawn*, raised.
        """

        async def fetch(flight: Flight[V]) -> V:
            value = await start(flight)
            if flight.is_current and should_keep(value):
                self.put(key, value)
            return value

        return await self._flights.run(key, fetch, deadline=deadline, spawn=spawn)

    def snapshot(self) -> CacheStatistics:
        """Return the figures as they are now."""
        return CacheStatistics(
            size=len(self._entries),
            max_size=self._max_size,
            ttl=self._ttl,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            expirations=self._expirations,
            running=len(self._flights),
        )

    def __contains__(self, key: object) -> bool:
        """Whether *key* has a live value. Counts as no use of it."""
        entry = self._entries.get(key)
        return entry is not None and self._is_live(entry, self._clock())

    def __len__(self) -> int:
        """Return how many entries are held; some may have expired unnoticed."""
        return len(self._entries)

    def __repr__(self) -> str:
        return (
            f"<CacheManager {len(self)} of {self._max_size}, ttl {self._ttl:g} s, "
            f"{self._hits} hits, {self._misses} misses>"
        )

    def _is_live(self, entry: _Entry[V], now: float) -> bool:
        return 0.0 <= now - entry.stored_at < self._ttl


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
