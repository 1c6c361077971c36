"""Who waits for one model, and whose turn it is.

Pure: it keeps an order and never looks at a clock. Two ideas make the order:

- *Priority with ageing.* A waiter's place is `arrived - priority * ageing`. It never changes, so a
  heap keeps it, and a waiter is overtaken only by those that come within `ageing` seconds per step
  of priority.
- *Fair queueing* between tenants, where tenants are told apart. Each has a start tag, counted in
  turns (start-time fair queueing: Goyal, Vin and Cheng, 1996); the smallest tag is served, and each
  turn is charged to its tenant. Virtual time runs as in generalised processor sharing, by one turn
  when everybody who waits had one, so that a stream of new tenants cannot keep an old one waiting.
  A step of priority is worth `ageing` turns: such a request comes sooner, but its tenant pays for
  it all the same.

Without tenants there is one, named None, and only the first idea is left.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Final, final

__all__ = ("WaitQueue", "Waiter", "WaiterState")

_KEPT: Final = 16
"""Entries without use that a heap may hold before it is swept, besides as many as are in use."""


class WaiterState(enum.Enum):
    """How waiting ended, or that it has not."""

    WAITING = "waiting"
    GRANTED = "granted"
    EXPIRED = "expired"
    IMPOSSIBLE = "impossible"
    CLOSED = "closed"
    GONE = "gone"


@final
@dataclass(slots=True, eq=False)
class Waiter:
    """One caller in a queue.

    Args:
        future: What the caller awaits: its grant, or None where `state` tells why there is none.
        tokens: What the caller will reserve.
        tenant: Whose turn it takes.
        order: `arrived - rank` and a running number: its place among its tenant's waiters, and
            among the first ones of other queues. Smaller is sooner.
        rank: `priority * ageing`.
        start_by: The last instant, on the loop's clock, at which a start still makes sense.
    """

    future: asyncio.Future[Any]
    tokens: int
    tenant: Hashable
    order: tuple[float, int]
    rank: float
    start_by: float
    state: WaiterState = WaiterState.WAITING
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


@final
class _Tenant:
    """The waiters of one tenant by place, and the turn at which the first of them is due."""

    __slots__ = ("entry", "heap", "live", "start")

    def __init__(self) -> None:
        self.heap: list[tuple[tuple[float, int], Waiter]] = []
        self.live = 0
        self.start = 0.0
        self.entry: _Entry | None = None


_Entry = tuple[float, int, Waiter, _Tenant]
"""A tenant in the heap of turns: tag, its first waiter's running number, that waiter, itself."""


@final
class WaitQueue:
    """The waiters of one model. Entering and leaving cost O(log n), wherever the waiter stands.

    Attributes:
        live: How many wait.
        tokens: How many tokens they will reserve together.
    """

    __slots__ = ("_active", "_tenants", "_turns", "_virtual", "live", "tokens")

    def __init__(self) -> None:
        self._tenants: dict[Hashable, _Tenant] = {}
        self._turns: list[_Entry] = []
        self._active = 0
        self._virtual = 0.0
        self.live = 0
        self.tokens = 0

    def push(self, waiter: Waiter) -> None:
        """Let *waiter* take its place."""
        tenant = self._tenants.get(waiter.tenant)
        if tenant is None:
            tenant = self._tenants[waiter.tenant] = _Tenant()
        if not tenant.live:
            self._active += 1
            tenant.start = max(tenant.start, self._virtual)
        heappush(tenant.heap, (waiter.order, waiter))
        tenant.live += 1
        self.live += 1
        self.tokens += waiter.tokens
        if tenant.entry is None or waiter.order < tenant.entry[2].order:
            self._enrol(tenant)

    def first(self) -> Waiter | None:
        """The one whose turn it is; None if nobody waits."""
        turns = self._turns
        while turns:
            entry = turns[0]
            if entry is entry[3].entry:
                return entry[2]
            heappop(turns)
        return None

    def serve(self, waiter: Waiter, state: WaiterState) -> None:
        """Take out *waiter*, whose turn it was, and charge the turn to its tenant."""
        self._virtual += 1 / self._active
        self._tenants[waiter.tenant].start += 1
        self.remove(waiter, state)

    def remove(self, waiter: Waiter, state: WaiterState) -> None:
        """Take out *waiter*, wherever it stands; it costs its tenant nothing."""
        waiter.state = state
        tenant = self._tenants[waiter.tenant]
        tenant.live -= 1
        self.live -= 1
        self.tokens -= waiter.tokens
        if not self.live:
            self._forget()
            return
        self._active -= not tenant.live
        if tenant.entry is not None and tenant.entry[2] is waiter:
            self._enrol(tenant)
        self._sweep(tenant)

    def ahead(self, order: tuple[float, int], tenant: Hashable) -> tuple[int, int]:
        """Count who would be served before a waiter of that *order*; and what they reserve."""
        if not self.live:
            return 0, 0
        own = self._tenants.get(tenant)
        count = 0
        if own is not None:
            count = sum(o < order and w.state is WaiterState.WAITING for o, w in own.heap)
        turns = count + 1
        count += sum(min(t.live, turns) for t in self._tenants.values() if t is not own)
        return count, self.tokens * count // self.live

    def __iter__(self) -> Iterator[Waiter]:
        """All that wait, in no order."""
        for tenant in self._tenants.values():
            yield from (w for _, w in tenant.heap if w.state is WaiterState.WAITING)

    def __repr__(self) -> str:
        return f"<WaitQueue {self.live} waiting, {self._active} tenants>"

    def _enrol(self, tenant: _Tenant) -> None:
        """Enter a tenant's first waiter into the heap of turns; voids its older entry."""
        heap = tenant.heap
        while heap and heap[0][1].state is not WaiterState.WAITING:
            heappop(heap)
        if not heap:
            tenant.entry = None
            return
        (_, sequence), waiter = heap[0]
        tenant.entry = (tenant.start - waiter.rank, sequence, waiter, tenant)
        heappush(self._turns, tenant.entry)

    def _sweep(self, tenant: _Tenant) -> None:
        """Keep memory in proportion to those who wait, not to those who ever did."""
        if len(tenant.heap) > 2 * tenant.live + _KEPT:
            tenant.heap = [e for e in tenant.heap if e[1].state is WaiterState.WAITING]
            heapify(tenant.heap)
        if len(self._turns) > 2 * self._active + _KEPT:
            self._turns = [t.entry for t in self._tenants.values() if t.entry is not None]
            heapify(self._turns)
        if len(self._tenants) > 2 * self._active + _KEPT:
            for name, idle in list(self._tenants.items()):
                if not idle.live and idle.start <= self._virtual:
                    del self._tenants[name]

    def _forget(self) -> None:
        self._tenants.clear()
        self._turns.clear()
        self._active = 0
        self._virtual = 0.0
