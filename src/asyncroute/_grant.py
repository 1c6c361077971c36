"""Leave to make one call: what is held while it runs, and how it is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from asyncroute._sharing import hand_out
from asyncroute._slots import SMOOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncroute._limits import Bucket
    from asyncroute._sharing import Contender, Share, Workers
    from asyncroute._slots import Slots

__all__ = ("Grant", "Grantor")


class Grantor(Protocol):
    """What a grant is taken from: a lane."""

    @property
    def model_id(self) -> str:
        """Whose lane."""
        ...

    @property
    def capacity(self) -> Slots:
        """Where the slot comes from."""
        ...

    @property
    def workers(self) -> Workers | None:
        """What bounds all lanes together."""
        ...

    @property
    def share(self) -> Share | None:
        """Where requests and tokens come from."""
        ...

    @property
    def pool(self) -> Mapping[Contender, None]:
        """The lanes that wait for what becomes free here."""
        ...


@final
class Grant:
    """A slot and what was reserved of the limits per minute. Making it takes the slot.

    To be released or cancelled on every way out; only the first time counts.

    Attributes:
        lane: Where it comes from.
        tokens: What was reserved.
        granted_at: Since when, on the loop's clock.
        is_open: Whether it is still held.
        tokens_used: Only in `LoadBalancer.slot`, which settles with it at its end.
    """

    __slots__ = ("bucket", "granted_at", "is_open", "lane", "share", "tokens", "tokens_used")

    tokens_used: int | None

    def __init__(self, lane: Grantor, tokens: int, now: float, bucket: Bucket | None) -> None:
        self.lane = lane
        self.tokens = tokens
        self.granted_at = now
        self.share = lane.share
        self.bucket = bucket
        self.is_open = True
        # Slot and worker are counted here and in `release`, not by methods of theirs: calling them
        # would cost more than the work.
        slots = lane.capacity
        limiter = slots.limiter
        if limiter is None:
            limiter = slots.open()
        limiter.acquire_on_behalf_of_nowait(self)
        slots.used += 1
        if lane.workers is not None:
            lane.workers.used += 1

    def release(
        self, now: float, tokens_used: int | None = None, held: float | None = None
    ) -> None:
        """Give the slot back and settle; whoever waits for it has it when this returns.

        Args:
            now: The loop's time.
            tokens_used: True usage: what was reserved beyond it is free at once, what is above is
                debt. None, for a usage that never came to be known, keeps the reservation spent.
            held: Seconds to predict waits from; by default the time since the grant.
        """
        if not self.is_open:
            return
        self.is_open = False
        lane, share = self.lane, self.share
        if share is not None and tokens_used is not None and self.bucket is not None:
            share.quota.settle(self.bucket, self.tokens, tokens_used, now)
        slots = lane.capacity
        if slots.limiter is not None:
            slots.limiter.release_on_behalf_of(self)
        slots.used -= 1
        mean = slots.duration
        if held is None:
            held = now - self.granted_at
        slots.duration = mean + SMOOTHING * (held - mean) if mean else held
        if lane.workers is not None:
            lane.workers.used -= 1
        if lane.pool:
            hand_out(lane.pool, now)
        if share is not None and share is not lane.share:  # the model has left its group since
            hand_out(share.waiting, now)

    def cancel(self, now: float) -> None:
        """Give everything back, the request and its tokens too: nothing was sent."""
        if self.is_open:
            share, bucket = self.share, self.bucket
            if share is not None and bucket is not None:
                share.quota.give_back(self.granted_at, bucket, self.tokens, now)
            self.release(now, held=self.lane.capacity.duration)  # the mean itself teaches nothing

    def __repr__(self) -> str:
        state = "open" if self.is_open else "given back"
        return f"<Grant {self.lane.model_id}: {self.tokens} tokens, {state}>"
