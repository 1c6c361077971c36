"""What all requests of an open router share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from asyncroute._budget import Budgets, HedgeBudget, RetryBudget
from asyncroute._deadlines import Deadlines
from asyncroute._fallback import FallbackStrategy
from asyncroute._metrics import PerformanceMetrics
from asyncroute._observers import Observers
from asyncroute._supervisor import Supervisor

__all__ = ("Runtime",)


@dataclass(slots=True)
class Runtime:
    """Bound to one loop from the router's `__aenter__` to its `__aexit__`.

    Attributes:
        loop: The loop.
        now: Its clock.
        deadlines: Timers for all attempts.
        supervisor: Owner of all tasks.
        fallback: What comes next after which error.
        budgets: Of money; None where there are none.
        retries: What limits retries and hedges together.
        hedges: What limits hedges besides.
        observers: Who wants to know; None where nobody does.
        metrics: For what all models cost together.
        rng: For jitter.
        attempt_timeout: Seconds for each attempt, instead of a share of what is left.
        loser_grace: Seconds that a caller waits at most for an attempt that was given up.
        retry_after_cap: Seconds of a Retry-After that are heeded.
    """

    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    deadlines: Deadlines
    supervisor: Supervisor
    fallback: FallbackStrategy
    budgets: Budgets | None
    retries: RetryBudget
    hedges: HedgeBudget
    observers: Observers | None
    metrics: PerformanceMetrics
    rng: random.Random
    attempt_timeout: float | None
    loser_grace: float
    retry_after_cap: float
