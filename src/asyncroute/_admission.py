"""The load balancer: what every model can take, and whose turn it is.

One lane per model (`_lane`), on its slots (`_slots`) and its quota (`_limits`), with a queue
(`_queue`); what lanes share goes by `_sharing`. This module puts them together from what is
configured.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, final

from asyncroute._arguments import is_count, is_number
from asyncroute._errors import ConfigurationError, OverloadedError
from asyncroute._grant import Grant
from asyncroute._lane import Lane, LaneSnapshot, Rules
from asyncroute._limits import Quota, QuotaLimits
from asyncroute._sharing import Share, Workers
from asyncroute._slots import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable, Iterator

__all__ = ("BalancerSnapshot", "Grant", "Lane", "LaneSnapshot", "LoadBalancer", "QuotaLimits")

_NO_LIMITS = QuotaLimits()


@final
@dataclass(frozen=True, slots=True)
class BalancerSnapshot:
    """A load balancer at one moment.

    Args:
        in_flight: Calls that run, of all models, removed ones too where `max_workers` is set.
        queued: Callers that wait.
        max_workers: The bound over all models.
        lanes: Each model's lane.
    """

    in_flight: int
    queued: int
    max_workers: int | None
    lanes: dict[str, LaneSnapshot]


@final
class LoadBalancer:
    """Per-model capacity: slots, rates, and a bounded queue in front of them.

    It may be made and filled before an event loop runs. From then on it belongs to one loop.

    Args:
        max_workers: Calls in flight over all models; None for no such bound.
        queue_size: Callers that may wait for one model; more are refused at once.
        fair_by: The key of a request's `metadata` that names its tenant; who admits requests passes
            what it finds there as `tenant`. With None, tenants are not told apart.
        ageing: Seconds of waiting that one step of priority is worth, so that low priority is
            late, never lost. Between tenants: turns.
        adaptive: Whether overload answers lower a model's slots for a while (AIMD).

    Raises:
        ConfigurationError: A figure out of range.
    """

    __slots__ = ("_adaptive", "_lanes", "_rules", "_shares", "_workers", "fair_by")

    def __init__(
        self,
        *,
        max_workers: int | None = None,
        queue_size: int = 1000,
        fair_by: str | None = None,
        ageing: float = 10.0,
        adaptive: bool = False,
    ) -> None:
        if max_workers is not None and not is_count(max_workers, 1):
            raise ConfigurationError(
                f"max_workers must be a whole number, at least 1, not {max_workers!r}"
            )
        if not is_count(queue_size, 0):
            raise ConfigurationError(
                f"queue_size must be a whole number, 0 or more, not {queue_size!r}"
            )
        if fair_by is not None and not (isinstance(fair_by, str) and fair_by):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"fair_by must be a key of metadata or None, not {fair_by!r}")
        if not (is_number(ageing) and 0 <= ageing < math.inf):
            raise ConfigurationError(f"ageing must be finite and not negative, but is {ageing!r}")
        self.fair_by = fair_by
        self._adaptive = adaptive
        self._rules = Rules(queue_size, ageing)
        self._workers = None if max_workers is None else Workers(max_workers)
        self._lanes: dict[str, Lane] = {}
        # Kept when their last model goes: what it sent in the last minute counts if it comes back.
        self._shares: dict[tuple[str, str], Share] = {}

    # Configuring

    def add(
        self,
        model_id: str,
        *,
        slots: int = 10,
        quota: QuotaLimits | None = None,
        quota_group: str | None = None,
        expected_duration: float = 0.0,
    ) -> Lane:
        """Give a model its lane.

        Args:
            model_id: Whose.
            slots: Calls in flight at most; 0: nothing runs, callers wait.
            quota: Limits per minute; None for none.
            quota_group: Models of one group share one quota.
            expected_duration: Seconds of a call, to predict waits from until calls were observed;
                0 for unknown.

        Raises:
            ConfigurationError: The model is there already, a figure is out of range, or the quota
                differs from that of the group.
        """
        if model_id in self._lanes:
            raise ConfigurationError(f"model_id {model_id!r} is there already")
        capacity = Slots(slots, adaptive=self._adaptive, duration=expected_duration)
        limits = quota or _NO_LIMITS
        share = self._share_of(model_id, limits, quota_group)
        lane = self._lanes[model_id] = Lane(model_id, capacity, self._rules, self._workers)
        self._join(lane, share, limits)
        return lane

    def update(
        self,
        model_id: str,
        *,
        slots: int,
        quota: QuotaLimits | None = None,
        quota_group: str | None = None,
    ) -> None:
        """Change what is configured for a model, all of it, live; what runs and waits is kept.

        Other figures for a model that stays in its group are the group's from now on.

        Raises:
            ConfigurationError: An unknown model, a figure out of range, or a quota that differs
                from that of a group it newly joins. Nothing has changed then.
        """
        lane, limits = self.lane(model_id), quota or _NO_LIMITS
        share = self._share_of(model_id, limits, quota_group)
        lane.set_slots(slots)
        if lane.share is not None and lane.share is not share:
            lane.share.members.discard(model_id)
        self._join(lane, share, limits)

    def remove(self, model_id: str) -> None:
        """Take a model's lane away.

        Its waiters get `OverloadedError`; calls in flight end as usual.

        Raises:
            ConfigurationError: An unknown model.
        """
        lane = self.lane(model_id)
        del self._lanes[model_id]
        if lane.share is not None:
            lane.share.members.discard(model_id)
        lane.close(lambda: OverloadedError(f"model {model_id!r} was removed"))
        lane.look_again()

    def _share_of(self, model_id: str, limits: QuotaLimits, group: str | None) -> Share | None:
        """Find the share for a model of these limits, or make it; changes nothing there is."""
        if group is None and limits == _NO_LIMITS:
            return None
        key = ("model", model_id) if group is None else ("quota_group", group)
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = Share(Quota(limits))
        elif share.members and model_id not in share.members:
            for figure in fields(limits):
                there, here = (getattr(x, figure.name) for x in (share.quota.limits, limits))
                if there != here:
                    raise ConfigurationError(
                        f"{figure.name} of model {model_id!r} is {here!r}, "
                        f"but {there!r} in quota_group {group!r}"
                    )
        return share

    @staticmethod
    def _join(lane: Lane, share: Share | None, limits: QuotaLimits) -> None:
        if share is not None:
            share.members.add(lane.model_id)
            if share.quota.limits != limits:
                share.quota.reconfigure(limits)
        lane.set_share(share)

    # Using

    def lane(self, model_id: str) -> Lane:
        """Return the lane of a model.

        Raises:
            ConfigurationError: An unknown model.
        """
        try:
            return self._lanes[model_id]
        except KeyError:
            raise ConfigurationError(f"model_id {model_id!r} is unknown") from None

    @asynccontextmanager
    async def slot(
        self,
        model_id: str,
        *,
        tokens: int = 0,
        deadline: float = math.inf,
        priority: int = 0,
        tenant: Hashable = None,
    ) -> AsyncGenerator[Grant]:
        """Hold a model's slot for the length of an `async with`.

        Set `tokens_used` of the grant to settle with the truth; else what was reserved stays spent.

        Args:
            model_id: Whose.
            tokens: What to reserve of the tokens per minute.
            deadline: The instant, on the loop's clock, by which the slot must be there.
            priority: Higher is sooner.
            tenant: Tenants take turns.

        Raises:
            ConfigurationError: An unknown model.
            OverloadedError: The queue is full, or the slot would not be there in time.
            ValueError: More tokens than the limit per minute, or fewer than none.
        """
        if tokens < 0:
            raise ValueError(f"tokens must not be negative, but is {tokens!r}")
        grant = await self.lane(model_id).acquire(
            tokens, deadline=deadline, priority=priority, tenant=tenant
        )
        grant.tokens_used = None
        try:
            yield grant
        finally:
            grant.release(asyncio.get_running_loop().time(), grant.tokens_used)

    def close(self, make_error: Callable[[], Exception]) -> None:
        """Wake every waiter with an error of its own, and refuse all that come later.

        Calls in flight end as usual.
        """
        for lane in self._lanes.values():
            lane.close(make_error)

    # Looking

    def __iter__(self) -> Iterator[Lane]:
        """Yield the lanes, in the order in which they were added."""
        return iter(self._lanes.values())

    def __len__(self) -> int:
        return len(self._lanes)

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._lanes

    def snapshot(self) -> BalancerSnapshot:
        """Return the state at this moment."""
        lanes = {model_id: lane.snapshot() for model_id, lane in self._lanes.items()}
        workers = self._workers
        return BalancerSnapshot(
            in_flight=sum(s.in_flight for s in lanes.values()) if workers is None else workers.used,
            queued=sum(s.queued for s in lanes.values()),
            max_workers=None if workers is None else workers.limit,
            lanes=lanes,
        )

    def __repr__(self) -> str:
        now = self.snapshot()
        models = len(now.lanes)
        return f"<LoadBalancer {models} models: {now.in_flight} in flight, {now.queued} queued>"
