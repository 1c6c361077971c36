"""What may be spent: extra calls (retries, hedges) and money.

Calls are counted, not timed (gRPC's A6, AWS SDKs): every request deposits a fraction of a call and
every extra one withdraws a whole one, so that under full failure extra calls stay a fixed share of
the requests at any rate of requests.

Money is limited in a sliding window. A request reserves what it is expected to cost under every
budget that binds it, all or none, and settles with what it did cost: the rest is refunded, more
becomes a debt that counts against what follows. A window is kept in sixty parts, each begun by its
first reservation, and a part leaves as a whole once its last instant is older than the window. So
in no window of that length is more reserved than the limit, and spent money comes back at most a
sixtieth of the window late.

Sums are exact integers (picodollars, and millionths of a call), since adding floats drifts; dollars
are floats at the edge. Nothing here reads a clock, waits or logs: `now` is the loop's time in
seconds, and a clock that goes back counts as one that stands still.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Literal, final

from asyncroute._arguments import is_number
from asyncroute._errors import BudgetExceededError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = (
    "Budgets",
    "HedgeBudget",
    "MoneyAccount",
    "MoneyBudget",
    "MoneySnapshot",
    "Reservation",
    "RetryBudget",
)

_CALL = 1_000_000
"""One call in the integers in which calls are counted."""

_DOLLAR = 1e12
"""One dollar in picodollars: a token of the cheapest models costs some tens of thousands."""

_PARTS = 60
"""Parts of a budget's window."""


def _picodollars(dollars: float) -> int:
    return int(dollars * _DOLLAR + 0.5)


def _require(is_good: bool, owner: str, field: str, value: object, wanted: str) -> None:
    if not is_good:
        raise ConfigurationError(f"{owner}.{field} must be {wanted}, not {value!r}")


# Calls


@final
class RetryBudget:
    """How many extra calls may be made; retries and hedges share one. It starts full.

    Args:
        cap: The most calls that can be saved up; 0 allows none at all.
        ratio: Part of a call that each request adds.

    Attributes:
        deposits: Requests counted since somebody last looked. Adding one here instead of calling
            `deposit` saves each request two calls.

    Raises:
        ConfigurationError: For a cap or ratio that cannot be meant.
    """

    __slots__ = ("_cap", "_level", "_ratio", "deposits")

    def __init__(self, cap: float = 10.0, ratio: float = 0.1) -> None:
        _require(0 <= cap < inf, "RetryBudget", "cap", cap, "a finite number of calls")
        _require(0 <= ratio <= 1, "RetryBudget", "ratio", ratio, "between 0 and 1")
        self._cap = self._level = round(cap * _CALL)
        self._ratio = round(ratio * _CALL)
        self.deposits = 0

    @property
    def level(self) -> float:
        """Calls that may be made now."""
        self._take_up()
        return self._level / _CALL

    def deposit(self) -> None:
        """Count one request."""
        self.deposits += 1

    def _take_up(self) -> None:
        self._level = min(self._cap, self._level + self.deposits * self._ratio)
        self.deposits = 0

    def withdraw(self) -> bool:
        """Take one call, if there is one."""
        self._take_up()
        if self._level < _CALL:
            return False
        self._level -= _CALL
        return True

    def give_back(self) -> None:
        """Undo a withdrawal whose call was not made after all."""
        self._take_up()
        self._level = min(self._cap, self._level + _CALL)

    def __repr__(self) -> str:
        return f"<RetryBudget {self.level:g} of {self._cap / _CALL:g}>"


@final
class HedgeBudget:
    """How many hedges may be made: a share of the calls and a share of the spend.

    Money is asked only once there is spend to take a share of, and more hedges were made than there
    are at the start: before, and for models that are free, the number of calls is what limits. A
    running hedge counts with what it is expected to cost.

    Args:
        cap: The most hedges that can be saved up, and how many there are at the start.
        ratio: Part of a hedge that each call adds.
        spend_share: Part of all spend, hedges included, that hedges may make up.

    Attributes:
        calls: Hedges that may be made, as far as their number goes.

    Raises:
        ConfigurationError: For a value that cannot be meant.
    """

    __slots__ = ("_booked", "_cap", "_made", "_spend_share", "calls")

    def __init__(self, cap: float = 10.0, ratio: float = 0.05, spend_share: float = 0.05) -> None:
        _require(0 <= cap < inf, "HedgeBudget", "cap", cap, "a finite number of calls")
        _require(0 <= ratio <= 1, "HedgeBudget", "ratio", ratio, "between 0 and 1")
        is_share = 0 <= spend_share <= 1
        _require(is_share, "HedgeBudget", "spend_share", spend_share, "between 0 and 1")
        self.calls = RetryBudget(cap, ratio)
        self._spend_share = spend_share
        self._cap = cap
        self._made = 0
        self._booked = 0

    @property
    def level(self) -> float:
        """Hedges that may be made now, as far as the number of calls goes."""
        return self.calls.level

    @property
    def spent(self) -> float:
        """Dollars of all hedges: settled ones as they were, running ones as expected."""
        return self._booked / _DOLLAR

    def deposit(self) -> None:
        """Count one call."""
        self.calls.deposit()

    def try_withdraw(self, expected_cost: float, total_spend: float) -> bool:
        """Take one hedge of so many dollars, if calls and money allow it; then settle it.

        Args:
            expected_cost: What the hedge is expected to cost, in dollars.
            total_spend: What all calls have cost so far, hedges included, in dollars.
        """
        cost = _picodollars(expected_cost)
        if cost and total_spend > 0 and self._made >= self._cap:
            allowed = _picodollars(total_spend * self._spend_share)
            if self._booked + cost > allowed:
                return False
        if not self.calls.withdraw():
            return False
        self._made += 1
        self._booked += cost
        return True

    def settle(self, cost: float, *, expected_cost: float) -> None:
        """Put what a hedge did cost in place of what was withdrawn for it."""
        self._booked += _picodollars(cost) - _picodollars(expected_cost)

    def give_back(self, *, expected_cost: float) -> None:
        """Undo a withdrawal whose hedge was not started after all."""
        self.calls.give_back()
        self._made -= 1
        self.settle(0.0, expected_cost=expected_cost)

    def __repr__(self) -> str:
        return f"<HedgeBudget {self.level:g} calls, ${self.spent:.6g} spent>"


# Money


@final
@dataclass(frozen=True, slots=True)
class MoneyBudget:
    """A limit on what may be spent: dollars in any window of so many seconds.

    Attributes:
        limit: US dollars; 0 lets only free calls through.
        window: Seconds; a day by default.
        per: Whose spend is added up: all of the `router`, or that of each `model` or `tenant`
            (`metadata["tenant"]`) apart. Any other name is a key of the request's `metadata`, so
            `per="team"` limits each team. Requests that do not name theirs are together one more,
            or leaving the name out would be a way round the limit.
        only: The models, tenants or values that are limited; all others are not. None means all.

    Raises:
        ConfigurationError: For a value that cannot be meant.
    """

    limit: float
    window: float = 86400.0
    per: Literal["router", "model", "tenant"] | str = "router"
    only: frozenset[str] | set[str] | list[str] | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        name = "MoneyBudget"
        is_amount = is_number(self.limit) and 0 <= self.limit < inf
        _require(is_amount, name, "limit", self.limit, "a finite number of dollars, 0 or more")
        is_time = is_number(self.window) and 0 < self.window < inf
        _require(is_time, name, "window", self.window, "a finite number of seconds above 0")
        is_name = isinstance(self.per, str) and bool(self.per)  # pyright: ignore[reportUnnecessaryIsInstance]
        _require(is_name, name, "per", self.per, "router, model, tenant or a metadata key")
        if self.only is not None:
            several = isinstance(self.only, Iterable)  # pyright: ignore[reportUnnecessaryIsInstance]
            _require(several, name, "only", self.only, "None or at least one name")
            only = frozenset((self.only,) if isinstance(self.only, str) else self.only)
            _require(bool(only), name, "only", self.only, "None or at least one name")
            is_of_one = self.per != "router"
            _require(is_of_one, name, "only", self.only, 'None where per="router"')
            object.__setattr__(self, "only", only)


@final
@dataclass(frozen=True, slots=True)
class MoneySnapshot:
    """One account under one budget at one instant, in dollars.

    Attributes:
        budget: The budget.
        key: The model, tenant or value; None for a router, and for requests that name none.
        booked: Spent or reserved within the window.
        left: What may still be reserved; negative is debt.
        open: Reservations not settled yet.
    """

    budget: MoneyBudget
    key: str | None
    booked: float
    left: float
    open: int


@final
class _Part:
    """What was booked in one part of a window."""

    __slots__ = ("booked", "ends_at", "leaves_at")

    def __init__(self, ends_at: float, leaves_at: float) -> None:
        self.ends_at = ends_at
        self.leaves_at = leaves_at
        self.booked = 0


@final
class MoneyAccount:
    """What one router, model, tenant or value has booked within the window. Picodollars.

    Attributes:
        key: Whose account it is.
        limit: The most that may be booked.
        left: What may still be booked; below 0 it is debt.
        open: Reservations not settled yet.
        part: Where to book now, once `advance` has been called if `now >= stale_at`.
        stale_at: When a part ends or leaves next.
    """

    __slots__ = ("_parts", "_window", "key", "left", "limit", "open", "part", "stale_at")

    def __init__(self, key: str | None, budget: MoneyBudget) -> None:
        self.key = key
        self.limit = self.left = _picodollars(budget.limit)
        self.open = 0
        self.part = _Part(-inf, -inf)
        self.stale_at = -inf
        self._window = budget.window
        self._parts: deque[_Part] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return self.left == self.limit and self.open == 0

    def advance(self, now: float) -> None:
        """Drop the parts that have left the window, and begin a new one if the newest has ended."""
        parts = self._parts
        while parts and now >= parts[0].leaves_at:
            old = parts.popleft()
            self.left += old.booked
            old.booked = 0
        if now >= self.part.ends_at:
            ends_at = now + self._window / _PARTS
            self.part = _Part(ends_at, ends_at + self._window)
            parts.append(self.part)
        self.stale_at = min(self.part.ends_at, parts[0].leaves_at)

    def book(self, debt: int, now: float) -> None:
        """Book what a call cost more than was reserved for it."""
        if now >= self.stale_at:
            self.advance(now)
        self.part.booked += debt
        self.left -= debt

    def renews_after(self, amount: int, now: float) -> float | None:
        """Return the seconds until the amount fits: 0 if it does now, None if it never will."""
        if amount > self.limit:
            return None
        self.advance(now)
        missing = amount - self.left
        fits_at = now
        for part in self._parts:
            if missing <= 0:
                break
            missing -= part.booked
            fits_at = part.leaves_at
        return fits_at - now

    def __repr__(self) -> str:
        left = f"${self.left / _DOLLAR:.6g} of ${self.limit / _DOLLAR:.6g} left"
        return f"<MoneyAccount {self.key!r} {left}, {self.open} open>"


@final
class Reservation:
    """Money set aside for one call under one budget, and under others that bind it; settled once.

    Attributes:
        amount: Picodollars reserved under each.
        account: Where it is booked; None once it is settled.
        part: The part of the account's window in which it is booked.
        also: The reservation under another budget; None after the last.
    """

    __slots__ = ("account", "also", "amount", "part")

    def __init__(
        self,
        amount: int,
        account: MoneyAccount | None,
        part: _Part,
        also: Reservation | None,
    ) -> None:
        self.amount = amount
        self.account = account
        self.part = part
        self.also = also

    def __repr__(self) -> str:
        state = "settled" if self.account is None else "open"
        return f"<Reservation ${self.amount / _DOLLAR:.6g} {state}>"


@final
class _Ledger:
    """The accounts under one budget."""

    __slots__ = ("_accounts", "_only", "_per", "budget", "sole")

    def __init__(self, budget: MoneyBudget) -> None:
        self.budget = budget
        self._per = budget.per
        self._only = budget.only
        # A router has one account: found without a look-up.
        self.sole = MoneyAccount(None, budget) if budget.per == "router" else None
        self._accounts: OrderedDict[str | None, MoneyAccount] = OrderedDict()

    def account(
        self, model_id: str, metadata: Mapping[str, Any] | None, now: float
    ) -> MoneyAccount | None:
        """Return whose money it is; None if this budget does not bind the call."""
        if self._per == "model":
            key = model_id
        else:
            value = metadata.get(self._per) if metadata else None
            key = value if value is None or isinstance(value, str) else str(value)
        account = self._accounts.get(key)
        if account is None and (self._only is None or key in self._only):
            self._drop_idle(now)
            account = self._accounts[key] = MoneyAccount(key, self.budget)
        return account

    def accounts(self) -> Collection[MoneyAccount]:
        return self._accounts.values() if self.sole is None else (self.sole,)

    def _drop_idle(self, now: float) -> None:
        """Look at the two accounts that were not looked at for longest, and drop the idle ones.

        Two for each new one: idle accounts go faster than new ones come, without ever a pause
        for looking at all.
        """
        for _ in range(min(2, len(self._accounts))):
            key, account = next(iter(self._accounts.items()))
            account.advance(now)
            if account.is_idle:
                del self._accounts[key]
            else:
                self._accounts.move_to_end(key)


@final
class Budgets:
    """All budgets of money of one router. Without any it is false, and need not be asked.

    A model or a tenant that is bound by several must have room under each.
    """

    __slots__ = ("_ledgers",)

    def __init__(self, budgets: Iterable[MoneyBudget] = ()) -> None:
        budgets = tuple(budgets)
        for budget in budgets:
            if not isinstance(budget, MoneyBudget):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(f"budgets must be MoneyBudgets, got {budget!r}")
        self._ledgers = tuple(map(_Ledger, budgets))

    def __bool__(self) -> bool:
        return bool(self._ledgers)

    def reserve(
        self, model_id: str, metadata: Mapping[str, Any] | None, amount: float, now: float
    ) -> Reservation | None:
        """Reserve an amount under every budget that binds the call, or under none.

        Args:
            model_id: The model that is to be called.
            metadata: The request's.
            amount: Dollars the call is expected to cost.
            now: The loop's time.

        Returns:
            What must be settled, or None where no budget binds the call.

        Raises:
            BudgetExceededError: Some budget has no room; nothing is reserved.
        """
        cost = int(amount * 1e12 + 0.5)  # `_picodollars` without its call: on every request
        held: Reservation | None = None
        for ledger in self._ledgers:
            account = ledger.sole
            if account is None:
                account = ledger.account(model_id, metadata, now)
                if account is None:
                    continue
            if now >= account.stale_at:
                account.advance(now)
            if cost > account.left:
                if held is not None:
                    self.settle(held, 0.0, now)
                raise self.refusal(model_id, metadata, amount, now)
            account.left -= cost
            account.open += 1
            account.part.booked += cost
            held = Reservation(cost, account, account.part, held)
        return held

    def refusal(
        self, model_id: str, metadata: Mapping[str, Any] | None, amount: float, now: float
    ) -> BudgetExceededError:
        """Say which budget has no room for this amount; of several, the last to renew."""
        cost = _picodollars(amount)
        latest = 0.0
        message = "no budget is exceeded"
        for ledger in self._ledgers:
            account = ledger.sole or ledger.account(model_id, metadata, now)
            if account is None:
                continue
            renews_after = account.renews_after(cost, now)
            rank = inf if renews_after is None else renews_after
            if rank >= latest:
                latest = rank
                message = _refusal_text(ledger.budget, account, cost, renews_after)
        return BudgetExceededError(message, renews_after=None if latest == inf else latest)

    def settle(self, reservation: Reservation, actual: float, now: float) -> None:
        """Put what a call did cost in place of what was reserved. A second time does nothing.

        Args:
            reservation: What `reserve` returned.
            actual: Dollars; 0 for a call that was never sent. What is no amount (negative,
                infinite, not a number) leaves the reservation spent.
            now: The loop's time.
        """
        change = int(actual * 1e12 + 0.5) - reservation.amount if 0 <= actual < inf else 0
        link: Reservation | None = reservation
        while link is not None and (account := link.account) is not None:
            link.account = None
            account.open -= 1
            if change > 0:
                account.book(change, now)
            else:
                part = link.part
                part.booked += change
                account.left -= change
                if part.booked < 0:
                    # Nothing comes back from a part that has left the window: it has come already.
                    account.left += part.booked
                    part.booked = 0
            link = link.also

    def snapshot(self, now: float) -> tuple[MoneySnapshot, ...]:
        """Return every account under every budget at this instant."""
        snapshots: list[MoneySnapshot] = []
        for ledger in self._ledgers:
            for account in ledger.accounts():
                account.advance(now)
                booked = (account.limit - account.left) / _DOLLAR
                left = account.left / _DOLLAR
                snapshots.append(
                    MoneySnapshot(ledger.budget, account.key, booked, left, account.open)
                )
        return tuple(snapshots)

    def __repr__(self) -> str:
        return f"<Budgets {', '.join(_title(ledger.budget) for ledger in self._ledgers) or 'none'}>"


def _title(budget: MoneyBudget) -> str:
    return f"${budget.limit:.6g} per {budget.per} in {budget.window:g} s"


def _refusal_text(
    budget: MoneyBudget, account: MoneyAccount, cost: int, renews_after: float | None
) -> str:
    whose = "" if account.key is None else f" of {budget.per} {account.key!r}"
    left = max(0, account.left) / _DOLLAR
    when = "is more than the whole limit"
    if renews_after is not None:
        when = f"fits in {renews_after:.1f} s"
    return (
        f"the budget{whose} ({_title(budget)}) has ${left:.6g} left; "
        f"the expected ${cost / _DOLLAR:.6g} {when}"
    )
