"""Slows down those who guess: failed logins per address are limited (docs/authentication.md)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from dsfast.services.addresses import counted_as

__all__ = ["LoginLimiter"]

MAX_ADDRESSES = 10_000


class _Allowance:
    """Failed logins that an address has left, as of a moment."""

    __slots__ = ("at", "left", "told")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at
        self.told = False


class LoginLimiter:
    """Each address may fail ``limit`` times; what it has used comes back evenly within ``window`` ms.

    A login takes its place before it is checked, so that many at the same time are no way around, and gives
    it back when it succeeds. IPv6 addresses count by their /64 network, which is what one customer has.
    Loopback addresses are not limited: a proxy on this machine stands for everybody behind it. The table
    keeps the ``max_addresses`` that were seen last.
    """

    def __init__(
        self,
        limit: int | None,
        window: int,
        *,
        max_addresses: int = MAX_ADDRESSES,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limit = limit
        self._seconds = window / 1000
        self._max_addresses = max_addresses
        self._clock = clock
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()

    def admit(self, address: str | None) -> bool:
        """Take a place for one login; False if it has to be refused."""
        key = counted_as(address)
        if key is None or self._limit is None:
            return True
        now = self._clock()
        allowance = self._allowances.pop(key, None) or _Allowance(self._limit, now)
        self._allowances[key] = allowance
        while len(self._allowances) > self._max_addresses:
            self._allowances.popitem(last=False)
        gained = (now - allowance.at) * self._limit / self._seconds
        allowance.left = min(self._limit, allowance.left + gained)
        allowance.at = now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        allowance.told = allowance.told and allowance.left < self._limit / 2
        return True

    def give_back(self, address: str | None) -> None:
        """The login did not fail, or not by the fault of the client."""
        key = counted_as(address)
        allowance = None if key is None else self._allowances.get(key)
        if allowance is not None and self._limit is not None:
            allowance.left = min(self._limit, allowance.left + 1)

    def is_news(self, address: str | None) -> bool:
        """Whether a refusal should be logged: once, until the address has recovered half its allowance."""
        allowance = self._allowances.get(counted_as(address) or "")
        if allowance is None or allowance.told:
            return False
        allowance.told = True
        return True
