"""Health of one model: set aside after repeated failures, tried again by one call, let back slowly.

::

                    5 failures in a row, under half of 10 succeed, or `eject`
       ┌─────────┐ ──────────────────────────────────────────► ┌─────────┐
       │ healthy │                                             │ ejected │ ◄──┐
       └─────────┘ ◄──────────────────┐                        └────┬────┘    │ probe fails:
        429 │  ▲                      │ probe succeeds:             │         │ ejected for
            ▼  │ Retry-After is over  │ slow start from 10 %        ▼ is over │ twice as long
     ┌──────────────┐                 │                        ┌─────────┐    │
     │ rate_limited │                 └─────────────────────── │ probing │ ───┘
     └──────────────┘                                          └─────────┘
                                                     one call at a time; a forgotten one
                                                     gives its place to the next

Every call takes a permit and gives it back with its outcome, exactly once. Ejection and recovery
each open a new *epoch*; the outcome of a permit of an older one says nothing any more, so that a
slow call from before the trouble neither ejects a recovered model nor recovers an ejected one.

A rate limit is not an outlier: the provider is up and says when to come back. It blocks until
then without a probe, and turns into an ejection only through the success ratio.

Prior art: Finagle's FailureAccrual (one probe, given back by an ignorable result), Linkerd's
unified breaker (exact counts, rate limits against the ratio only), Envoy (slow start).
Nothing here reads a clock, waits or logs: `now` is the loop's time in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Literal, final

from asyncroute._arguments import is_number
from asyncroute._errors import ConfigurationError

if TYPE_CHECKING:
    import random

__all__ = ("Health", "HealthSettings", "HealthSnapshot", "HealthStatus", "Permit")

HealthStatus = Literal["healthy", "ejected", "rate_limited", "probing"]

_BUCKETS = 10
"""Parts of the window: the counts are exact, and leave it a tenth of the window at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """When a model is set aside, and for how long. All times are in seconds.

    Attributes:
        consecutive_failures: Hard failures in a row that eject.
        min_samples: Outcomes in the window below which its ratio says nothing.
        min_success_rate: Share of successes in the window under which a model is ejected.
        window: How far back outcomes count; also how long a model must stay healthy after its
            recovery for its next ejection to be a short one again.
        base_ejection: The first ejection; each further one doubles. Half of each is jitter.
        max_ejection: No ejection is longer.
        slow_start: How long a recovered model takes to come back to its full share.
        slow_start_floor: The share it comes back with, from above 0 to 1.
        retry_after_cap: A provider's Retry-After counts up to this.

    Raises:
        ConfigurationError: For a value that cannot be meant.
    """

    consecutive_failures: int = 5
    min_samples: int = 10
    min_success_rate: float = 0.5
    window: float = 60.0
    base_ejection: float = 5.0
    max_ejection: float = 300.0
    slow_start: float = 30.0
    slow_start_floor: float = 0.1
    retry_after_cap: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not is_number(value):
                raise ConfigurationError(f"{field.name} must be a number, not {value!r}")
        share, seconds = "between 0 and 1", "a finite number of seconds above 0"
        checks = (
            ("consecutive_failures", self.consecutive_failures >= 1, "at least 1"),
            ("min_samples", self.min_samples >= 1, "at least 1"),
            ("min_success_rate", 0 <= self.min_success_rate <= 1, share),
            ("window", 0 < self.window < inf, seconds),
            ("base_ejection", 0 < self.base_ejection < inf, seconds),
            (
                "max_ejection",
                self.base_ejection <= self.max_ejection < inf,
                f"finite and no shorter than base_ejection ({self.base_ejection!r})",
            ),
            ("slow_start", 0 <= self.slow_start < inf, "a finite number of seconds"),
            ("slow_start_floor", 0 < self.slow_start_floor <= 1, "above 0 and at most 1"),
            ("retry_after_cap", 0 < self.retry_after_cap < inf, seconds),
        )
        for name, is_good, wanted in checks:
            if not is_good:
                raise ConfigurationError(f"{name} must be {wanted}, not {getattr(self, name)!r}")


@final
@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one call; to be given back with its outcome, or to be forgotten.

    Attributes:
        epoch: The epoch of the model's health in which it was given.
        is_probe: Whether this call decides if an ejected model is well again.
    """

    epoch: int
    is_probe: bool


@final
@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """Health at one instant.

    Attributes:
        status: What the model is.
        available_after: Seconds until a call may be sent; infinite while a probe is out.
        consecutive_failures: Hard failures since the last success.
        successes: Successes in the window.
        failures: Failures in the window, rate limits included.
        ejections: Ejections since the beginning.
        weight: The share of its usual traffic it should get (slow start).
        epoch: How often it has been ejected or has recovered.
    """

    status: HealthStatus
    available_after: float
    consecutive_failures: int
    successes: int
    failures: int
    ejections: int
    weight: float
    epoch: int


@final
class _Tally:
    __slots__ = ("ends_at", "failures", "starts_at", "successes")

    def __init__(self, starts_at: float, width: float) -> None:
        self.starts_at = starts_at
        self.ends_at = starts_at + width
        self.successes = 0
        self.failures = 0


@final
class _Window:
    """Outcomes of the last `length` seconds.

    Attributes:
        newest: The tally of the present part: asked before `tally`, which is only called anew.
    """

    __slots__ = ("_length", "_tallies", "_width", "newest")

    def __init__(self, length: float) -> None:
        self._length = length
        self._width = length / _BUCKETS
        self.newest = _Tally(-inf, self._width)
        self._tallies: deque[_Tally] = deque()

    def tally(self, now: float) -> _Tally:
        """Return what outcomes of this instant are to be counted in."""
        newest = self.newest
        age = now - newest.starts_at
        # A clock that was set back a little goes on with the newest; by more, all starts anew.
        if -self._length < age < self._width:
            return newest
        if age < 0:
            self._tallies.clear()
        self.newest = newest = _Tally(now, self._width)
        self._tallies.append(newest)
        self._drop_old(now)
        return newest

    def counts(self, now: float) -> tuple[int, int]:
        """Return the successes and the failures in the window."""
        self._drop_old(now)
        successes = sum(tally.successes for tally in self._tallies)
        return successes, sum(tally.failures for tally in self._tallies)

    def clear(self) -> None:
        """Forget all outcomes."""
        self._tallies.clear()
        self.newest = _Tally(-inf, self._width)

    def _drop_old(self, now: float) -> None:
        tallies = self._tallies
        while tallies and now - tallies[0].starts_at >= self._length:
            tallies.popleft()


@final
class Health:
    """Decides whether one model may be called, from the outcomes of the calls before.

    Args:
        settings: When to eject and for how long.
        rng: Where jitter comes from.

    In all methods `may_eject=False` says that this is the last model able to serve: then no
    failure takes it away. Failures count on, so that the next one may, if it is not the last then.
    A failed probe ejects anew in any case, and a Retry-After is always heeded.
    """

    __slots__ = (
        "_blocked_until",
        "_consecutive",
        "_ejected_for",
        "_ejected_until",
        "_ejections",
        "_epoch",
        "_is_ejected",
        "_longest",
        "_next_length",
        "_permit",
        "_probe",
        "_recovered_at",
        "_rng",
        "_settings",
        "_shut_until",
        "_slow_start",
        "_why",
        "_window",
    )

    def __init__(self, settings: HealthSettings | None = None, *, rng: random.Random) -> None:
        self._settings = settings = settings or HealthSettings()
        self._rng = rng
        self._window = _Window(settings.window)
        self._consecutive = 0
        self._epoch = 0
        self._permit = Permit(0, is_probe=False)
        self._probe: Permit | None = None
        self._is_ejected = False
        self._ejected_until = -inf
        self._blocked_until = -inf
        # All that the fast way looks at: -inf, the end of a block, or inf while ejected.
        self._shut_until = -inf
        self._next_length = settings.base_ejection
        self._longest = max(settings.max_ejection, settings.retry_after_cap)
        self._slow_start = settings.slow_start
        self._recovered_at = -inf
        self._ejections = 0
        self._ejected_for = 0.0
        self._why = ""

    # May it be called?

    def try_pass(self, now: float) -> Permit | None:
        """Return a permit if a call may be sent now, else None.

        Once an ejection is over, one caller at a time gets a probe; the others get None until
        the probe's outcome is known. Permits of a healthy model are one shared object.
        """
        if now >= self._shut_until:
            return self._permit
        if now < self.available_at(now):
            return None
        self._probe = Permit(self._epoch, is_probe=True)
        return self._probe

    def pass_anyway(self) -> Permit:
        """Return a permit whatever the state, for panic: all are ejected and none can be probed.

        A success of such a call recovers an ejected model; a failure says nothing new.
        """
        return self._permit

    def available_at(self, now: float) -> float:
        """Return the instant from which on a call may be sent; not after `now` if it may be now.

        It is the end of an ejection or block, and infinity while a probe is out.
        """
        if now >= self._shut_until:
            return now
        if self._probe is not None:
            return inf
        latest = now + self._longest
        if max(self._ejected_until, self._blocked_until) > latest:
            # Only a clock that was set back, or a block from outside, gets beyond the longest.
            self._ejected_until = min(self._ejected_until, latest)
            self._blocked_until = min(self._blocked_until, latest)
            self._availability_changed()
        return max(self._ejected_until, self._blocked_until)

    def status(self, now: float) -> HealthStatus:
        """Return what the model is; `probing` from the end of an ejection to a probe's outcome."""
        available_at = self.available_at(now)
        if self.is_ejected_hard(now):
            return "ejected"
        if now < available_at < inf:
            return "rate_limited"
        return "probing" if self._is_ejected else "healthy"

    def is_ejected_hard(self, now: float) -> bool:
        """Whether it is ejected and cannot be probed yet; a block by a rate limit is none."""
        return self._is_ejected and now < self._ejected_until

    def weight(self, now: float) -> float:
        """Return the share of its usual traffic it should get: below 1.0 only after a recovery.

        It grows linearly (Envoy's slow start with aggression 1).
        """
        elapsed = now - self._recovered_at
        # `abs`: a clock that was set back far must not leave it in slow start for ever.
        if abs(elapsed) >= self._slow_start:
            return 1.0
        return max(self._settings.slow_start_floor, elapsed / self._slow_start)

    def is_ramping(self, now: float) -> bool:
        """Whether `weight` changes with time now. Where not, it is 1.0."""
        return abs(now - self._recovered_at) < self._slow_start

    # What came of a call?

    def succeeded(self, permit: Permit, now: float) -> bool:
        """Count a success. It recovers an ejected model; it never lifts a Retry-After.

        Returns:
            Whether it has recovered, and so comes back slowly.
        """
        if permit.epoch != self._epoch:
            return False
        if not self._is_ejected:
            self._consecutive = 0
            tally = self._window.newest
            if not tally.starts_at <= now < tally.ends_at:
                tally = self._window.tally(now)
            tally.successes += 1
            return False
        if permit is not self._probe and permit.is_probe:
            return False
        self._recover(now)
        return True

    def failed(self, permit: Permit, now: float, *, may_eject: bool) -> None:
        """Count a hard failure: the model did not answer, or its answer was of no use."""
        if permit.epoch != self._epoch:
            return
        if self._is_ejected:
            self._probe_failed(permit, now, "a failed probe")
            return
        self._consecutive += 1
        self._window.tally(now).failures += 1
        if not may_eject:
            return
        if self._consecutive >= self._settings.consecutive_failures:
            self._eject(now, f"{self._consecutive} failures")
        else:
            self._eject_if_ratio_is_bad(now)

    def rate_limited(
        self, permit: Permit, now: float, *, retry_after: float | None, may_eject: bool
    ) -> None:
        """Count a rate limit: against the ratio, not as a failure in a row. It fails a probe.

        Args:
            permit: The call's permit.
            now: The loop's time.
            retry_after: Seconds the provider asked for. They are heeded, up to the cap, whoever is
                last; what is not above 0 is no answer. Without one the model is blocked for about
                `base_ejection`, and only where it may be.
            may_eject: Whether another model is able to serve.
        """
        if permit.epoch != self._epoch:
            return
        asked = retry_after if retry_after is not None and retry_after > 0 else 0.0
        if asked:
            self.block_until(now + min(asked, self._settings.retry_after_cap))
        if self._is_ejected:
            self._probe_failed(permit, now, "a rate-limited probe")
            return
        self._window.tally(now).failures += 1
        if may_eject:
            if not asked:
                self.block_until(now + self._jittered(self._settings.base_ejection))
            self._eject_if_ratio_is_bad(now)

    def eject(self, permit: Permit, now: float, *, may_eject: bool) -> None:
        """Eject at once: the account is refused or without credit, and more calls do not help."""
        if permit.epoch != self._epoch:
            return
        if self._is_ejected:
            self._probe_failed(permit, now, "a refused account")
            return
        self._consecutive += 1
        self._window.tally(now).failures += 1
        if may_eject:
            self._eject(now, "a refused account")

    def forget(self, permit: Permit) -> None:
        """Take a permit back uncounted: cancelled, superseded, or the caller's own fault.

        Without it a probe that was cancelled would keep all others out for ever.
        """
        if permit is self._probe:
            self._probe = None

    def block_until(self, at: float) -> None:
        """Send nothing before the instant `at`: a Retry-After, also one of the same quota group.

        An earlier end than the present one changes nothing; one beyond the longest ejection and
        the cap of Retry-After is cut to that.
        """
        if at > self._blocked_until:
            self._blocked_until = at
            self._availability_changed()

    # For people

    def snapshot(self, now: float) -> HealthSnapshot:
        """Return the state at this instant."""
        successes, failures = self._window.counts(now)
        return HealthSnapshot(
            status=self.status(now),
            available_after=max(0.0, self.available_at(now) - now),
            consecutive_failures=self._consecutive,
            successes=successes,
            failures=failures,
            ejections=self._ejections,
            weight=self.weight(now),
            epoch=self._epoch,
        )

    def __repr__(self) -> str:
        if self._probe is not None:
            return f"<Health probing after {self._why}>"
        if self._is_ejected:
            return f"<Health ejected for {self._ejected_for:.1f} s after {self._why}>"
        if self._blocked_until > -inf:
            return f"<Health healthy, blocked until {self._blocked_until:.1f}>"
        return "<Health healthy>"

    # How it changes

    def _probe_failed(self, permit: Permit, now: float, why: str) -> None:
        # Any other call to an ejected model was made in panic: it was expected to fail.
        if permit is self._probe:
            self._eject(now, why)

    def _eject_if_ratio_is_bad(self, now: float) -> None:
        successes, failures = self._window.counts(now)
        samples = successes + failures
        settings = self._settings
        if samples >= settings.min_samples and successes < settings.min_success_rate * samples:
            self._eject(now, f"{failures} failures of {samples}")

    def _eject(self, now: float, why: str) -> None:
        settings = self._settings
        if not self._is_ejected and now - self._recovered_at >= settings.window:
            self._next_length = settings.base_ejection
        length = self._jittered(self._next_length)
        self._next_length = min(2 * self._next_length, settings.max_ejection)
        self._is_ejected = True
        # No ejection is shortened: an ejected model is ejected anew by its probe only, afterwards.
        self._ejected_until = now + length
        self._ejected_for = length
        self._ejections += 1
        self._why = why
        self._open_epoch()

    def _recover(self, now: float) -> None:
        self._is_ejected = False
        self._ejected_until = -inf
        self._recovered_at = now
        self._consecutive = 0
        self._window.clear()
        self._open_epoch()

    def _open_epoch(self) -> None:
        self._probe = None
        self._epoch += 1
        self._permit = Permit(self._epoch, is_probe=False)
        self._availability_changed()

    def _availability_changed(self) -> None:
        self._shut_until = inf if self._is_ejected else self._blocked_until

    def _jittered(self, length: float) -> float:
        """Keep half and draw the rest (equal jitter), so that processes do not march in step."""
        return length / 2 + self._rng.random() * length / 2
